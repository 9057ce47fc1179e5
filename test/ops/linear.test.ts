/** og.linear with an activation and a residual, and the modules that use it, against separate calls. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as og from '../../src/index.js';
import { numbersOf } from '../helpers/allclose.js';

const uniform = (seed: number, shape: readonly number[], dtype: og.DType = 'float32'): og.Tensor =>
  og.uniform(shape, -2, 2, { generator: og.generator(seed) }).to(dtype);

const functions: Record<og.LinearActivation, (x: og.Tensor) => og.Tensor> = {
  none: (x) => x,
  gelu: (x) => og.gelu(x),
  geluTanh: (x) => og.gelu(x, { approximate: 'tanh' }),
  silu: (x) => og.silu(x),
  relu: (x) => og.relu(x),
  sigmoid: (x) => og.sigmoid(x),
  tanh: (x) => og.tanh(x),
};
const names = Object.keys(functions) as og.LinearActivation[];

/** Result and gradients of f at fresh leaves, for a loss that weighs every element differently. */
function atLeaves(f: (...leaves: og.Tensor[]) => og.Tensor, inputs: readonly og.Tensor[]): Float64Array[] {
  return og.scope(() => {
    const leaves = inputs.map((x) => og.detach(x).requiresGrad_());
    const y = f(...leaves);
    const weights = og.reshape(og.sin(og.arange(0, y.size)), y.shape).to(y.dtype);
    const grads = og.gradientsOf(og.sum(og.mul(y, weights)), leaves);
    return [y, ...grads].map((x) => numbersOf(x!));
  });
}

for (const activation of names) {
  describe(`linear with ${activation}`, () => {
    const f = functions[activation];

    test('has the bits of separate calls, forward and back, with and without a residual', () => {
      for (const dtype of ['float32', 'float64', 'float16', 'bfloat16'] as const)
        for (const shape of [[5], [7, 5], [2, 3, 5], [40, 200]]) {
          const [width, out] = [shape.at(-1)!, 33];
          const inputs = [uniform(1, shape, dtype), uniform(2, [out, width], dtype), uniform(3, [out], dtype)];
          const residual = uniform(4, [...shape.slice(0, -1), out], dtype);
          const what = `${dtype} ${shape}`;
          assert.deepEqual(
            atLeaves((x, w, b) => og.linear(x!, w!, b!, { activation }), inputs),
            atLeaves((x, w, b) => f(og.linear(x!, w!, b!)), inputs),
            what,
          );
          assert.deepEqual(
            atLeaves((x, w, b, r) => og.linear(x!, w!, b!, { activation, residual: r! }), [...inputs, residual]),
            atLeaves((x, w, b, r) => og.add(f(og.linear(x!, w!, b!)), r!), [...inputs, residual]),
            `${what} residual`,
          );
        }
    });

    test('gradients where only some operands want one, and a residual of strides', () => {
      const [x, w, b] = [uniform(1, [6, 5]), uniform(2, [9, 5]), uniform(3, [9])];
      const residual = uniform(4, [9, 6]);
      const turned = (r: og.Tensor): og.Tensor => og.transpose(r);
      const pairs: [(y: og.Tensor) => og.Tensor, (y: og.Tensor) => og.Tensor, og.Tensor][] = [
        [
          (v) => og.linear(v, w, b, { activation, residual: turned(residual) }),
          (v) => og.add(f(og.linear(v, w, b)), turned(residual)),
          x,
        ],
        [(v) => og.linear(x, v, null, { activation }), (v) => f(og.linear(x, v)), w],
        [(v) => og.linear(x, w, v, { activation }), (v) => f(og.linear(x, w, v)), b],
        [
          (v) => og.linear(x, w, b, { activation, residual: turned(v) }),
          (v) => og.add(f(og.linear(x, w, b)), turned(v)),
          residual,
        ],
      ];
      for (const [fused, plain, at] of pairs) {
        assert.deepEqual(
          atLeaves((v) => fused(v!), [at]),
          atLeaves((v) => plain(v!), [at]),
        );
      }
    });

    test('second derivatives are those of separate calls', () => {
      const second = (layer: (x: og.Tensor, w: og.Tensor, r: og.Tensor) => og.Tensor): Float64Array[] => {
        const [x, w, r] = [
          [4, 5],
          [6, 5],
          [4, 6],
        ].map((shape, i) => uniform(i + 7, shape, 'float64').requiresGrad_());
        const total = og.sum(og.mul(layer(x!, w!, r!), layer(x!, w!, r!)));
        const first = og.gradientsOf(total, [x!, w!], { createGraph: true });
        const norm = og.add(og.sum(og.square(first[0]!)), og.sum(og.square(first[1]!)));
        return og.gradientsOf(norm, [x!, w!, r!]).map((grad) => numbersOf(grad!));
      };
      const want = second((x, w, r) => og.add(f(og.linear(x, w)), r));
      for (const [what, got] of [
        ['residual', second((x, w, r) => og.linear(x, w, null, { activation, residual: r }))],
        ['none', second((x, w, r) => og.add(og.linear(x, w, null, { activation }), r))],
      ] as const)
        got.forEach((values, i) => {
          values.forEach((value, j) => {
            const bound = 1e-9 * (1 + Math.abs(want[i]![j]!));
            assert.ok(Math.abs(value - want[i]![j]!) <= bound, `${what} ${i} ${j}: ${value} ${want[i]![j]}`);
          });
        });
    });
  });
}

test('linear keeps one tensor for an activation, none without a gradient', () => {
  const [x, w] = [uniform(1, [64, 32]), uniform(2, [128, 32]).requiresGrad_()];
  const bytes = 64 * 128 * 4;
  const held = (activation: og.LinearActivation, recording: boolean): number => {
    const before = og.memory().bytes;
    const call = (): og.Tensor => og.linear(x, w, null, { activation });
    const y = recording ? call() : og.noGrad(call);
    const after = og.memory().bytes - before;
    y.dispose();
    return after;
  };
  assert.equal(held('gelu', true), 2 * bytes);
  assert.equal(held('relu', true), bytes);
  assert.equal(held('gelu', false), bytes);
});

test('a residual of another dtype is promoted', () => {
  const [x, w, r] = [uniform(1, [3, 5], 'float16'), uniform(2, [4, 5], 'float16'), uniform(3, [3, 4])];
  const y = og.linear(x, w, null, { activation: 'silu', residual: r });
  assert.equal(y.dtype, 'float32');
  assert.deepEqual(numbersOf(y), numbersOf(og.add(og.silu(og.linear(x, w)), r)));
});

test('linear refuses an end that does not fit', () => {
  const [x, w] = [uniform(1, [3, 5]), uniform(2, [4, 5])];
  assert.throws(() => og.linear(x, w, null, { activation: 'swish' as never }), og.AttributeError);
  assert.throws(() => og.linear(x, w, null, { residual: uniform(3, [4]) }), og.ShapeError);
  assert.throws(() => og.linear(x, w, null, { residual: og.zeros([3, 4], { dtype: 'int32' }) }), og.DTypeError);
  assert.throws(() => og.linear(x, w, null, { residual: 1 as never }), og.DTypeError);
});

describe('weights packed for inference', () => {
  const { isa, features } = og.backend();
  const multipliesPairs = isa === 'avx512' && features.includes('bf16');
  const bytesOf = (f: () => unknown): number => {
    const before = og.memory().bytes;
    f();
    return og.memory().bytes - before;
  };
  const call = (x: og.Tensor, w: og.Tensor): Float64Array =>
    og.noGrad(() => og.scope(() => numbersOf(og.linear(x, w))));

  test('at the second use, with the bits of the weight, until it changes', () => {
    const [x, w] = [uniform(1, [20, 130]), uniform(2, [150, 130])];
    const least = (150 + 63) * 130 * 4;
    const want = call(x, w);
    const room = bytesOf(() => assert.deepEqual(call(x, w), want));
    assert.ok(room >= least && room < 1.25 * least, String(room)); // blocks have sizes of their own
    assert.equal(
      bytesOf(() => assert.deepEqual(call(x, w), want)),
      0,
    );
    og.copy_(og.narrow(w, 0, 3, 1), og.full([1, 130], 0.5));
    const fresh = og.clone(w);
    assert.equal(
      bytesOf(() => assert.deepEqual(call(x, w), call(x, fresh))),
      -room,
    );
    assert.equal(
      bytesOf(() => assert.deepEqual(call(x, w), call(x, fresh))),
      2 * room,
    );
    const train = (): void => og.linear(x, w.requiresGrad_()).dispose();
    assert.equal(bytesOf(train), -room);
    assert.deepEqual(call(x, w), call(x, fresh));
  });

  test('at the first use by 3 to 8 rows: a call gives the bits of the one before', () => {
    for (const [dtype, bytes] of [
      ['float32', 4],
      ['bfloat16', 2],
    ] as const) {
      if (dtype === 'bfloat16' && !multipliesPairs) continue;
      for (const count of [3, 5, 8]) {
        const [x, w] = [uniform(1, [count, 131], dtype), uniform(2, [150, 131], dtype)];
        let want: Float64Array = new Float64Array();
        const room = bytesOf(() => (want = call(x, w)));
        const least = (150 + 63) * 131 * bytes;
        assert.ok(room >= least && room < 1.25 * least, `${dtype} ${room}`);
        assert.equal(
          bytesOf(() => assert.deepEqual(call(x, w), want)),
          0,
        );
        og.copy_(og.narrow(w, 0, 3, 1), og.full([1, 131], 0.5, { dtype }));
        const fresh = og.clone(w);
        assert.deepEqual(call(x, w), call(x, fresh));
      }
    }
  });

  test('of bfloat16, where the machine multiplies it: at the second use by more rows, half the memory', () => {
    const [x, w] = [uniform(1, [20, 131], 'bfloat16'), uniform(2, [150, 131], 'bfloat16')];
    const want = call(x, w);
    const room = bytesOf(() => assert.deepEqual(call(x, w), want));
    const least = (150 + 63) * 66 * 4;
    if (multipliesPairs) assert.ok(room >= least && room < 1.25 * least, String(room));
    else assert.equal(room, 0);
  });

  test('not for one or two rows, many rows, small weights, or other dtypes', () => {
    const w = uniform(2, [150, 130]);
    for (const [x, weight] of [
      [uniform(1, [2, 130]), w],
      [uniform(1, [513, 130]), w],
      [uniform(1, [20, 13]), uniform(2, [150, 13])],
      [uniform(1, [20, 130]), w.to('bfloat16')],
      [uniform(1, [20, 130], 'float16'), w],
      [uniform(1, [20, 130], 'float16'), w.to('float16')],
    ] as const)
      for (let i = 0; i < 3; i++)
        assert.equal(
          bytesOf(() => call(x, weight)),
          0,
        );
  });
});

describe('nn', () => {
  const { Mlp, TransformerBlock } = og.nn;
  const x = uniform(5, [2, 6, 16]);

  test('Mlp with and without a residual equals its parts, hooks or not', () => {
    for (const activation of ['gelu', 'geluTanh', 'swiglu'] as const) {
      const mlp = new Mlp(16, 40, { activation, generator: og.generator(1) });
      const { up, gate, down } = mlp;
      const inner =
        gate === null
          ? functions[activation as 'gelu'](up.forward(x))
          : og.mul(og.silu(gate.forward(x)), up.forward(x));
      const want = numbersOf(down.forward(inner));
      const close = (got: og.Tensor, expected: Float64Array): void =>
        numbersOf(got).forEach((value, i) => assert.ok(Math.abs(value - expected[i]!) < 1e-5, activation));
      close(mlp.forward(x), want);
      const sum = numbersOf(og.add(x, mlp.forward(x)));
      assert.deepEqual(numbersOf(mlp.addForward(x, x)), sum);
      const seen: og.Tensor[] = [];
      for (const layer of [up, down, mlp])
        layer.registerForwardHook((_module, _inputs, output) => void seen.push(output as og.Tensor));
      assert.deepEqual(numbersOf(mlp.addForward(x, x)), sum);
      assert.equal(seen.length, 3);
      assert.deepEqual(numbersOf(seen[0]!), numbersOf(og.linear(x, up.weight, up.bias)));
      close(seen[1]!, want);
      close(seen[2]!, want);
    }
  });

  test('a block adds what its feed-forward part gives, with dropout and hooks on it too', () => {
    const block = new TransformerBlock(16, 2, { dropout: 0.5, generator: og.generator(1) });
    block.eval();
    const want = numbersOf(block.forward(x));
    let seen = 0;
    const remove = block.dropout.registerForwardHook(() => void seen++);
    assert.deepEqual(numbersOf(block.forward(x)), want);
    assert.equal(seen, 2);
    remove();
    const outputs: og.Tensor[] = [];
    block.mlp.registerForwardHook((_module, _inputs, output) => void outputs.push(og.clone(output as og.Tensor)));
    assert.deepEqual(numbersOf(block.forward(x)), want);
    assert.equal(outputs.length, 1);
    block.train();
    assert.notDeepEqual(numbersOf(block.forward(x)), want);
  });
});
