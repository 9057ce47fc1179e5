/** Shape rules against plain loops: broadcasting, reductions over any axes, batches of matrices, and what undoes what. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import * as og from '../../src/index.js';
import { fold, get, make, map, sizeOf, type Nd, type Shape } from '../ops/row.js';

const check = <T>(arbitrary: fc.Arbitrary<T>, body: (value: T) => void): void =>
  fc.assert(
    fc.property(arbitrary, (value) => og.scope(() => body(value))),
    { numRuns: 200, seed: 21 },
  );

/** Small integers, so that every sum and product is exact. */
const numbers = (shape: Shape, seed = 0): Nd =>
  make(shape, (index) => (index.reduce((a, i) => 5 * a + i, seed) % 9) - 4);
const tensorOf = ({ shape, data }: Nd, options: og.TensorOptions = {}): og.Tensor =>
  og.tensor(data, { shape, ...options });

function assertSame(got: og.Tensor, want: Nd): void {
  assert.deepEqual([...got.shape], [...want.shape]);
  const values = Float64Array.from(got.dataSync() as ArrayLike<number>, Number);
  values.forEach((value, i) => {
    if (value !== want.data[i]) assert.fail(`element ${i} is ${value}, expected ${want.data[i]}`);
  });
}

const lengths = fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 });
const withAxis = fc.tuple(
  lengths.filter((shape) => shape.length > 0),
  fc.nat(3),
);
const axisOf = ([shape, a]: readonly [readonly number[], number]): number => a % shape.length;

/** `count` shapes that broadcast to one: some axes cut to 1, leading ones left out. */
const together = (count: number): fc.Arbitrary<Shape[]> =>
  lengths.chain((shape) =>
    fc
      .array(fc.tuple(fc.nat(shape.length), fc.array(fc.boolean(), { minLength: 4, maxLength: 4 })), {
        minLength: count,
        maxLength: count,
      })
      .map((cuts) => cuts.map(([drop, ones]) => shape.map((n, i) => (ones[i] ? 1 : n)).slice(drop))),
  );

test('element-wise operations of three operands broadcast as plain loops do, and so do their gradients', () => {
  check(together(3), ([a, b, c]) => {
    const [x, y, z] = [numbers(a!, 1), numbers(b!, 2), numbers(c!, 3)];
    const chosen = make(c!, (index) => Number(get(z, index) > 0));
    assertSame(
      og.add(og.mul(tensorOf(x), tensorOf(y)), tensorOf(z)),
      map((p, q, r) => p * q + r, x, y, z),
    );
    const want = map((r, p, q) => (r ? p : q), chosen, x, y);
    const [left, right] = [tensorOf(x, { requiresGrad: true }), tensorOf(y, { requiresGrad: true })];
    const got = og.where(og.tensor(chosen.data, { shape: c!, dtype: 'bool' }), left, right);
    assertSame(got, want);
    got.sum().backward();
    // An element's gradient is the number of places that it was chosen for
    for (const [leaf, own, side] of [
      [left, x, 1],
      [right, y, 0],
    ] as const) {
      const place: Nd = { shape: own.shape, data: own.data.map((_, i) => i) };
      const everywhere = map((r, p, q) => r + 0 * (p + q), chosen, x, y);
      const full = map((r, i) => (r === side ? i : -1), everywhere, place);
      const seen = new Float64Array(own.data.length);
      for (const i of full.data) if (i >= 0) seen[i]!++;
      assertSame(leaf.grad!, { shape: own.shape, data: seen });
    }
  });
});

test('three shapes broadcast to the same whatever is joined first', () => {
  check(together(3), (shapes) => {
    const [a, b, c] = shapes.map((shape) => tensorOf(numbers(shape)));
    const first = og.add(og.add(a!, b!), c!);
    const last = og.add(a!, og.add(b!, c!));
    assert.deepEqual([...first.shape], [...last.shape]);
    assert.deepEqual(first.dataSync(), last.dataSync());
  });
});

const reductionCase = fc.tuple(
  lengths,
  fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }),
  fc.boolean(),
  fc.boolean(),
);

test('reductions over any axes, counted from either end, are folds over these axes', () => {
  const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
  check(reductionCase, ([shape, chosen, keepDims, negative]) => {
    const axes = shape.map((_, i) => i).filter((i) => chosen[i]);
    const given = negative ? axes.map((axis) => axis - shape.length) : axes;
    if (axes.length === 0) return;
    const x = numbers(shape);
    const t = tensorOf(x);
    assertSame(og.sum(t, given, { keepDims }), fold(x, sum, axes, keepDims));
    assertSame(
      og.prod(t, given, { keepDims }),
      fold(x, (values) => values.reduce((a, b) => a * b, 1), axes, keepDims),
    );
    assertSame(
      og.any(t, given, { keepDims }),
      fold(x, (v) => Number(v.some((value) => value !== 0)), axes, keepDims),
    );
    assertSame(
      og.all(t, given, { keepDims }),
      fold(x, (v) => Number(v.every((value) => value !== 0)), axes, keepDims),
    );
    if (axes.some((axis) => shape[axis] === 0)) {
      // The largest of nothing is refused, unless none is asked for
      const want = fold(x, () => NaN, axes, keepDims);
      if (want.data.length > 0) assert.throws(() => og.amax(t, given, { keepDims }), og.ShapeError);
      else assertSame(og.amax(t, given, { keepDims }), want);
      return;
    }
    assertSame(
      og.amax(t, given, { keepDims }),
      fold(x, (values) => Math.max(...values), axes, keepDims),
    );
    assertSame(
      og.amin(t, given, { keepDims }),
      fold(x, (values) => Math.min(...values), axes, keepDims),
    );
    const mean = og
      .mean(t, given, { keepDims })
      .mul(axes.reduce((n, axis) => n * shape[axis]!, 1))
      .round();
    assertSame(mean, fold(x, sum, axes, keepDims));
  });
});

test('axes that are not there, or are there twice, are refused', () => {
  check(withAxis, (value) => {
    const x = tensorOf(numbers(value[0]));
    const axis = axisOf(value);
    assert.throws(() => og.sum(x, x.rank), og.AttributeError);
    assert.throws(() => og.sum(x, -x.rank - 1), og.AttributeError);
    assert.throws(() => og.sum(x, [axis, axis - x.rank]), og.AttributeError);
  });
});

const batches = fc.tuple(together(2), fc.nat(4), fc.nat(4), fc.nat(4), fc.nat(2));

test('products of matrices broadcast over their batches', () => {
  check(batches, ([[left, right], m, k, n, vectors]) => {
    const [first, second]: [Shape, Shape] = [
      vectors === 1 ? [k] : [...left!, m, k],
      vectors === 2 ? [k] : [...right!, k, n],
    ];
    const [a, b] = [numbers(first, 1), numbers(second, 2)];
    const [wideA, wideB]: [Nd, Nd] = [
      vectors === 1 ? { shape: [1, k], data: a.data } : a,
      vectors === 2 ? { shape: [k, 1], data: b.data } : b,
    ];
    const outer = map(
      () => 0,
      make(wideA.shape.slice(0, -2), () => 0),
      make(wideB.shape.slice(0, -2), () => 0),
    ).shape;
    const full = make([...outer, wideA.shape.at(-2)!, wideB.shape.at(-1)!], (index) => {
      const [i, j] = index.slice(-2) as [number, number];
      const batch = index.slice(0, -2);
      let total = 0;
      for (let q = 0; q < k; q++) total += get(wideA, [...batch, i, q]) * get(wideB, [...batch, q, j]);
      return total;
    });
    const shape = full.shape.filter(
      (_, i) => !(vectors === 1 && i === outer.length) && !(vectors === 2 && i === outer.length + 1),
    );
    assertSame(og.matmul(tensorOf(a), tensorOf(b)), { shape, data: full.data });
  });
});

/** A permutation of 0 … length − 1 from numbers. */
function permutation(length: number, keys: readonly number[]): number[] {
  return Array.from({ length }, (_, i) => i).sort((a, b) => keys[a % keys.length]! - keys[b % keys.length]! || a - b);
}
const inverse = (order: readonly number[]): number[] => order.map((_, i) => order.indexOf(i));
const keys = fc.array(fc.nat(100), { minLength: 5, maxLength: 5 });
const ids = (values: readonly number[], shape: Shape = [values.length]): og.Tensor =>
  og.tensor([...values], { shape, dtype: 'int64' });

test('a permutation of axes and its inverse undo each other', () => {
  check(fc.tuple(lengths, keys), ([shape, order]) => {
    const x = numbers(shape);
    const axes = permutation(shape.length, order);
    const turned = og.permute(tensorOf(x), axes);
    const moved = make(
      axes.map((axis) => shape[axis]!),
      (index) =>
        get(
          x,
          inverse(axes).map((at) => index[at]!),
        ),
    );
    assertSame(turned, moved);
    assertSame(og.permute(turned, inverse(axes)), x);
    if (shape.length === 0) return;
    const [from, to] = [axes[0]!, axes.at(-1)!];
    assertSame(og.moveAxis(og.moveAxis(tensorOf(x), from, to), to, from), x);
    assertSame(og.transpose(og.transpose(tensorOf(x), from, to), from, to), x);
  });
});

test('indices that are a permutation, and its inverse, undo each other', () => {
  check(fc.tuple(withAxis, keys), ([value, order]) => {
    const x = numbers(value[0]);
    const axis = axisOf(value);
    const length = x.shape[axis]!;
    const there = permutation(length, order);
    const picked = og.indexSelect(tensorOf(x), axis, ids(there));
    assertSame(
      picked,
      make(x.shape, (index) =>
        get(
          x,
          index.map((i, k) => (k === axis ? there[i]! : i)),
        ),
      ),
    );
    assertSame(og.indexSelect(picked, axis, ids(inverse(there))), x);
    // The same for each element by itself: another order on every line
    const each = make(x.shape, (index) => {
      const turn = index.reduce((a, i, k) => (k === axis ? a : a + i), 0);
      return there[(index[axis]! + turn) % Math.max(length, 1)]!;
    });
    const where = ids([...each.data], each.shape);
    const gathered = og.gather(tensorOf(x), axis, where);
    assertSame(og.scatter(og.full(x.shape, 99, { dtype: 'float64' }), axis, where, gathered), x);
    assertSame(og.scatterAdd(og.zeros(x.shape, { dtype: 'float64' }), axis, where, gathered), x);
    assertSame(og.takeAlongAxis(tensorOf(x), where, axis), {
      shape: x.shape,
      data: Float64Array.from(gathered.dataSync() as Float64Array),
    });
    assertSame(og.indexAdd(og.zeros(x.shape, { dtype: 'float64' }), axis, ids(there), picked), x);
    const flat = ids(
      Array.from({ length: sizeOf(x.shape) }, (_, i) => i),
      x.shape,
    );
    assertSame(og.take(tensorOf(x), flat), x);
  });
});

test('sorting gives the elements at the indices that it gives', () => {
  check(withAxis, (value) => {
    const x = tensorOf(numbers(value[0]));
    const axis = axisOf(value);
    const { values, indices } = og.sort(x, axis);
    assert.deepEqual(og.gather(x, axis, indices).dataSync(), values.dataSync());
  });
});

test('padding, rolling, repeating and flipping are undone by their counterparts', () => {
  check(fc.tuple(withAxis, fc.nat(3), fc.nat(3)), ([value, before, after]) => {
    const x = numbers(value[0]);
    const t = tensorOf(x);
    const axis = axisOf(value);
    const length = x.shape[axis]!;
    const amounts = [...new Array<number>(2 * (x.shape.length - 1 - axis)).fill(0), before, after]; // the last axis first
    assertSame(og.narrow(og.pad(t, amounts, { value: 7 }), axis, before, length), x);
    assertSame(og.roll(og.roll(t, before, axis), -before, axis), x);
    assertSame(og.flip(og.flip(t, axis), axis), x);
    const times = x.shape.map((_, i) => (i === axis ? 1 + after : 1));
    assertSame(og.narrow(og.repeat(t, times), axis, length * after, length), x);
    const interleaved = og.repeatInterleave(t, 1 + after, axis);
    assertSame(og.slice(interleaved, axis, 0, null, 1 + after), x);
    assertSame(og.reshape(og.flatten(t), x.shape), x);
    assertSame(og.squeeze(og.unsqueeze(t, axis), axis), x);
  });
});
