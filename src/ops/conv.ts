/**
 * Convolution (cross-correlation, as everywhere in deep learning) over one or two axes, and its transpose. Three kernels, the
 * convolution and its adjoints in x and in the weight, are each other's gradients; none stores windows as columns.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { isFloating, promote } from '../tensor/dtype.js';
import { scope } from '../tensor/scope.js';
import type { Shape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { add } from './arithmetic.js';
import { to } from './copy.js';
import { defineOp, type Op } from './define.js';
import { pad } from './pad.js';
import { sum } from './reduce.js';
import { checkFits, checkPair, positions, type Pair, type Window } from './unfold.js';
import { reshape, squeeze, unsqueeze } from './views.js';

interface Geometry {
  readonly window: Window;
  readonly groups: number;
  /** Rows and columns of the images. */
  readonly size: readonly [number, number];
  /** Of the weights. */
  readonly shape: Shape;
}

const encode = ({ window: { kernel, stride, padding, dilation }, groups }: Geometry): number[] => [
  ...kernel,
  ...stride,
  ...padding,
  ...dilation,
  groups,
];

/** Operations of a convolution whose result has `size` elements. */
const flops = (size: number, { shape }: Geometry): number => 2 * size * shape[1]! * shape[2]! * shape[3]!;

const convOp: Op<Geometry> = defineOp<Geometry>({
  name: 'conv2d',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'weight', kind: 'float' },
    { name: 'bias', kind: 'float', optional: true },
  ],
  attrCount: 9,
  output: ([x], { window, size, shape }) => ({
    shape: [x!.shape[0]!, shape[0]!, positions(window, 0, size[0]), positions(window, 1, size[1])],
    dtype: x!.dtype,
  }),
  encode,
  saves: ([x, weight]) => [weight!.requiresGrad ? x! : null, x!.requiresGrad ? weight! : null],
  backward: ({ grad, saved: [x, weight], attrs, needs }) => [
    needs(0) ? inputGradientOp.call([grad, weight!], attrs) : null,
    needs(1) ? weightGradientOp.call([x!, grad], attrs) : null,
    needs(2) ? sum(grad, [0, 2, 3]) : null,
  ],
  cost: ([x, weight], [y], attrs) => ({ flops: flops(y!.size, attrs), bytes: x!.bytes + weight!.bytes + y!.bytes }),
});

/** The adjoint of a convolution in x: also what a transposed convolution computes. */
const inputGradientOp: Op<Geometry> = defineOp<Geometry>({
  name: 'conv2d_input_gradient',
  inputs: [
    { name: 'grad', kind: 'float' },
    { name: 'weight', kind: 'float' },
  ],
  attrCount: 9,
  output: ([grad], { groups, size, shape }) => ({
    shape: [grad!.shape[0]!, shape[1]! * groups, ...size],
    dtype: grad!.dtype,
  }),
  encode,
  saves: ([grad, weight]) => [weight!.requiresGrad ? grad! : null, grad!.requiresGrad ? weight! : null],
  backward: ({ grad: outer, saved: [grad, weight], attrs, needs }) => [
    needs(0) ? convOp.call([outer, weight!, null], attrs) : null,
    needs(1) ? weightGradientOp.call([outer, grad!], attrs) : null,
  ],
  cost: ([grad, weight], [x], attrs) => ({
    flops: flops(grad!.size, attrs),
    bytes: grad!.bytes + weight!.bytes + x!.bytes,
  }),
});

/** The adjoint in the weight. */
const weightGradientOp: Op<Geometry> = defineOp<Geometry>({
  name: 'conv2d_weight_gradient',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'grad', kind: 'float' },
  ],
  attrCount: 9,
  output: ([x], { shape }) => ({ shape, dtype: x!.dtype }),
  encode,
  saves: ([x, grad]) => [grad!.requiresGrad ? x! : null, x!.requiresGrad ? grad! : null],
  backward: ({ grad: outer, saved: [x, grad], attrs, needs }) => [
    needs(0) ? inputGradientOp.call([grad!, outer], attrs) : null,
    needs(1) ? convOp.call([x!, outer, null], attrs) : null,
  ],
  cost: ([x, grad], [weight], attrs) => ({
    flops: flops(grad!.size, attrs),
    bytes: x!.bytes + grad!.bytes + weight!.bytes,
  }),
});

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

/** Operands in one dtype. */
function alike(x: Tensor, weight: Tensor, bias: Tensor | null): [x: Tensor, weight: Tensor, bias: Tensor | null] {
  const pair = promote(x.dtype, weight.dtype);
  const dtype = bias === null ? pair : promote(pair, bias.dtype);
  const cast = (operand: Tensor): Tensor => (operand.dtype === dtype ? operand : to(operand, dtype));
  return [cast(x), cast(weight), bias === null ? null : cast(bias)];
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
  const size = [input.shape[2]!, input.shape[3]!] as const;
  checkFits(op, window, ...size);
  const operands = alike(input, weight, bias);
  return convOp.call(operands, { window, groups, size, shape: weight.shape });
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
  return scope(() => {
    const y = conv('conv1d', lifted(x), lifted(weight), bias, {
      stride: [1, stride],
      padding: typeof padding === 'number' ? [0, padding] : padding,
      dilation: [1, dilation],
      groups,
    });
    return squeeze(y, 2);
  });
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
  const [input, kernel, offset] = alike(x, weight, bias);
  const y = inputGradientOp.call([input, kernel], { window, groups, size, shape: weight.shape });
  return offset === null ? y : add(y, reshape(offset, [offset.size, 1, 1]));
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
  return scope(() => {
    const y = transposed('convTranspose1d', lifted(x), lifted(weight), bias, {
      stride: [1, stride],
      padding: [0, padding],
      outputPadding: [0, outputPadding],
      dilation: [1, dilation],
      groups,
    });
    return squeeze(y, 2);
  });
}
