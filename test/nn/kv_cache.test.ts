/** Caches in pages and in int8: what they hold, what attention makes of it, sharing, and what they refuse. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { assertClose, numbersOf } from '../helpers/allclose.js';

const { nn } = og;
const [batch, heads, kvHeads, time, headWidth] = [2, 6, 2, 29, 20];

/** Queries, keys and values of all positions. */
function inputs(): [og.Tensor, og.Tensor, og.Tensor] {
  const generator = og.generator(21);
  const make = (count: number): og.Tensor => og.randn([batch, count, time, headWidth], { generator });
  return [make(heads), make(kvHeads), make(kvHeads)];
}

/** All positions, in pieces, against a cache. */
function inPieces(cache: og.nn.KvCache, pieces: readonly number[], options: og.AttentionOptions): og.Tensor {
  const [q, k, v] = inputs();
  const part = (x: og.Tensor, count: number): og.Tensor => og.narrow(x, 2, cache.length, count);
  const parts = pieces.map((count) =>
    cache.attend(part(q, count), part(k, count), part(v, count), upTo(options, cache.length + count)),
  );
  return og.concat(parts, 2);
}

const settings: Record<string, og.nn.KvCacheOptions> = {
  'in one piece': {},
  'in pages': { paged: true },
  'in small pages': { pageSize: 4 },
  'in large pages': { pageSize: 64 },
  'bfloat16 in pages': { pageSize: 8, dtype: 'bfloat16' },
  int8: { dtype: 'int8' },
  'int8 in pages': { dtype: 'int8', pageSize: 16 },
};
const attentions: Record<string, og.AttentionOptions> = {
  causal: { causal: true },
  'a window and a soft cap': { causal: true, window: 7, softCap: 2 },
  slopes: { causal: true, alibi: og.alibiSlopes(heads) },
  'a mask': { mask: og.reshape(og.ne(og.remainder(og.arange(time), 3), 1), [1, time]) },
};

/** Options for the piece whose keys end at `end`: a mask is of the keys so far. */
function upTo(options: og.AttentionOptions, end: number): og.AttentionOptions {
  return options.mask ? { ...options, mask: og.narrow(options.mask, -1, 0, end) } : options;
}

for (const [name, setting] of Object.entries(settings)) {
  for (const [kind, options] of Object.entries(attentions)) {
    test(`cache ${name}, ${kind}: pieces equal the whole, within what the dtype keeps`, () => {
      const [q, k, v] = inputs();
      og.noGrad(() => {
        const causal = options.causal ?? false;
        const whole = og.scaledDotProductAttention(q, k, v, options);
        const error = (setting.dtype ?? 'float32') === 'float32' ? 1e-5 : 0.03;
        for (const pieces of [[29], [1, 27, 1], [7, 2, 2, 2, 1, 1, 14], new Array<number>(29).fill(1)]) {
          if (!causal && pieces.length > 1) continue; // earlier pieces do not see later keys
          const cache = new nn.KvCache(batch, kvHeads, time, headWidth, setting);
          const got = inPieces(cache, pieces, options);
          assert.equal(cache.length, time);
          assertClose(got, whole, { atol: error, rtol: 0 }, pieces.join(', '));
          cache.dispose();
        }
      });
    });
  }
}

test('an int8 cache holds what it was given within half a scale, in a quarter of the memory', () => {
  const [, k, v] = inputs();
  const cache = new nn.KvCache(batch, kvHeads, time, headWidth, { dtype: 'int8', pageSize: 8 });
  const plain = new nn.KvCache(batch, kvHeads, 32, headWidth);
  const [keys, values] = cache.append(k, v);
  assert.equal(cache.bytes, plain.bytes / 4 + 2 * 4 * batch * kvHeads * 32);
  for (const [got, want] of [
    [keys, k],
    [values, v],
  ] as const) {
    const most = numbersOf(og.amax(og.abs(want), -1));
    const [a, b] = [numbersOf(got), numbersOf(want)];
    for (let i = 0; i < a.length; i++) {
      const bound = (most[Math.floor(i / headWidth)]! / 254) * (1 + 1e-5);
      assert.ok(Math.abs(a[i]! - b[i]!) <= bound, `element ${i}: ${a[i]} for ${b[i]}`);
    }
  }
  cache.dispose();
  plain.dispose();
});

test('attention from int8 stays within the bound that docs/numerics.md states', () => {
  const [q, k, v] = inputs();
  const scale = 1 / Math.sqrt(headWidth);
  const numbers = (x: og.Tensor): number[] => Array.from(numbersOf(x));
  og.noGrad(() => {
    const cache = new nn.KvCache(batch, kvHeads, time, headWidth, { dtype: 'int8', pageSize: 8 });
    const got = numbers(cache.attend(q, k, v));
    const want = numbers(og.scaledDotProductAttention(q, k, v));
    const most = (x: og.Tensor): number[] => numbers(og.amax(og.abs(x), [2, 3])); // [batch, key heads]
    const [keys, values] = [most(k), most(v)];
    const sizes = numbers(og.sum(og.abs(q), 3)); // [batch, heads, time]
    let worst = 0;
    for (let i = 0; i < got.length; i++) {
      const row = Math.floor(i / headWidth);
      const head = Math.floor(row / time);
      const group = Math.floor(head / heads) * kvHeads + Math.floor(((head % heads) * kvHeads) / heads);
      const delta = (scale * sizes[row]! * keys[group]!) / 254;
      const bound = (Math.expm1(2 * delta) + 1 / 254) * values[group]!;
      worst = Math.max(worst, Math.abs(got[i]! - want[i]!) / bound);
    }
    assert.ok(worst > 0.01 && worst <= 1, `${worst} of the bound`);
  });
});

test('pages of 64 give the bits of one piece', () => {
  const [q, k, v] = [0, 1, 2].map((seed) => og.randn([2, 4, 300, 32], { generator: og.generator(seed) })) as [
    og.Tensor,
    og.Tensor,
    og.Tensor,
  ];
  const [plain, paged] = [{}, { paged: true }].map((options) => new nn.KvCache(2, 4, 300, 32, options));
  og.noGrad(() => {
    for (const count of [150, 1, 1, 100, 3, 40, 1]) {
      const from = plain!.length;
      const part = (x: og.Tensor): og.Tensor => og.narrow(x, 2, from, count);
      const [a, b] = [plain!, paged!].map((cache) => cache.attend(part(q), part(k), part(v), { causal: true }));
      assert.deepEqual(numbersOf(b!), numbersOf(a!));
    }
  });
});

test('caches of different lengths, joined, equal each alone', () => {
  const generator = og.generator(4);
  for (const dtype of ['float32', 'int8'] as const) {
    const pool = new nn.KvPool(40, kvHeads, 4, headWidth, dtype);
    const make = (): og.nn.KvCache => new nn.KvCache(1, kvHeads, 40, headWidth, { pool });
    const lengths = [3, 17, 0, 8];
    const [alone, joined] = [lengths.map(make), lengths.map(make)];
    const rows = (count: number, time: number): og.Tensor => og.randn([1, count, time, headWidth], { generator });
    for (const [i, length] of lengths.entries()) {
      const [k, v] = [rows(kvHeads, length), rows(kvHeads, length)];
      alone[i]!.append(k, v);
      joined[i]!.append(k, v);
    }
    const batch = nn.KvCache.join(joined);
    assert.deepEqual(batch.lengths, lengths);
    for (const time of [1, 1, 6, 1]) {
      const q = lengths.map(() => rows(heads, time));
      const [k, v] = [lengths.map(() => rows(kvHeads, time)), lengths.map(() => rows(kvHeads, time))];
      const got = batch.attend(og.concat(q), og.concat(k), og.concat(v), { causal: true, window: 9 });
      for (const [i, cache] of alone.entries()) {
        const want = cache.attend(q[i]!, k[i]!, v[i]!, { causal: true, window: 9 });
        assertClose(og.narrow(got, 0, i, 1), want, { atol: 1e-6, rtol: 0 });
      }
    }
    assert.deepEqual(
      joined.map(({ length }) => length),
      lengths.map((length) => length + 9),
    );
    batch.dispose();
    joined[0]!.append(rows(kvHeads, 1), rows(kvHeads, 1));
    joined[1]!.dispose();
    assert.throws(() => nn.KvCache.join(joined), og.StateError);
    pool.dispose();
    assert.throws(() => joined[0]!.append(rows(kvHeads, 1), rows(kvHeads, 1)), og.StateError);
  }
});

test('caches share a pool: pages are taken as they grow, given back, and used again', () => {
  const pool = new nn.KvPool(6, 1, 4, 8, 'int8');
  const make = (): og.nn.KvCache => new nn.KvCache(1, 1, 100, 8, { pool });
  const [a, b] = [make(), make()];
  const piece = (count: number): og.Tensor => og.ones([1, 1, count, 8]);
  const add = (cache: og.nn.KvCache, count: number): [og.Tensor, og.Tensor] => cache.append(piece(count), piece(count));
  add(a, 5);
  add(b, 9);
  assert.equal(pool.free, 1);
  add(a, 3);
  assert.equal(pool.free, 1);
  add(a, 1);
  assert.equal(pool.free, 0);
  assert.throws(() => add(b, 4), og.StateError);
  assert.equal(b.length, 9);
  a.truncate(4);
  assert.equal(pool.free, 2);
  const [keys] = b.append(og.mul(piece(4), 2), piece(4));
  assertClose(og.narrow(keys, 2, 0, 9), piece(9));
  assertClose(og.narrow(keys, 2, 9, 4), og.mul(piece(4), 2));
  a.dispose();
  b.dispose();
  assert.equal(pool.free, 6);
  pool.dispose();
});

test('a fork shares pages until it writes, whatever the kind of cache', () => {
  const generator = og.generator(6);
  const rows = (count: number, time: number): og.Tensor => og.randn([count, 1, time, 8], { generator });
  for (const options of [{}, { pageSize: 4 }, { dtype: 'int8', pageSize: 4 }] as const) {
    const cache = new nn.KvCache(2, 1, 20, 8, options);
    cache.append(rows(2, 6), rows(2, 6));
    const bytes = cache.bytes;
    const beams = cache.fork([1, 1, 0]);
    assert.equal(beams.batch, 3);
    if ('pageSize' in options) assert.equal(cache.bytes, bytes);
    const [before] = cache.append(rows(2, 0), rows(2, 0));
    const held = numbersOf(before);
    const added = rows(3, 1);
    const [grown] = beams.append(added, added);
    const row = (x: og.Tensor, i: number, from: number, count: number): ArrayLike<number> =>
      numbersOf(og.narrow(og.narrow(x, 0, i, 1), 2, from, count));
    for (const [i, from] of [1, 1, 0].entries()) {
      assert.deepEqual(row(grown, i, 0, 6), row(before, from, 0, 6));
      const bound = 'dtype' in options ? 0.02 : 0;
      const [got, want] = [row(grown, i, 6, 1), row(added, i, 0, 1)];
      Array.from(got).forEach((value, d) => assert.ok(Math.abs(value - want[d]!) <= bound));
    }
    const [after] = cache.append(rows(2, 0), rows(2, 0));
    assert.deepEqual(numbersOf(after), held, 'the first cache changed with its fork');
    cache.dispose();
    const [kept] = beams.append(rows(3, 0), rows(3, 0));
    assert.deepEqual(numbersOf(kept), numbersOf(grown), 'the fork went with the first cache');
    beams.truncate(5);
    beams.append(rows(3, 3), rows(3, 3));
    assert.equal(beams.length, 8);
    assert.throws(() => beams.fork([3]), og.AttributeError);
    beams.dispose();
    beams.dispose();
    assert.throws(() => beams.fork(), og.StateError);
  }
});

test('a cache refuses what it cannot be or hold', () => {
  const pool = new nn.KvPool(2, 2, 4, 8);
  assert.throws(() => new nn.KvCache(1, 2, 8, 8, { dtype: 'int32' }), og.AttributeError);
  assert.throws(() => new nn.KvCache(1, 2, 8, 8, { pageSize: 0 }), og.AttributeError);
  assert.throws(() => new nn.KvCache(1, 2, 8, 8, { pool: {} as never }), og.AttributeError);
  assert.throws(() => new nn.KvCache(1, 3, 8, 8, { pool }), og.ShapeError);
  assert.throws(() => new nn.KvPool(0, 1, 1, 1), og.AttributeError);
  const cache = new nn.KvCache(1, 2, 8, 8, { dtype: 'int8' });
  const piece = og.ones([1, 2, 1, 8]);
  assert.throws(() => cache.attend(piece, piece, piece, { causal: 3 as never }), og.AttributeError);
  assert.throws(() => cache.attend(piece, og.ones([1, 1, 1, 8]), piece), og.ShapeError);
  assert.throws(() => cache.attend(og.ones([1, 3, 1, 8]), piece, piece), og.ShapeError);
  assert.throws(() => cache.attend(piece, piece, piece, { dropout: 0.5 }), og.AttributeError);
  assert.throws(() => cache.attend(piece, piece, piece, { queryOffsets: [0, 1] }), og.AttributeError);
  assert.throws(() => cache.attend(piece, piece, piece, { mask: og.ones([2, 2]) }), og.ShapeError);
  assert.throws(() => cache.append(piece, og.ones([1, 2, 1, 8], { dtype: 'int32' })), og.AttributeError);
  const asking = og.ones([1, 2, 1, 8], { requiresGrad: true });
  assert.throws(() => cache.append(asking, piece), og.StateError);
  assert.throws(() => cache.attend(asking, piece, piece), og.StateError);
  assert.equal(cache.length, 0);
  cache.append(og.ones([1, 2, 7, 8]), og.ones([1, 2, 7, 8]));
  assert.throws(() => cache.attend(piece, og.ones([1, 2, 2, 8]), og.ones([1, 2, 2, 8])), og.ShapeError);
  assert.throws(() => cache.append(og.ones([1, 2, 2, 8]), og.ones([1, 2, 2, 8])), og.StateError);
  cache.dispose();
  assert.throws(() => cache.append(piece, piece), og.StateError);
  assert.throws(() => cache.truncate(0), og.StateError);
  assert.throws(() => nn.KvCache.join([]), og.AttributeError);
  assert.throws(() => nn.KvCache.join([new nn.KvCache(1, 2, 8, 8)]), og.AttributeError);
  const [own, other] = [1, 2].map(() => new nn.KvCache(1, 2, 8, 8, { paged: true }));
  assert.throws(() => nn.KvCache.join([own!, other!]), og.AttributeError);
  assert.throws(() => new nn.KvCache(1, 2, 8, 8, { paged: false, pageSize: 4 }), og.AttributeError);
  assert.throws(() => new nn.KvCache(1, 2, 8, 300, { paged: true }), og.AttributeError);
  pool.dispose();
});
