/** Chains of element-wise calls: the bits of the single calls, in fewer frames, whatever is read, kept, freed or changed meanwhile. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, test } from 'node:test';
import fc from 'fast-check';
import * as og from '../../src/index.js';
import { setLeastChainSize } from '../../src/runtime/chain.js';
import { submitted } from '../../src/runtime/queue.js';
import { control, ERROR } from '../../src/runtime/sequence.js';

const [rows, cols] = [96, 128];

/** Frames that `body` took. */
async function framesOf(body: () => og.Tensor): Promise<number> {
  await og.synchronize();
  const before = submitted();
  const result = body();
  const count = submitted() - before;
  await result.data();
  return count;
}

const bitsOf = async (x: og.Tensor): Promise<string> => {
  const data = await x.data();
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64');
};

/** A program over a growing list of tensors: what each step does is drawn from numbers. */
interface Draw {
  readonly op: number;
  readonly a: number;
  readonly b: number;
  /** What happens after it: nothing, reading, disposing, a change in place, a call that is no chain's step. */
  readonly then: number;
}

type Step = (a: og.Tensor, b: og.Tensor) => og.Tensor;
const steps: readonly Step[] = [
  (a, b) => og.add(a, b),
  (a, b) => og.mul(a, b),
  (a, b) => og.sub(a, b),
  (a, b) => og.maximum(a, b),
  (a) => og.gelu(a),
  (a) => og.tanh(a),
  (a) => og.silu(a),
  (a) => og.mul(a, 0.5),
  (a, b) => og.where(og.lt(a, b), a, b),
  (a) => og.to(og.to(a, 'bfloat16'), 'float32'),
  (a) => og.dropout(a, 0.25, { generator: og.generator(9) }),
  (a) => og.reshape(og.reshape(a, [-1]), [rows, cols]),
  (a) => og.transpose(og.add(og.transpose(a), 1)),
  (a) => og.matmul(a, og.ones([cols, cols])),
  (a, b) => og.gelu(og.add(og.matmul(a, og.full([cols, cols], 0.01)), b)),
];

async function runProgram(draws: readonly Draw[], training: boolean): Promise<string[]> {
  og.manualSeed(3);
  const list = [
    og.randn([rows, cols]),
    og.randn([rows, cols]).requiresGrad_(training),
    og.randn([cols]),
    og.randn([rows, 1]),
  ];
  const spare = Array.from({ length: 10 }, (_, i) => og.full([rows, cols], i));
  const read: string[] = [];
  const live: og.Tensor[] = [...list];
  for (const { op, a, b, then } of draws) {
    const wide = live.filter((x) => x.size === rows * cols);
    const left = wide[a % wide.length]!;
    const made = steps[op % steps.length]!(left, live[b % live.length]!);
    live.push(made);
    if (then === 1) read.push(await bitsOf(left));
    if (then === 2 && wide.length > 2 && !list.includes(left)) {
      live.splice(live.indexOf(left), 1);
      left.dispose();
    }
    if (then === 3 && !training) og.noGrad(() => void og.copy_(list[0]!, spare[b]!));
    if (then === 4) read.push(await bitsOf(og.sum(made, 1)));
    if (then === 5) await new Promise<void>((resolve) => setImmediate(resolve));
  }
  if (training) {
    og.backward(og.sum(og.square(og.add(live.at(-1)!, list[1]!))));
    read.push(await bitsOf(list[1]!.grad!));
  }
  for (const x of live) read.push(await bitsOf(x));
  return read;
}

describe('chains', () => {
  beforeEach(() => void setLeastChainSize(1));
  afterEach(() => void setLeastChainSize());

  test('one frame for an expression', async () => {
    const x = og.randn([rows, cols]);
    const [bias, residual] = [og.randn([cols]), og.randn([rows, cols])];
    const body = (): og.Tensor =>
      og.scope(() => og.add(og.dropout(og.gelu(og.add(x, bias)), 0.1, { generator: og.generator(1) }), residual));
    assert.equal(await framesOf(body), 1);
    setLeastChainSize(Infinity);
    assert.equal(await framesOf(body), 4);
  });

  test('gelu(x @ w + b) is one kernel', async () => {
    const [x, w, b] = [og.randn([3, 32, 64]), og.randn([64, cols]), og.randn([cols])];
    const body = (): og.Tensor => og.scope(() => og.gelu(og.add(og.matmul(x, w), b)));
    const chained = await bitsOf(body());
    assert.equal(await framesOf(body), 1);
    assert.equal(await framesOf(() => og.scope(() => og.dropout(og.relu(og.linear(x, og.transpose(w), b)), 0.5))), 1);
    setLeastChainSize(Infinity);
    assert.equal(await framesOf(body), 3);
    assert.equal(chained, await bitsOf(body()));
  });

  for (const training of [false, true]) {
    test(`random programs have the bits of single calls${training ? ', gradients too' : ''}`, async () => {
      const draw = fc.record({ op: fc.nat(14), a: fc.nat(9), b: fc.nat(9), then: fc.nat(7) });
      await fc.assert(
        fc.asyncProperty(fc.array(draw, { minLength: 1, maxLength: 14 }), async (draws) => {
          setLeastChainSize(1);
          const chained = await runProgram(draws, training);
          setLeastChainSize(Infinity);
          assert.deepEqual(chained, await runProgram(draws, training));
        }),
        { numRuns: 150 },
      );
    });
  }

  test('a value that was left out is there when it is read, also after its operands were freed', async () => {
    const x = og.full([rows, cols], 2);
    const inner = og.add(x, 1);
    const outer = og.mul(inner, 10);
    assert.equal(await og.sum(outer).item(), rows * cols * 30);
    x.dispose();
    const other = og.full([rows, cols], -5); // would take x's block if it were free
    assert.equal(await og.sum(inner).item(), rows * cols * 3);
    assert.equal(await og.sum(other).item(), rows * cols * -5);
  });

  test('a value that was left out is computed before its operand changes', async () => {
    const x = og.full([rows, cols], 2);
    const inner = og.add(x, 1);
    const outer = og.mul(inner, 10);
    assert.equal(await og.sum(outer).item(), rows * cols * 30);
    og.copy_(x, og.full([rows, cols], 100));
    assert.equal(await og.sum(inner).item(), rows * cols * 3);
    assert.equal(await og.sum(x).item(), rows * cols * 100);
  });

  test('a value that its chain leaves out is computed before the call that ends the chain changes an operand', async () => {
    const [x, one, ten, source] = [
      og.full([rows, cols], 2),
      og.full([], 1),
      og.full([], 10),
      og.full([rows, cols], 100),
    ];
    await og.synchronize();
    const inner = og.add(x, one);
    const outer = og.mul(inner, ten);
    og.copy_(x, source); // nothing comes between: this sends the chain off
    assert.equal(await og.sum(inner).item(), rows * cols * 3);
    assert.equal(await og.sum(outer).item(), rows * cols * 30);
    assert.equal(await og.sum(x).item(), rows * cols * 100);
  });

  test('nothing leaks: blocks return to the pool with what was left out', async () => {
    const w = og.full([rows, cols], 2);
    const once = (): og.Tensor => og.scope(() => og.add(og.mul(og.sub(w, 1), 3), 4));
    once().dispose();
    await og.synchronize();
    const before = og.memory().bytes;
    for (let i = 0; i < 50; i++) once().dispose();
    await og.synchronize();
    assert.equal(og.memory().bytes, before);
    w.dispose();
  });

  test('what is behind a failed call is not computed from garbage', async () => {
    const x = og.full([rows, cols], 1);
    const table = og.randn([4, cols]);
    const index = og.full([rows], 99, { dtype: 'int32' });
    const bad = og.indexSelect(table, 0, index);
    const left = og.add(bad, 1);
    const last = og.mul(left, x);
    await assert.rejects(() => last.data(), og.AttributeError);
    await assert.rejects(() => left.data(), og.StateError);
    assert.equal(await og.sum(og.add(x, 1)).item(), rows * cols * 2);
  });

  test('an error that comes up while a chain is sent at the end of a turn waits for whoever waits next', async () => {
    const x = og.full([rows, cols], 1);
    const table = og.randn([4, cols]);
    const index = og.full([rows], 99, { dtype: 'int32' });
    const [one, two] = [og.full([], 1), og.full([], 2)];
    await og.synchronize();
    const start = submitted();
    og.indexSelect(table, 0, index);
    while (Atomics.load(control, ERROR) === 0); // it has failed, and nobody has been told
    while (submitted() - start < 4096) og.scope(() => void og.sum(x)); // the next frame finds no room
    const outer = og.mul(og.add(x, one), two);
    await Promise.resolve();
    await Promise.resolve();
    await assert.rejects(() => og.synchronize(), og.AttributeError);
    await assert.rejects(() => outer.data(), og.StateError);
    assert.equal(await og.sum(og.mul(og.add(x, one), two)).item(), rows * cols * 4);
  });

  test('small tensors are not chained', async () => {
    setLeastChainSize();
    const x = og.ones([8]);
    assert.equal(await og.add(og.mul(x, 2), 1).sum().item(), 24);
  });
});
