/**
 * Convolution (cross-correlation, as everywhere in deep learning) over one or two axes, and its transpose. Windows become
 * columns and the work is a matrix product per group. Columns are not kept for the gradient but made again: they are as many
 * times larger than the input as the kernel has elements.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { isFloating } from '../tensor/dtype.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { add } from './arithmetic.js';
import { concat } from './join.js';
import { matmul } from './matmul.js';
import { pad } from './pad.js';
import { recorded } from './recorded.js';
import { sum } from './reduce.js';
import { checkFits, checkPair, foldColumns, unfoldWindows, type Pair, type Window } from './unfold.js';
import { narrow, reshape, squeeze, transpose, unsqueeze } from './views.js';

/** Elements of columns that are made at once; larger batches go in parts. */
const MAX_COLUMNS = 1 << 24;

interface Geometry {
  readonly window: Window;
  readonly groups: number;
}

/** Windows as columns, by group: (B, G, C/G·k, positions). A 1×1 kernel without stride or padding needs no copy. */
function columnsOf(x: Tensor, { window, groups }: Geometry): Tensor {
  const { kernel, stride, padding } = window;
  const plain = [...kernel, ...stride].every((n) => n === 1) && padding.every((n) => n === 0);
  const columns = plain ? reshape(x, [x.shape[0]!, x.shape[1]!, x.shape[2]! * x.shape[3]!]) : unfoldWindows(x, window);
  const [batch, rows, count] = columns.shape as [number, number, number];
  return reshape(columns, [batch, groups, rows / groups, count]);
}

/** (O, C/G, …kernel) → (G, O/G, C/G·k) */
function weightMatrix(weight: Tensor, groups: number): Tensor {
  return reshape(weight, [groups, weight.shape[0]! / groups, weight.size / Math.max(1, weight.shape[0]!)]);
}

/** (B, O, H, W) → (B, G, O/G, H·W) */
function byGroup(x: Tensor, groups: number): Tensor {
  const [batch, channels, height, width] = x.shape as [number, number, number, number];
  return reshape(x, [batch, groups, channels / groups, height * width]);
}

/** Examples of a batch in parts small enough that their columns stay within bounds. */
function inParts(batch: number, columnsPerExample: number, part: (start: number, length: number) => Tensor): Tensor {
  const length = Math.max(1, Math.min(batch, Math.floor(MAX_COLUMNS / Math.max(1, columnsPerExample))));
  if (length >= batch) return part(0, batch);
  const parts: Tensor[] = [];
  for (let start = 0; start < batch; start += length) parts.push(part(start, Math.min(length, batch - start)));
  return concat(parts, 0);
}

function forward(x: Tensor, weight: Tensor, geometry: Geometry): Tensor {
  const { window, groups } = geometry;
  const [rows, columns] = checkFits('conv2d', window, x.shape[2]!, x.shape[3]!);
  const matrix = weightMatrix(weight, groups);
  const perExample = x.shape[1]! * window.kernel[0] * window.kernel[1] * rows * columns;
  return inParts(x.shape[0]!, perExample, (start, length) => {
    const y = matmul(matrix, columnsOf(narrow(x, 0, start, length), geometry));
    return reshape(y, [length, weight.shape[0]!, rows, columns]);
  });
}

/** The adjoint of {@link forward} in x: also what a transposed convolution computes. */
function adjoint(grad: Tensor, weight: Tensor, geometry: Geometry, size: readonly [number, number]): Tensor {
  const { window, groups } = geometry;
  const matrix = transpose(weightMatrix(weight, groups));
  const rows = groups * matrix.shape[1]!;
  return inParts(grad.shape[0]!, rows * grad.shape[2]! * grad.shape[3]!, (start, length) => {
    const columns = matmul(matrix, byGroup(narrow(grad, 0, start, length), groups));
    return foldColumns(reshape(columns, [length, rows, columns.shape[3]!]), window, size);
  });
}

/** The adjoint of {@link forward} in the weight: the sum over examples of grad · columnsᵀ. */
function weightGradient(x: Tensor, grad: Tensor, geometry: Geometry, shape: readonly number[]): Tensor {
  const { window, groups } = geometry;
  const batch = x.shape[0]!;
  const perExample = x.shape[1]! * window.kernel[0] * window.kernel[1] * grad.shape[2]! * grad.shape[3]!;
  const total = inParts(batch, perExample, (start, length) => {
    const columns = columnsOf(narrow(x, 0, start, length), geometry);
    const product = matmul(byGroup(narrow(grad, 0, start, length), groups), transpose(columns));
    return sum(product, 0, { keepDims: true });
  });
  return reshape(sum(total, 0), shape);
}

/** y[b, o] += bias[o] */
const withBias = (y: Tensor, bias: Tensor | null): Tensor =>
  bias === null ? y : add(y, reshape(bias, [bias.size, 1, 1]));

function convolve(x: Tensor, weight: Tensor, geometry: Geometry): Tensor {
  const size = [x.shape[2]!, x.shape[3]!] as const;
  return recorded(
    'conv2d',
    [x, weight],
    () => forward(x, weight, geometry),
    () => [weight.requiresGrad ? x : null, x.requiresGrad ? weight : null],
    (grad, [input, kernel], needs) => [
      needs(0) ? convolveTransposed(grad, kernel!, geometry, size) : null,
      needs(1) ? correlate(input!, grad, geometry, weight.shape) : null,
    ],
  );
}

function convolveTransposed(x: Tensor, weight: Tensor, geometry: Geometry, size: readonly [number, number]): Tensor {
  return recorded(
    'conv_transpose2d',
    [x, weight],
    () => adjoint(x, weight, geometry, size),
    () => [weight.requiresGrad ? x : null, x.requiresGrad ? weight : null],
    (grad, [input, kernel], needs) => [
      needs(0) ? convolve(grad, kernel!, geometry) : null,
      needs(1) ? correlate(grad, input!, geometry, weight.shape) : null,
    ],
  );
}

function correlate(x: Tensor, grad: Tensor, geometry: Geometry, shape: readonly number[]): Tensor {
  const size = [x.shape[2]!, x.shape[3]!] as const;
  return recorded(
    'conv2d_weight_gradient',
    [x, grad],
    () => weightGradient(x, grad, geometry, shape),
    () => [x, grad],
    (outer, [input, upper], needs) => [
      needs(0) ? convolveTransposed(upper!, outer, geometry, size) : null,
      needs(1) ? convolve(input!, outer, geometry) : null,
    ],
  );
}

/** Options of {@link conv2d}. */
export interface Conv2dOptions {
  /** Default 1. */
  readonly stride?: Pair;
  /** Zeros at both ends; `'same'` keeps the size (stride 1), `'valid'` is 0. Default 0. */
  readonly padding?: Pair | 'same' | 'valid';
  /** Default 1. */
  readonly dilation?: Pair;
  /** Channels are convolved in this many separate groups. Default 1. */
  readonly groups?: number;
}

/** Options of {@link conv1d}. */
export interface Conv1dOptions {
  /** Default 1. */
  readonly stride?: number;
  /** Zeros at both ends; `'same'` keeps the length (stride 1), `'valid'` is 0. Default 0. */
  readonly padding?: number | 'same' | 'valid';
  /** Default 1. */
  readonly dilation?: number;
  /** Default 1. */
  readonly groups?: number;
}

function checkOperands(op: string, x: Tensor, weight: Tensor, bias: Tensor | null, rank: number): void {
  for (const [argument, operand] of [
    ['x', x],
    ['weight', weight],
  ] as const) {
    checkTensor(op, argument, operand);
    if (operand.rank !== rank)
      throw new ShapeError({ op, argument, expected: `${rank} axes`, actual: formatShape(operand.shape) });
    if (!isFloating(operand.dtype)) {
      throw new DTypeError({
        op,
        argument,
        expected: 'a floating-point tensor',
        actual: operand.dtype,
        hint: 'Cast it with to()',
      });
    }
  }
  if (bias !== null) checkTensor(op, 'bias', bias);
}

function checkChannels(
  op: string,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null,
  groups: number,
  outputs: number,
  inputs: number,
): void {
  checkInteger(op, 'groups', groups, 1);
  if (x.shape[1] !== inputs || weight.shape[0]! % groups !== 0 || weight.shape[0] === 0) {
    const expected = `${inputs} channels in ${groups} group(s) to match weight ${formatShape(weight.shape)}`;
    throw new ShapeError({ op, argument: 'x', expected, actual: formatShape(x.shape) });
  }
  if (bias !== null && (bias.rank !== 1 || bias.size !== outputs)) {
    throw new ShapeError({ op, argument: 'bias', expected: `shape [${outputs}]`, actual: formatShape(bias.shape) });
  }
}

function checkPadding(
  op: string,
  window: Omit<Window, 'padding'>,
  padding: unknown,
): { padding: [number, number]; extra: [number, number] } {
  if (padding === 'valid') return { padding: [0, 0], extra: [0, 0] };
  if (padding !== 'same') return { padding: checkPair(op, 'padding', padding, 0), extra: [0, 0] };
  if (window.stride.some((n) => n !== 1)) {
    throw new AttributeError({
      op,
      argument: 'padding',
      expected: "a number ('same' goes with stride 1)",
      actual: formatValue(padding),
    });
  }
  const total = [0, 1].map((i) => window.dilation[i]! * (window.kernel[i]! - 1)) as [number, number];
  return { padding: [total[0] >> 1, total[1] >> 1], extra: [total[0] & 1, total[1] & 1] };
}

/** Convolution with checks named after the public function. */
function conv(op: string, x: Tensor, weight: Tensor, bias: Tensor | null, options: Conv2dOptions): Tensor {
  const { groups = 1 } = options;
  checkChannels(op, x, weight, bias, groups, weight.shape[0]!, weight.shape[1]! * groups);
  const partial = {
    kernel: [weight.shape[2]!, weight.shape[3]!] as const,
    stride: checkPair(op, 'stride', options.stride ?? 1, 1),
    dilation: checkPair(op, 'dilation', options.dilation ?? 1, 1),
  };
  const { padding, extra } = checkPadding(op, partial, options.padding ?? 0);
  const input = pad(x, [0, extra[1], 0, extra[0]]);
  const window: Window = { ...partial, padding };
  checkFits(op, window, input.shape[2]!, input.shape[3]!);
  return withBias(convolve(input, weight, { window, groups }), bias);
}

/**
 * Convolution of images.
 *
 * @shape x (B, C, H, W), weight (O, C/groups, rows, columns), bias (O) → (B, O, H', W')
 * @dtype floats; accumulates in float32 (float64 in float64)
 * @throws ShapeError if channels do not match, or the kernel does not fit into the padded image
 * @cost 2·B·O·C/groups·kernel·H'·W' flops
 */
export function conv2d(x: Tensor, weight: Tensor, bias: Tensor | null = null, options: Conv2dOptions = {}): Tensor {
  checkOperands('conv2d', x, weight, bias, 4);
  return conv('conv2d', x, weight, bias, options);
}

/** A sequence as an image of one row. */
const lifted = (x: Tensor): Tensor => unsqueeze(x, x.rank - 1);

/**
 * Convolution of sequences.
 *
 * @shape x (B, C, T), weight (O, C/groups, length), bias (O) → (B, O, T')
 * @dtype floats; accumulates in float32 (float64 in float64)
 * @throws ShapeError if channels do not match, or the kernel does not fit into the padded sequence
 * @cost 2·B·O·C/groups·length·T' flops
 */
export function conv1d(x: Tensor, weight: Tensor, bias: Tensor | null = null, options: Conv1dOptions = {}): Tensor {
  checkOperands('conv1d', x, weight, bias, 3);
  const { stride = 1, padding = 0, dilation = 1, groups = 1 } = options;
  const y = conv('conv1d', lifted(x), lifted(weight), bias, {
    stride: [1, stride],
    padding: typeof padding === 'number' ? [0, padding] : padding,
    dilation: [1, dilation],
    groups,
  });
  return squeeze(y, 2);
}

/** Options of {@link convTranspose2d}. */
export interface ConvTranspose2dOptions {
  /** Default 1. */
  readonly stride?: Pair;
  /** Cut off at both ends. Default 0. */
  readonly padding?: Pair;
  /** Added at the far end, to choose among the sizes that a convolution maps to one. Below stride or dilation. Default 0. */
  readonly outputPadding?: Pair;
  /** Default 1. */
  readonly dilation?: Pair;
  /** Default 1. */
  readonly groups?: number;
}

/** Options of {@link convTranspose1d}. */
export interface ConvTranspose1dOptions {
  /** Default 1. */
  readonly stride?: number;
  /** Cut off at both ends. Default 0. */
  readonly padding?: number;
  /** Added at the far end. Default 0. */
  readonly outputPadding?: number;
  /** Default 1. */
  readonly dilation?: number;
  /** Default 1. */
  readonly groups?: number;
}

function transposed(
  op: string,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null,
  options: ConvTranspose2dOptions,
): Tensor {
  const { groups = 1 } = options;
  checkChannels(op, x, weight, bias, groups, weight.shape[1]! * groups, weight.shape[0]!);
  const window: Window = {
    kernel: [weight.shape[2]!, weight.shape[3]!],
    stride: checkPair(op, 'stride', options.stride ?? 1, 1),
    padding: checkPair(op, 'padding', options.padding ?? 0, 0),
    dilation: checkPair(op, 'dilation', options.dilation ?? 1, 1),
  };
  const extra = checkPair(op, 'outputPadding', options.outputPadding ?? 0, 0);
  const size = [0, 1].map((i) => {
    const [stride, dilation] = [window.stride[i]!, window.dilation[i]!];
    checkInteger(op, 'outputPadding', extra[i], 0, Math.max(stride, dilation) - 1);
    return (x.shape[2 + i]! - 1) * stride - 2 * window.padding[i]! + dilation * (window.kernel[i]! - 1) + extra[i]! + 1;
  }) as [number, number];
  if (size.some((length) => length < 1)) {
    throw new ShapeError({
      op,
      argument: 'x',
      expected: 'a result with elements',
      actual: `${formatShape(size)} from ${formatShape(x.shape)}`,
    });
  }
  return withBias(convolveTransposed(x, weight, { window, groups }, size), bias);
}

/**
 * The transpose (adjoint) of {@link conv2d}: what its gradient does, as a layer that enlarges.
 *
 * @shape x (B, C, H, W), weight (C, O/groups, rows, columns), bias (O) → (B, O, H', W')
 * @dtype floats; accumulates in float32 (float64 in float64)
 * @throws ShapeError if channels do not match
 */
export function convTranspose2d(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null = null,
  options: ConvTranspose2dOptions = {},
): Tensor {
  checkOperands('convTranspose2d', x, weight, bias, 4);
  return transposed('convTranspose2d', x, weight, bias, options);
}

/**
 * The transpose (adjoint) of {@link conv1d}.
 *
 * @shape x (B, C, T), weight (C, O/groups, length), bias (O) → (B, O, T')
 * @dtype floats; accumulates in float32 (float64 in float64)
 * @throws ShapeError if channels do not match
 */
export function convTranspose1d(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null = null,
  options: ConvTranspose1dOptions = {},
): Tensor {
  checkOperands('convTranspose1d', x, weight, bias, 3);
  const { stride = 1, padding = 0, outputPadding = 0, dilation = 1, groups = 1 } = options;
  const y = transposed('convTranspose1d', lifted(x), lifted(weight), bias, {
    stride: [1, stride],
    padding: [0, padding],
    outputPadding: [0, outputPadding],
    dilation: [1, dilation],
    groups,
  });
  return squeeze(y, 2);
}
