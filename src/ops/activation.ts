/**
 * Activation functions, element by element, each with a gradient that keeps one tensor at most.
 *
 * @module
 */
import { AttributeError, DTypeError } from '../errors.js';
import { isFloating } from '../tensor/dtype.js';
import { checkAxis } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkNumber, checkOneOf } from '../util/assert.js';
import { add, div, maximum, minimum, mul, sub } from './arithmetic.js';
import { gt, le, logicalAnd, lt } from './comparison.js';
import { to } from './copy.js';
import { defineOp, type Op } from './define.js';
import { defineUnary } from './elementwise.js';
import { recorded } from './recorded.js';
import { abs, clamp, erf, exp, expm1, log1p, square } from './unary.js';
import { narrow } from './views.js';
import { where } from './where.js';

/** Gradient kernel of an activation: from what was saved (x or y) and the gradient of the result. */
function gradientOp<A>(
  name: string,
  definition: (saved: Tensor, grad: Tensor, attrs: A) => Tensor,
  encode?: (attrs: A) => readonly number[],
): Op<A> {
  return defineOp<A>({
    name,
    inputs: [
      { name: 'saved', kind: 'float' },
      { name: 'grad', kind: 'float' },
    ],
    ...(encode === undefined ? {} : { attrCount: 1, encode: (attrs: A) => encode(attrs) }),
    output: ([saved]) => ({ shape: saved!.shape, dtype: saved!.dtype }),
    definition: ([saved, grad], attrs) => definition(saved!, grad!, attrs),
    cost: ([saved], [dx]) => ({ flops: 8 * saved!.size, bytes: 2 * saved!.bytes + dx!.bytes }),
  });
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

const reluBackward = gradientOp<null>('relu_backward', (y, grad) => where(le(y, 0), mul(grad, 0), grad));
const reluOp = defineUnary<null>({
  name: 'relu',
  saves: (_inputs, [y]) => [y!],
  gradient: ({ grad, saved: [y] }) => reluBackward.call([y!, grad], null),
});

/** max(x, 0). The gradient at 0 is 0. NaN stays NaN. */
export function relu(x: Tensor): Tensor {
  return reluOp.call([x], null);
}

const sigmoidBackward = gradientOp<null>('sigmoid_backward', (y, grad) => mul(grad, mul(sub(1, y), y)));
const sigmoidOp = defineUnary<null>({
  name: 'sigmoid',
  kind: 'float',
  flops: 8,
  saves: (_inputs, [y]) => [y!],
  gradient: ({ grad, saved: [y] }) => sigmoidBackward.call([y!, grad], null),
});

/** 1 / (1 + e^(−x)). */
export function sigmoid(x: Tensor): Tensor {
  return sigmoidOp.call([x], null);
}

const tanhBackward = gradientOp<null>('tanh_backward', (y, grad) => mul(grad, sub(1, square(y))));
const tanhOp = defineUnary<null>({
  name: 'tanh',
  kind: 'float',
  flops: 8,
  saves: (_inputs, [y]) => [y!],
  gradient: ({ grad, saved: [y] }) => tanhBackward.call([y!, grad], null),
});

/** Hyperbolic tangent. */
export function tanh(x: Tensor): Tensor {
  return tanhOp.call([x], null);
}

const siluBackward = gradientOp<null>('silu_backward', (x, grad) => {
  const s = sigmoid(x);
  return mul(grad, mul(s, add(mul(x, sub(1, s)), 1)));
});
const siluOp = defineUnary<null>({
  name: 'silu',
  kind: 'float',
  flops: 9,
  saves: ([x]) => [x!],
  gradient: ({ grad, saved: [x] }) => siluBackward.call([x!, grad], null),
  definition: (x) => mul(x, sigmoid(x)),
});

/**
 * x·σ(x), also called swish.
 *
 * @source arXiv 1606.08415, 1710.05941
 */
export function silu(x: Tensor): Tensor {
  return siluOp.call([x], null);
}

interface GeluAttrs {
  readonly tanh: boolean;
}

const encodeGelu = ({ tanh }: GeluAttrs): readonly number[] => [tanh ? 1 : 0];
const GELU_SLOPE = Math.sqrt(2 / Math.PI);

const geluBackward = gradientOp<GeluAttrs>(
  'gelu_backward',
  (x, grad, attrs) => {
    if (attrs.tanh) {
      const t = tanh(mul(add(x, mul(mul(square(x), x), 0.044715)), GELU_SLOPE));
      const inner = mul(add(mul(square(x), 3 * 0.044715), 1), GELU_SLOPE);
      return mul(grad, add(mul(add(t, 1), 0.5), mul(mul(mul(x, 0.5), sub(1, square(t))), inner)));
    }
    const cdf = mul(add(erf(mul(x, Math.SQRT1_2)), 1), 0.5);
    const density = mul(exp(mul(square(x), -0.5)), 1 / Math.sqrt(2 * Math.PI));
    return mul(grad, add(cdf, mul(x, density)));
  },
  encodeGelu,
);

const geluOp = defineUnary<GeluAttrs>({
  name: 'gelu',
  kind: 'float',
  attrCount: 1,
  encode: encodeGelu,
  flops: 12,
  saves: ([x]) => [x!],
  gradient: ({ grad, saved: [x], attrs }) => geluBackward.call([x!, grad], attrs),
  definition: (x, attrs) =>
    attrs.tanh
      ? mul(mul(x, 0.5), add(tanh(mul(add(x, mul(mul(square(x), x), 0.044715)), GELU_SLOPE)), 1))
      : mul(mul(x, 0.5), add(erf(mul(x, Math.SQRT1_2)), 1)),
});

/** Options of {@link gelu}. */
export interface GeluOptions {
  /** `none`: x·Φ(x); `tanh`: the approximation that GPT-2 uses. Default `none`. */
  readonly approximate?: 'none' | 'tanh';
}

/**
 * Gaussian error linear unit, x·Φ(x).
 *
 * @shape any → the same
 * @dtype floats; computes in float32 (float64 in float64)
 * @throws AttributeError if `approximate` is neither "none" nor "tanh"
 * @source arXiv 1606.08415
 */
export function gelu(x: Tensor, options: GeluOptions = {}): Tensor {
  const approximate = checkOneOf('gelu', 'approximate', options.approximate ?? 'none', ['none', 'tanh']);
  return geluOp.call([x], { tanh: approximate === 'tanh' });
}

/**
 * Gradient of an activation's input from that of its result; `saved` is the input, for sigmoid and tanh the result, for relu either.
 *
 * @internal
 */
export function activationGradient(
  activation: 'gelu' | 'geluTanh' | 'silu' | 'relu' | 'sigmoid' | 'tanh',
  saved: Tensor,
  grad: Tensor,
): Tensor {
  if (activation === 'gelu' || activation === 'geluTanh')
    return geluBackward.call([saved, grad], { tanh: activation === 'geluTanh' });
  const byName = { silu: siluBackward, relu: reluBackward, sigmoid: sigmoidBackward, tanh: tanhBackward };
  return byName[activation].call([saved, grad], null);
}

/** An activation of parts that is recorded as one call and keeps its input alone. */
function fromInput(name: string, x: Tensor, value: (x: Tensor) => Tensor, slope: (x: Tensor) => Tensor): Tensor {
  checkFloat(name, x);
  return recorded(
    name,
    [x],
    () => value(x),
    () => [x],
    (grad, [saved]) => [mul(grad, slope(saved!))],
  );
}

const softplusOf = (x: Tensor): Tensor => add(maximum(x, 0), log1p(exp(mul(abs(x), -1))));

/**
 * ln(1 + e^(βx)) / β, without overflow.
 *
 * @param beta - default 1
 * @param threshold - x itself where βx is larger. Default 20
 */
export function softplus(x: Tensor, beta = 1, threshold = 20): Tensor {
  checkNumber('softplus', 'beta', beta);
  checkNumber('softplus', 'threshold', threshold);
  if (beta === 0)
    throw new AttributeError({ op: 'softplus', argument: 'beta', expected: 'a number other than 0', actual: '0' });
  return fromInput(
    'softplus',
    x,
    (v) => {
      const scaled = mul(v, beta);
      return where(gt(scaled, threshold), v, div(softplusOf(scaled), beta));
    },
    (v) => {
      const scaled = mul(v, beta);
      return where(gt(scaled, threshold), 1, sigmoid(scaled));
    },
  );
}

/** ln σ(x), without overflow. */
export function logSigmoid(x: Tensor): Tensor {
  return fromInput(
    'logSigmoid',
    x,
    (v) => sub(minimum(v, 0), log1p(exp(mul(abs(v), -1)))),
    (v) => sigmoid(mul(v, -1)),
  );
}

/**
 * x where positive, else α(e^x − 1).
 *
 * @param alpha - default 1
 * @source arXiv 1511.07289
 */
export function elu(x: Tensor, alpha = 1): Tensor {
  checkNumber('elu', 'alpha', alpha);
  return fromInput(
    'elu',
    x,
    (v) => where(gt(v, 0), v, mul(expm1(minimum(v, 0)), alpha)),
    (v) => where(gt(v, 0), 1, mul(exp(minimum(v, 0)), alpha)),
  );
}

/**
 * max(0, x) + min(0, α(e^(x/α) − 1)): {@link elu} with a continuous slope.
 *
 * @param alpha - default 1
 * @source arXiv 1704.07483
 */
export function celu(x: Tensor, alpha = 1): Tensor {
  checkNumber('celu', 'alpha', alpha, Number.MIN_VALUE);
  return fromInput(
    'celu',
    x,
    (v) => where(gt(v, 0), v, mul(expm1(mul(minimum(v, 0), 1 / alpha)), alpha)),
    (v) => where(gt(v, 0), 1, exp(mul(minimum(v, 0), 1 / alpha))),
  );
}

const SELU_ALPHA = 1.6732632423543772;
const SELU_SCALE = 1.0507009873554805;

/**
 * Self-normalising exponential unit.
 *
 * @source arXiv 1706.02515
 */
export function selu(x: Tensor): Tensor {
  return mul(elu(x, SELU_ALPHA), SELU_SCALE);
}

/**
 * x where positive, else slope·x.
 *
 * @param slope - default 0.01
 */
export function leakyRelu(x: Tensor, slope = 0.01): Tensor {
  checkNumber('leakyRelu', 'slope', slope);
  return fromInput(
    'leakyRelu',
    x,
    (v) => where(gt(v, 0), v, mul(v, slope)),
    (v) => add(mul(to(gt(v, 0), v.dtype), 1 - slope), slope),
  );
}

/** max(x, 0)²: the activation of Primer. Source: arXiv 2109.08668. */
export function reluSquared(x: Tensor): Tensor {
  return square(relu(x));
}

/** x limited to [0, 6]. */
export function relu6(x: Tensor): Tensor {
  return fromInput(
    'relu6',
    x,
    (v) => clamp(v, 0, 6),
    (v) => to(logicalAnd(gt(v, 0), lt(v, 6)), v.dtype),
  );
}

/** (x + 3)/6 limited to [0, 1]. */
export function hardsigmoid(x: Tensor): Tensor {
  return fromInput(
    'hardsigmoid',
    x,
    (v) => div(clamp(add(v, 3), 0, 6), 6),
    (v) => mul(to(logicalAnd(gt(v, -3), lt(v, 3)), v.dtype), 1 / 6),
  );
}

/**
 * x·hardsigmoid(x).
 *
 * @source arXiv 1905.02244
 */
export function hardswish(x: Tensor): Tensor {
  return fromInput(
    'hardswish',
    x,
    (v) => div(mul(v, clamp(add(v, 3), 0, 6)), 6),
    (v) => where(lt(v, -3), 0, where(le(v, 3), add(div(v, 3), 0.5), 1)),
  );
}

/**
 * x·tanh(softplus(x)).
 *
 * @source arXiv 1908.08681
 */
export function mish(x: Tensor): Tensor {
  return fromInput(
    'mish',
    x,
    (v) => mul(v, tanh(softplusOf(v))),
    (v) => {
      const t = tanh(softplusOf(v));
      return add(t, mul(mul(v, sigmoid(v)), sub(1, square(t))));
    },
  );
}

/** x·σ(1.702x): the activation of CLIP. Source: arXiv 1606.08415. */
export function quickGelu(x: Tensor): Tensor {
  return fromInput(
    'quickGelu',
    x,
    (v) => mul(v, sigmoid(mul(v, 1.702))),
    (v) => {
      const s = sigmoid(mul(v, 1.702));
      return mul(s, add(mul(mul(v, sub(1, s)), 1.702), 1));
    },
  );
}

/** x / (1 + |x|). */
export function softsign(x: Tensor): Tensor {
  return fromInput(
    'softsign',
    x,
    (v) => div(v, add(abs(v), 1)),
    (v) => div(1, square(add(abs(v), 1))),
  );
}

/**
 * Gated linear unit: the first half along an axis times σ of the second.
 *
 * @param axis - of even length. Default the last
 * @source arXiv 1612.08083
 * @throws AttributeError if the axis has an odd length
 */
export function glu(x: Tensor, axis = -1): Tensor {
  checkFloat('glu', x);
  const at = checkAxis('glu', axis, x.rank);
  const length = x.shape[at]!;
  if (length % 2 !== 0)
    throw new AttributeError({ op: 'glu', argument: 'axis', expected: 'one of even length', actual: String(length) });
  return mul(narrow(x, at, 0, length / 2), sigmoid(narrow(x, at, length / 2, length / 2)));
}
