/** Environment variables, in processes of their own; and running out of memory. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import * as og from '../../src/index.js';
import { numbersOf } from '../helpers/allclose.js';

const child = fileURLToPath(new URL('../helpers/environment_child.ts', import.meta.url));

interface Outcome {
  readonly digest: string;
  readonly isa: string;
  readonly threads: number;
}

async function run(variables: Readonly<Record<string, string>>): Promise<Outcome> {
  const { OG_SYNC: _sync, OG_THREADS: _threads, OG_ISA: _isa, ...rest } = process.env;
  const options = { env: { ...rest, ...variables }, timeout: 60_000 };
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', child], options);
  return JSON.parse(stdout) as Outcome;
}

test('OG_SYNC and OG_THREADS change nothing in the results, to the last bit', async () => {
  const usual = await run({ OG_THREADS: '2' });
  assert.equal(usual.threads, 2);
  for (const variables of [{ OG_THREADS: '1' }, { OG_THREADS: '3', OG_SYNC: '1' }, { OG_THREADS: '1', OG_SYNC: '1' }]) {
    const other = await run(variables);
    assert.equal(other.threads, Number(variables.OG_THREADS));
    assert.equal(other.digest, usual.digest, JSON.stringify(variables));
  }
});

test('OG_ISA chooses the kernels', async () => {
  for (const isa of og.backend().isas.filter((name) => name !== 'reference')) {
    assert.equal((await run({ OG_ISA: isa })).isa, isa);
  }
});

test('values of the variables that cannot be are not taken', async () => {
  const { isa, threads } = await run({ OG_ISA: 'itanium', OG_THREADS: 'many' });
  const { isas, hardwareThreads } = og.backend();
  assert.ok(isas.includes(isa));
  assert.equal(threads, hardwareThreads);
});

test('more memory than there is: an error that names the bytes, and the process goes on', () => {
  const bytes = 2 ** 40 * 4;
  for (const make of [
    () => og.zeros([2 ** 40]),
    () => og.rand([2 ** 20, 2 ** 20]),
    () => og.contiguous(og.expand(og.ones([1]), [2 ** 40])),
  ]) {
    assert.throws(make, (error: og.ResourceError) => {
      assert.ok(error instanceof og.ResourceError, String(error));
      assert.match(error.message, new RegExp(`${bytes}|4\\.00 TiB`));
      return true;
    });
  }
  assert.throws(() => og.zeros([2 ** 52, 8]), og.OmniError);
  assert.deepEqual([...numbersOf(og.add(og.ones([3]), 1))], [2, 2, 2]);
});
