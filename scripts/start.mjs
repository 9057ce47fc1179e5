// npm start [-- options]: sets up what is missing, then trains a tokeniser and a GPT on real text.
import { main, run } from './common.mjs';
import { setup } from './setup.mjs';

await main(async (args) => {
  await setup(['packages', 'addonHere']);
  return run(process.execPath, ['--import', 'tsx', 'examples/typescript_gpt/main.ts', ...args]);
});
