/** A GPT with caches in pages and in int8: its logits, sequences of different lengths, and generation. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { assertClose, numbersOf } from '../helpers/allclose.js';

const config = { vocabSize: 50, context: 80, layers: 3, heads: 4, width: 64, kvHeads: 2 } as const;
const positions = ['rope', 'learned'] as const;

function makeModel(position: (typeof positions)[number]): og.GPT {
  const model = new og.GPT({ ...config, position }, { generator: og.generator(8) });
  model.eval();
  return model;
}

async function greedy(model: og.GPT, cache: og.GenerateOptions['cache'], maxNewTokens = 90): Promise<number[]> {
  const found: number[] = [];
  const options = { maxNewTokens, temperature: 0, ...(cache === undefined ? {} : { cache }) };
  for await (const { id } of model.generate([1, 2, 3], options)) found.push(id);
  return found;
}

test('logits from a cache in pages are those of one piece, from int8 within 2 % of the largest', () => {
  const model = makeModel('rope');
  const ids = og.randint(0, 50, [2, 60], { generator: og.generator(9) });
  og.noGrad(() => {
    const whole = model.forward(ids);
    const largest = numbersOf(og.amax(og.abs(whole)))[0]!;
    for (const options of [{ dtype: 'int8' }, { dtype: 'int8', pageSize: 16 }, { pageSize: 16 }] as const) {
      const cache = model.makeCache(2, options);
      for (const count of [20, 1, 1, 32, 6]) {
        const from = cache[0]!.length;
        const got = model.forward(og.narrow(ids, 1, from, count), { cache });
        const bound = 'dtype' in options ? 0.02 * largest : 1e-4;
        assertClose(got, og.narrow(whole, 1, from, count), { atol: bound, rtol: 0 });
      }
      for (const one of cache) one.dispose();
    }
  });
});

for (const position of positions) {
  test(`generation with a cache in pages gives the same tokens, ${position} positions`, async () => {
    const model = makeModel(position);
    const plain = await greedy(model, undefined);
    assert.equal(plain.length, 90);
    assert.deepEqual(await greedy(model, { paged: true }), plain);
    assert.deepEqual(await greedy(model, { pageSize: 8 }), plain);
    assert.equal((await greedy(model, { dtype: 'int8' })).length, 90);
    assert.equal((await greedy(model, { capacity: 20, paged: true })).length, 90);
  });

  test(`sequences of different lengths in one batch equal each alone, ${position} positions`, () => {
    const model = makeModel(position);
    const generator = og.generator(3);
    const prompts = [5, 31, 12].map((length) => og.randint(0, 50, [1, length], { generator }));
    const next = og.randint(0, 50, [3, 4], { generator });
    og.noGrad(() => {
      const pool = new og.nn.KvPool(3 * 3 * 4, 2, 16, 16);
      const caches = prompts.map(() => model.makeCache(1, { pool }));
      for (const [i, prompt] of prompts.entries()) model.forward(prompt, { cache: caches[i]! });
      const joined = caches[0]!.map((_, layer) => og.nn.KvCache.join(caches.map((one) => one[layer]!)));
      const got = [1, 1, 2].map((count, i) => model.forward(og.narrow(next, 1, i, count), { cache: joined }));
      for (const [i, prompt] of prompts.entries()) {
        const own = og.narrow(next, 0, i, 1);
        const want = og.narrow(model.forward(og.concat([prompt, own], 1)), 1, prompt.shape[1]!, 4);
        assertClose(og.narrow(og.concat(got, 1), 0, i, 1), want, { atol: 1e-4, rtol: 1e-4 });
      }
    });
  });
}
