/** Signals, and disks that are full. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { mkdir, readdir } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import * as og from '../../src/index.js';
import { temporaryFolders } from '../helpers/folders.js';
import { killedTrainer } from '../helpers/killed_run.js';
import { eventsOf } from '../helpers/line_run.js';

const folder = temporaryFolders();
const program = fileURLToPath(new URL('../helpers/killed_run.ts', import.meta.url));

interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly out: string;
  readonly err: string;
}

/** Runs a command; sends it `signal` once it has printed `after`. */
function run(command: readonly string[], signal?: NodeJS.Signals, when = 'step 5'): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(command[0]!, command.slice(1), { env: { ...process.env, OG_THREADS: '1' } });
    let [out, err, sent] = ['', '', false];
    child.stdout.on('data', (chunk: Buffer) => {
      out += chunk.toString();
      if (signal !== undefined && !sent && out.includes(when)) sent = child.kill(signal);
    });
    child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
    child.on('error', reject);
    child.on('close', (code, by) => resolve({ code, signal: by, out, err }));
  });
}

const command = (dir: string, steps: number, mode = ''): string[] => [
  process.execPath, '--import', 'tsx', program, dir, String(steps), mode,
]; // prettier-ignore

test(
  'SIGTERM and SIGINT end the step, save, and set the exit code',
  { skip: process.platform === 'win32' },
  async () => {
    const check = async (signal: NodeJS.Signals, code: number): Promise<void> => {
      const dir = await folder();
      const ended = await run(command(dir, 100_000, 'signals'), signal);
      assert.deepEqual([ended.code, ended.signal, ended.err], [code, null, '']);
      const lines = ended.out.trim().split('\n');
      assert.equal(lines.at(-1), `done aborted ${signal}`);
      const last = Number(/^checkpoint (\d+)$/.exec(lines.at(-2)!)?.[1]);
      assert.ok(last >= 5);
      assert.equal((await og.loadLatestCheckpoint(dir))!.checkpoint.run.step, last);
    };
    await Promise.all([check('SIGTERM', 143), check('SIGINT', 130)]);
  },
);

test('handlers are gone when the run is over', async () => {
  const before = process.listenerCount('SIGTERM');
  const run = killedTrainer(null, 3).run({ handleSignals: ['SIGTERM'] });
  await run.next();
  assert.equal(process.listenerCount('SIGTERM'), before + 1);
  for await (const _ of run);
  assert.equal(process.listenerCount('SIGTERM'), before);
  for await (const _ of killedTrainer(null, 3).run({ handleSignals: true })) break;
  assert.equal(process.listenerCount('SIGTERM'), before);
});

/** A run of small checkpoints, then one of larger ones into the same folder, which do not fit. */
async function checkFull(dir: string, ended: Ended, reason: RegExp): Promise<void> {
  assert.notEqual(ended.code, 0);
  assert.match(ended.err, reason);
  assert.match(ended.err, /Earlier checkpoints are intact/);
  const names = await readdir(dir);
  assert.deepEqual(names.filter((name) => name.endsWith('.tmp')), []); // prettier-ignore
  assert.ok(names.includes('step-00000004.safetensors'));
  assert.equal((await og.loadLatestCheckpoint(dir))!.checkpoint.run.step, 4);
}

test(
  'a file that the system refuses to let grow: a clear error, the checkpoint before it intact, nothing left over',
  { skip: process.platform === 'win32' },
  async () => {
    const dir = await folder();
    await eventsOf(killedTrainer(dir, 4));
    for (const name of await readdir(dir))
      if (name.startsWith('best')) await promisify(execFile)('rm', [path.join(dir, name)]);
    // 16 KiB in blocks of 512 or 1024 bytes, far less than a checkpoint.
    const ended = await run(['sh', '-c', 'ulimit -f 16; exec "$@"', 'sh', ...command(dir, 100)]);
    await checkFull(dir, ended, /\[checkpoint\] .*: expected [\d.]+ KiB to be written, got EFBIG/);
  },
);

test(
  'a full disk: likewise, with what was needed and what was free',
  { skip: process.platform !== 'linux' },
  async (t) => {
    const dir = await folder();
    const mounted = path.join(dir, 'small');
    await mkdir(mounted);
    try {
      await promisify(execFile)('mount', ['-t', 'tmpfs', '-o', 'size=160k', 'tmpfs', mounted]);
    } catch {
      t.skip('mounting is not permitted');
      return;
    }
    try {
      const ended = await run(command(mounted, 100));
      assert.notEqual(ended.code, 0);
      assert.match(
        ended.err,
        /\[checkpoint\] .*: expected [\d.]+ KiB to be written, got ENOSPC.*\([\d.]+ (KiB|B) free in .*small\)/,
      );
      const names = await readdir(mounted);
      assert.ok(names.length > 0 && !names.some((name) => name.endsWith('.tmp')), names.join());
      const latest = (await og.loadLatestCheckpoint(mounted))!;
      assert.equal(latest.damaged.length, 0);
    } finally {
      // Lazily: the checkpoint that was looked at is still mapped.
      await promisify(execFile)('umount', ['-l', mounted]);
    }
  },
);
