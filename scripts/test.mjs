// npm test [-- FILTER… | --node-option…]: sets up what is missing, then runs test/**/*.test.ts with node:test.
// A filter is a part of a file's path; `--test-name-pattern=…` and the like go to node as they are.
import { availableParallelism } from 'node:os';
import { filesUnder, main, run, ScriptError } from './common.mjs';
import { setup } from './setup.mjs';

// Tests of the published form, and of threads, read dist/; everything else runs from src/ and must not wait for tsc.
const needsDist = (file) => /^test\/(packaging|process_exit|data\/workers)/.test(file);

await main(async (args) => {
  const options = args.filter((arg) => arg.startsWith('-'));
  const filters = args.filter((arg) => !arg.startsWith('-'));
  const files = filesUnder('test', (file) => file.endsWith('.test.ts')).filter(
    (file) => filters.length === 0 || filters.some((filter) => file.includes(filter)),
  );
  if (files.length === 0) throw new ScriptError(`test: no file under test/ matches ${filters.join(' ')}`);
  await setup(['packages', 'addon', ...(files.some(needsDist) ? ['dist'] : [])]);
  const concurrency = options.some((option) => option.startsWith('--test-concurrency'))
    ? []
    : [`--test-concurrency=${Math.min(4, availableParallelism())}`];
  const reporter = options.some((option) => option.startsWith('--test-reporter'))
    ? []
    : ['--test-reporter=./scripts/reporter.mjs', '--test-reporter-destination=stdout'];
  const node = ['--expose-gc', '--import', 'tsx', '--test', ...concurrency, ...reporter, ...options, ...files];
  return run(process.execPath, node);
});
