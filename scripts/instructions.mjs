// node scripts/instructions.mjs [--update]: counts the instructions of one call of each kernel under callgrind and
// compares them with bench/instructions.json. Counts repeat exactly for one compiler, so a regression shows on a busy
// machine too; seconds are the business of npm run bench. Needs valgrind, and `npm run native:test` before.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { capture, findProgram, main, root, ScriptError } from './common.mjs';

const build = join(root, 'build', 'native');
const program = join(build, 'instructions_bench');
const recordFile = join(root, 'bench', 'instructions.json');
/** Share by which a count may grow: another version of a C library moves calls of memcpy and the like a little. */
const tolerance = 0.03;

/** Why counting cannot happen here, or undefined. */
export function cannotCount() {
  if (process.arch !== 'x64') return 'counts are recorded for x86-64';
  if (findProgram('valgrind') === undefined) return 'valgrind not found on PATH';
  return undefined;
}

/** Counts hold for one compiler: its name and version. */
function compilerId() {
  const cache = readFileSync(join(build, 'CMakeCache.txt'), 'utf8');
  const compiler = /^CMAKE_CXX_COMPILER:\w+=(.*)$/m.exec(cache)?.[1] ?? 'c++';
  const { output } = capture(compiler, ['--version']);
  return output.split('\n')[0].replace(/^\S*\/|\(.*?\)\s*/g, '');
}

/** Instructions of each case, by name. */
function countAll() {
  const folder = mkdtempSync(join(tmpdir(), 'omnigrad-instructions-'));
  try {
    const { status, output } = capture('valgrind', ['--tool=callgrind', program], { cwd: folder });
    if (status !== 0) throw new ScriptError(`instructions: the counted program failed:\n${output}`);
    const counts = {};
    for (const file of readdirSync(folder)) {
      const text = readFileSync(join(folder, file), 'utf8');
      const name = /^desc: Trigger: Client Request: (.*)$/m.exec(text)?.[1];
      const total = /^(?:totals|summary): (\d+)/m.exec(text)?.[1];
      if (name !== undefined && total !== undefined) counts[name] = Number(total);
    }
    return counts;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Counts and compares; returns the exit status. */
export function instructions({ update = false } = {}) {
  if (!existsSync(program)) {
    console.log(
      'instructions: not built: run npm run native:test; if it leaves none, the headers of valgrind are missing',
    );
    return 0;
  }
  const recorded = JSON.parse(readFileSync(recordFile, 'utf8'));
  const compiler = compilerId();
  const counts = countAll();
  if (Object.keys(counts).length === 0) throw new ScriptError('instructions: nothing was counted');
  if (update) {
    writeFileSync(recordFile, `${JSON.stringify({ ...recorded, [compiler]: counts }, null, 2)}\n`);
    console.log(`instructions: recorded ${Object.keys(counts).length} counts for ${compiler}`);
    return 0;
  }
  const expected = recorded[compiler];
  if (expected === undefined) {
    console.log(`instructions: no counts are recorded for ${compiler}; --update records them`);
    return 0;
  }
  let failed = 0;
  for (const [name, count] of Object.entries(counts)) {
    const before = expected[name];
    const change = before === undefined ? NaN : count / before - 1;
    const verdict =
      before === undefined ? 'not recorded' : change > tolerance ? 'MORE' : change < -tolerance ? 'fewer' : '';
    if (verdict === 'MORE' || verdict === 'not recorded') failed++;
    const figures = before === undefined ? `${count}` : `${before} → ${count} (${(100 * change).toFixed(1)} %)`;
    console.log(`  ${name.padEnd(32)} ${figures} ${verdict}`.trimEnd());
  }
  const missing = Object.keys(expected).filter((name) => counts[name] === undefined);
  for (const name of missing) console.log(`  ${name.padEnd(32)} recorded, but no longer counted`);
  if (failed + missing.length > 0)
    console.log('instructions: if the change is meant, run: node scripts/instructions.mjs --update');
  return failed + missing.length > 0 ? 1 : 0;
}

if (process.argv[1] === import.meta.filename) {
  await main((args) => {
    const reason = cannotCount();
    if (reason !== undefined) throw new ScriptError(`instructions: ${reason}`);
    return instructions({ update: args.includes('--update') });
  });
}
