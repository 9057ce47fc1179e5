/** The GPT: configuration, incremental decoding, and generation. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { assertClose } from '../helpers/allclose.js';

const base: og.GPTConfig = { vocabSize: 29, context: 16, layers: 2, heads: 4, width: 32 };
const families: Record<string, og.GPTConfig> = {
  'GPT-2': { ...base, activation: 'geluTanh' },
  Llama: {
    ...base,
    kvHeads: 2,
    norm: 'rmsNorm',
    position: 'rope',
    activation: 'swiglu',
    bias: false,
    tieEmbeddings: false,
  },
};

function make(config: og.GPTConfig = base, seed = 5): og.GPT {
  const model = new og.GPT(config, { generator: og.generator(seed) });
  // Initial logits are nearly equal; larger weights make choices that rounding cannot turn.
  og.noGrad(() => model.parameters().forEach((tensor) => tensor.rank > 1 && og.copy_(tensor, og.mul(tensor, 12))));
  return model.eval();
}

async function idsOf(pieces: AsyncIterable<og.GeneratedPiece>): Promise<number[]> {
  const ids: number[] = [];
  for await (const { id } of pieces) ids.push(id);
  return ids;
}

test('a configuration that cannot be names what is wrong with it', () => {
  const wrong: [Record<string, unknown>, RegExp][] = [
    [{ vocabSize: 0 }, /vocabSize/],
    [{ context: 1.5 }, /context/],
    [{ layers: -1 }, /layers/],
    [{ heads: 5 }, /heads/],
    [{ width: NaN }, /width/],
    [{ width: undefined }, /width/],
    [{ kvHeads: 3 }, /kvHeads/],
    [{ kvHeads: 8 }, /kvHeads/],
    [{ position: 'rope', width: 36, heads: 4 }, /heads|even/],
    [{ position: 'sinus' }, /position/],
    [{ norm: 'batchNorm' }, /norm/],
    [{ activation: 'relu6' }, /activation/],
    [{ dropout: 2 }, /dropout/],
    [{ bias: 'yes' }, /bias/],
    [{ n_layer: 3 }, /n_layer/],
  ];
  for (const [change, names] of wrong) {
    assert.throws(
      () => new og.GPT({ ...base, ...change } as og.GPTConfig),
      (error: og.AttributeError) => error instanceof og.AttributeError && names.test(error.message),
      JSON.stringify(change),
    );
  }
});

test('ids that cannot be', () => {
  const model = make();
  assert.throws(() => model.forward(og.zeros([1, 17], { dtype: 'int32' })), og.ShapeError);
  assert.throws(() => model.forward(og.zeros([3], { dtype: 'int32' })), og.ShapeError);
  assert.throws(() => model.forward(og.full([1, 3], 29, { dtype: 'int32' })).dataSync(), og.AttributeError);
});

for (const [name, config] of Object.entries(families)) {
  test(`${name}: decoding step by step gives the logits of a whole pass`, () => {
    const model = make(config);
    const ids = og.randint(0, config.vocabSize, [2, 16], { generator: og.generator(8) });
    og.noGrad(() => {
      const whole = model.forward(ids);
      assert.deepEqual([...whole.shape], [2, 16, 29]);
      for (const pieces of [[5, ...new Array<number>(11).fill(1)], new Array<number>(16).fill(1), [15, 1]]) {
        const cache = model.makeCache(2);
        const logits = pieces.map((count) => model.forward(og.narrow(ids, 1, cache[0]!.length, count), { cache }));
        assertClose(og.concat(logits, 1), whole, { rtol: 1e-4, atol: 1e-4 }, `pieces of ${pieces[0]}, …`);
        cache.forEach((layer) => layer.dispose());
      }
      assertClose(model.forward(ids, { lastOnly: true }), og.narrow(whole, 1, 15, 1), { rtol: 1e-5, atol: 1e-5 });
    });
  });

  test(`${name}: greedy generation is the argmax of whole passes, and the same again`, async () => {
    const model = make(config);
    const prompt = [3, 1, 4];
    const expected = [...prompt];
    og.noGrad(() => {
      while (expected.length < 16) {
        const logits = model.forward(og.tensor(Int32Array.from(expected), { shape: [1, expected.length] }), {
          lastOnly: true,
        });
        expected.push(og.argmax(logits, -1).itemSync());
      }
    });
    for (let round = 0; round < 2; round++) {
      assert.deepEqual(await idsOf(model.generate(prompt, { temperature: 0 })), expected.slice(3));
    }
    assert.deepEqual(await idsOf(model.generate(prompt, { topK: 1 })), expected.slice(3));
    assert.deepEqual(await idsOf(model.generate(prompt, { topP: 0 })), expected.slice(3));
    assert.deepEqual(await idsOf(model.generate(prompt, { minP: 1 })), expected.slice(3));
  });
}

test('a seed repeats a draw, another seed does not', async () => {
  const model = make(base, 6);
  const draw = (seed: number): Promise<number[]> =>
    idsOf(
      model.generate([1], {
        temperature: 4,
        topK: 20,
        topP: 0.95,
        minP: 0.001,
        maxNewTokens: 14,
        generator: og.generator(seed),
      }),
    );
  const first = await draw(1);
  assert.deepEqual(await draw(1), first);
  assert.notDeepEqual(await draw(2), first);
  assert.ok(first.every((id) => Number.isInteger(id) && id >= 0 && id < 29));
});

test('generation stops at a stop id, at the limit, and not at the end of the context', async () => {
  const model = make();
  const free = await idsOf(model.generate([2, 7], { temperature: 0, maxNewTokens: 12 }));
  assert.equal(free.length, 12);
  const stop = free[4]!;
  const stopped = await idsOf(model.generate([2, 7], { temperature: 0, stopIds: [28.5, stop] }));
  assert.deepEqual(stopped, free.slice(0, free.indexOf(stop)));
  assert.deepEqual(await idsOf(model.generate([2, 7], { maxNewTokens: 0 })), []);
  assert.equal((await idsOf(model.generate([2, 7], { maxNewTokens: 50 }))).length, 50);
  const long = Array.from({ length: 40 }, (_, i) => i % 29);
  assert.equal((await idsOf(model.generate(long, { maxNewTokens: 3 }))).length, 3);
  // Past the context the result is that of the ids that were kept.
  const many = await idsOf(model.generate(long, { temperature: 0, maxNewTokens: 1 }));
  assert.deepEqual(await idsOf(model.generate(long.slice(-16), { temperature: 0, maxNewTokens: 1 })), many);
});

test('an AbortSignal ends it, and the model returns to the mode it was in', async () => {
  const model = make().train();
  const stop = new AbortController();
  const pieces: number[] = [];
  const run = async (): Promise<void> => {
    for await (const { id } of model.generate([1, 2], { maxNewTokens: 1000, signal: stop.signal })) {
      assert.equal(model.training, false);
      pieces.push(id);
      if (pieces.length === 3) stop.abort(new Error('enough'));
    }
  };
  await assert.rejects(run(), /enough/);
  assert.equal(pieces.length, 3);
  assert.equal(model.training, true);
  await assert.rejects(idsOf(model.generate([1], { signal: AbortSignal.abort() })), { name: 'AbortError' });
});

test('a loop that breaks off leaves nothing behind', async () => {
  const model = make();
  await idsOf(model.generate([1], { maxNewTokens: 2, topP: 0.9 })); // makes the constants that stay
  const before = og.memory().tensors;
  for await (const _piece of model.generate([1, 2, 3], { maxNewTokens: 10 })) break;
  await assert.rejects(idsOf(model.generate([1, 99], { maxNewTokens: 10 })), og.AttributeError);
  await idsOf(model.generate([1], { maxNewTokens: 20, topP: 0.9 }));
  assert.equal(og.memory().tensors, before);
});

test('options and prompts that cannot be', async () => {
  const model = make();
  for (const options of [
    { temperature: -1 },
    { temperature: NaN },
    { temperature: Infinity },
    { topK: 0 },
    { topK: 1.5 },
    { topP: 1.01 },
    { topP: -0.1 },
    { minP: 2 },
    { maxNewTokens: -1 },
    { maxNewTokens: 2.5 },
  ]) {
    await assert.rejects(idsOf(model.generate([1], options)), og.AttributeError, JSON.stringify(options));
  }
  await assert.rejects(idsOf(model.generate([], {})), og.AttributeError);
  await assert.rejects(idsOf(model.generate('text', {})), og.AttributeError);
});

test('NaN in the weights is an error, not an endless stream of one token', async () => {
  const model = make();
  og.noGrad(() => og.copy_(model.tokens.weight, og.full(model.tokens.weight.shape, NaN)));
  await assert.rejects(idsOf(model.generate([1], { temperature: 0, maxNewTokens: 3 })), og.OmniError);
  await assert.rejects(idsOf(model.generate([1], { maxNewTokens: 3 })), og.OmniError);
});
