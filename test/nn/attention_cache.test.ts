/** Decoding with cached keys and values equals one pass over everything. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { assertClose } from '../helpers/allclose.js';

const { nn } = og;
const tolerance = { rtol: 1e-4, atol: 1e-4 };

for (const [name, options] of Object.entries({
  plain: {},
  'grouped queries': { kvHeads: 2 },
  'one key head': { kvHeads: 1, headWidth: 10 },
  window: { kvHeads: 2, window: 4 },
})) {
  for (const rotated of [false, true]) {
    test(`attention, ${name}${rotated ? ', rotated' : ''}: pieces against a cache equal the whole`, () => {
      const generator = og.generator(17);
      const [batch, time, width, heads] = [2, 13, 24, 4];
      const layer = new nn.MultiHeadAttention(width, heads, { ...options, causal: true, generator });
      const headWidth = 'headWidth' in options ? options.headWidth : width / heads;
      const kvHeads = 'kvHeads' in options ? options.kvHeads : heads;
      const x = og.randn([batch, time, width], { generator });
      const tables = og.ropeTables(time, headWidth);
      const at = (from: number, count: number): object =>
        rotated
          ? { rotary: { cos: og.narrow(tables.cos, 0, from, count), sin: og.narrow(tables.sin, 0, from, count) } }
          : {};
      og.noGrad(() => {
        const whole = layer.forward(x, at(0, time));
        for (const pieces of [[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [7, 1, 1, 4], [13], [1, 12]]) {
          const cache = new nn.KvCache(batch, kvHeads, time, headWidth);
          const parts: og.Tensor[] = [];
          for (const count of pieces) {
            const from = cache.length;
            parts.push(layer.forward(og.narrow(x, 1, from, count), { ...at(from, count), cache }));
          }
          assert.equal(cache.length, time);
          assertClose(og.concat(parts, 1), whole, tolerance, `pieces ${pieces.join(', ')}`);
          cache.dispose();
        }
      });
    });
  }
}

test('a cache refuses what does not fit, and forgets on demand', () => {
  const cache = new nn.KvCache(1, 2, 4, 3);
  const piece = (time: number): og.Tensor => og.ones([1, 2, time, 3]);
  cache.append(piece(3), piece(3));
  assert.throws(() => cache.append(piece(2), piece(2)), og.StateError);
  assert.equal(cache.length, 3);
  assert.throws(() => cache.append(og.ones([1, 1, 1, 3]), og.ones([1, 1, 1, 3])), og.ShapeError);
  assert.throws(() => cache.append(piece(1), og.ones([1, 2, 1, 2])), og.ShapeError);
  cache.truncate(1);
  assert.equal(cache.length, 1);
  const [k] = cache.append(piece(3), piece(3));
  assert.deepEqual([...k.shape], [1, 2, 4, 3]);
});
