/**
 * The last layer of a classifier and its loss as one operation that never holds all logits: rows are taken in blocks, and where
 * a gradient is wanted, each block's logits become their gradient at once and are multiplied out before the next block.
 *
 * @module
 */
import { DTypeError, ShapeError } from '../errors.js';
import type { View } from '../runtime/queue.js';
import type { DType } from '../tensor/dtype.js';
import { ones, uninitialised, zeros } from '../tensor/create.js';
import { scope } from '../tensor/scope.js';
import { sameShape, sizeOf } from '../tensor/shape.js';
import { isGradEnabled, needsRecord, record, setRecording } from '../tensor/tape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkInteger, checkNumber, checkOneOf } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { div, mul } from './arithmetic.js';
import { contiguous, to } from './copy.js';
import {
  crossEntropy,
  crossEntropyFused,
  crossEntropyGradient,
  crossEntropyInto,
  meanOf,
  reductions,
  timesSaved,
  type Reduction,
} from './cross_entropy.js';
import { defineOp } from './define.js';
import { linear } from './linear.js';
import { matmul } from './matmul.js';
import { sum } from './reduce.js';
import { detach, narrow, reshape, transpose } from './views.js';

/** Options of {@link linearCrossEntropy}. */
export interface LinearCrossEntropyOptions {
  /** Added to the logits, (V). */
  readonly bias?: Tensor | null;
  /** Target that does not count. Default -100. */
  readonly ignoreIndex?: number;
  /** Share of the target's probability that is spread over all classes, 0 to 1. Default 0. */
  readonly labelSmoothing?: number;
  /** Weight of each class, (V). It gets no gradient. */
  readonly classWeight?: Tensor | null;
  /** Default `mean`: over the targets that count, by their weights. */
  readonly reduction?: Reduction;
  /** Rows whose logits are held at a time. Default: as many as make 32 MiB, at least 512. */
  readonly blockRows?: number;
}

interface Problem {
  readonly hidden: Tensor;
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  readonly target: Tensor;
  readonly classWeight: Tensor | null;
  readonly ignoreIndex: number;
  readonly labelSmoothing: number;
  readonly reduction: 'mean' | 'sum';
  readonly blockRows: number;
  /** Of logits and sums. */
  readonly dtype: DType;
}

const BLOCK_BYTES = 1 << 25;
/** Below it the gradient of the weight is read and written too often. */
const LEAST_ROWS = 512;

/** a·b, or into + a·b, written to `into`. */
const productInto = defineOp<{ readonly into: View; readonly plus: View | null }>({
  name: 'matmul_into',
  kernel: 'matmul',
  inputs: [
    { name: 'a', kind: 'float' },
    { name: 'b', kind: 'float' },
    { name: 'plus', kind: 'float', optional: true },
    { name: 'residual', kind: 'float', optional: true },
    { name: 'packed', kind: 'float', optional: true },
  ],
  outputCount: 2,
  attrCount: 1,
  output: () => [null, null],
  operands: ([a, b], { plus }) => [a!, b!, plus, null, null],
  results: (_inputs, { into }) => [into, null],
  encode: () => [0],
  cost: ([a, b]) => ({ flops: 2 * a!.size * b!.shape[1]!, bytes: a!.bytes + b!.bytes }),
});

/** The losses of all rows in blocks; with `slope` (the gradient of each), also the gradients of the operands that want one. */
function runBlocks(p: Problem, losses: Tensor, slope: Tensor | null, grads: (Tensor | null)[]): void {
  const { hidden, weight, bias, target, classWeight, dtype } = p;
  const [rows, classes] = [target.size, weight.shape[0]!];
  const attrs = { ignoreIndex: p.ignoreIndex, labelSmoothing: p.labelSmoothing };
  const [dHidden, dWeight, dBias] = grads;
  const block = Math.ceil(rows / Math.max(1, Math.ceil(rows / p.blockRows))); // all of about one size
  const memory = uninitialised([block, classes], dtype);
  const row = dBias ? ones([1, block], { dtype }) : null;
  for (let begin = 0; begin < rows; begin += block) {
    const count = Math.min(block, rows - begin);
    const part = (x: Tensor): Tensor => narrow(x, 0, begin, count);
    const h = part(hidden);
    const logits = narrow(memory, 0, 0, count);
    productInto.callAll([h, transpose(weight), null, null, null], { into: logits, plus: bias });
    if (slope === null) {
      crossEntropyInto.callAll([logits, part(target), classWeight], { ...attrs, losses: part(losses) });
      continue;
    }
    const into = { ...attrs, inPlace: true, losses: part(losses) };
    crossEntropyFused.callAll([logits, part(target), classWeight, part(slope)], into);
    if (dHidden) productInto.callAll([logits, weight, null, null, null], { into: part(dHidden), plus: null });
    const plus = (x: Tensor): View | null => (begin === 0 ? null : x);
    if (dWeight) productInto.callAll([transpose(logits), h, null, null, null], { into: dWeight, plus: plus(dWeight) });
    if (dBias)
      productInto.callAll([narrow(row!, 1, 0, count), logits, null, null, null], { into: dBias, plus: plus(dBias) });
  }
}

function withoutRecording<T>(body: () => T): T {
  const before = setRecording(false);
  try {
    return scope(body);
  } finally {
    setRecording(before);
  }
}

function compute(p: Problem, wanted: readonly boolean[]): { loss: Tensor; grads: (Tensor | null)[] } {
  return withoutRecording(() => {
    const { hidden, weight, target, dtype } = p;
    const { all, slope } = meanOf(target, p.classWeight, p.ignoreIndex, dtype, p.reduction);
    const losses = uninitialised([target.size], dtype);
    const grads = [hidden.shape, weight.shape, [1, weight.shape[0]!]].map((shape, i) => {
      if (!wanted[i]) return null;
      return target.size === 0 ? zeros(shape, { dtype }) : uninitialised(shape, dtype); // without rows nobody writes them
    });
    runBlocks(p, losses, wanted.some(Boolean) ? slope : null, grads);
    return { loss: all === null ? sum(losses) : div(sum(losses), all), grads };
  });
}

/** The gradients by operations that can be differentiated. */
function gradientsByParts(p: Problem, grad: Tensor, wanted: readonly boolean[]): (Tensor | null)[] {
  const { hidden, weight, bias, target, classWeight, dtype } = p;
  const { slope } = meanOf(target, classWeight, p.ignoreIndex, dtype, p.reduction);
  const logits = to(linear(hidden, weight, bias), dtype);
  const attrs = { ignoreIndex: p.ignoreIndex, labelSmoothing: p.labelSmoothing };
  const dLogits = crossEntropyGradient(logits, target, classWeight, mul(slope, grad), attrs);
  return [
    wanted[0] ? to(matmul(dLogits, weight), hidden.dtype) : null,
    wanted[1] ? to(matmul(transpose(dLogits), hidden), weight.dtype) : null,
    wanted[2] ? to(sum(dLogits, 0), bias!.dtype) : null,
  ];
}

function recordLoss(p: Problem): Tensor {
  const { hidden, weight, bias, target, classWeight } = p;
  const inputs = [hidden, weight, bias];
  const wanted = inputs.map((x) => x?.requiresGrad ?? false);
  const { loss, grads } = compute(p, wanted);
  const [dHidden, dWeight, dBias] = grads;
  const saved = [...inputs, target, classWeight, dHidden ?? null, dWeight ?? null, dBias ?? null];
  record('linearCrossEntropy', inputs, [loss], saved, (node, [grad]) => {
    const kept = node.unpack();
    if (isGradEnabled()) {
      const again = {
        ...p,
        hidden: kept[0]!,
        weight: kept[1]!,
        bias: kept[2]!,
        target: kept[3]!,
        classWeight: kept[4]!,
      };
      return gradientsByParts(again, grad!, wanted);
    }
    return inputs.map((input, i) => {
      const slope = kept[5 + i];
      return slope ? to(reshape(timesSaved(slope, grad!), input!.shape), input!.dtype) : null;
    });
  });
  for (const grad of grads) grad?.dispose();
  return loss;
}

function checkVector(argument: string, value: Tensor | null, classes: number): void {
  if (value === null) return;
  checkTensor('linearCrossEntropy', argument, value);
  if (sameShape(value.shape, [classes])) return;
  throw new ShapeError({
    op: 'linearCrossEntropy',
    argument,
    expected: `shape [${classes}]`,
    actual: formatShape(value.shape),
  });
}

/**
 * crossEntropy(linear(hidden, weight, bias), target) without the logits of all rows in memory: blocks of rows are multiplied,
 * reduced and, while recording, turned into gradients one after another. The gradients are ready when the loss is, so a step costs
 * the same three matrix products; a graph that is recorded but never walked has paid for all three.
 *
 * Logits, losses and sums are in float32 whatever the operands are (float64 if one of them is). The gradient of the weight is added
 * up block by block, in order: against one product over all rows it differs by rounding only, and it has the same bits for any
 * number of threads.
 *
 * @shape hidden: (…, D), weight: (V, D), target: (…) → a scalar, or (…) for `reduction: 'none'`, which holds all logits
 * @dtype hidden, weight, bias: floats; target: int32 or int64
 * @throws ShapeError if the shapes do not match
 * @cost 2·rows·V·D flops, three times that while recording; blockRows·V numbers of memory
 * @source Liger kernel, arXiv 2410.10989; Cut Your Losses, arXiv 2411.09009
 * @example
 * ```ts
 * const loss = og.linearCrossEntropy(gpt.hidden(ids), gpt.tokens.weight, targets);
 * ```
 */
export function linearCrossEntropy(
  hidden: Tensor,
  weight: Tensor,
  target: Tensor,
  options: LinearCrossEntropyOptions = {},
): Tensor {
  const op = 'linearCrossEntropy';
  checkTensor(op, 'hidden', hidden);
  checkTensor(op, 'weight', weight);
  checkTensor(op, 'target', target);
  const { bias = null, ignoreIndex = -100, labelSmoothing = 0 } = options;
  const classWeight = options.classWeight ? detach(options.classWeight) : null;
  checkInteger(op, 'ignoreIndex', ignoreIndex);
  checkNumber(op, 'labelSmoothing', labelSmoothing, 0, 1);
  const reduction = checkOneOf(op, 'reduction', options.reduction ?? 'mean', reductions);
  if (weight.rank !== 2 || hidden.rank === 0 || hidden.shape.at(-1) !== weight.shape[1]) {
    throw new ShapeError({
      op,
      argument: 'weight',
      expected: `shape [classes, ${hidden.shape.at(-1) ?? 'width'}] to match hidden ${formatShape(hidden.shape)}`,
      actual: formatShape(weight.shape),
    });
  }
  const [classes, width] = [weight.shape[0]!, weight.shape[1]!];
  checkVector('bias', bias, classes);
  checkVector('classWeight', classWeight, classes);
  const outer = hidden.shape.slice(0, -1);
  if (!sameShape(target.shape, outer)) {
    const expected = `shape ${formatShape(outer)}`;
    throw new ShapeError({ op, argument: 'target', expected, actual: formatShape(target.shape) });
  }
  if (target.dtype !== 'int32' && target.dtype !== 'int64') {
    throw new DTypeError({ op, argument: 'target', expected: 'int32 or int64', actual: target.dtype });
  }
  const fitting = Math.max(LEAST_ROWS, Math.floor(BLOCK_BYTES / (4 * Math.max(1, classes))));
  const blockRows = checkInteger(op, 'blockRows', options.blockRows ?? fitting, 1);
  if (reduction === 'none') {
    return crossEntropy(linear(hidden, weight, bias), target, {
      ignoreIndex,
      labelSmoothing,
      weight: classWeight,
      reduction,
    });
  }
  const rows = sizeOf(outer);
  const isWide = [hidden, weight, bias].some((x) => x?.dtype === 'float64');
  const problem: Problem = {
    hidden: reshape(hidden, [rows, width]),
    weight,
    bias,
    target: reshape(contiguous(target), [rows]),
    classWeight,
    ignoreIndex,
    labelSmoothing,
    reduction,
    blockRows,
    dtype: isWide ? 'float64' : 'float32',
  };
  return needsRecord([hidden, weight, bias]) ? recordLoss(problem) : compute(problem, []).loss;
}
