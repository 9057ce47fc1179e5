/**
 * A residual sum and its normalisation, in one pass forward and one back.
 *
 * @module
 */
import { ShapeError } from '../errors.js';
import type { DType } from '../tensor/dtype.js';
import { sameShape, sizeOf, type Shape } from '../tensor/shape.js';
import { needsRecord } from '../tensor/tape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkNumber } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { add, mul } from './arithmetic.js';
import { defineOp, type Gradients, type OutputSpec } from './define.js';
import { promoteOperands } from './elementwise.js';
import {
  checkNormalized,
  flat,
  like,
  normGradients,
  standardised,
  statistic,
  vector,
  type NormAttrs,
  type NormGradAttrs,
} from './norm_parts.js';
import { reshape } from './views.js';

interface Attrs extends NormAttrs {
  /** Of weight and bias. */
  readonly dtypes: readonly [DType, DType];
}
type GradAttrs = NormGradAttrs & Attrs;

/** The gradient of the sum also holds what came to the sum by itself. */
function withOwn(grads: Tensor[], wants: readonly boolean[], own: Tensor | null | undefined): Tensor[] {
  return own && wants[0] ? [add(grads[0]!, own), ...grads.slice(1)] : grads;
}

function gradientShapes(x: Tensor, { wants, dtypes }: GradAttrs): (OutputSpec | null)[] {
  const width = x.shape.at(-1)!;
  return [
    wants[0] ? like(x) : null,
    wants[1] ? vector(width, dtypes[0]) : null,
    wants[2] ? vector(width, dtypes[1]) : null,
  ];
}

const layerNormBackward = defineOp<GradAttrs>({
  name: 'add_layer_norm_backward',
  inputs: [
    { name: 'sum', kind: 'float' },
    { name: 'weight', kind: 'float', optional: true },
    { name: 'mean', kind: 'float' },
    { name: 'rstd', kind: 'float' },
    { name: 'grad', kind: 'float' },
    { name: 'sumGrad', kind: 'float', optional: true },
  ],
  outputCount: 3,
  output: ([x], attrs) => gradientShapes(x!, attrs),
  definition: ([x, weight, , , grad, own], attrs) =>
    withOwn(normGradients(x!, weight ?? null, grad!, attrs, true), attrs.wants, own),
  cost: ([x]) => ({ flops: 15 * x!.size, bytes: 4 * x!.bytes }),
});

const rmsNormBackward = defineOp<GradAttrs>({
  name: 'add_rms_norm_backward',
  inputs: [
    { name: 'sum', kind: 'float' },
    { name: 'weight', kind: 'float', optional: true },
    { name: 'rstd', kind: 'float' },
    { name: 'grad', kind: 'float' },
    { name: 'sumGrad', kind: 'float', optional: true },
  ],
  outputCount: 2,
  output: ([x], attrs) => gradientShapes(x!, attrs).slice(0, 2),
  definition: ([x, weight, , grad, own], attrs) =>
    withOwn(normGradients(x!, weight ?? null, grad!, attrs, false), attrs.wants, own),
  cost: ([x]) => ({ flops: 11 * x!.size, bytes: 4 * x!.bytes }),
});

/** Gradients of x, residual and the parameters; both summands get the same one. */
function spread(
  [sumGrad, grad]: readonly (Tensor | null)[],
  needs: (index: number) => boolean,
  parameters: number,
  run: (grad: Tensor, wants: readonly boolean[]) => Gradients,
): Gradients {
  if (!grad) return [sumGrad, sumGrad];
  const wants = [needs(0) || needs(1), ...Array.from({ length: parameters }, (_, i) => needs(2 + i))];
  const [dSum, ...others] = run(grad, wants);
  return [needs(0) ? dSum : null, needs(1) ? dSum : null, ...others];
}

const layerNormOp = defineOp<Attrs>({
  name: 'add_layer_norm',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'residual', kind: 'float' },
    { name: 'weight', kind: 'float', optional: true },
    { name: 'bias', kind: 'float', optional: true },
  ],
  attrCount: 1,
  outputCount: 4,
  output: (inputs) => {
    const wanted = needsRecord(inputs) ? statistic(inputs[0]!) : null;
    return [like(inputs[0]!), like(inputs[0]!), wanted, wanted];
  },
  encode: ({ eps }) => [eps],
  saves: ([, , weight], [total, , average, rstd]) => [total!, weight ?? null, average!, rstd!],
  backward: ({ grads, saved: [total, weight, average, rstd], attrs, needs }) =>
    spread(grads, needs, 2, (grad, wants) =>
      layerNormBackward.callAll([total!, weight ?? null, average!, rstd!, grad, grads[0] ?? null], { ...attrs, wants }),
    ),
  definition: ([x, residual, weight, bias], { eps }) => {
    const total = add(x!, residual!);
    const { normal } = standardised(total, eps, true);
    const scaled = weight ? mul(normal, weight) : normal;
    return [total, bias ? add(scaled, bias) : scaled];
  },
  cost: ([x]) => ({ flops: 9 * x!.size, bytes: 4 * x!.bytes }),
});

const rmsNormOp = defineOp<Attrs>({
  name: 'add_rms_norm',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'residual', kind: 'float' },
    { name: 'weight', kind: 'float', optional: true },
  ],
  attrCount: 1,
  outputCount: 3,
  output: (inputs) => [like(inputs[0]!), like(inputs[0]!), needsRecord(inputs) ? statistic(inputs[0]!) : null],
  encode: ({ eps }) => [eps],
  saves: ([, , weight], [total, , rstd]) => [total!, weight ?? null, rstd!],
  backward: ({ grads, saved: [total, weight, rstd], attrs, needs }) =>
    spread(grads, needs, 1, (grad, wants) =>
      rmsNormBackward.callAll([total!, weight ?? null, rstd!, grad, grads[0] ?? null], { ...attrs, wants }),
    ),
  definition: ([x, residual, weight], { eps }) => {
    const total = add(x!, residual!);
    const { normal } = standardised(total, eps, false);
    return [total, weight ? mul(normal, weight) : normal];
  },
  cost: ([x]) => ({ flops: 6 * x!.size, bytes: 4 * x!.bytes }),
});

/** Both summands in one dtype and with the axes of `shape` merged into the last one; the first two results in their own shape. */
function overLastAxis(
  op: string,
  x: Tensor,
  residual: Tensor,
  shape: Shape,
  run: (x: Tensor, residual: Tensor) => (Tensor | null)[],
): [sum: Tensor, normalized: Tensor] {
  checkTensor(op, 'residual', residual);
  if (!sameShape(x.shape, residual.shape)) {
    const expected = `shape ${formatShape(x.shape)}`;
    throw new ShapeError({ op, argument: 'residual', expected, actual: formatShape(residual.shape) });
  }
  const operands = promoteOperands(op, x, residual);
  const merged = [...x.shape.slice(0, x.rank - shape.length), sizeOf(shape)];
  const isOne = shape.length === 1;
  const [total, normal, ...statistics] = isOne
    ? run(...operands)
    : run(reshape(operands[0], merged), reshape(operands[1], merged));
  for (const extra of statistics) extra?.dispose();
  return isOne ? [total!, normal!] : [reshape(total!, x.shape), reshape(normal!, x.shape)];
}

/**
 * x + residual and its {@link layerNorm}, in one pass; the way back is one pass too.
 *
 * @param normalizedShape - lengths of the last axes to normalise over; a number means one axis of that length
 * @param eps - default 1e-5
 * @shape x and residual: (…, *normalizedShape), weight and bias: normalizedShape → both results in the shape of x
 * @dtype floats, promoted; statistics in float32 (float64 in float64)
 * @throws ShapeError if the shapes do not match
 * @returns the sum, and the normalised sum
 * @source arXiv 1607.06450
 */
export function addLayerNorm(
  x: Tensor,
  residual: Tensor,
  normalizedShape: Shape | number,
  weight?: Tensor | null,
  bias?: Tensor | null,
  eps = 1e-5,
): [sum: Tensor, normalized: Tensor] {
  const op = 'addLayerNorm';
  if (weight) checkTensor(op, 'weight', weight);
  if (bias) checkTensor(op, 'bias', bias);
  const shape = checkNormalized(op, x, normalizedShape, { weight, bias });
  checkNumber(op, 'eps', eps, 0);
  return overLastAxis(op, x, residual, shape, (a, b) =>
    layerNormOp.callAll([a, b, flat(weight), flat(bias)], {
      eps,
      dtypes: [weight?.dtype ?? a.dtype, bias?.dtype ?? a.dtype],
    }),
  );
}

/**
 * x + residual and its {@link rmsNorm}, in one pass; the way back is one pass too.
 *
 * @param normalizedShape - lengths of the last axes to normalise over; a number means one axis of that length
 * @param eps - default 1e-6
 * @shape x and residual: (…, *normalizedShape), weight: normalizedShape → both results in the shape of x
 * @dtype floats, promoted; statistics in float32 (float64 in float64)
 * @throws ShapeError if the shapes do not match
 * @returns the sum, and the normalised sum
 * @source arXiv 1910.07467
 */
export function addRmsNorm(
  x: Tensor,
  residual: Tensor,
  normalizedShape: Shape | number,
  weight?: Tensor | null,
  eps = 1e-6,
): [sum: Tensor, normalized: Tensor] {
  const op = 'addRmsNorm';
  if (weight) checkTensor(op, 'weight', weight);
  const shape = checkNormalized(op, x, normalizedShape, { weight });
  checkNumber(op, 'eps', eps, 0);
  return overLastAxis(op, x, residual, shape, (a, b) =>
    rmsNormOp.callAll([a, b, flat(weight)], {
      eps,
      dtypes: [weight?.dtype ?? a.dtype, a.dtype],
    }),
  );
}
