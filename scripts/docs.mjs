// npm run docs: the API reference from the TSDoc of the entries (typedoc.json) into docs/api. A warning is an error.
import { main, packageProgram, run } from './common.mjs';
import { setup } from './setup.mjs';

export const docs = () => run(process.execPath, [packageProgram('typedoc')]);

if (process.argv[1] === import.meta.filename) {
  await main(async () => {
    await setup(['packages']);
    return docs();
  });
}
