/** Random calls at the binding and at every kernel, in processes of their own (test/helpers/fuzz_child.ts): none may crash or hang. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const folder = mkdtempSync(join(tmpdir(), 'og-fuzz-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const child = fileURLToPath(new URL('../helpers/fuzz_child.ts', import.meta.url));

interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly out: string;
  readonly error: string;
}

function fuzz(seed: number, seconds: number, log: string): Promise<Ended> {
  return new Promise((resolve) => {
    const started = spawn(process.execPath, ['--import', 'tsx', child, String(seed), String(seconds), log]);
    let [out, error] = ['', ''];
    started.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
    started.stderr.on('data', (chunk: Buffer) => (error += chunk.toString()));
    const timer = setTimeout(() => started.kill('SIGKILL'), seconds * 1000 + 40_000);
    started.once('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, out, error });
    });
  });
}

for (const seed of [1, 2, 3]) {
  test(`random calls, seed ${seed}: refused or run, and nothing written outside`, { timeout: 90_000 }, async () => {
    const log = join(folder, `${seed}.txt`);
    const { code, signal, out, error } = await fuzz(seed, 2.5, log);
    const last = (): string =>
      `status ${code}, signal ${signal}, during or shortly before: ${readFileSync(log, 'utf8').trim()}\n${error}`;
    assert.equal(code, 0, last());
    const { calls, ran } = JSON.parse(out) as { calls: number; ran: Record<string, number> };
    assert.ok(calls > 200, `only ${calls} calls`);
    const successes = Object.values(ran).filter((count) => count > 0).length;
    assert.ok(
      calls < 5000 || successes > 60,
      `only ${successes} kernels ever ran: the calls are too wild to test anything`,
    );
  });
}
