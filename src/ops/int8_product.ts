/**
 * The product of two matrices of int8 or uint8 codes: sums that are exact in int32, and from there, in the same pass, zero
 * points, scales, bias, activation, residual and the output's dtype.
 *
 * @module
 */
import { ShapeError } from '../errors.js';
import { environment } from '../runtime/environment.js';
import type { View } from '../runtime/queue.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { broadcastShapes, broadcastStrides, type Shape } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { formatShape } from '../util/format.js';
import { gelu, relu, silu } from './activation.js';
import { add, mul, sub } from './arithmetic.js';
import { to } from './copy.js';
import { defineOp, type Inputs } from './define.js';
import { matmul } from './matmul.js';
import { PackedForms } from './packed_forms.js';
import { quantize } from './quantization.js';
import { transpose, unsqueeze } from './views.js';

/** What follows the bias. `gelu` is x·Φ(x), `geluTanh` its tanh form. */
export type Int8Activation = 'none' | 'relu' | 'gelu' | 'geluTanh' | 'silu';

/** In the order of the kernel's numbers. */
export const int8Activations: readonly Int8Activation[] = ['none', 'relu', 'gelu', 'geluTanh', 'silu'];

export interface Int8Attrs {
  /** Of the result: int32 for the sums, a float, or int8 and uint8 for codes. */
  readonly dtype: DType;
  readonly activation: Int8Activation;
  /** The codes of b (less 128 if they are uint8) are promised to lie in [-64, 64]. */
  readonly sevenBit: boolean;
  /** Of int8 and uint8 results. */
  readonly outScale: number;
  readonly outZero: number;
}

/** `x` as a view of a larger shape, its axes aligned at the end. */
function stretched(x: Tensor, shape: Shape): View {
  const { storage, offset, dtypeId, itemBytes } = x;
  return { storage, offset, dtypeId, itemBytes, shape, strides: broadcastStrides(x.shape, x.strides, shape) };
}

function outputShape([a, b]: Inputs): number[] {
  const batch = broadcastShapes('matmul_int8', a!.shape.slice(0, -2), b!.shape.slice(0, -2));
  return [...batch, a!.shape.at(-2)!, b!.shape.at(-1)!];
}

/** A number for each row, as a column beside the matrix; a scalar stays one. */
function besideRows(x: Tensor): Tensor {
  return x.rank === 0 ? x : unsqueeze(x, -1);
}

/** A number for each column, of a stack of matrices. */
function aboveColumns(x: Tensor): Tensor {
  return x.rank < 2 ? x : unsqueeze(x, -2);
}

/**
 * Inputs: a (…, M, K) of codes, or (M, K) of floats, each row of which becomes int8 codes by its own largest magnitude; b (…, K, N), b packed, zero points and scales of the rows of a and of the columns of b, bias of the
 * columns, residual of the result's shape, factors (K) of float rows.
 */
export const int8Product = defineOp<Int8Attrs>({
  name: 'matmul_int8',
  inputs: [
    { name: 'a', kind: 'any' },
    { name: 'b', kind: 'any' },
    { name: 'packed', kind: 'any', optional: true },
    { name: 'aZeroPoint', kind: 'integer', optional: true },
    { name: 'bZeroPoint', kind: 'integer', optional: true },
    { name: 'aScale', kind: 'float', optional: true },
    { name: 'bScale', kind: 'float', optional: true },
    { name: 'bias', kind: 'float', optional: true },
    { name: 'residual', kind: 'float', optional: true },
    { name: 'factor', kind: 'float', optional: true },
  ],
  attrCount: 4,
  output: (inputs, { dtype }) => ({ shape: outputShape(inputs), dtype }),
  operands: (inputs, _attrs, [y]) => {
    const [a, b, packed, aZero, bZero, aScale, bScale, bias, residual, factor] = inputs;
    const batch = y!.shape.slice(0, -2);
    const [rows, columns] = [
      [...batch, y!.shape.at(-2)!],
      [...batch, y!.shape.at(-1)!],
    ];
    const along = (x: Tensor | null | undefined, shape: Shape): View | null => (x ? stretched(x, shape) : null);
    return [
      stretched(a!, [...batch, ...a!.shape.slice(-2)]),
      stretched(b!, [...batch, ...b!.shape.slice(-2)]),
      packed ?? null,
      along(aZero, rows),
      along(bZero, columns),
      along(aScale, rows),
      along(bScale, columns),
      along(bias, columns),
      along(residual, y!.shape),
      factor ?? null,
    ];
  },
  encode: ({ activation, sevenBit, outScale, outZero }) => [
    int8Activations.indexOf(activation),
    sevenBit ? 1 : 0,
    outScale,
    outZero,
  ],
  definition: ([a, b, , aZero, bZero, aScale, bScale, bias, residual, factor], { activation, dtype }) => {
    const centred = (x: Tensor, zero: Tensor | null | undefined): Tensor =>
      zero ? sub(to(x, 'int32'), zero) : to(x, 'int32');
    const rows = factor ? mul(to(a!, 'float32'), factor) : a!;
    const coded = isFloating(rows.dtype) ? quantize(rows, { axis: 0 }) : null;
    const rowScale = coded?.scale ?? aScale;
    const left = centred(coded?.codes ?? a!, aZero ? besideRows(aZero) : null);
    const sums = matmul(left, centred(b!, bZero ? aboveColumns(bZero) : null));
    if (dtype === 'int32') return sums;
    let y = to(sums, 'float32');
    if (rowScale) y = mul(y, besideRows(rowScale));
    if (bScale) y = mul(y, aboveColumns(bScale));
    if (bias) y = add(y, aboveColumns(bias));
    if (activation === 'relu') y = relu(y);
    else if (activation === 'silu') y = silu(y);
    else if (activation !== 'none') y = gelu(y, { approximate: activation === 'gelu' ? 'none' : 'tanh' });
    return to(residual ? add(y, residual) : y, dtype);
  },
  cost: ([a, b], [y]) => ({ flops: 2 * y!.size * a!.shape.at(-1)!, bytes: a!.bytes + b!.bytes + y!.bytes }),
});

/** Bytes of packed weights: a header, and for whole panels of 32 columns their sums and codes. */
function packedBytes([k, n]: readonly [number, number]): number {
  return 64 + Math.ceil(n / 32) * 32 * (4 + Math.ceil(k / 8) * 8);
}

const packOp = defineOp<boolean>({
  name: 'matmul_int8_pack',
  inputs: [{ name: 'b', kind: 'any' }],
  attrCount: 1,
  output: ([b]) => ({ shape: [packedBytes([b!.shape[0]!, b!.shape[1]!])], dtype: 'uint8' }),
  encode: (sevenBit) => [sevenBit ? 1 : 0],
});

const packedWeights = new PackedForms();

/** Rows up to which weights are read as they are, if they have not been packed before. */
const FEW_ROWS = 2;
/** Rows beyond which packing is below 2 % of the work. */
const MANY_ROWS = 2048;

/**
 * The weight [out, in] as a packed b [in, out], made once: again only if the weight was written to, or another instruction
 * set is in use, whose layout differs. Null where so few rows need none and there is none.
 *
 * @internal
 */
export function packWeight(weight: Tensor, sevenBit: boolean, rows = Infinity): Tensor | null {
  const make = rows <= FEW_ROWS ? null : (): Tensor => packOp.call([transpose(weight)], sevenBit);
  return packedWeights.get(weight, [], sevenBit ? 'seven bits' : 'bytes', make);
}

const seen = new WeakMap<Tensor, number>();

/**
 * b [K, N] as the kernel packs it, if it was multiplied before and has not been written to since; null at its first use, or where
 * packing is a small part of the work.
 *
 * @internal
 */
export function packedAgain(b: Tensor, rows: number): Tensor | null {
  if (!environment.prepack || b.rank !== 2 || b.size < 1 << 14 || b.size > 1 << 27 || rows > MANY_ROWS) return null;
  const { version } = b.storage;
  const isKnown = seen.get(b) === version;
  seen.set(b, version);
  return packedWeights.get(b, [], 'columns', isKnown ? (): Tensor => packOp.call([b], false) : null);
}

/**
 * No sum of K products may leave int32.
 *
 * @throws ShapeError if one could
 * @internal
 */
export function checkDepth(op: string, argument: string, x: Tensor, largest: readonly [number, number]): void {
  const k = x.shape.at(-1)!;
  const most = Math.floor((2 ** 31 - 1) / (largest[0] * largest[1]));
  if (k <= most) return;
  throw new ShapeError({
    op,
    argument,
    expected: `a last axis of at most ${most}, so that no sum can leave int32`,
    actual: formatShape(x.shape),
    hint: 'Multiply in parts and add them as int64',
  });
}
