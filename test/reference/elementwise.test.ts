import * as activation from '../../src/ops/activation.js';
import * as arithmetic from '../../src/ops/arithmetic.js';
import * as comparison from '../../src/ops/comparison.js';
import { pow } from '../../src/ops/power.js';
import * as unary from '../../src/ops/unary.js';
import { maskedFill, where } from '../../src/ops/where.js';
import type { Tensor } from '../../src/tensor/tensor.js';
import { testGroup, type Operation } from '../helpers/reference.js';

const one =
  (f: (x: Tensor) => Tensor): Operation =>
  ({ x }) =>
    f(x!);
const two =
  (f: (a: Tensor, b: Tensor) => Tensor): Operation =>
  ({ a, b }) =>
    f(a!, b!);

const { add, sub, mul, div, maximum, minimum, atan2, remainder, fmod } = arithmetic;
const { eq, ne, lt, le, gt, ge } = comparison;
const {
  exp,
  abs,
  neg,
  sin,
  cos,
  erf,
  square,
  expm1,
  log,
  sqrt,
  rsqrt,
  reciprocal,
  log1p,
  log2,
  floor,
  ceil,
  round,
  trunc,
  sign,
} = unary;
const {
  tanh,
  sigmoid,
  relu,
  silu,
  softplus,
  elu,
  leakyRelu,
  hardswish,
  mish,
  gelu,
  logSigmoid,
  quickGelu,
  reluSquared,
} = activation;

const binary = { add, sub, mul, div, maximum, minimum, pow, atan2, remainder, fmod, eq, ne, lt, le, gt, ge };
const plain = {
  exp,
  abs,
  neg,
  sin,
  cos,
  erf,
  square,
  expm1,
  log,
  sqrt,
  rsqrt,
  reciprocal,
  log1p,
  log2,
  floor,
  ceil,
  round,
  trunc,
  sign,
};

testGroup('ops/ops_elementwise', {
  ...Object.fromEntries(Object.entries(binary).map(([name, f]) => [name, two(f)])),
  ...Object.fromEntries(Object.entries(plain).map(([name, f]) => [name, one(f)])),
  pow_scalar: ({ a }, { exponent }) => pow(a!, exponent),
  tanh: one(tanh),
  sigmoid: one(sigmoid),
  relu: one(relu),
  silu: one(silu),
  softplus: one((x) => softplus(x)),
  elu: one((x) => elu(x)),
  leaky_relu: one((x) => leakyRelu(x)),
  hardswish: one(hardswish),
  mish: one(mish),
  gelu_exact: one((x) => gelu(x)),
  gelu_tanh: one((x) => gelu(x, { approximate: 'tanh' })),
  logsigmoid: one(logSigmoid),
  quick_gelu: one(quickGelu),
  relu_squared: one(reluSquared),
  clamp: ({ x }, { min, max }) => unary.clamp(x!, min, max),
  where: ({ c, a, b }) => where(c!, a!, b!),
  masked_fill: ({ x, m }, { value }) => maskedFill(x!, m!, value),
});
