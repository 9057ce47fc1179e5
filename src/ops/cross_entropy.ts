/**
 * Cross-entropy of logits and classes in one pass over the logits forward, and one back.
 *
 * @module
 */
import { DTypeError, ShapeError, StateError } from '../errors.js';
import { arange, constant } from '../tensor/create.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { scope } from '../tensor/scope.js';
import { checkAxis, sameShape } from '../tensor/shape.js';
import { isGradEnabled, isGraphRetained, needsRecord, record, setRecording, type Edge } from '../tensor/tape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkInteger, checkNumber, checkOneOf } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { add, div, mul, sub } from './arithmetic.js';
import { expand } from './broadcast.js';
import { eq, ne } from './comparison.js';
import { clone, contiguous, to } from './copy.js';
import { defineOp, type Inputs, type OutputSpec } from './define.js';
import { embedding } from './embedding.js';
import { mean, sum } from './reduce.js';
import { scale_ } from './in_place.js';
import { logSoftmax, logsumexp } from './softmax.js';
import { exp } from './unary.js';
import { detach, permute, reshape, unsqueeze } from './views.js';
import { where } from './where.js';

/** How the losses of the elements become one number: their mean, their sum, or not at all. */
export type Reduction = 'mean' | 'sum' | 'none';
export const reductions: readonly Reduction[] = ['mean', 'sum', 'none'];

interface Attrs {
  readonly ignoreIndex: number;
  readonly labelSmoothing: number;
}

/** @internal What losses of logits are computed and returned in. */
export const wideOf = (dtype: DType): DType => (dtype === 'float64' ? 'float64' : 'float32');

const perRow = (logits: Tensor): OutputSpec => ({ shape: [logits.shape[0]!], dtype: wideOf(logits.dtype) });

const encode = ({ ignoreIndex, labelSmoothing }: Attrs): readonly number[] => [ignoreIndex, labelSmoothing];

/** The parts of both definitions: which rows count, where the target is, and the weight of each class and target. */
function parts([logits, target, weight]: Inputs): { onehot: Tensor; weights: Tensor; own: Tensor } {
  const { dtype } = logits!;
  const classes = logits!.shape[1]!;
  const onehot = to(eq(unsqueeze(target!, 1), arange(classes, undefined, 1, { dtype: 'int64' })), dtype);
  const weights = weight ? to(weight, dtype) : constant(1, dtype);
  return { onehot, weights, own: sum(mul(onehot, weights), 1, { keepDims: true }) };
}

/** Rows whose target is to be ignored as 0, outside both kernels' view. */
function counted(x: Tensor, target: Tensor, ignoreIndex: number): Tensor {
  const rows = ne(target, ignoreIndex);
  return where(x.rank === 2 ? unsqueeze(rows, 1) : rows, x, 0);
}

const crossEntropyBackward = defineOp<Attrs>({
  name: 'cross_entropy_backward',
  inputs: [
    { name: 'logits', kind: 'float' },
    { name: 'target', kind: 'integer' },
    { name: 'weight', kind: 'float', optional: true },
    { name: 'lse', kind: 'float' },
    { name: 'grad', kind: 'float' },
  ],
  attrCount: 2,
  output: ([logits]) => ({ shape: logits!.shape, dtype: logits!.dtype }),
  encode,
  definition: (inputs, { ignoreIndex, labelSmoothing }) => {
    const [logits, target, , , grad] = inputs;
    const classes = logits!.shape[1]!;
    const { onehot, weights, own } = parts(inputs);
    const [kept, spread] = [1 - labelSmoothing, labelSmoothing / classes];
    const all = inputs[2] ? sum(weights) : classes;
    const p = exp(sub(logits!, logsumexp(logits!, 1, { keepDims: true })));
    const pull = add(mul(mul(own, onehot), kept), mul(weights, spread));
    const slope = sub(mul(p, add(mul(own, kept), mul(all, spread))), pull);
    return counted(mul(unsqueeze(to(grad!, logits!.dtype), 1), slope), target!, ignoreIndex);
  },
  cost: ([logits], [dx]) => ({ flops: 5 * logits!.size, bytes: logits!.bytes + dx!.bytes }),
});

const crossEntropyOp = defineOp<Attrs>({
  name: 'cross_entropy',
  inputs: [
    { name: 'logits', kind: 'float' },
    { name: 'target', kind: 'integer' },
    { name: 'weight', kind: 'float', optional: true },
  ],
  attrCount: 2,
  outputCount: 2,
  output: ([logits]) => [perRow(logits!), perRow(logits!)],
  encode,
  saves: ([logits, target, weight], [, lse]) => [logits!, target!, weight ?? null, lse!],
  backward: ({ grad, saved, attrs, needs }) => [
    needs(0) ? crossEntropyBackward.call([...saved, grad], attrs) : null,
    null,
    null,
  ],
  definition: (inputs, { ignoreIndex, labelSmoothing }) => {
    const [logits, target] = inputs;
    const { onehot, weights, own } = parts(inputs);
    const losses = mul(logSoftmax(logits!, 1), -1);
    const picked = sum(mul(losses, mul(onehot, own)), 1);
    const smooth = mul(sum(mul(losses, weights), 1), labelSmoothing / logits!.shape[1]!);
    return counted(add(mul(picked, 1 - labelSmoothing), smooth), target!, ignoreIndex);
  },
  cost: ([logits]) => ({ flops: 4 * logits!.size, bytes: logits!.bytes }),
});

interface FusedAttrs extends Attrs {
  /** Write the gradient over the logits. */
  readonly inPlace: boolean;
  /** Where the losses go. Default: a new tensor. */
  readonly losses?: Tensor;
}

/**
 * @internal The losses of the rows, and the gradient of Σ grad·loss, in one pass over the logits; null in place of the gradient
 * where the logits have become it.
 *
 * @source Liger kernel, arXiv 2410.10989
 */
export const crossEntropyFused = defineOp<FusedAttrs>({
  name: 'cross_entropy_fused',
  inputs: [
    { name: 'logits', kind: 'float' },
    { name: 'target', kind: 'integer' },
    { name: 'weight', kind: 'float', optional: true },
    { name: 'grad', kind: 'float' },
  ],
  attrCount: 2,
  outputCount: 2,
  output: ([logits], { inPlace, losses }) => [
    losses ? null : perRow(logits!),
    inPlace ? null : { shape: logits!.shape, dtype: logits!.dtype },
  ],
  results: ([logits], { inPlace, losses }, outputs) => [losses ?? outputs[0]!, inPlace ? logits! : outputs[1]!],
  encode,
  definition: ([logits, target, weight, grad], attrs) => {
    const own = [logits!, target!, weight ?? null];
    const slope = crossEntropyBackward.schema.definition!([...own, null, grad!], attrs);
    return [crossEntropyOp.schema.definition!(own, attrs), slope].flat();
  },
  cost: ([logits]) => ({ flops: 9 * logits!.size, bytes: 2 * logits!.bytes }),
});

/** @internal The losses alone, into memory that is there. */
export const crossEntropyInto = defineOp<Attrs & { readonly losses: Tensor }>({
  name: 'cross_entropy_into',
  kernel: 'cross_entropy',
  inputs: crossEntropyOp.schema.inputs,
  attrCount: 2,
  outputCount: 2,
  output: ([logits]) => [null, perRow(logits!)],
  results: (_inputs, { losses }, [, lse]) => [losses, lse!],
  encode,
  cost: ([logits]) => ({ flops: 4 * logits!.size, bytes: logits!.bytes }),
});

/** @internal The gradient of Σ grad·loss from the logits, made of operations that can be differentiated. */
export function crossEntropyGradient(
  logits: Tensor,
  target: Tensor,
  weight: Tensor | null,
  grad: Tensor,
  attrs: Attrs,
): Tensor {
  const lse = crossEntropyOp.callAll([detach(logits), target, weight], attrs)[1]!;
  return crossEntropyBackward.call([logits, target, weight, lse, grad], attrs);
}

/** Options of {@link crossEntropy}. */
export interface CrossEntropyOptions {
  /** Target that does not count. Default -100. */
  readonly ignoreIndex?: number;
  /** Share of the target's probability that is spread over all classes, 0 to 1. Default 0. */
  readonly labelSmoothing?: number;
  /** Weight of each class, (V). It gets no gradient. */
  readonly weight?: Tensor | null;
  /** Default `mean`: over the targets that count, by their weights. */
  readonly reduction?: Reduction;
  /** Axis of the classes. Default the last; PyTorch's layout (N, C, …) is axis 1. */
  readonly axis?: number;
  /**
   * The logits are not needed afterwards: while recording, their memory becomes that of their gradient, which the forward pass
   * leaves there. Saves a pass over them and a tensor of their size; there are no second derivatives then. For intermediate results, class numbers and reductions other than `none`; anything else is computed as without it. Default false.
   */
  readonly overwriteLogits?: boolean;
}

function classesLast(logits: Tensor, axis: number): Tensor {
  const at = checkAxis('crossEntropy', axis, logits.rank);
  if (at === logits.rank - 1) return logits;
  return permute(logits, [...[...logits.shape.keys()].filter((i) => i !== at), at]);
}

/**
 * −ln softmax(logits)[target], averaged. Targets are class numbers, or (floating-point, of the shape of the logits) probabilities.
 * Computed from logits of any dtype in float32, and returned so (float64 from float64).
 *
 * A target outside the classes is an error found by the kernel: it is thrown at the call for tiny work, else where a result is
 * waited for. If no target counts, the mean is NaN, as in PyTorch.
 *
 * @shape logits: (…, V), target: (…) or (…, V) → a scalar, or (…) for `reduction: 'none'`
 * @dtype logits: floats; target: int32, int64 or floats
 * @throws ShapeError if the shapes do not match
 * @example
 * ```ts
 * const loss = og.crossEntropy(logits, tokens, { ignoreIndex: padId }); // (B, T, V), (B, T)
 * ```
 */
export function crossEntropy(logits: Tensor, target: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const op = 'crossEntropy';
  checkTensor(op, 'logits', logits);
  checkTensor(op, 'target', target);
  const { ignoreIndex = -100, labelSmoothing = 0, axis = -1, overwriteLogits = false } = options;
  const weight = options.weight ? detach(options.weight) : null;
  checkInteger(op, 'ignoreIndex', ignoreIndex);
  checkNumber(op, 'labelSmoothing', labelSmoothing, 0, 1);
  const reduction = checkOneOf(op, 'reduction', options.reduction ?? 'mean', reductions);
  if (logits.rank === 0)
    throw new ShapeError({ op, argument: 'logits', expected: 'at least 1 axis', actual: 'a scalar' });
  const rows = classesLast(logits, axis);
  const classes = rows.shape.at(-1)!;
  if (weight && !sameShape(weight.shape, [classes])) {
    throw new ShapeError({ op, argument: 'weight', expected: `shape [${classes}]`, actual: formatShape(weight.shape) });
  }
  const outer = rows.shape.slice(0, -1);
  if (isFloating(target.dtype)) return soft(rows, target, weight, labelSmoothing, reduction, axis);
  if (target.dtype !== 'int64' && target.dtype !== 'int32') {
    throw new DTypeError({
      op,
      argument: 'target',
      expected: 'int32, int64 or a floating-point dtype',
      actual: target.dtype,
    });
  }
  if (!sameShape(target.shape, outer)) {
    throw new ShapeError({
      op,
      argument: 'target',
      expected: `shape ${formatShape(outer)}`,
      actual: formatShape(target.shape),
    });
  }
  const count = outer.reduce((a, b) => a * b, 1);
  const flat = reshape(contiguous(target), [count]);
  const attrs = { ignoreIndex, labelSmoothing };
  const matrix = reshape(rows, [count, classes]);
  if (overwriteLogits && reduction !== 'none' && logits.node !== null && needsRecord([logits]))
    return overwriting(matrix, flat, weight, attrs, reduction);
  const [losses, lse] = crossEntropyOp.callAll([matrix, flat, weight], attrs);
  lse!.dispose();
  if (reduction === 'none') return reshape(losses!, outer);
  const total = sum(losses!);
  return reduction === 'sum' ? total : div(total, totalWeight(flat, weight, ignoreIndex, total));
}

/** Whether x is a view of a leaf, whose memory is not to be written. */
function viewsLeaf(x: Tensor): boolean {
  for (let node = x.node; node !== null;) {
    const edges: readonly Edge[] = node.edges.filter((edge) => edge.node !== null || edge.leaf !== null);
    if (edges.length !== 1) return false; // a view has one operand
    if (edges[0]!.leaf !== null) return edges[0]!.leaf.storage === x.storage;
    node = edges[0]!.node;
  }
  return false;
}

/** The loss, with its gradient left in the memory of the logits (of a copy, where elements share memory). */
function overwriting(
  given: Tensor,
  target: Tensor,
  weight: Tensor | null,
  attrs: Attrs,
  reduction: 'mean' | 'sum',
): Tensor {
  const logits = viewsLeaf(given) ? clone(given) : contiguous(given);
  const before = setRecording(false);
  let loss: Tensor;
  try {
    loss = scope(() => {
      const { all, slope } = meanOf(target, weight, attrs.ignoreIndex, perRow(logits).dtype, reduction);
      const [losses] = crossEntropyFused.callAll([logits, target, weight, slope], { ...attrs, inPlace: true });
      logits.storage.version++;
      return all === null ? sum(losses!) : div(sum(losses!), all);
    });
  } finally {
    setRecording(before);
  }
  const gradient = logits.alias();
  record('crossEntropy', [logits], [loss], [gradient], (node, [grad]) => {
    if (isGradEnabled()) {
      throw new StateError({
        op: 'crossEntropy',
        expected: 'first derivatives only, since the logits were overwritten',
        actual: 'createGraph',
        hint: 'Leave overwriteLogits out',
      });
    }
    return [timesSaved(node.unpack()[0]!, grad!)];
  });
  gradient.dispose();
  return loss;
}

/**
 * @internal A saved gradient times what came in for the loss: in the memory of the saved one, unless the graph is kept. Most losses
 * are where a walk begins; then the factor is 1, and nothing is read or written.
 */
export function timesSaved(saved: Tensor, grad: Tensor): Tensor {
  if (isGraphRetained()) return mul(saved, to(grad, saved.dtype));
  const mine = scale_(saved.alias(), grad);
  saved.dispose(); // the record lets go of it, so that a leaf can take the memory over
  return mine;
}

/** @internal What the mean divides by (null for the sum), and the gradient of the result with respect to each row's loss. */
export function meanOf(
  target: Tensor,
  weight: Tensor | null,
  ignoreIndex: number,
  dtype: DType,
  reduction: 'mean' | 'sum',
): { readonly all: Tensor | null; readonly slope: Tensor } {
  const all = reduction === 'mean' ? totalWeight(target, weight, ignoreIndex, { dtype }) : null;
  return { all, slope: expand(all === null ? constant(1, dtype) : div(1, all), target.shape) };
}

/** What the mean divides by: the number of targets that count, or the sum of their weights. */
function totalWeight(
  target: Tensor,
  weight: Tensor | null,
  ignoreIndex: number,
  like: { readonly dtype: DType },
): Tensor {
  const counts = ne(target, ignoreIndex);
  if (weight === null) return sum(to(counts, like.dtype));
  const own = embedding(reshape(to(weight, like.dtype), [weight.size, 1]), where(counts, target, 0));
  return sum(where(counts, reshape(own, [target.size]), 0));
}

function soft(
  logits: Tensor,
  given: Tensor,
  weight: Tensor | null,
  labelSmoothing: number,
  reduction: Reduction,
  axis: number,
): Tensor {
  const target = given.rank === logits.rank ? classesLast(given, axis) : given;
  if (!sameShape(target.shape, logits.shape)) {
    const expected = `probabilities of shape ${formatShape(logits.shape)}`;
    throw new ShapeError({ op: 'crossEntropy', argument: 'target', expected, actual: formatShape(target.shape) });
  }
  const classes = logits.shape.at(-1)!;
  const dtype = wideOf(logits.dtype);
  const wide = target.dtype === 'float64' ? target : to(target, dtype);
  const smoothed = labelSmoothing === 0 ? wide : add(mul(wide, 1 - labelSmoothing), labelSmoothing / classes);
  const scores = logSoftmax(to(logits, dtype));
  const losses = mul(sum(mul(weight ? mul(smoothed, weight) : smoothed, scores), -1), -1);
  return reduceLoss(losses, reduction);
}

/** @internal The mean, the sum, or the losses themselves. */
export function reduceLoss(losses: Tensor, reduction: Reduction): Tensor {
  if (reduction === 'none') return losses;
  return reduction === 'mean' ? mean(losses) : sum(losses);
}
