// npm run lint [-- --fix]: layout (Prettier, clang-format), oxlint. Types are `tsc -p tsconfig.check.json` in check.mjs.
import { capture, filesUnder, findProgram, main, packageProgram, run } from './common.mjs';
import { setup } from './setup.mjs';

const isCpp = (file) => /\.(cpp|cc|h)$/.test(file);

export function lint({ fix = false } = {}) {
  const failed = [];
  const step = (name, command, args) => {
    if (run(command, args) !== 0) failed.push(name);
  };
  const layout = [packageProgram('prettier'), fix ? '--write' : '--check', '--log-level=warn', '.'];
  step('prettier', process.execPath, layout);
  // Every warning of the configured rules counts: a rule that may be ignored is not in the list.
  step('oxlint', process.execPath, [packageProgram('oxlint'), '--deny-warnings', ...(fix ? ['--fix'] : []), '.']);
  const clangFormat = findProgram('clang-format');
  if (clangFormat === undefined) {
    console.log('lint: skipped clang-format: it is not on PATH');
  } else {
    const files = [...filesUnder('native', isCpp), ...filesUnder('test/native', isCpp)];
    const { status, output } = capture(clangFormat, [...(fix ? ['-i'] : ['--dry-run', '--Werror']), ...files]);
    for (const name of new Set([...output.matchAll(/^([^:\n]+):\d+:\d+: error/gm)].map((match) => match[1])))
      console.log(`${name}: not laid out as clang-format would`);
    if (status !== 0) failed.push('clang-format');
  }
  console.log(failed.length > 0 ? `lint: failed: ${failed.join(', ')}` : 'lint: clean');
  return failed.length > 0 ? 1 : 0;
}

if (process.argv[1] === import.meta.filename) {
  await main(async (args) => {
    await setup(['packages']);
    return lint({ fix: args.includes('--fix') });
  });
}
