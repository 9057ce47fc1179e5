// npm run bench [-- options]: sets up what is missing, then measures. Options: bench/main.ts --help.
import { main, run } from './common.mjs';
import { setup } from './setup.mjs';

await main(async (args) => {
  await setup(['packages', 'addon', 'dist']);
  return run(process.execPath, ['--expose-gc', '--import', 'tsx', 'bench/main.ts', ...args]);
});
