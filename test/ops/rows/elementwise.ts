/** Element-wise operations of one and of two arrays. */
import * as og from '../../../src/index.js';
import { map, plainShapes, type InputRule, type Row } from '../row.js';

const positive: InputRule = { value: (u) => u + 1.25 };
const unit: InputRule = { value: (u) => 0.95 * u };

/** (2/√π)·e^(−x²)·Σ 2ⁿx²ⁿ⁺¹/(2n+1)!!: all terms have one sign, so nothing cancels. */
export function erf(x: number): number {
  let term = x;
  let total = x;
  for (let n = 1; n < 200; n++) {
    term *= (2 * x * x) / (2 * n + 1);
    total += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
}

export const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const softplus = (x: number): number => Math.log1p(Math.exp(x));

/** Half to even, as IEEE 754 rounds. */
export function round(x: number): number {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}

type Extra = Partial<Row>;

function unary(name: string, f: (x: number) => number, extra: Extra = {}): Row {
  const op = extra.op ?? name;
  const call = (og as unknown as Record<string, (x: og.Tensor) => og.Tensor>)[op]!;
  return { name, call, oracle: (x) => map(f, x!), shapes: plainShapes, large: [[259, 131]], ...extra };
}

const bool = (value: boolean): number => Number(value);
const analytic: Readonly<Record<string, readonly [(x: number) => number, InputRule?]>> = {
  exp: [Math.exp],
  expm1: [Math.expm1],
  log: [Math.log, positive],
  log1p: [Math.log1p, unit],
  log2: [Math.log2, positive],
  sqrt: [Math.sqrt, positive],
  rsqrt: [(x) => 1 / Math.sqrt(x), positive],
  reciprocal: [(x) => 1 / x, positive],
  sin: [Math.sin],
  cos: [Math.cos],
  tan: [Math.tan, unit],
  asin: [Math.asin, { value: (u) => 0.8 * u }],
  acos: [Math.acos, { value: (u) => 0.8 * u }],
  atan: [Math.atan],
  sinh: [Math.sinh],
  cosh: [Math.cosh],
  erf: [erf],
  erfc: [(x) => 1 - erf(x)],
};

const activations: Readonly<Record<string, (x: number) => number>> = {
  relu: (x) => Math.max(x, 0),
  sigmoid,
  tanh: Math.tanh,
  silu: (x) => x * sigmoid(x),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  softplus,
  logSigmoid: (x) => -softplus(-x),
  elu: (x) => (x > 0 ? x : Math.expm1(x)),
  celu: (x) => (x > 0 ? x : Math.expm1(x)),
  selu: (x) => 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * Math.expm1(x)),
  leakyRelu: (x) => (x > 0 ? x : 0.01 * x),
  reluSquared: (x) => Math.max(x, 0) ** 2,
  relu6: (x) => Math.min(Math.max(x, 0), 6),
  hardsigmoid: (x) => Math.min(Math.max(x + 3, 0), 6) / 6,
  hardswish: (x) => (x * Math.min(Math.max(x + 3, 0), 6)) / 6,
  mish: (x) => x * Math.tanh(softplus(x)),
  quickGelu: (x) => x * sigmoid(1.702 * x),
  softsign: (x) => x / (1 + Math.abs(x)),
};

const geluTanh = (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const gradientKernels = new Set(['relu', 'sigmoid', 'tanh', 'silu', 'gelu']);

const unaryRows: Row[] = [
  ...Object.entries(analytic).map(([name, [f, rule]]) => unary(name, f, { inputs: [rule ?? {}] })),
  ...Object.entries(activations).map(([name, f]) =>
    unary(name, f, { ulps: 16, kernels: gradientKernels.has(name) ? [`${name}_backward`] : [] }),
  ),
  unary('gelu tanh', geluTanh, { op: 'gelu', call: (x) => og.gelu(x!, { approximate: 'tanh' }), ulps: 16 }),
  unary('neg', (x) => -x, { integers: true }),
  unary('abs', Math.abs, { integers: true }),
  unary('square', (x) => x * x, { integers: true }),
  unary('sign', Math.sign, { integers: true }),
  unary('floor', Math.floor, { integers: true }),
  unary('ceil', Math.ceil, { integers: true }),
  unary('round', round, { integers: true }),
  unary('trunc', Math.trunc, { integers: true }),
  unary('clamp', (x) => Math.min(Math.max(x, -1), 0.5), { call: (x) => og.clamp(x!, -1, 0.5) }),
  ...(
    [
      ['logicalNot', 'logical_not', (x) => bool(x === 0)],
      ['isNaN', 'isnan', (x) => bool(Number.isNaN(x))],
      ['isInf', 'isinf', (x) => bool(Math.abs(x) === Infinity)],
      ['isFinite', 'isfinite', (x) => bool(Number.isFinite(x))],
    ] as [string, string, (x: number) => number][]
  ).map(([name, kernel, f]) =>
    unary(name, f, {
      kernels: [kernel],
      gradient: false,
      result: 'bool',
      inputs: [{ value: (u, i) => [NaN, Infinity, -Infinity, 0, u][i % 5]! }],
    }),
  ),
];

const pairShapes: Row['shapes'] = [
  [
    [3, 4],
    [3, 4],
  ],
  [[3, 1], [4]],
  [[2, 3], []],
  [
    [2, 0],
    [2, 1],
  ],
  [[1], [1]],
  [[17], [17]],
  [[2, 33], [33]],
];

function binary(name: string, f: (a: number, b: number) => number, extra: Extra = {}): Row {
  const call = (og as unknown as Record<string, (a: og.Tensor, b: og.Tensor) => og.Tensor>)[name]!;
  return {
    name,
    call: (a, b) => call(a!, b!),
    oracle: (a, b) => map(f, a!, b!),
    shapes: pairShapes,
    large: [[259, 131], [131]],
    misfits: [[[2, 3], [2]]],
    ...extra,
  };
}

const coarse: InputRule = { value: (u) => Math.round(2 * u) };
const comparison = (name: string, f: (a: number, b: number) => boolean, kernels: string[] = []): Row =>
  binary(name, (a, b) => bool(f(a, b)), { kernels, gradient: false, result: 'bool', inputs: [coarse, coarse] });
const floorMod = (a: number, b: number): number => a - Math.floor(a / b) * b;

const binaryRows: Row[] = [
  binary('add', (a, b) => a + b, { integers: true }),
  binary('sub', (a, b) => a - b, { integers: true }),
  binary('mul', (a, b) => a * b, { integers: true }),
  binary('div', (a, b) => a / b, { inputs: [{}, positive] }),
  binary('remainder', floorMod, { inputs: [{ value: (u) => 2.03 * u }, positive] }),
  binary('fmod', (a, b) => a % b, { inputs: [{ value: (u) => 2.03 * u }, positive] }),
  binary('atan2', Math.atan2),
  binary('maximum', Math.max, { integers: true }),
  binary('minimum', Math.min, { integers: true }),
  binary('pow', Math.pow, { inputs: [positive, {}], ulps: 16 }),
  comparison('eq', (a, b) => a === b),
  comparison('ne', (a, b) => a !== b),
  comparison('lt', (a, b) => a < b),
  comparison('le', (a, b) => a <= b),
  comparison('gt', (a, b) => a > b),
  comparison('ge', (a, b) => a >= b),
  comparison('logicalAnd', (a, b) => a !== 0 && b !== 0, ['logical_and']),
  comparison('logicalOr', (a, b) => a !== 0 || b !== 0, ['logical_or']),
  comparison('logicalXor', (a, b) => (a !== 0) !== (b !== 0), ['logical_xor']),
];

const mask: InputRule = { dtype: 'bool', value: (_, i) => Number(i % 3 === 0) };
const chosen: Row[] = [
  {
    name: 'where',
    call: (a, b, condition) => og.where(condition!, a!, b!),
    oracle: (a, b, condition) => map((x, y, c) => (c ? x : y), a!, b!, condition!),
    inputs: [{}, {}, mask],
    shapes: [
      [[3, 4], [4], [3, 1]],
      [[2, 0], [1], [2, 1]],
      [[1], [1], [1]],
      [[17], [17], [17]],
    ],
    misfits: [[[3], [2], [3]]],
  },
  {
    name: 'maskedFill',
    call: (x, chosenOnes) => og.maskedFill(x!, chosenOnes!, -1.5),
    oracle: (x, chosenOnes) => map((a, c) => (c ? -1.5 : a), x!, chosenOnes!),
    inputs: [{}, mask],
    shapes: [
      [
        [3, 4],
        [3, 4],
      ],
      [[0], [0]],
      [[1], [1]],
      [[2, 17], [17]],
    ],
  },
];

export const elementwiseRows: readonly Row[] = [...unaryRows, ...binaryRows, ...chosen];
