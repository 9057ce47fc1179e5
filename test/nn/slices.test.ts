/** The way back in slices: the bits of one walk, other code between, and nothing left behind. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import * as og from '../../src/index.js';

const gpt = (): og.GPT =>
  new og.GPT(
    { vocabSize: 40, context: 16, layers: 6, heads: 2, width: 32, dropout: 0.1 },
    { generator: og.generator(3) },
  );
const ids = og.randint(0, 40, [2, 16], { generator: og.generator(1) });

/** Every node is a slice of its own. */
const finest = (between: () => Promise<void> = () => setImmediate()): og.Pace => {
  const { now } = performance;
  return {
    run: (slice) => {
      let calls = 0;
      performance.now = () => (calls++ < 2 ? 0 : 1e9); // once for the end of the slice, once for a node
      try {
        slice();
      } finally {
        performance.now = now;
      }
    },
    turn: between,
  };
};

const gradientsOf = (model: og.GPT): unknown => model.parameters().map(({ grad }) => grad!.dataSync());

test('the same bits as in one walk, whatever happens between the slices', async () => {
  const [one, other] = [gpt(), gpt()];
  const losses = [one, other].map((model) => {
    og.manualSeed(7);
    return og.scope(() => model.loss(ids, ids));
  });
  og.scope(() => losses[0]!.backward());
  let turns = 0;
  const own = og.ones([100], { requiresGrad: true });
  await og.backwardInSlices(
    losses[1]!,
    null,
    finest(async () => {
      turns++;
      await setImmediate();
      assert.ok(own.mul(2).requiresGrad, 'others record'); // the walk itself does not
      og.scope(() => own.mul(own).sum().backward()); // a walk of their own
    }),
  );
  assert.ok(turns > 60, `${turns} turns`);
  assert.deepEqual(gradientsOf(other), gradientsOf(one));
  assert.deepEqual(own.grad!.slice(0, 0, 1).toArraySync(), [2 * turns]);
});

test('timers run meanwhile, and nothing is left behind', async () => {
  const model = gpt();
  const step = async (pace?: og.Pace): Promise<void> => {
    const loss = og.scope(() => model.loss(ids, ids));
    await og.backwardInSlices(loss, null, ...(pace === undefined ? [] : [pace]));
    loss.dispose();
  };
  await step();
  const before = og.memory();
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  await step(finest(async () => void (await setImmediate(), await setImmediate())));
  clearInterval(timer);
  assert.ok(ticks > 0);
  await step();
  assert.equal(og.memory().tensors, before.tensors);
  assert.ok(og.memory().bytes <= before.bytes); // less where the collector came for the models of other tests
});

test('a gradient to begin with, a leaf, and what cannot be walked', async () => {
  const x = og.tensor([1, 2], { requiresGrad: true });
  const start = og.tensor([3, 4]);
  await og.backwardInSlices(x.mul(x), start);
  assert.deepEqual(x.grad!.toArraySync(), [6, 16]);
  await og.backwardInSlices(x, start);
  assert.deepEqual(x.grad!.toArraySync(), [9, 20]);
  assert.ok(!start.isDisposed);
  await assert.rejects(og.backwardInSlices(x.mul(2)), og.ShapeError);
  await assert.rejects(og.backwardInSlices(og.ones([1])), og.StateError);
  const walked = x.mul(x).sum();
  walked.backward();
  await assert.rejects(og.backwardInSlices(walked), /retainGraph/);
});
