/** A run that is killed at any moment and started again ends with the same bits as one that was left alone. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { chmod, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import * as og from '../../src/index.js';
import { fingerprint, tinyTrainer } from '../helpers/tiny_run.js';

const program = fileURLToPath(new URL('../helpers/tiny_run.ts', import.meta.url));
const folders: string[] = [];

async function folder(): Promise<string> {
  const made = await mkdtemp(path.join(tmpdir(), 'omnigrad-run-'));
  folders.push(made);
  return made;
}

after(async () => {
  for (const made of folders) await rm(made, { recursive: true, force: true });
});

/** Runs the program; kills it once it has printed that many steps. Resolves with its last line. */
function launch(dir: string, steps: number, killAfter = Infinity): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--import', 'tsx', program, dir, String(steps)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let out = '';
    child.stdout.on('data', (chunk: Buffer) => {
      out += chunk.toString();
      if (out.split('\n').length > killAfter) child.kill('SIGKILL');
    });
    child.on('error', reject);
    child.on('close', () => resolve(out.trim().split('\n').at(-1) ?? ''));
  });
}

test('a run that was killed several times ends with the bits of one that was not', async () => {
  const steps = 60;
  const [whole, broken] = [await folder(), await folder()];
  const expected = await launch(whole, steps);
  assert.match(expected, /^done /);
  for (const killAfter of [3, 13, 21]) assert.doesNotMatch(await launch(broken, steps, killAfter), /^done /);
  assert.equal(await launch(broken, steps), expected);
});

test('aborting writes a checkpoint, and the next run goes on from it', async () => {
  const expected = tinyTrainer({ steps: 20 });
  for await (const _ of expected.run());
  const dir = await folder();
  const abort = new AbortController();
  const first = tinyTrainer({ dir, steps: 20, every: 1000 });
  const seen: string[] = [];
  for await (const event of first.run({ signal: abort.signal })) {
    seen.push(event.type);
    if (event.type === 'step' && event.step === 7) abort.abort();
  }
  assert.deepEqual(seen.slice(-3), ['step', 'checkpoint', 'done']);
  const second = tinyTrainer({ dir, steps: 20 });
  const events: og.TrainEvent[] = [];
  for await (const event of second.run()) events.push(event);
  assert.deepEqual(events[0]?.type === 'resume' && events[0].step, 7);
  assert.deepEqual(await fingerprint(second), await fingerprint(expected));
});

test('a damaged newest checkpoint is passed over', async () => {
  const dir = await folder();
  for await (const _ of tinyTrainer({ dir, steps: 10 }).run());
  const names = (await readdir(dir)).sort();
  assert.deepEqual(names, ['step-00000005.safetensors', 'step-00000010.safetensors']);
  await truncate(path.join(dir, names[1]!), 5000);
  const latest = await og.loadLatestCheckpoint(dir);
  assert.equal(latest?.checkpoint.run.step, 5);
});

test('a checkpoint that cannot be written leaves the last good one and a clear error', async () => {
  const dir = await folder();
  const trainer = tinyTrainer({ dir, steps: 5 });
  for await (const _ of trainer.run());
  const file = path.join(dir, 'step-00000005.safetensors');
  const before = await readFile(file);
  // A folder in the place of the next file stands for whatever the system may refuse: rename fails after everything was written.
  const blocked = path.join(dir, 'blocked');
  await writeFile(blocked, 'a file, not a folder');
  const checkpoint = (await og.loadLatestCheckpoint(dir))!.checkpoint;
  await assert.rejects(og.saveCheckpoint({ dir: path.join(blocked, 'below') }, checkpoint), /ENOTDIR|EEXIST/);
  await assert.rejects(
    og.writeFileAtomically(file, async (write) => {
      await write(Buffer.from('half a file'));
      throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC', syscall: 'write' });
    }),
    (error: unknown) => error instanceof og.ResourceError && /ENOSPC.*untouched/.test(error.message),
  );
  if (process.getuid?.() !== 0) {
    await chmod(dir, 0o500);
    await assert.rejects(og.saveCheckpoint({ dir }, checkpoint), og.ResourceError);
    await chmod(dir, 0o700);
  }
  assert.deepEqual(await readFile(file), before);
  assert.deepEqual(
    (await readdir(dir)).filter((name) => name.endsWith('.tmp')),
    [],
  );
});
