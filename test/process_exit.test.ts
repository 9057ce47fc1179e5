/** Many environments at once, and ends of processes with kernels in flight: no crash, no hang, the right exit status. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

const child = join(dirname(fileURLToPath(import.meta.url)), 'helpers', 'exit_child.mjs');

const statusOf = {
  exit: 0,
  end: 0,
  'exit-in-read': 0,
  throw: 1,
  'worker-exit': 0,
  'worker-terminate': 0,
  'exit-beside-worker': 0,
} as const;
type Way = keyof typeof statusOf;

/** Runs one process; resolves to what went wrong, or undefined. */
function endOf(way: Way): Promise<string | undefined> {
  return new Promise((resolve) => {
    const started = spawn(process.execPath, [child, way], { stdio: ['ignore', 'ignore', 'pipe'] });
    let stderr = '';
    started.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    const timer = setTimeout(() => started.kill('SIGKILL'), 30_000);
    started.once('close', (code, signal) => {
      clearTimeout(timer);
      const isRight = signal === null && code === statusOf[way] && (code === 0 || stderr.includes('on purpose'));
      resolve(isRight ? undefined : `${way}: status ${code}, signal ${signal}, expected ${statusOf[way]}\n${stderr}`);
    });
  });
}

test('200 processes end with kernels in flight, in seven ways, without a crash', { timeout: 240_000 }, async () => {
  const ways = Object.keys(statusOf) as Way[];
  // The plain exit is what users do; the others share the rest.
  const planned = Array.from({ length: 200 }, (_, index) => (index < 100 ? 'exit' : ways[index % ways.length]!));
  const problems: string[] = [];
  const next = async (): Promise<void> => {
    for (let way = planned.pop(); way !== undefined; way = planned.pop()) {
      const problem = await endOf(way);
      if (problem !== undefined) problems.push(problem);
    }
  };
  await Promise.all(Array.from({ length: 2 * availableParallelism() }, next));
  assert.equal(problems.length, 0, `${problems.length} of 200 ended badly:\n${problems.slice(0, 5).join('\n')}`);
});

test('the addon loads and works in eight worker threads at once, and again after they have ended', async () => {
  const expected = Array.from({ length: 20 }, (_, i) => [i + 1, 2 * i + 1, 3 * i + 1]).flat();
  for (let round = 0; round < 2; round++) {
    const results = await Promise.all(
      Array.from({ length: 8 }, async () => {
        const worker = new Worker(child, { workerData: 'sum', execArgv: [] });
        const ended = new Promise((resolve) => worker.once('exit', resolve));
        const numbers = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
        return { numbers, status: await ended };
      }),
    );
    for (const { numbers, status } of results) {
      assert.deepEqual(numbers, expected);
      assert.equal(status, 0);
    }
  }
});
