/**
 * What a step computes and holds, found by running one and two examples forward and backward: both grow in proportion to the batch.
 *
 * @module
 */
import { hearArrivals } from '../autograd/hooks.js';
import type { Dataset } from '../data/loader.js';
import type { Module } from '../nn/module.js';
import { storageCounters, takeWindowPeak } from '../runtime/storage.js';
import { noticeDraws } from '../tensor/random.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { countFlops } from './profile.js';
import { snapshotModel } from './snapshot.js';

/** How a run computes, as far as a probe needs it. */
export interface ProbedArithmetic {
  refresh(): void;
  within<T>(body: () => T): T;
}

/** What is needed to run a batch. */
export interface ProbeSubject<B, A extends ProbedArithmetic = ProbedArithmetic> {
  readonly model: Module;
  readonly options: { readonly train: Dataset<B>; readonly batchSize: number };
  readonly arithmetic: A;
  lossOf(batch: B): Tensor;
  countTokens(batch: B): number;
}

/** What one batch costs. */
export interface BatchCost {
  readonly tokens: number;
  readonly forwardFlops: number;
  /** What is computed again included. */
  readonly backwardFlops: number;
  /** Largest number of bytes that are held at a time beside weights, gradients and state: the batch, activations, their gradients. */
  readonly activationBytes: number;
  /** The same with the gradients of the parameters that are there by then. */
  readonly peakBytes: number;
}

interface Reading {
  readonly tokens: number;
  readonly forwardFlops: number;
  readonly backwardFlops: number;
  /** Between one arrival of a parameter's gradient and the next: most bytes held beside those that arrived before, and these. */
  readonly stretches: readonly { readonly held: number; readonly arrived: number }[];
}

/** Runs so many examples forward and backward. */
function read<B>(subject: ProbeSubject<B>, count: number): Reading {
  const { model, arithmetic } = subject;
  const { train } = subject.options;
  const stretches: { held: number; arrived: number }[] = [];
  const before = storageCounters().live;
  let arrived = 0;
  const note = (): void => void stretches.push({ held: takeWindowPeak() - before - arrived, arrived });
  const indices = Array.from({ length: count }, (_, i) => i % train.length);
  takeWindowPeak();
  return scope(() => {
    const batch = train.batch(indices, 0);
    const [loss, forwardFlops] = countFlops(() => subject.lossOf(batch));
    const leaves = arithmetic.within(() => model.parameters().filter((tensor) => tensor.requiresGrad));
    const met = new Set<Tensor>();
    const listen = (leaf: Tensor, grad: Tensor): void => {
      note();
      // The second gradient of a parameter is added to the first.
      if (!met.has(leaf)) arrived += grad.storage.bytes;
      met.add(leaf);
    };
    const walk = (): void => hearArrivals(listen, () => arithmetic.within(() => loss.backward()));
    const [, backwardFlops] = countFlops(walk);
    note();
    for (const leaf of leaves) {
      leaf.grad?.dispose();
      leaf.grad = null;
    }
    return { tokens: subject.countTokens(batch), forwardFlops, backwardFlops, stretches };
  });
}

/** What two readings say of a batch of another size. */
function extrapolate(one: Reading, two: Reading, count: number): BatchCost {
  const at = (a: number, b: number): number => a + (count - 1) * (b - a);
  const same = one.stretches.length === two.stretches.length;
  const largest = (of: (reading: Reading, i: number) => number, reading: Reading): number =>
    Math.max(...reading.stretches.map((_, i) => of(reading, i)));
  const peakOf = (
    of: (reading: Reading, i: number) => number,
    also: (reading: Reading, i: number) => number,
  ): number =>
    same
      ? Math.max(...two.stretches.map((_, i) => at(of(one, i), of(two, i)) + also(two, i)))
      : at(largest(of, one), largest(of, two)) + largest(also, two);
  const held = ({ stretches }: Reading, i: number): number => stretches[i]!.held;
  return {
    tokens: at(one.tokens, two.tokens),
    forwardFlops: at(one.forwardFlops, two.forwardFlops),
    backwardFlops: at(one.backwardFlops, two.backwardFlops),
    activationBytes: peakOf(held, () => 0),
    peakBytes: peakOf(held, ({ stretches }, i) => stretches[i]!.arrived),
  };
}

/**
 * @internal What a batch of the run costs, from batches of one and two. Weights, gradients, buffers, modes and random streams
 * are as before afterwards; nothing waits for a kernel.
 */
export function probeBatch<B>(subject: ProbeSubject<B>): BatchCost {
  const count = subject.options.batchSize;
  const restore = snapshotModel(subject.model, { parameters: false });
  const [cost, draws] = noticeDraws(() => {
    try {
      subject.model.train();
      subject.arithmetic.refresh();
      const one = read(subject, 1);
      return extrapolate(one, count === 1 ? one : read(subject, 2), count);
    } finally {
      restore();
    }
  });
  for (const [stream, state] of draws) stream.state = state;
  return cost;
}
