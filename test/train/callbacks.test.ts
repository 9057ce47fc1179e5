/** Callbacks of the training loop: when they are called, what they may change, what survives a restart. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import * as og from '../../src/index.js';

const { nn, optim } = og;

interface Pair {
  readonly input: og.Tensor;
  readonly wanted: og.Tensor;
}

/** Points of a line, in batches whose fields have names of their own. */
const line: og.Dataset<Pair> = {
  length: 8,
  batch: (indices) => {
    const input = og.tensor(indices.map((i) => [i / 8]));
    return { input, wanted: og.add(og.mul(input, 2), 1) };
  },
};

function trainer(callbacks: og.TrainCallback<og.nn.Linear>[], dir?: string): og.Trainer<og.nn.Linear, Pair> {
  const model = new nn.Linear(1, 1, { generator: og.generator(3) });
  return new og.Trainer(model, {
    train: line,
    batchSize: 4,
    steps: 3,
    optimizer: (parameters) => new optim.SGD(parameters, { lr: 0.1 }),
    loss: (layer, { input, wanted }) => og.mean(og.square(og.sub(layer.forward(input), wanted))),
    countTokens: ({ input }) => input.shape[0]!,
    callbacks,
    ...(dir === undefined ? {} : { checkpoint: { dir, every: 2 } }),
  });
}

test('hooks come in order, with the step that they belong to; batches may have any fields', async () => {
  const seen: string[] = [];
  const note = (name: string) => (context: og.TrainContext<og.nn.Linear>) => void seen.push(`${name} ${context.step}`);
  const run = trainer([
    {
      beforeStep: note('before'),
      onGradients: note('gradients'),
      afterStep: note('after'),
      onEvent: (event, { step }) => void seen.push(`${event.type} ${step}`),
    },
  ]);
  let tokens = 0;
  for await (const event of run.run()) if (event.type === 'step') tokens = event.tokens;
  const step = (i: number): string[] => [`before ${i}`, `gradients ${i}`, `after ${i + 1}`, `step ${i + 1}`];
  assert.deepEqual(seen, [...step(0), ...step(1), ...step(2), 'done 3']);
  assert.equal(tokens, 12);
});

test('gradients changed by a callback are what is measured and applied', async () => {
  const run = trainer([
    {
      onGradients: ({ model }) =>
        model.parameters().forEach((parameter) => og.copy_(parameter.grad!, og.zerosLike(parameter))),
    },
  ]);
  const before = await run.model.weight.toArray();
  for await (const event of run.run()) if (event.type === 'step') assert.equal(event.gradNorm, 0);
  assert.deepEqual(await run.model.weight.toArray(), before);
});

test('what a named callback saves comes back at resume', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'omnigrad-callbacks-'));
  try {
    const counter = (): og.TrainCallback<og.nn.Linear> & { count: number } => ({
      name: 'counter',
      count: 0,
      afterStep() {
        this.count++;
      },
      stateDict() {
        return this.count;
      },
      loadStateDict(state) {
        this.count = state as number;
      },
    });
    const first = counter();
    for await (const event of trainer([first], dir).run()) if (event.type === 'checkpoint') break;
    assert.equal(first.count, 2);
    const second = counter();
    for await (const _ of trainer([second], dir).run());
    assert.equal(second.count, 3);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});
