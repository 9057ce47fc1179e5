/** Chains of views, broadcasting and joining against a model in plain arrays. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import * as og from '../../src/index.js';

/** Shape, and the flat row-major list of which element of the source stands where. */
interface Model {
  readonly shape: readonly number[];
  readonly at: readonly number[];
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** A model from a rule that maps coordinates of the new shape to coordinates of the old one. */
function mapped(model: Model, shape: readonly number[], rule: (c: number[]) => number[]): Model {
  const at = Array.from({ length: sizeOf(shape) }, (_, flat) => {
    let rest = flat;
    const c = new Array<number>(shape.length);
    for (let i = shape.length - 1; i >= 0; i--) {
      c[i] = rest % shape[i]!;
      rest = Math.floor(rest / shape[i]!);
    }
    const from = rule(c);
    return model.at[from.reduce((sum, value, i) => sum * model.shape[i]! + value, 0)]!;
  });
  return { shape, at };
}

interface State {
  readonly tensor: og.Tensor;
  readonly model: Model;
}

/** One step: two numbers choose what happens, so that every chain that fast-check finds can be run. */
type Step = readonly [kind: number, a: number, b: number];

function apply({ tensor, model }: State, [kind, a, b]: Step): State {
  const { shape } = model;
  const rank = shape.length;
  const axis = rank === 0 ? 0 : a % rank;
  const length = shape[axis] ?? 0;
  const without = (list: readonly number[]): number[] => list.filter((_, i) => i !== axis);
  switch (kind % 9) {
    case 0: {
      const order = [...shape.keys()].sort((i, j) => ((i * 7 + a) % 5) - ((j * 7 + a) % 5) || i - j);
      const back = order.map((_, i) => order.indexOf(i));
      return {
        tensor: tensor.permute(order),
        model: mapped(
          model,
          order.map((i) => shape[i]!),
          (c) => back.map((i) => c[i]!),
        ),
      };
    }
    case 1: {
      if (rank === 0) break;
      const step = [1, 2, 3, -1, -2][b % 5]!;
      const picked = Array.from({ length }, (_, i) => i);
      const kept = (step > 0 ? picked : picked.reverse()).filter((_, i) => i % Math.abs(step) === 0);
      return {
        tensor: tensor.slice(axis, null, null, step),
        model: mapped(
          model,
          shape.map((n, i) => (i === axis ? kept.length : n)),
          (c) => c.map((v, i) => (i === axis ? kept[v]! : v)),
        ),
      };
    }
    case 2: {
      const count = 1 + (b % 3);
      if (rank >= 6 || sizeOf(shape) * count > 2000) break;
      return { tensor: tensor.expand([count, ...shape]), model: mapped(model, [count, ...shape], (c) => c.slice(1)) };
    }
    case 3: {
      if (rank === 0) break;
      const start = b % (length + 1);
      const count = (a + b) % (length - start + 1);
      return {
        tensor: tensor.narrow(axis, start, count),
        model: mapped(
          model,
          shape.map((n, i) => (i === axis ? count : n)),
          (c) => c.map((v, i) => (i === axis ? v + start : v)),
        ),
      };
    }
    case 4: {
      if (rank === 0 || length === 0) break;
      const index = b % length;
      const rule = (c: number[]): number[] => [...c.slice(0, axis), index, ...c.slice(axis)];
      return {
        tensor: tensor.select(axis, b % 2 === 0 ? index : index - length),
        model: mapped(model, without(shape), rule),
      };
    }
    case 5: {
      const target = b % 3 === 0 ? [sizeOf(shape)] : b % 3 === 1 ? [...shape].reverse() : [1, ...shape, 1];
      if (target.length > 8) break;
      return { tensor: tensor.reshape(target), model: { shape: target, at: model.at } };
    }
    case 6:
      if (rank === 0) break;
      return {
        tensor: tensor.flip(axis),
        model: mapped(model, shape, (c) => c.map((v, i) => (i === axis ? length - 1 - v : v))),
      };
    case 7: {
      if (rank < 2) break;
      const offset = (b % 5) - 2;
      const [rows, columns] = [shape.at(-2)!, shape.at(-1)!];
      const count = Math.max(0, Math.min(rows, columns, rows + offset, columns - offset));
      const [down, right] = [Math.max(0, -offset), Math.max(0, offset)];
      const rule = (c: number[]): number[] => [...c.slice(0, -1), c.at(-1)! + down, c.at(-1)! + right];
      return { tensor: tensor.diagonal(offset), model: mapped(model, [...shape.slice(0, -2), count], rule) };
    }
    default: {
      if (rank >= 8) break;
      const at = a % (rank + 1);
      const wide = [...shape.slice(0, at), 1, ...shape.slice(at)];
      return { tensor: tensor.unsqueeze(at), model: { shape: wide, at: model.at } };
    }
  }
  return { tensor, model };
}

const shapes = fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 0, maxLength: 4 });
const steps = fc.array(fc.tuple(fc.nat(8), fc.nat(30), fc.nat(30)), { maxLength: 8 });

function startOf(shape: readonly number[], requiresGrad = false): State {
  const size = sizeOf(shape);
  const tensor = og.tensor(
    Float32Array.from({ length: size }, (_, i) => i),
    { shape, requiresGrad },
  );
  return { tensor, model: { shape, at: Array.from({ length: size }, (_, i) => i) } };
}

const check = <T>(arbitrary: fc.Arbitrary<T>, body: (value: T) => void): void =>
  fc.assert(
    fc.property(arbitrary, (value) => og.scope(() => body(value))),
    { numRuns: 300, seed: 20 },
  );

test('any chain of views shows the elements that the model says', () => {
  check(fc.tuple(shapes, steps), ([shape, chain]) => {
    const { tensor, model } = chain.reduce(apply, startOf(shape));
    assert.deepEqual([...tensor.shape], [...model.shape]);
    assert.equal(tensor.size, model.at.length);
    assert.deepEqual(Array.from(tensor.dataSync() as Float32Array), [...model.at]);
  });
});

test('the gradient through any chain of views counts how often each element is seen', () => {
  check(fc.tuple(shapes, steps), ([shape, chain]) => {
    const start = startOf(shape, true);
    const { tensor, model } = chain.reduce(apply, start);
    tensor.sum().backward();
    const seen = new Array<number>(start.model.at.length).fill(0);
    for (const i of model.at) seen[i]!++;
    assert.deepEqual(Array.from(start.tensor.grad!.dataSync() as Float32Array), seen);
  });
});

test('an operation gives the same on any view as on its copy', () => {
  check(fc.tuple(shapes, steps), ([shape, chain]) => {
    const { tensor } = chain.reduce(apply, startOf(shape));
    for (const f of [
      (x: og.Tensor) => x.mul(2).add(1),
      (x: og.Tensor) => x.sum(),
      (x: og.Tensor) => og.concat([x.reshape([-1]), x.flatten()]),
    ]) {
      if (tensor.size === 0 && f.length > 1) continue;
      assert.deepEqual(f(tensor).toArraySync(), f(tensor.clone()).toArraySync());
    }
  });
});

/** Shapes that broadcast together: a common one, with axes of each cut to 1 and leading axes left out. */
const broadcastable = fc
  .array(fc.tuple(fc.integer({ min: 0, max: 4 }), fc.boolean(), fc.boolean()), { maxLength: 4 })
  .chain((axes) =>
    fc.tuple(fc.nat(axes.length), fc.nat(axes.length)).map(([dropA, dropB]) => ({
      a: axes.map(([n, one]) => (one ? 1 : n)).slice(dropA),
      b: axes.map(([n, , one]) => (one ? 1 : n)).slice(dropB),
    })),
  );

test('operands broadcast as the model says', () => {
  check(broadcastable, ({ a, b }) => {
    const rank = Math.max(a.length, b.length);
    const padded = (shape: readonly number[]): number[] => [
      ...new Array<number>(rank - shape.length).fill(1),
      ...shape,
    ];
    const [pa, pb] = [padded(a), padded(b)];
    const shape = pa.map((n, i) => (n === 1 ? pb[i]! : n));
    const stretch = (model: Model, from: readonly number[]): Model =>
      mapped({ shape: from, at: model.at }, shape, (c) => c.map((v, i) => (from[i] === 1 ? 0 : v)));
    const [x, y] = [startOf(a), startOf(b)];
    const [mx, my] = [stretch(x.model, pa), stretch(y.model, pb)];
    const sum = x.tensor.mul(100).add(y.tensor);
    assert.deepEqual([...sum.shape], shape);
    assert.deepEqual(
      Array.from(sum.dataSync() as Float32Array),
      mx.at.map((v, i) => v * 100 + my.at[i]!),
    );
  });
});

test('shapes that do not broadcast are refused', () => {
  check(fc.tuple(fc.integer({ min: 2, max: 6 }), fc.integer({ min: 2, max: 6 })), ([a, b]) => {
    fc.pre(a !== b);
    assert.throws(() => og.add(og.ones([3, a]), og.ones([b])), og.ShapeError);
  });
});

test('concat undoes split', () => {
  const cases = fc.tuple(
    shapes.filter((shape) => shape.length > 0),
    fc.nat(3),
    fc.array(fc.nat(3), { maxLength: 3 }),
  );
  check(cases, ([shape, a, cuts]) => {
    const { tensor } = startOf(shape);
    const axis = a % shape.length;
    let left = shape[axis]!;
    const sizes = cuts.map((cut) => {
      const size = Math.min(cut, left);
      left -= size;
      return size;
    });
    const parts = og.split(tensor, [...sizes, left], axis);
    assert.deepEqual(
      parts.map((part) => part.shape[axis]),
      [...sizes, left],
    );
    const whole = og.concat(parts, axis);
    assert.deepEqual([...whole.shape], [...shape]);
    assert.deepEqual(whole.toArraySync(), tensor.toArraySync());
  });
});

test('stack undoes unbind', () => {
  check(
    shapes.filter((shape) => shape.length > 0 && shape[0]! > 0),
    (shape) => {
      const { tensor } = startOf(shape);
      assert.deepEqual(og.stack(og.unbind(tensor)).toArraySync(), tensor.toArraySync());
    },
  );
});

test('reshape of a view that strides cannot express copies, others share memory', () => {
  const x = og.arange(12).reshape([3, 4]);
  assert.equal(x.reshape([4, 3]).storage, x.storage);
  assert.equal(x.slice(0, 0, 2).reshape([8]).storage, x.storage);
  assert.notEqual(x.transpose().reshape([12]).storage, x.storage);
  assert.deepEqual(x.transpose().reshape([12]).toArraySync(), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
});
