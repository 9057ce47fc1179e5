/**
 * Normalisation over features, groups, batches, and to unit length.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { scope } from '../tensor/scope.js';
import { sizeOf, type Shape } from '../tensor/shape.js';
import { needsRecord, setRecording } from '../tensor/tape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkInteger, checkNumber } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { add, div, mul, sub } from './arithmetic.js';
import { sumTo } from './broadcast.js';
import { copy_ } from './copy.js';
import { defineOp, type OutputSpec } from './define.js';
import { mean, norm, variance, type Axes } from './reduce.js';
import { clamp, rsqrt, square } from './unary.js';
import { detach, reshape } from './views.js';

interface NormAttrs {
  readonly eps: number;
}

interface NormGradAttrs extends NormAttrs {
  /** Which gradients are wanted: of x, weight, bias. */
  readonly wants: readonly boolean[];
}

/** Statistics have the leading axes, and the precision that is computed in. */
function statistic(x: Tensor): OutputSpec {
  return { shape: x.shape.slice(0, -1), dtype: x.dtype === 'float64' ? 'float64' : 'float32' };
}

const like = (x: Tensor): OutputSpec => ({ shape: x.shape, dtype: x.dtype });
const vector = (width: number, dtype: DType): OutputSpec => ({ shape: [width], dtype });

/** The normalised rows and 1/σ, in operations. */
function standardised(x: Tensor, eps: number, centre: boolean): { normal: Tensor; rstd: Tensor } {
  const centred = centre ? sub(x, mean(x, -1, { keepDims: true })) : x;
  const rstd = rsqrt(add(mean(square(centred), -1, { keepDims: true }), eps));
  return { normal: mul(centred, rstd), rstd };
}

/** The gradients in operations; mean and 1/σ are computed anew, so that second derivatives see what they depend on. */
function normGradients(
  x: Tensor,
  weight: Tensor | null,
  grad: Tensor,
  { eps, wants }: NormGradAttrs,
  centre: boolean,
): Tensor[] {
  const { normal, rstd } = standardised(x, eps, centre);
  const scaled = weight === null ? grad : mul(grad, weight);
  const along = mul(normal, mean(mul(scaled, normal), -1, { keepDims: true }));
  const free = centre ? sub(scaled, mean(scaled, -1, { keepDims: true })) : scaled;
  const width = [x.shape.at(-1)!];
  return [
    ...(wants[0] ? [mul(rstd, sub(free, along))] : []),
    ...(wants[1] ? [sumTo(mul(grad, normal), width)] : []),
    ...(wants[2] ? [sumTo(grad, width)] : []),
  ];
}

const layerNormBackward = defineOp<NormGradAttrs & { readonly dtypes: readonly [DType, DType] }>({
  name: 'layer_norm_backward',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'weight', kind: 'float', optional: true },
    { name: 'mean', kind: 'float' },
    { name: 'rstd', kind: 'float' },
    { name: 'grad', kind: 'float' },
  ],
  outputCount: 3,
  output: ([x], { wants, dtypes }) => [
    wants[0] ? like(x!) : null,
    wants[1] ? vector(x!.shape.at(-1)!, dtypes[0]) : null,
    wants[2] ? vector(x!.shape.at(-1)!, dtypes[1]) : null,
  ],
  definition: ([x, weight, , , grad], attrs) => normGradients(x!, weight ?? null, grad!, attrs, true),
  cost: ([x]) => ({ flops: 14 * x!.size, bytes: 3 * x!.bytes }),
});

const layerNormOp = defineOp<NormAttrs & { readonly dtypes: readonly [DType, DType] }>({
  name: 'layer_norm',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'weight', kind: 'float', optional: true },
    { name: 'bias', kind: 'float', optional: true },
  ],
  attrCount: 1,
  outputCount: 3,
  output: (inputs) => {
    const wanted = needsRecord(inputs) ? statistic(inputs[0]!) : null;
    return [like(inputs[0]!), wanted, wanted];
  },
  encode: ({ eps }) => [eps],
  saves: ([x, weight], [, average, rstd]) => [x!, weight ?? null, average!, rstd!],
  backward: ({ grad, saved: [x, weight, average, rstd], attrs, needs }) =>
    layerNormBackward.callAll([x!, weight ?? null, average!, rstd!, grad], {
      ...attrs,
      wants: [needs(0), needs(1), needs(2)],
    }),
  definition: ([x, weight, bias], { eps }) => {
    const { normal } = standardised(x!, eps, true);
    const scaled = weight ? mul(normal, weight) : normal;
    return bias ? add(scaled, bias) : scaled;
  },
  cost: ([x], [y]) => ({ flops: 8 * x!.size, bytes: x!.bytes + y!.bytes }),
});

const rmsNormBackward = defineOp<NormGradAttrs & { readonly dtype: DType }>({
  name: 'rms_norm_backward',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'weight', kind: 'float', optional: true },
    { name: 'rstd', kind: 'float' },
    { name: 'grad', kind: 'float' },
  ],
  outputCount: 2,
  output: ([x], { wants, dtype }) => [wants[0] ? like(x!) : null, wants[1] ? vector(x!.shape.at(-1)!, dtype) : null],
  definition: ([x, weight, , grad], attrs) => normGradients(x!, weight ?? null, grad!, attrs, false),
  cost: ([x]) => ({ flops: 10 * x!.size, bytes: 3 * x!.bytes }),
});

const rmsNormOp = defineOp<NormAttrs & { readonly dtype: DType }>({
  name: 'rms_norm',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'weight', kind: 'float', optional: true },
  ],
  attrCount: 1,
  outputCount: 2,
  output: (inputs) => [like(inputs[0]!), needsRecord(inputs) ? statistic(inputs[0]!) : null],
  encode: ({ eps }) => [eps],
  saves: ([x, weight], [, rstd]) => [x!, weight ?? null, rstd!],
  backward: ({ grad, saved: [x, weight, rstd], attrs, needs }) =>
    rmsNormBackward.callAll([x!, weight ?? null, rstd!, grad], { ...attrs, wants: [needs(0), needs(1)] }),
  definition: ([x, weight], { eps }) => {
    const { normal } = standardised(x!, eps, false);
    return weight ? mul(normal, weight) : normal;
  },
  cost: ([x], [y]) => ({ flops: 5 * x!.size, bytes: x!.bytes + y!.bytes }),
});

/** The result of a call whose further outputs serve its gradient alone. */
function firstOf(outputs: readonly (Tensor | null)[]): Tensor {
  for (const extra of outputs.slice(1)) extra?.dispose();
  return outputs[0]!;
}

function checkFloat(op: string, x: Tensor): void {
  checkTensor(op, 'x', x);
  if (isFloating(x.dtype)) return;
  throw new DTypeError({
    op,
    argument: 'x',
    expected: 'a floating-point tensor',
    actual: x.dtype,
    hint: 'Cast it with x.to(dtype)',
  });
}

/** Checks that x ends in `normalizedShape` and parameters have it. Gives that shape. */
function checkNormalized(
  op: string,
  x: Tensor,
  normalizedShape: Shape | number,
  parameters: Readonly<Record<string, Tensor | null | undefined>>,
): Shape {
  checkFloat(op, x);
  const shape = typeof normalizedShape === 'number' ? [normalizedShape] : normalizedShape;
  const tail = x.shape.slice(x.rank - shape.length);
  if (shape.length === 0 || shape.length > x.rank || shape.some((length, i) => length !== tail[i])) {
    const expected = `a shape that ends in ${formatShape(shape)}`;
    throw new ShapeError({ op, argument: 'x', expected, actual: formatShape(x.shape) });
  }
  for (const [argument, value] of Object.entries(parameters)) {
    if (!value || (value.rank === shape.length && value.shape.every((length, i) => length === shape[i]))) continue;
    throw new ShapeError({ op, argument, expected: `shape ${formatShape(shape)}`, actual: formatShape(value.shape) });
  }
  return shape;
}

/** Runs `body` with the axes of `shape` merged into the last one, as the kernels want it. */
function overLastAxis(x: Tensor, shape: Shape, body: (x: Tensor) => Tensor): Tensor {
  if (shape.length === 1) return body(x);
  return reshape(body(reshape(x, [...x.shape.slice(0, x.rank - shape.length), sizeOf(shape)])), x.shape);
}

const flat = (x: Tensor | null | undefined): Tensor | null => (x ? (x.rank === 1 ? x : reshape(x, [x.size])) : null);

/**
 * (x − mean) / √(var + eps) · weight + bias over the last axes; the variance is the biased one.
 *
 * @param normalizedShape - lengths of the last axes to normalise over; a number means one axis of that length
 * @param eps - default 1e-5
 * @shape x: (…, *normalizedShape), weight and bias: normalizedShape → the shape of x
 * @dtype floats; statistics in float32 (float64 in float64)
 * @throws ShapeError if the shapes do not end alike
 * @source arXiv 1607.06450
 */
export function layerNorm(
  x: Tensor,
  normalizedShape: Shape | number,
  weight?: Tensor | null,
  bias?: Tensor | null,
  eps = 1e-5,
): Tensor {
  const shape = checkNormalized('layerNorm', x, normalizedShape, { weight, bias });
  checkNumber('layerNorm', 'eps', eps, 0);
  const attrs = { eps, dtypes: [weight?.dtype ?? x.dtype, bias?.dtype ?? x.dtype] as const };
  return overLastAxis(x, shape, (rows) => firstOf(layerNormOp.callAll([rows, flat(weight), flat(bias)], attrs)));
}

/**
 * x / √(mean(x²) + eps) · weight over the last axes.
 *
 * @param normalizedShape - lengths of the last axes to normalise over; a number means one axis of that length
 * @param eps - default 1e-6
 * @shape x: (…, *normalizedShape), weight: normalizedShape → the shape of x
 * @dtype floats; statistics in float32 (float64 in float64)
 * @throws ShapeError if the shapes do not end alike
 * @source arXiv 1910.07467
 */
export function rmsNorm(x: Tensor, normalizedShape: Shape | number, weight?: Tensor | null, eps = 1e-6): Tensor {
  if (weight) checkTensor('rmsNorm', 'weight', weight);
  const shape = checkNormalized('rmsNorm', x, normalizedShape, { weight });
  checkNumber('rmsNorm', 'eps', eps, 0);
  const attrs = { eps, dtype: weight?.dtype ?? x.dtype };
  return overLastAxis(x, shape, (rows) => firstOf(rmsNormOp.callAll([rows, flat(weight)], attrs)));
}

/** Channels on axis 1: a vector of one number for each, in a shape that broadcasts to x. */
function perChannel(op: string, x: Tensor, argument: string, value: Tensor): Tensor {
  checkTensor(op, argument, value);
  if (value.rank !== 1 || value.shape[0] !== x.shape[1]) {
    throw new ShapeError({ op, argument, expected: `shape [${x.shape[1]}]`, actual: formatShape(value.shape) });
  }
  return reshape(value, [value.size, ...new Array<number>(x.rank - 2).fill(1)]);
}

function affine(op: string, y: Tensor, weight: Tensor | null | undefined, bias: Tensor | null | undefined): Tensor {
  const scaled = weight ? mul(y, perChannel(op, y, 'weight', weight)) : y;
  return bias ? add(scaled, perChannel(op, y, 'bias', bias)) : scaled;
}

function checkChannels(op: string, x: Tensor): void {
  checkFloat(op, x);
  if (x.rank < 2)
    throw new ShapeError({ op, argument: 'x', expected: 'shape [batch, channels, …]', actual: formatShape(x.shape) });
}

/**
 * Normalises groups of channels of each example, then scales and shifts each channel.
 *
 * @param groups - a divisor of the number of channels
 * @param eps - default 1e-5
 * @shape x: (B, C, …), weight and bias: (C) → the shape of x
 * @throws AttributeError if the groups do not divide the channels
 * @source arXiv 1803.08494
 */
export function groupNorm(x: Tensor, groups: number, weight?: Tensor | null, bias?: Tensor | null, eps = 1e-5): Tensor {
  checkChannels('groupNorm', x);
  const channels = x.shape[1]!;
  checkInteger('groupNorm', 'groups', groups, 1);
  if (channels % groups !== 0) {
    throw new AttributeError({
      op: 'groupNorm',
      argument: 'groups',
      expected: `a divisor of ${channels} channels`,
      actual: String(groups),
    });
  }
  const width = (channels / groups) * sizeOf(x.shape.slice(2));
  const normal = layerNorm(reshape(x, [x.shape[0]!, groups, width]), width, null, null, eps);
  return affine('groupNorm', reshape(normal, x.shape), weight, bias);
}

/** Options of {@link batchNorm}. */
export interface BatchNormOptions {
  /** Use (and learn) the statistics of this batch rather than the running ones. Default false. */
  readonly training?: boolean;
  /** Share of the new statistics in the running ones. Default 0.1. */
  readonly momentum?: number;
  /** Default 1e-5. */
  readonly eps?: number;
}

/** running ← (1 − momentum)·running + momentum·value, in place and outside the record. */
function updateRunning(running: Tensor, value: Tensor, momentum: number): void {
  const before = setRecording(false);
  try {
    scope(() => void copy_(running, add(mul(running, 1 - momentum), mul(reshape(value, running.shape), momentum))));
  } finally {
    setRecording(before);
  }
}

/**
 * Normalises each channel over the batch. While training, the statistics are the batch's (biased variance), and the running
 * ones (unbiased variance) are updated in place.
 *
 * @param runningMean - or null, to use the batch's statistics always
 * @shape x: (B, C, …); all others: (C) → the shape of x
 * @throws ShapeError if a parameter has another length than C, or there is one value only to learn from
 * @source arXiv 1502.03167
 */
export function batchNorm(
  x: Tensor,
  runningMean: Tensor | null,
  runningVar: Tensor | null,
  weight?: Tensor | null,
  bias?: Tensor | null,
  options: BatchNormOptions = {},
): Tensor {
  checkChannels('batchNorm', x);
  const { training = false } = options;
  const eps = checkNumber('batchNorm', 'eps', options.eps ?? 1e-5, 0);
  const momentum = checkNumber('batchNorm', 'momentum', options.momentum ?? 0.1, 0, 1);
  const stored = (argument: string, value: Tensor): Tensor => detach(perChannel('batchNorm', x, argument, value));
  if (!training && runningMean && runningVar) {
    const centred = sub(x, stored('runningMean', runningMean));
    return affine('batchNorm', mul(centred, rsqrt(add(stored('runningVar', runningVar), eps))), weight, bias);
  }
  const axes = [...x.shape.keys()].filter((axis) => axis !== 1);
  const count = x.size / x.shape[1]!;
  if (training && count <= 1) {
    throw new ShapeError({
      op: 'batchNorm',
      argument: 'x',
      expected: 'more than one value for each channel',
      actual: formatShape(x.shape),
    });
  }
  const average = mean(x, axes, { keepDims: true });
  const centred = sub(x, average);
  const spread = variance(x, axes, { keepDims: true, correction: 0 });
  if (training && runningMean && runningVar) {
    stored('runningMean', runningMean);
    stored('runningVar', runningVar);
    updateRunning(runningMean, average, momentum);
    updateRunning(runningVar, mul(detach(spread), count / (count - 1)), momentum);
  }
  return affine('batchNorm', mul(centred, rsqrt(add(spread, eps))), weight, bias);
}

/** Options of {@link normalize}. */
export interface NormalizeOptions {
  /** Default 2. */
  readonly p?: number;
  /** Default the last. */
  readonly axes?: Axes;
  /** Norms below it count as this. Default 1e-12. */
  readonly eps?: number;
}

/**
 * x divided by its p-norm along the given axes, so that it has length 1.
 *
 * @shape any → the same
 * @throws DTypeError if `x` is not floating-point
 */
export function normalize(x: Tensor, options: NormalizeOptions = {}): Tensor {
  const { p = 2, axes = -1, eps = 1e-12 } = options;
  checkFloat('normalize', x);
  checkNumber('normalize', 'eps', eps, 0);
  return div(x, clamp(norm(x, p, axes, { keepDims: true }), eps));
}
