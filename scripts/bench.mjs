// npm run bench [-- options]: sets up what is missing, then measures. Options: bench/main.ts --help.
// npm run bench -- compression [options]: compressed models instead, bench/compression/main.ts.
import { main, run } from './common.mjs';
import { setup } from './setup.mjs';

await main(async (args) => {
  await setup(['packages', 'addon', 'dist']);
  const [program, rest] = args[0] === 'compression' ? ['compression/main.ts', args.slice(1)] : ['main.ts', args];
  return run(process.execPath, ['--expose-gc', '--import', 'tsx', `bench/${program}`, ...rest]);
});
