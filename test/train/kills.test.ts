/**
 * Fifty runs killed at random moments, of steps, validations and half-written checkpoints alike: none loses more than the last interval,
 * and all end as a run that was left alone.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { hostRandom } from '../../src/data/permutation.js';
import { temporaryFolders } from '../helpers/folders.js';
import { INTERVAL, killedTrainer } from '../helpers/killed_run.js';
import { eventsOf, ofType } from '../helpers/line_run.js';

const KILLS = 50;
const STEPS = 48;
const folder = temporaryFolders();

/** One file starts in a third of the time; it lies in the checkout, where the addon is found. */
const program = fileURLToPath(new URL(`../../build/killed_run.${process.pid}.mjs`, import.meta.url));
after(() => rm(program, { force: true }));

interface Launch {
  readonly resumed: number;
  readonly lastStep: number;
  readonly done: boolean;
}

/** Runs the program; kills it `delay` milliseconds after so many lines, each a step, a resumption or a checkpoint. */
function launch(dir: string, lines: number, delay: number): Promise<Launch> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [program, dir, String(STEPS)], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, OG_THREADS: '1' },
    });
    let out = '';
    let timer: NodeJS.Timeout | null = null;
    child.stdout.on('data', (chunk: Buffer) => {
      out += chunk.toString();
      if (timer === null && out.split('\n').length > lines) timer = setTimeout(() => child.kill('SIGKILL'), delay);
    });
    child.on('error', reject);
    child.on('close', () => {
      clearTimeout(timer ?? undefined);
      const numbers = (word: string): number[] =>
        [...out.matchAll(new RegExp(`^${word} (\\d+)$`, 'gm'))].map((match) => Number(match[1]));
      resolve({ resumed: numbers('resume')[0] ?? 0, lastStep: numbers('step').at(-1) ?? 0, done: /^done /m.test(out) });
    });
  });
}

/** Hashes of all files: checkpoints hold weights, optimiser, averages, and whatever else there is to a run. */
async function traceOf(dir: string): Promise<Record<string, string>> {
  const names = (await readdir(dir)).sort();
  const hash = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
  const entries = names.map(async (name) => [name, hash(await readFile(path.join(dir, name)))] as const);
  return Object.fromEntries(await Promise.all(entries));
}

test(`${KILLS} runs killed at random moments`, { timeout: 120_000 }, async (t) => {
  await build({
    entryPoints: [fileURLToPath(new URL('../helpers/killed_run.ts', import.meta.url))],
    bundle: true,
    platform: 'node',
    format: 'esm',
    packages: 'external',
    outfile: program,
  });
  const whole = await folder();
  await eventsOf(killedTrainer(whole, STEPS));
  const expected = await traceOf(whole);
  await eventsOf(killedTrainer(whole, STEPS)); // once more: nothing is left to do
  assert.deepEqual(await traceOf(whole), expected);

  let kills = 0;
  const broken: { readonly dir: string; readonly reached: number }[] = [];
  const lane = async (stream: number): Promise<void> => {
    const random = hostRandom(20, stream);
    while (kills < KILLS) {
      const dir = await folder();
      let reached = 0;
      for (let done = false; !done && kills < KILLS;) {
        const { resumed, lastStep, done: ended } = await launch(dir, 1 + Math.floor(random() * 14), random() * 12);
        assert.ok(reached - resumed <= INTERVAL, `step ${reached} was done, and the next run began at ${resumed}`);
        reached = Math.max(lastStep, resumed);
        done = ended;
        if (!ended) kills++;
      }
      broken.push({ dir, reached });
    }
  };
  await Promise.all([lane(1), lane(2)]);
  for (const { dir, reached } of broken) {
    const [resume] = ofType(await eventsOf(killedTrainer(dir, STEPS)), 'resume');
    assert.ok(reached - (resume?.step ?? 0) <= INTERVAL);
    assert.deepEqual(await traceOf(dir), expected); // nothing half-written is left, either
  }
  t.diagnostic(`${kills} kills in ${broken.length} runs`);
});
