/** What every row of the op table is put through. */
import assert from 'node:assert/strict';
import { gradients } from '../../src/autograd/backward.js';
import * as og from '../../src/index.js';
import { setCostListener } from '../../src/ops/define.js';
import { numbersOf } from '../helpers/allclose.js';
import { make, sizeOf, type CheckName, type InputRule, type Nd, type Row, type Shape } from './row.js';

const epsilon: Readonly<Record<string, number>> = {
  float64: 2 ** -52,
  float32: 2 ** -23,
  float16: 2 ** -10,
  bfloat16: 2 ** -7,
};

const layouts = ['contiguous', 'transposed', 'strided', 'reversed', 'broadcast'] as const;
type Layout = (typeof layouts)[number];

const resultDType = (row: Row, i: number, floats: og.DType): og.DType | undefined =>
  typeof row.result === 'function' ? row.result(floats) : typeof row.result === 'string' ? row.result : row.result?.[i];
const ruleOf = (row: Row, k: number): InputRule => row.inputs?.[k] ?? {};
/** Whether the dtype of this input changes from run to run. */
const isFloat = (row: Row, k: number): boolean => (ruleOf(row, k).dtype ?? 'float') === 'float';
const listOf = (value: og.Tensor | readonly og.Tensor[]): readonly og.Tensor[] =>
  value instanceof og.Tensor ? [value] : value;
const ndsOf = (value: Nd | readonly Nd[]): readonly Nd[] => ('data' in value ? [value] : value);

/** Different for each i, in (-1, 1) and away from 0. */
function spread(i: number, seed: number): number {
  const u = ((i + 1) * 0.6180339887498949 + seed * 0.3819) % 1;
  return u < 0.5 ? u * 1.9 - 1 : u * 1.9 - 0.93;
}

function inputsFor(row: Row, shapes: readonly Shape[], dtype: og.DType): og.Tensor[] {
  return shapes.map((shape, k) => {
    const rule = ruleOf(row, k);
    const value = rule.value ?? ((u: number) => 2 * u);
    const isInteger = dtype === 'int32' || dtype === 'int64';
    const values = Float64Array.from({ length: sizeOf(shape) }, (_, i) => {
      const x = value(spread(i, k), i);
      return isInteger ? Math.round(x * 3) : x;
    });
    const own = rule.dtype ?? 'float';
    return og.tensor(values, { shape, dtype: own === 'float' ? dtype : own });
  });
}

/** The same elements in another order of memory (`broadcast`: the first along the first axis, everywhere). */
function inLayout(x: og.Tensor, layout: Layout): og.Tensor {
  if (x.rank === 0 || layout === 'contiguous') return x;
  if (layout === 'transposed') return x.rank < 2 ? x : og.transpose(og.clone(og.contiguous(og.transpose(x))));
  if (layout === 'reversed') return og.flip(og.contiguous(og.flip(x, -1)), -1);
  if (layout === 'broadcast') return x.shape[0] === 0 ? x : og.expand(og.narrow(x, 0, 0, 1), x.shape);
  const apart = og.stack([x, og.full(x.shape, x.dtype === 'bool' ? true : 99, { dtype: x.dtype })], -1);
  return og.slice(og.reshape(apart, [...x.shape.slice(0, -1), 2 * x.shape.at(-1)!]), -1, 0, null, 2);
}

function compare(row: Row, got: og.Tensor, want: Nd, dtype: og.DType, label: string): void {
  assert.deepEqual([...got.shape], [...want.shape], `${label}: shape`);
  const values = numbersOf(got);
  const unit = (epsilon[row.precision?.(dtype) ?? got.dtype] ?? 0) * (row.ulps ?? 8);
  for (let i = 0; i < values.length; i++) {
    const [a, b] = [values[i]!, want.data[i]!];
    if (a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
    const bound = unit * (Math.abs(b) + (row.magnitude ?? 1));
    if (!(Math.abs(a - b) <= bound))
      assert.fail(`${label}: element ${i} is ${a}, expected ${b}, allowed ±${bound} (inputs ${dtype})`);
  }
}

/** Runs the body on every instruction set of this machine and puts the old one back. */
function onEveryIsa(body: (isa: string) => void): void {
  const { isa: before, isas } = og.backend();
  try {
    for (const isa of isas) {
      og.setIsa(isa);
      body(isa);
    }
  } finally {
    og.setIsa(before);
  }
}

function forward(row: Row, shapes: readonly Shape[], dtype: og.DType, layout: Layout): void {
  og.scope(() => {
    const inputs = inputsFor(row, shapes, dtype).map((x) => inLayout(x, layout));
    const before = inputs.map((x): Nd => ({ shape: [...x.shape], data: numbersOf(x) }));
    const wanted = ndsOf(row.oracle(...before));
    onEveryIsa((isa) => {
      const label = `${row.name} ${dtype} ${layout} ${JSON.stringify(shapes)} on ${isa}`;
      const results = listOf(row.call(...inputs));
      assert.equal(results.length, wanted.length, `${label}: results`);
      results.forEach((result, i) => {
        const own = resultDType(row, i, dtype) ?? (i === 0 ? inputs[0]!.dtype : result.dtype);
        assert.equal(result.dtype, own, `${label}: dtype`);
        compare(row, result, wanted[i]!, dtype, label);
      });
      inputs.forEach((x, i) => assert.deepEqual(numbersOf(x), before[i]!.data, `${label}: input ${i} was changed`));
    });
  });
}

const isOff = (row: Row, check: CheckName): boolean => row.exceptions?.[check] !== undefined;

export function checkForward(row: Row): void {
  for (const [i, shapes] of row.shapes.entries()) {
    const half = i === 0 && !isOff(row, 'half') ? (['float16', 'bfloat16'] as const) : [];
    const varies = shapes.some((_, k) => isFloat(row, k));
    for (const dtype of varies ? (['float64', 'float32', ...half] as const) : (['float32'] as const))
      forward(row, shapes, dtype, 'contiguous');
    if (row.integers) for (const dtype of ['int32', 'int64'] as const) forward(row, shapes, dtype, 'contiguous');
  }
}

export function checkLayouts(row: Row): void {
  if (isOff(row, 'layouts')) return;
  for (const layout of layouts) {
    if (layout === 'contiguous' || (layout === 'broadcast' && isOff(row, 'broadcast'))) continue;
    for (const dtype of ['float64', 'float32'] as const) forward(row, row.shapes[0]!, dtype, layout);
  }
}

export function checkGradient(row: Row): void {
  if (row.gradient === false) return;
  og.scope(() => {
    const inputs = inputsFor(row, row.shapes[0]!, 'float64');
    const isVaried = (k: number): boolean => isFloat(row, k) && !ruleOf(row, k).constant;
    const varied = inputs.filter((_, k) => isVaried(k));
    assert.ok(varied.length > 0, `${row.name}: no input has a gradient; say so with gradient: false`);
    const result = og.gradCheck((...leaves) => {
      let next = 0;
      const results = listOf(row.call(...inputs.map((x, k) => (isVaried(k) ? leaves[next++]! : x))));
      const parts = results.filter((x) => x.dtype === 'float64').map((x) => og.reshape(x, [-1]));
      return parts.length === 1 ? parts[0]! : og.concat(parts);
    }, varied);
    assert.ok(result.ok, `${row.name}: ${JSON.stringify(result)}`);
  });
}

/**
 * Names of the ops with a kernel that the row's call and its gradient go through, as the cost report hears them. The gradient is
 * taken of all results at once, in float32.
 */
export function opsOf(row: Row): Set<string> {
  const heard = new Set<string>();
  og.scope(() => {
    const inputs = inputsFor(row, row.shapes[0]!, 'float32');
    const varied = inputs.filter((_, k) => row.gradient !== false && isFloat(row, k) && !ruleOf(row, k).constant);
    for (const x of varied) x.requiresGrad_();
    try {
      setCostListener((name) => heard.add(name));
      const results = listOf(row.call(...inputs)).filter((x) => x.requiresGrad);
      setCostListener(null);
      const seeds = results.map((x) => og.ones(x.shape, { dtype: x.dtype }));
      setCostListener((name) => heard.add(name));
      if (results.length > 0) gradients('opsOf', results, varied, seeds, {});
    } finally {
      setCostListener(null);
    }
  });
  return heard;
}

/** Same bits whenever it is run, by however many threads. */
export function checkBits(row: Row): void {
  const threads = og.getThreads();
  const bits = (inputs: og.Tensor[]): Float64Array[] => og.scope(() => listOf(row.call(...inputs)).map(numbersOf));
  og.scope(() => {
    const inputs = inputsFor(row, row.large ?? row.shapes[0]!, 'float32');
    try {
      og.setThreads(2);
      const first = bits(inputs);
      assert.deepEqual(bits(inputs), first, `${row.name}: other bits the second time`);
      og.setThreads(1);
      assert.deepEqual(bits(inputs), first, `${row.name}: other bits with one thread`);
    } finally {
      og.setThreads(threads);
    }
  });
}

function throwsOnly(type: new (...args: never[]) => Error, body: () => unknown, label: string): void {
  assert.throws(
    body,
    (error: Error) => {
      assert.ok(error instanceof type, `${label}: ${error.name}: ${error.message}`);
      return true;
    },
    label,
  );
}

/** Tensors that are unlike the expected ones are either taken or refused by an error of the library, whatever they are. */
function checkStrangers(row: Row, inputs: readonly og.Tensor[]): void {
  for (const [i, input] of inputs.entries()) {
    const strangers = [
      og.tensor(1.5),
      og.ones([1, 1, 1, 1, 1, 1, 1, 1]),
      og.zeros([0]),
      og.ones(input.shape, { dtype: 'bool' }),
      og.ones(input.shape, { dtype: 'int32' }),
    ];
    for (const stranger of strangers) {
      try {
        listOf(row.call(...inputs.map((old, k) => (k === i ? stranger : old)))).map(numbersOf);
      } catch (error) {
        if (error instanceof og.OmniError) continue;
        assert.fail(`${row.name}: input ${i} as ${stranger.dtype} ${JSON.stringify(stranger.shape)}: ${String(error)}`);
      }
    }
  }
}

export function checkWrongInputs(row: Row): void {
  if (isOff(row, 'wrong')) return;
  og.scope(() => {
    const inputs = inputsFor(row, row.shapes[0]!, 'float32');
    for (const i of inputs.keys()) {
      const swapped = (x: og.Tensor): og.Tensor[] => inputs.map((old, k) => (k === i ? x : old));
      const gone = og.clone(inputs[i]!);
      gone.dispose();
      throwsOnly(og.StateError, () => row.call(...swapped(gone)), `${row.name}: input ${i} disposed`);
      throwsOnly(og.DTypeError, () => row.call(...swapped('x' as never)), `${row.name}: input ${i} a string`);
    }
    checkStrangers(row, inputs);
    for (const shapes of row.misfits ?? []) {
      const misfit = inputsFor(row, shapes, 'float32');
      throwsOnly(og.ShapeError, () => row.call(...misfit), `${row.name} of ${JSON.stringify(shapes)}`);
    }
    for (const call of row.refused ?? [])
      throwsOnly(og.AttributeError, () => call(...inputs), `${row.name}: ${String(call)}`);
  });
}

/** The row shows an empty array, one element, and a tail that no vector width divides, or says why not. */
export function checkCoverage(row: Row): void {
  const some = (test: (shape: Shape) => boolean): boolean => row.shapes.some((shapes) => shapes.some(test));
  const shown: Readonly<Partial<Record<CheckName, boolean>>> = {
    empty: some((shape) => sizeOf(shape) === 0),
    single: some((shape) => sizeOf(shape) === 1),
    tails: some((shape) => shape.some((n) => n % 2 === 1 && n >= 17)),
  };
  for (const [check, isShown] of Object.entries(shown))
    assert.notEqual(isShown, isOff(row, check as CheckName), `${row.name}: show or except "${check}", not both`);
  for (const reason of Object.values(row.exceptions ?? {})) assert.ok(reason.length > 10, `${row.name}: reason`);
}

/** @internal For rows that need an array of their own. */
export { make };
