// npm run build [-- addon | dist]: packages, then the addon and dist/ (or the one named), when their sources changed.
import { main, ScriptError } from './common.mjs';
import { setup } from './setup.mjs';

await main(async (args) => {
  const unknown = args.filter((name) => name !== 'addon' && name !== 'dist');
  if (unknown.length > 0) throw new ScriptError(`build: expected addon or dist, got ${unknown.join(' ')}`);
  await setup(['packages', ...(args.length > 0 ? args : ['addon', 'dist'])]);
});
