/** Each kind of error: its class, code, fields and sentence. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';

type Kind = new (fields: never) => og.OmniError;
const x = og.ones([2, 3]);

const cases: [string, Kind, string, () => unknown][] = [
  ['ragged data', og.ShapeError, 'OG_SHAPE', () => og.tensor([[1, 2], [3]])],
  ['a shape that does not fit', og.ShapeError, 'OG_SHAPE', () => og.tensor([1, 2], { shape: [3] })],
  ['a negative length', og.ShapeError, 'OG_SHAPE', () => og.zeros([-1])],
  ['nine axes', og.ShapeError, 'OG_SHAPE', () => og.zeros(new Array(9).fill(1))],
  ['reshape to another size', og.ShapeError, 'OG_SHAPE', () => x.reshape([4])],
  ['expand of a long axis', og.ShapeError, 'OG_SHAPE', () => x.expand([4, 3])],
  ['shapes that do not broadcast', og.ShapeError, 'OG_SHAPE', () => x.add(og.ones([2]))],
  ['an extreme of nothing', og.ShapeError, 'OG_SHAPE', () => og.zeros([0]).amax()],
  ['concat of different shapes', og.ShapeError, 'OG_SHAPE', () => og.concat([x, og.ones([2, 2])])],
  ['an unknown dtype', og.DTypeError, 'OG_DTYPE', () => og.zeros([1], { dtype: 'float8' as never })],
  ['text as data', og.DTypeError, 'OG_DTYPE', () => og.tensor(['a'] as never)],
  ['a condition that is not bool', og.DTypeError, 'OG_DTYPE', () => og.where(x, x, x)],
  ['an index of floats', og.DTypeError, 'OG_DTYPE', () => og.indexSelect(x, 0, og.ones([1]))],
  ['a mask as an index', og.DTypeError, 'OG_DTYPE', () => og.at(x, og.tensor([true, false]))],
  ['an operand that is no tensor', og.DTypeError, 'OG_DTYPE', () => og.add(x, 'y' as never)],
  ['an axis out of range', og.AttributeError, 'OG_ATTRIBUTE', () => x.sum(2)],
  ['an axis twice', og.AttributeError, 'OG_ATTRIBUTE', () => x.sum([0, -2])],
  ['an unknown option', og.AttributeError, 'OG_ATTRIBUTE', () => og.zeros([1], { dType: 'int8' } as never)],
  ['another device', og.AttributeError, 'OG_ATTRIBUTE', () => og.zeros([1], { device: 'cuda' as never })],
  ['a position out of range', og.AttributeError, 'OG_ATTRIBUTE', () => x.select(0, 2)],
  ['a range out of range', og.AttributeError, 'OG_ATTRIBUTE', () => x.narrow(1, 1, 3)],
  ['a step of 0', og.AttributeError, 'OG_ATTRIBUTE', () => x.slice(0, 0, 1, 0)],
  [
    'an index out of range',
    og.AttributeError,
    'OG_ATTRIBUTE',
    () => og.indexSelect(x, 0, og.tensor([2], { dtype: 'int64' })),
  ],
  ['backward of a constant', og.StateError, 'OG_STATE', () => x.backward()],
  ['a promise in a scope', og.StateError, 'OG_STATE', () => og.scope(async () => x)],
  [
    'a write into a recorded leaf',
    og.StateError,
    'OG_STATE',
    () => og.copy_(og.ones([1], { requiresGrad: true }), og.ones([1])),
  ],
];

for (const [what, kind, code, body] of cases) {
  test(`${what} is refused`, () => {
    assert.throws(body, (error: unknown) => {
      assert.ok(error instanceof kind && error instanceof og.OmniError && error instanceof Error, String(error));
      assert.equal(error.code, code);
      assert.match(error.message, /^\[\w+\] .*expected .+, got .+\./s);
      assert.ok(error.op.length > 0 && error.expected.length > 0 && error.actual.length > 0);
      return true;
    });
  });
}

test('a disposed tensor is refused, and says how to keep it', () => {
  const gone = og.ones([2]);
  gone.dispose();
  gone.dispose(); // twice is fine
  assert.throws(() => gone.add(1), /disposed.*og\.keep/);
  assert.throws(() => gone.dataSync(), og.StateError);
  assert.throws(() => gone.reshape([2]), og.StateError);
});

test('a graph can be walked once, unless it is kept', () => {
  const w = og.ones([2], { requiresGrad: true });
  const y = w.mul(w).sum();
  y.backward(null, { retainGraph: true });
  y.backward();
  assert.deepEqual(w.grad!.toArraySync(), [4, 4]);
  assert.throws(() => y.backward(), /retainGraph/);
});

test('an operand that was overwritten since is noticed', () => {
  const w = og.ones([2], { requiresGrad: true });
  const x = og.ones([2]);
  const y = w.mul(x).sum();
  og.copy_(x, og.zeros([2]));
  assert.throws(() => y.backward(), /changed in place/);
});
