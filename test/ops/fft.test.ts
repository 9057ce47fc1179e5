/** Fourier transforms against numpy's conventions and their own definitions, and sound against Whisper's preprocessing. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import * as og from '../../src/index.js';
import { registry, type Op } from '../../src/ops/define.js';
import { assertClose, numbersOf, type Tolerance } from '../helpers/allclose.js';

const { audio, fft } = og;
const fixtures = new URL('../fixtures/audio/', import.meta.url);

const normal = (seed: number, shape: readonly number[], dtype: og.DType = 'float32'): og.Tensor =>
  og.randn(shape, { generator: og.generator(seed), dtype });

describe('rfft and irfft', () => {
  test('numbers that numpy gives', () => {
    assertClose(fft.rfft(og.tensor([1, 2, 3, 4, 0, -1])), [9, 0, -4, -3 * Math.sqrt(3), 3, 0, -1, 0]);
    const five = [10, 0, -4.045084971874737, -1.314327780297834, 1.5450849718747373, -2.1266270208801];
    assertClose(fft.rfft(og.tensor([1, 2, 3, 4, 0])), five);
    assertClose(fft.rfft(og.tensor([1, 0, 0, 0, 0])), [1, 0, 1, 0, 1, 0]);
    assertClose(fft.rfft(og.tensor([0, 1, 0, 0])), [1, 0, 0, -1, -1, 0]);
    assertClose(fft.rfft(og.tensor([2, 3])), [5, 0, -1, 0]);
    assertClose(fft.rfft(og.tensor([7])), [7, 0]);
    assert.deepEqual(numbersOf(fft.rfftFrequencies(4, 8)), Float64Array.of(0, 2, 4));
  });

  for (const n of [1, 2, 3, 8, 15, 30, 37, 74, 101, 400]) {
    test(`of length ${n}: there and back, its definition, its gradient's`, () => {
      const x = normal(n, [3, n]);
      for (const norm of ['backward', 'forward', 'ortho'] as const) {
        const y = fft.rfft(x, { norm });
        assertClose(fft.irfft(y, { n, norm }), x, { atol: 1e-5 });
        const energy = (z: og.Tensor): number => z.square().sum().itemSync();
        if (norm === 'ortho') {
          const edges = energy(y.at(':', 0)) + (n % 2 === 0 ? energy(y.at(':', -1)) : 0);
          assert.ok(Math.abs(2 * energy(y) - edges - energy(x)) < 1e-3 * energy(x), 'Parseval');
        }
      }
      const attrs = { n, edge: 0.5, middle: 1.5 };
      for (const [name, input] of [
        ['rfft', x],
        ['irfft', fft.rfft(x)],
      ] as const) {
        const op = registry.get(name) as unknown as Op<unknown>;
        const want = op.schema.definition!([input], attrs) as og.Tensor;
        assertClose(op.call([input], attrs), want, { rtol: 1e-4, atol: 1e-4 * n }, name);
      }
    });
  }

  test('gradients of both, and second derivatives, in float64', () => {
    for (const n of [5, 6, 37]) {
      const [x, y] = [normal(1, [2, n], 'float64'), normal(2, [2, Math.floor(n / 2) + 1, 2], 'float64')];
      const check = (f: (x: og.Tensor) => og.Tensor, at: og.Tensor): void => {
        const result = og.gradCheck((leaf) => f(leaf!), [at]);
        assert.ok(result.ok, JSON.stringify(result));
      };
      check((v) => fft.rfft(v).square(), x);
      check((v) => fft.irfft(v, { n, norm: 'ortho' }).square(), y);
      check((v) => {
        return og.enableGrad(() => {
          const leaf = v.requiresGrad ? v : og.detach(v).requiresGrad_();
          const energy = fft.rfft(leaf).square().square().sum();
          return og.gradientsOf(energy, [leaf], { createGraph: true })[0]!;
        });
      }, x);
    }
  });

  test('other lengths cut or fill, and other layouts give the same', () => {
    const x = normal(3, [4, 12]);
    assertClose(fft.rfft(x, { n: 8 }), fft.rfft(og.clone(x.narrow(1, 0, 8))));
    assertClose(fft.rfft(x, { n: 15 }), fft.rfft(og.pad(x, [0, 3])));
    const y = fft.rfft(x);
    assertClose(fft.irfft(y, { n: 8 }), fft.irfft(og.clone(y.narrow(1, 0, 5))));
    const turned = og.transpose(og.clone(og.contiguous(og.transpose(x))));
    assert.deepEqual(numbersOf(fft.rfft(turned)), numbersOf(y));
    assertClose(fft.rfft(x.to('bfloat16')).to('float32'), fft.rfft(x.to('bfloat16').to('float32')), {
      rtol: 2 ** -8,
      atol: 1e-3,
    });
    assert.equal(fft.rfft(og.zeros([0, 8])).size, 0);
  });

  test('refusals', () => {
    assert.throws(() => fft.rfft(og.tensor(1)), og.ShapeError);
    assert.throws(() => fft.rfft(og.zeros([3, 0])), og.ShapeError);
    assert.throws(() => fft.rfft(og.tensor([1, 2], { dtype: 'int32' })), og.DTypeError);
    assert.throws(() => fft.rfft('x' as never), og.DTypeError);
    assert.throws(() => fft.rfft(og.zeros([3]), { n: 0 }), og.AttributeError);
    assert.throws(() => fft.rfft(og.zeros([3]), { norm: 'none' as 'ortho' }), og.AttributeError);
    assert.throws(() => fft.irfft(og.zeros([3, 3])), og.ShapeError);
    assert.throws(() => fft.irfft(og.zeros([0, 2])), og.ShapeError);
  });
});

interface Case {
  readonly op: string;
  readonly wav?: string;
  readonly samples?: number;
  readonly n_mels: number;
  readonly chunk_seconds: number;
  readonly bins: number;
  readonly scale: 'slaney' | 'htk';
  readonly norm: string | null;
  readonly tensor: string;
  readonly tol: Tolerance;
}

/** Samples of a WAV file of 16 bits and one channel, whose data begin at byte 44. */
function samplesOf(path: string): og.Tensor {
  const file = readFileSync(new URL(path.split('/').at(-1)!, fixtures));
  assert.equal(file.toString('latin1', 36, 40), 'data');
  return og.tensor(
    Float32Array.from({ length: (file.length - 44) / 2 }, (_, i) => file.readInt16LE(44 + 2 * i) / 32768),
  );
}

test('log-mel spectrograms, short-time transforms and filter banks are those of the reference', async () => {
  const expected = await og.loadSafetensors(new URL('expected.safetensors', fixtures).pathname);
  const { cases } = JSON.parse(readFileSync(new URL('cases.json', fixtures), 'utf8')) as { cases: Case[] };
  const done: string[] = [];
  for (const each of cases) {
    const label = `${each.op} ${each.tensor ?? ''}`;
    if (each.op === 'whisper_logmel') {
      const length = each.chunk_seconds * 16000;
      const got = audio.logMel(samplesOf(each.wav!), { mels: each.n_mels, length });
      assertClose(got, expected[each.tensor]!, each.tol, label);
    } else if (each.op === 'stft') {
      const x = samplesOf(each.wav!).narrow(0, 0, each.samples!);
      const got = audio.stft(x, { nFft: 400, hopLength: 160 });
      assertClose(got.select(-1, 0), expected['stft.re']!, each.tol, label);
      assertClose(got.select(-1, 1), expected['stft.im']!, each.tol, label);
    } else {
      const { bins, n_mels: mels, scale, norm } = each;
      const got = audio.melFilterBank({ bins, mels, sampleRate: 16000, scale, normalize: norm !== null });
      assertClose(got, expected[each.tensor]!, each.tol, label);
    }
    done.push(each.op);
  }
  assert.deepEqual([...new Set(done)].sort(), ['mel_filter_bank', 'stft', 'whisper_logmel']);
});

test('gradients come back through frames that overlap', () => {
  for (const [nFft, hopLength] of [
    [8, 3],
    [8, 8],
    [6, 2],
    [5, 7],
  ] as const) {
    const x = normal(4, [2, 23], 'float64');
    const result = og.gradCheck((leaf) => audio.stft(leaf!, { nFft, hopLength, center: hopLength < 7 }).square(), [x]);
    assert.ok(result.ok, `${nFft}, ${hopLength}: ${JSON.stringify(result)}`);
  }
  const x = normal(5, [800], 'float64').mul(0.1);
  const result = og.gradCheck((leaf) => audio.logMel(leaf!, { mels: 8, nFft: 64, hopLength: 32 }), [x], {
    rtol: 1e-3,
    atol: 1e-5,
  });
  assert.ok(result.ok, JSON.stringify(result));
});

test('sound that does not fit is refused', () => {
  const x = og.zeros([100]);
  assert.throws(() => audio.stft(x, { nFft: 128, center: false }), og.ShapeError);
  assert.throws(() => audio.stft(x, { nFft: 16, window: og.ones([17]) }), og.ShapeError);
  assert.throws(() => audio.stft(x, { nFft: 0 }), og.AttributeError);
  assert.throws(() => audio.stft(x.to('int32'), { nFft: 16 }), og.DTypeError);
  assert.throws(() => audio.logMel(og.zeros([1000]), { filters: og.zeros([5, 80]) }), og.ShapeError);
  assert.throws(
    () => audio.melFilterBank({ bins: 201, mels: 80, sampleRate: 16000, minFrequency: 9000 }),
    og.AttributeError,
  );
  assert.deepEqual(numbersOf(audio.hannWindow(4)), Float64Array.of(0, 0.5, 1, 0.5).map(Math.fround));
  assertClose(audio.stft(x, { nFft: 16, window: og.ones([10]) }), og.zeros([9, 26, 2]));
});
