/**
 * Fully connected layers in one call: product, bias, activation and residual.
 *
 * @module
 */
import { DTypeError, ShapeError } from '../errors.js';
import { multipliesBfloat16 } from '../runtime/backend.js';
import type { View } from '../runtime/queue.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { sameShape, type Shape } from '../tensor/shape.js';
import { needsRecord, willRecord } from '../tensor/tape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkOneOf } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { activationGradient, gelu, relu, sigmoid, silu, tanh } from './activation.js';
import { add } from './arithmetic.js';
import { to } from './copy.js';
import { defineOp } from './define.js';
import { asRows, matmul, operandsFor, otherFactor, product, type MatmulAttrs } from './matmul.js';
import { sum } from './reduce.js';
import { packedFloats } from './packed_floats.js';
import { reshape, transpose } from './views.js';

/** What {@link linear} applies to its sums. `gelu` is x·Φ(x), `geluTanh` its tanh form. */
export type LinearActivation = 'none' | 'gelu' | 'geluTanh' | 'silu' | 'relu' | 'sigmoid' | 'tanh';

/** @internal In the order of the kernel's numbers. */
export const linearActivations: readonly LinearActivation[] = [
  'none',
  'gelu',
  'geluTanh',
  'silu',
  'relu',
  'sigmoid',
  'tanh',
];

/** What follows the bias in {@link linear}. */
export interface LinearEnd {
  /** Default `none`. */
  readonly activation?: LinearActivation;
  /** Added after the activation; of the result's shape. */
  readonly residual?: Tensor | null;
}

interface LinearAttrs extends MatmulAttrs {
  readonly biasDType: DType | null;
  readonly activation: LinearActivation;
  /** Of what the gradient of the activation is computed: nothing, the result, or what the activation was applied to. */
  readonly keeps: 'nothing' | 'result' | 'sums';
}

/** A vector as a matrix of one row, for the kernel. */
function rows(x: Tensor): View {
  if (x.rank > 1) return x;
  const { storage, offset, dtypeId, itemBytes, shape, strides } = x;
  return { storage, offset, dtypeId, itemBytes, shape: [1, ...shape], strides: [0, ...strides] };
}

function activate(x: Tensor, activation: LinearActivation): Tensor {
  switch (activation) {
    case 'none':
      return x;
    case 'gelu':
      return gelu(x);
    case 'geluTanh':
      return gelu(x, { approximate: 'tanh' });
    case 'silu':
      return silu(x);
    case 'relu':
      return relu(x);
    case 'sigmoid':
      return sigmoid(x);
    default:
      return tanh(x);
  }
}

/** @internal f(x) + residual, call by call. */
export function applyEnd(x: Tensor, { activation = 'none', residual = null }: LinearEnd): Tensor {
  const active = activate(x, activation);
  return residual ? add(active, residual) : active;
}

/** Gradient of the sums from those of the result and (second derivatives) of the kept sums; `saved` is what `keeps` says. */
function sumsGradient(
  { activation, keeps }: LinearAttrs,
  saved: Tensor | null,
  [grad, more]: readonly (Tensor | null)[],
): Tensor {
  if (activation === 'none' || saved === null) return grad!;
  if (!grad) return more!;
  const ofResult = activation === 'sigmoid' || activation === 'tanh';
  const at = ofResult && keeps === 'sums' ? activate(saved, activation) : saved;
  const slope = activationGradient(activation, at, grad);
  return more ? add(slope, more) : slope;
}

const linearOp = defineOp<LinearAttrs>({
  name: 'linear',
  kernel: 'matmul',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'weight', kind: 'float' },
    { name: 'bias', kind: 'float', optional: true },
    { name: 'residual', kind: 'float', optional: true },
    { name: 'packed', kind: 'float', optional: true },
  ],
  outputCount: 2,
  attrCount: 1,
  output: ([x, weight], { dtype, keeps }) => {
    const y = { shape: [...x!.shape.slice(0, -1), weight!.shape[0]!], dtype };
    return [y, keeps === 'sums' ? y : null];
  },
  operands: ([x, weight, bias, residual, packed], _attrs, [y]) => {
    const { storage, offset, dtypeId, itemBytes, shape, strides } = weight!;
    const batch = y!.shape.slice(0, -2);
    const turned: View = {
      storage,
      offset,
      dtypeId,
      itemBytes,
      shape: [...batch, shape[1]!, shape[0]!],
      strides: [...batch.map(() => 0), strides[1]!, strides[0]!],
    };
    return [rows(x!), turned, bias ?? null, residual ? rows(residual) : null, packed ?? null];
  },
  results: (_inputs, _attrs, [y, sums]) => [rows(y!), sums ? rows(sums) : null],
  encode: ({ activation }) => [linearActivations.indexOf(activation)],
  saves: (inputs, [y, sums], { keeps }) => [
    ...otherFactor(inputs),
    ...(keeps === 'nothing' ? [] : keeps === 'result' ? [y!] : [sums!]),
  ],
  backward: ({ grads, saved: [x, weight, kept], attrs, needs }) => {
    const { shapes, dtypes, biasDType } = attrs;
    const residual = needs(3) ? grads[0] : null;
    if (!needs(0) && !needs(1) && !needs(2)) return [null, null, null, residual];
    const all = asRows(sumsGradient(attrs, kept ?? null, grads));
    return [
      needs(0) ? reshape(product(all, weight!, dtypes[0]), shapes[0]) : null,
      needs(1) ? product(transpose(all), asRows(x!), dtypes[1]) : null,
      needs(2) ? to(sum(all, 0), biasDType!) : null,
      residual,
    ];
  },
  definition: ([x, weight, bias, residual], { activation }) => {
    const y = matmul(x!, transpose(weight!));
    return applyEnd(bias ? add(y, bias) : y, { activation, residual: residual ?? null });
  },
  cost: ([x, weight], [y]) => ({ flops: 2 * y!.size * x!.shape.at(-1)!, bytes: x!.bytes + weight!.bytes + y!.bytes }),
});

/** Rows of x from which on packing pays, up to which sums of an unpacked weight run in another order, and beyond which packing is
 * below 2 % of the work. */
const [LEAST_ROWS, FEW_ROWS, MANY_ROWS] = [3, 8, 512];

/** The weight as the kernel would pack it for this call, if it was packed before or is worth it. */
function packedFor(x: Tensor, weight: Tensor, others: readonly (Tensor | null)[]): Tensor | null {
  if (x.dtype !== weight.dtype || (x.dtype === 'bfloat16' ? !multipliesBfloat16() : x.dtype !== 'float32')) return null;
  if (willRecord([x, weight, ...others])) {
    packedFloats.drop(weight); // it is being trained
    return null;
  }
  const count = weight.shape[1] === 0 ? 0 : x.size / weight.shape[1]!;
  return count >= LEAST_ROWS && count <= MANY_ROWS ? packedFloats.get(weight, count <= FEW_ROWS) : null;
}

function checkShapes(x: Tensor, weight: Tensor, bias: Tensor | null, residual: Tensor | null): void {
  const op = 'linear';
  if (weight.rank !== 2) {
    throw new ShapeError({ op, argument: 'weight', expected: 'shape [out, in]', actual: formatShape(weight.shape) });
  }
  const [out, width] = [weight.shape[0]!, weight.shape[1]!];
  if (x.rank === 0 || x.shape.at(-1) !== width) {
    throw new ShapeError({
      op,
      argument: 'x',
      expected: `last axis ${width} to match weight ${formatShape(weight.shape)}`,
      actual: formatShape(x.shape),
      ...(x.shape.at(-1) === out ? { hint: 'The weight is [out, in]: transpose it' } : {}),
    });
  }
  if (bias && (bias.rank !== 1 || bias.shape[0] !== out)) {
    throw new ShapeError({ op, argument: 'bias', expected: `shape [${out}]`, actual: formatShape(bias.shape) });
  }
  const shape: Shape = [...x.shape.slice(0, -1), out];
  if (residual && !sameShape(residual.shape, shape)) {
    throw new ShapeError({
      op,
      argument: 'residual',
      expected: `the result's shape ${formatShape(shape)}`,
      actual: formatShape(residual.shape),
    });
  }
}

/**
 * f(x·weightᵀ + bias) + residual: a fully connected layer in one call. In float32 the activation f and the residual cost no pass
 * over memory of their own; the bits are those of separate calls. For the gradient, the result or (gelu, silu, or with a residual)
 * what f was applied to is kept.
 *
 * A float32 weight that meets 9 to 512 rows without a gradient is packed at its second use, in memory of its own size, and read
 * so until it changes (`OG_PREPACK=0`: never); one that meets 3 to 8 rows at its first, because sums of so few rows run in another
 * order then. The same holds for bfloat16 where the machine multiplies it (`backend().features` has `bf16`).
 *
 * @shape x: (…, in), weight: (out, in), bias: (out), residual: (…, out) → (…, out)
 * @dtype floats; accumulates in float32 (float64 in float64)
 * @throws ShapeError if the axes do not match
 * @throws AttributeError if `activation` is not one of {@link LinearActivation}
 * @cost 2·rows·in·out flops
 */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor | null, end: LinearEnd = {}): Tensor {
  const activation = checkOneOf('linear', 'activation', end.activation ?? 'none', linearActivations);
  const residual = end.residual ?? null;
  checkTensor('linear', 'x', x);
  checkTensor('linear', 'weight', weight);
  if (bias) checkTensor('linear', 'bias', bias);
  if (residual) {
    checkTensor('linear', 'residual', residual);
    if (!isFloating(residual.dtype))
      throw new DTypeError({
        op: 'linear',
        argument: 'residual',
        expected: 'a floating-point tensor',
        actual: residual.dtype,
      });
  }
  checkShapes(x, weight, bias ?? null, residual);
  const { a, b, dtype } = operandsFor('linear', x, weight, 'x');
  const offset = bias ? (bias.dtype === dtype || dtype !== 'float64' ? bias : to(bias, dtype)) : null;
  const fused = (dtype === 'float32' || dtype === 'float64') && (residual === null || residual.dtype === dtype);
  const ofSums = activation === 'gelu' || activation === 'geluTanh' || activation === 'silu' || residual !== null;
  const recorded = fused && activation !== 'none' && needsRecord([a, b, offset]);
  const [y, sums] = linearOp.callAll([a, b, offset, fused ? residual : null, packedFor(a, b, [offset, residual])], {
    dtype,
    shapes: [a.shape, b.shape],
    dtypes: [a.dtype, b.dtype],
    biasDType: offset?.dtype ?? null,
    activation: fused ? activation : 'none',
    keeps: recorded ? (ofSums ? 'sums' : 'result') : 'nothing',
  });
  sums?.dispose(); // the record keeps it
  return fused ? y! : applyEnd(y!, { activation, residual });
}
