/**
 * safetensors files: values of every dtype, and every way in which a file can lie about itself. Files and verdicts come from
 * test/fixtures/files/safetensors.json.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import * as og from '../../src/index.js';
import { numbersOf } from '../helpers/allclose.js';

const fixtures = fileURLToPath(new URL('../fixtures/files/', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'og-safetensors-'));
after(() => rmSync(folder, { recursive: true, force: true }));

interface Case {
  readonly file: string;
  readonly expect: string;
  readonly why?: string;
  readonly metadata?: Record<string, string>;
  readonly tensors?: Record<string, { dtype: string; shape: number[]; values: (number | string | boolean)[] }>;
}

const { cases } = JSON.parse(readFileSync(join(fixtures, 'safetensors.json'), 'utf8')) as { cases: Case[] };

const open = (path: string): Promise<og.SafetensorsFile | og.ShardedSafetensors> =>
  path.endsWith('.index.json') ? og.openSafetensorsIndex(path) : og.openSafetensors(path);
const load = (path: string, options?: og.LoadSafetensorsOptions): Promise<Record<string, og.Tensor>> =>
  path.endsWith('.index.json') ? og.loadSafetensorsIndex(path, options) : og.loadSafetensors(path, options);

for (const { file, expect, why, metadata, tensors } of cases) {
  const path = join(fixtures, file);
  test(`${file}: ${expect}${why === undefined ? '' : ` (${why})`}`, async () => {
    const start = performance.now();
    if (expect === 'reject') {
      await assert.rejects(open(path), og.FormatError);
    } else {
      const source = await open(path);
      const loaded = await load(path);
      assert.deepEqual(Object.keys(loaded), source.names);
      for (const [key, value] of Object.entries(metadata ?? {}))
        assert.equal((source as og.SafetensorsFile).metadata.get(key), value);
      if (tensors !== undefined) assert.deepEqual(new Set(source.names), new Set(Object.keys(tensors)));
      for (const [name, want] of Object.entries(tensors ?? {})) {
        const got = loaded[name]!;
        assert.deepEqual([...got.shape], want.shape, name);
        if (got.dtype === 'int64') assert.deepEqual([...got.dataSync()].map(String), want.values, name);
        else assert.deepEqual([...numbersOf(got)], want.values.map(Number), name);
      }
    }
    assert.ok(performance.now() - start < 2000, 'took too long');
    assert.equal(({} as { dtype?: unknown }).dtype, undefined, 'a prototype was polluted');
    assert.equal(Object.prototype.hasOwnProperty.call(Object.prototype, 'shape'), false);
  });
}

test('a reading check finds NaN and infinities, and only when asked', async () => {
  const path = join(fixtures, 'valid/nan_inf_payload.safetensors');
  await load(path);
  await assert.rejects(load(path, { checkFinite: true }), (error: og.FormatError) => {
    assert.ok(error instanceof og.FormatError);
    assert.match(error.message, /nan_inf_payload/);
    return true;
  });
  await load(join(fixtures, 'valid/all_dtypes.safetensors'), { checkFinite: true });
});

const dtypes = ['float32', 'float16', 'bfloat16', 'float64', 'int8', 'uint8', 'int32', 'int64', 'bool'] as const;

test('all dtypes, shapes and views come back as they were saved', async () => {
  const generator = og.generator(5);
  const tensors: Record<string, og.Tensor> = {};
  for (const dtype of dtypes) {
    for (const shape of [[], [0, 3], [1], [5, 7], [2, 1, 3, 1, 2, 1, 1, 2]]) {
      const values = og.mul(og.randn(shape, { generator }), 50);
      tensors[`${dtype}.${shape.join('x')}`] = dtype === 'bool' ? og.gt(values, 0) : og.to(og.abs(values), dtype);
    }
  }
  tensors['transposed'] = og.transpose(tensors['float32.5x7']!, 0, 1);
  tensors['sliced'] = og.slice(tensors['int8.5x7']!, 1, 6, 0, -2);
  tensors['__proto__x'] = og.ones([2]);
  Object.defineProperty(tensors, '__proto__', { value: og.ones([3]), enumerable: true });
  const path = join(folder, 'round.safetensors');
  await og.saveSafetensors(path, tensors, { note: 'Größe ✓', __proto_: 'x' });
  for (const map of [true, false]) {
    const file = await og.openSafetensors(path, { map });
    assert.equal(file.metadata.get('note'), 'Größe ✓');
    const loaded = await og.loadSafetensors(path, { map });
    assert.deepEqual(new Set(Object.keys(loaded)), new Set(Object.keys(tensors)));
    for (const [name, want] of Object.entries(tensors)) {
      const got = Object.getOwnPropertyDescriptor(loaded, name)!.value as og.Tensor;
      assert.equal(got.dtype, want.dtype, name);
      assert.deepEqual([...got.shape], [...want.shape], name);
      assert.deepEqual(numbersOf(got), numbersOf(want), name);
      assert.equal(file.info(name).bytes, want.size * want.itemBytes);
    }
  }
  assert.throws(
    () => new og.SafetensorsFile(path, { tensors: new Map() } as never, {} as never).tensor('a'),
    og.AttributeError,
  );
});

test('floats are cast on request, other dtypes are not', async () => {
  const loaded = await load(join(fixtures, 'valid/all_dtypes.safetensors'), { dtype: 'bfloat16' });
  assert.equal(loaded['f64']!.dtype, 'bfloat16');
  assert.equal(loaded['i8']!.dtype, 'int8');
});

test('what is written to a loaded tensor stays in this process', async () => {
  const path = join(folder, 'private.safetensors');
  await og.saveSafetensors(path, { a: og.zeros([4]) });
  const before = readFileSync(path);
  const { a } = await og.loadSafetensors(path);
  og.noGrad(() => og.copy_(a!, og.ones([4])));
  assert.deepEqual([...numbersOf(a!)], [1, 1, 1, 1]);
  assert.deepEqual(readFileSync(path), before);
});

test('a file taken up again after its tensors have gone still counts right', async () => {
  const file = await og.openSafetensors(join(fixtures, 'valid/one.safetensors'));
  const name = file.names[0]!;
  const before = og.memory().tensors;
  const values = numbersOf(file.tensor(name));
  const bytes = og.memory().bytes;
  for (let i = 0; i < 5; i++) {
    const again = file.tensor(name);
    assert.deepEqual(numbersOf(again), values);
    again.dispose();
  }
  assert.ok(og.memory().tensors >= before);
  assert.equal(og.memory().bytes, bytes);
});

/** A small generator of its own: the cases must be the same everywhere. */
function randomIntegers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

test('400 damaged files: typed errors or other values, never anything else', async () => {
  const whole = readFileSync(join(fixtures, 'valid/all_dtypes.safetensors'));
  const headerEnd = 8 + Number(whole.readBigUInt64LE(0));
  const below = randomIntegers(20_24);
  const path = join(folder, 'damaged.safetensors');
  let refused = 0;
  for (let round = 0; round < 400; round++) {
    let bytes = Buffer.from(whole);
    if (round % 4 === 0) bytes = bytes.subarray(0, below(whole.length));
    else for (let flips = 1 + below(3); flips > 0; flips--) bytes[below(headerEnd)]! ^= 1 << below(8);
    writeFileSync(path, bytes);
    try {
      const loaded = await og.loadSafetensors(path, { map: round % 2 === 0 });
      for (const value of Object.values(loaded)) numbersOf(value);
    } catch (error) {
      assert.ok(error instanceof og.OmniError, `round ${round}: ${(error as Error).stack}`);
      refused++;
    }
  }
  assert.ok(refused > 300, `only ${refused} of 400 were refused`);
});

test('damaged indexes: typed errors, whatever the JSON holds', async () => {
  const shard = 'model-00001-of-00001.safetensors';
  await og.saveSafetensors(join(folder, shard), { a: og.ones([2]) });
  const path = join(folder, 'model.safetensors.index.json');
  const maps = [[], null, 3, 'x', { a: 3 }, { a: null }, { a: '' }, { a: '.' }, { a: '..' }, { a: `sub/${shard}` }, { a: `./${shard}` },
    { a: `C:${shard}` }, { a: `${shard}\n` }, { a: `${'x'.repeat(300)}.safetensors` }, { a: 'model.safetensors.index.json' },
    { a: ['model-00001-of-00001.safetensors'] }, { a: 'absent.safetensors' }, { __proto_: shard }]; // prettier-ignore
  for (const weightMap of maps) {
    writeFileSync(path, JSON.stringify({ weight_map: weightMap }));
    await assert.rejects(og.openSafetensorsIndex(path), og.FormatError, JSON.stringify(weightMap));
  }
  for (const text of ['', '[', 'null', '[]', '"x"', '{}', '{"weight_map":{"__proto__":"../x"}}', '\xff\xfe']) {
    writeFileSync(path, text, 'latin1');
    await assert.rejects(og.openSafetensorsIndex(folder), og.FormatError, text);
  }
  writeFileSync(path, JSON.stringify({ weight_map: { a: shard } }));
  const open = await og.openSafetensorsIndex(folder);
  assert.deepEqual([...numbersOf(open.tensor('a'))], [1, 1]);
  assert.deepEqual(open.info('a').shape, [2]);
  assert.throws(() => open.tensor('b'), og.AttributeError);
});

test('a file that is not there, or a folder, is an ordinary error', async () => {
  await assert.rejects(og.openSafetensors(join(folder, 'nothing')), Error);
  await assert.rejects(og.openSafetensors(folder), Error);
  await assert.rejects(og.openSafetensorsIndex(join(folder, 'nothing')), Error);
});
