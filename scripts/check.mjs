// npm run check [-- --skip=STEP,…]: all that CI runs. Every step runs even after a failure; the end lists them all.
import { main, packageProgram, root, run, ScriptError } from './common.mjs';
import { docs } from './docs.mjs';
import { cannotCount, instructions } from './instructions.mjs';
import { lint } from './lint.mjs';
import { missingFor, nativeTest } from './native_test.mjs';
import { setup } from './setup.mjs';
import { join } from 'node:path';

const never = () => undefined;
const native = () => missingFor();

/** Where the addon's build leaves its kernels on Linux: testing those saves compiling them twice. */
async function builtKernels() {
  if (process.platform !== 'linux') return '';
  await setup(['addon']);
  return join(root, 'build/Release/obj.target');
}

/** `cannot` gives the reason why a step is impossible on this machine; such a step counts as skipped, not as failed. */
const steps = [
  { name: 'lint', cannot: never, body: () => lint() },
  {
    name: 'types',
    cannot: never,
    body: () => run(process.execPath, [packageProgram('typescript', 'tsc'), '-p', 'tsconfig.check.json']),
  },
  { name: 'tests', cannot: never, body: () => run(process.execPath, [join(root, 'scripts/test.mjs')]) },
  { name: 'docs', cannot: never, body: docs },
  { name: 'native', cannot: native, body: async () => nativeTest({ kernels: await builtKernels() }) },
  { name: 'instructions', cannot: () => native() ?? cannotCount(), body: () => instructions() },
  { name: 'native-asan-ubsan', cannot: native, body: () => nativeTest({ sanitize: 'address,undefined' }) },
  { name: 'native-tsan', cannot: native, body: () => nativeTest({ sanitize: 'thread' }) },
  { name: 'native-arm64', cannot: () => missingFor({ arm64: true }), body: () => nativeTest({ arm64: true }) },
];

await main(async (args) => {
  const skipped = args.flatMap((arg) => (arg.startsWith('--skip=') ? arg.slice('--skip='.length).split(',') : []));
  const unknown = skipped.filter((name) => !steps.some((step) => step.name === name));
  if (unknown.length > 0 || args.some((arg) => !arg.startsWith('--skip=')))
    throw new ScriptError(`check: expected --skip= with some of ${steps.map(({ name }) => name).join(', ')}`);
  await setup(['packages']);
  const results = [];
  for (const { name, cannot, body } of steps) {
    const reason = skipped.includes(name) ? 'asked for with --skip' : cannot();
    if (reason !== undefined) {
      results.push({ name, outcome: 'skipped', detail: reason });
      continue;
    }
    console.log(`\n── ${name} ──`);
    const started = Date.now();
    let status = 1;
    try {
      status = await body();
    } catch (error) {
      console.error(error instanceof ScriptError ? error.message : error);
    }
    const seconds = `${((Date.now() - started) / 1000).toFixed(0)} s`;
    results.push({ name, outcome: status === 0 ? 'passed' : 'failed', detail: seconds });
  }
  console.log('\n── check ──');
  for (const { name, outcome, detail } of results) console.log(`  ${name.padEnd(18)} ${outcome.padEnd(8)} ${detail}`);
  const count = (wanted) => results.filter(({ outcome }) => outcome === wanted).length;
  console.log(`${count('passed')} passed, ${count('failed')} failed, ${count('skipped')} skipped`);
  return count('failed') > 0 ? 1 : 0;
});
