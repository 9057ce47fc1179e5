// npm run check [-- --skip=STEP,… | --step=STEP]: all that CI runs, or one step of it. The tests run alone, as some of them look at
// times; of the other steps two run at a time, since each has long stretches on one core. Every step runs even after a
// failure; the end lists them all.
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { main, packageProgram, root, run, ScriptError } from './common.mjs';
import { docs } from './docs.mjs';
import { cannotCount, instructions } from './instructions.mjs';
import { lint } from './lint.mjs';
import { missingFor, nativeTest } from './native_test.mjs';
import { setup } from './setup.mjs';

const never = () => undefined;
const native = () => missingFor();

/** Where the addon's build leaves its kernels on Linux: what is tested as it is need not be compiled again. */
async function builtKernels() {
  if (process.platform !== 'linux') return '';
  await setup(['addon']);
  return join(root, 'build/Release/obj.target');
}

/**
 * `cannot` gives the reason why a step is impossible on this machine; such a step counts as skipped, not as failed. `after` names a step
 * whose outputs this one reads; `alone`: nothing runs beside it. The longest come first.
 */
const steps = [
  {
    name: 'tests',
    alone: true,
    cannot: never,
    body: () => run(process.execPath, [join(root, 'scripts/test.mjs')]),
  },
  { name: 'native-asan-ubsan', cannot: native, body: () => nativeTest({ sanitize: 'address,undefined' }) },
  { name: 'native-arm64', cannot: () => missingFor({ arm64: true }), body: () => nativeTest({ arm64: true }) },
  {
    name: 'native-tsan',
    cannot: native,
    body: async () => nativeTest({ sanitize: 'thread', kernels: await builtKernels() }),
  },
  { name: 'native', cannot: native, body: async () => nativeTest({ kernels: await builtKernels() }) },
  { name: 'instructions', after: 'native', cannot: () => native() ?? cannotCount(), body: () => instructions() },
  { name: 'docs', cannot: never, body: docs },
  {
    name: 'types',
    cannot: never,
    body: () => run(process.execPath, [packageProgram('typescript', 'tsc'), '-p', 'tsconfig.check.json']),
  },
  { name: 'lint', cannot: never, body: () => lint() },
];

/** A step as a process of its own; what it prints comes in one piece at its end. */
async function runApart({ name, alone }) {
  const started = Date.now();
  const stdio = alone ? 'inherit' : ['ignore', 'pipe', 'pipe'];
  if (alone) console.log(`\n── ${name} ──`);
  const child = spawn(process.execPath, [import.meta.filename, `--step=${name}`], { cwd: root, stdio });
  const pieces = [];
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (piece) => pieces.push(piece));
  const status = await new Promise((done) => child.on('close', (code) => done(code ?? 1)));
  const seconds = `${((Date.now() - started) / 1000).toFixed(0)} s`;
  if (!alone) process.stdout.write(`\n── ${name} ──\n${Buffer.concat(pieces).toString()}`);
  return { name, outcome: status === 0 ? 'passed' : 'failed', detail: seconds };
}

/** Runs steps, so many at a time, in their order as far as they wait for none. */
async function runAll(wanted, width) {
  const results = new Map();
  const waiting = [...wanted];
  const lane = async () => {
    while (waiting.length > 0) {
      const isReady = ({ after }) => !wanted.some(({ name }) => name === after) || results.has(after);
      const next = waiting.findIndex(isReady);
      if (next < 0) return; // the lane that runs what they wait for takes them
      const [step] = waiting.splice(next, 1);
      results.set(step.name, await runApart(step));
    }
  };
  await Promise.all(Array.from({ length: width }, lane));
  return [...results.values()];
}

await main(async (args) => {
  const named = (option) => args.flatMap((arg) => (arg.startsWith(option) ? arg.slice(option.length).split(',') : []));
  const [skipped, only] = [named('--skip='), named('--step=')];
  const unknown = [...skipped, ...only].filter((name) => !steps.some((step) => step.name === name));
  if (unknown.length > 0 || only.length > 1 || args.some((arg) => !/^--(skip|step)=/.test(arg)))
    throw new ScriptError(
      `check: expected --skip= with some, or --step= with one of ${steps.map(({ name }) => name).join(', ')}`,
    );
  await setup(['packages']);
  const results = [];
  const possible = steps.filter(({ name, cannot }) => {
    if (only.length > 0) return name === only[0];
    const reason = skipped.includes(name) ? 'asked for with --skip' : cannot();
    if (reason !== undefined) results.push({ name, outcome: 'skipped', detail: reason });
    return reason === undefined;
  });
  if (only.length > 0) return possible[0].body();
  results.push(...(await runAll(possible.filter(({ alone }) => alone), 1))); // prettier-ignore
  results.push(...(await runAll(possible.filter(({ alone }) => !alone), Math.min(2, availableParallelism())))); // prettier-ignore
  console.log('\n── check ──');
  for (const { name, outcome, detail } of results) console.log(`  ${name.padEnd(18)} ${outcome.padEnd(8)} ${detail}`);
  const count = (wanted) => results.filter(({ outcome }) => outcome === wanted).length;
  console.log(`${count('passed')} passed, ${count('failed')} failed, ${count('skipped')} skipped`);
  return count('failed') > 0 ? 1 : 0;
});
