/**
 * Fourier transforms of real signals: `og.fft`. Complex numbers are pairs along a last axis of length 2, as torch.view_as_real
 * gives them.
 *
 * @module
 */
import { DTypeError, ShapeError } from '../errors.js';
import { tensor } from '../tensor/create.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkInteger, checkOneOf } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { add } from './arithmetic.js';
import { defineOp, type Op } from './define.js';
import { stack } from './join.js';
import { matmul } from './matmul.js';
import { pad } from './pad.js';
import { narrow, select, transpose } from './views.js';

/** Where the factor 1/n goes: to the way back, to the way there, or half of it to each. */
export type FftNorm = 'backward' | 'forward' | 'ortho';
const norms: readonly FftNorm[] = ['backward', 'forward', 'ortho'];

/** Options of {@link rfft} and {@link irfft}. */
export interface FftOptions {
  /** Length of the signal. Default: as given; for `irfft` the even one, 2·(bins − 1). */
  readonly n?: number;
  /** Default `backward`: 1/n at `irfft`. */
  readonly norm?: FftNorm;
}

interface Attrs {
  readonly n: number;
  /** Factor at frequency 0 and, for even n, at n/2. */
  readonly edge: number;
  /** Factor between. */
  readonly middle: number;
}

/** cos and −sin of the angles, [bins, n], with the factors. */
function tables({ n, edge, middle }: Attrs, dtype: DType): [Tensor, Tensor] {
  const bins = Math.floor(n / 2) + 1;
  const fill = (f: (angle: number) => number): Tensor => {
    const values = Float64Array.from({ length: bins * n }, (_, i) => {
      const [k, j] = [Math.floor(i / n), i % n];
      return f((2 * Math.PI * ((j * k) % n)) / n) * (k === 0 || 2 * k === n ? edge : middle);
    });
    return tensor(values, { shape: [bins, n], dtype });
  };
  return [fill(Math.cos), fill((angle) => -Math.sin(angle))];
}

const cost = (signal: Tensor, spectrum: Tensor): { flops: number; bytes: number } => ({
  flops: 2.5 * signal.size * Math.log2(signal.shape.at(-1)! + 1),
  bytes: signal.bytes + spectrum.bytes,
});

const encode = ({ edge, middle }: Attrs): readonly number[] => [edge, middle];

/** Each is the transpose of the other, so each is the other's gradient. */
const rfftOp: Op<Attrs> = defineOp<Attrs>({
  name: 'rfft',
  inputs: [{ name: 'x', kind: 'float' }],
  attrCount: 2,
  output: ([x], { n }) => ({ shape: [...x!.shape.slice(0, -1), Math.floor(n / 2) + 1, 2], dtype: x!.dtype }),
  encode,
  backward: ({ grad, attrs }) => [irfftOp.call([grad], attrs)],
  definition: ([x], attrs) => {
    const [cosines, sines] = tables(attrs, x!.dtype);
    return stack([matmul(x!, transpose(cosines)), matmul(x!, transpose(sines))], -1);
  },
  cost: ([x], [y]) => cost(x!, y!),
});

const irfftOp: Op<Attrs> = defineOp<Attrs>({
  name: 'irfft',
  inputs: [{ name: 'y', kind: 'float' }],
  attrCount: 2,
  output: ([y], { n }) => ({ shape: [...y!.shape.slice(0, -2), n], dtype: y!.dtype }),
  encode,
  backward: ({ grad, attrs }) => [rfftOp.call([grad], attrs)],
  definition: ([y], attrs) => {
    const [cosines, sines] = tables(attrs, y!.dtype);
    return add(matmul(select(y!, -1, 0), cosines), matmul(select(y!, -1, 1), sines));
  },
  cost: ([y], [x]) => cost(x!, y!),
});

function checkSignal(op: string, argument: string, x: Tensor): void {
  checkTensor(op, argument, x);
  if (isFloating(x.dtype)) return;
  throw new DTypeError({
    op,
    argument,
    expected: 'a floating-point tensor',
    actual: x.dtype,
    hint: 'Cast it with x.to(dtype)',
  });
}

/** x with `length` elements along an axis counted from the end: cut, or with zeros behind. */
function resized(x: Tensor, axis: -1 | -2, length: number): Tensor {
  const missing = length - x.shape.at(axis)!;
  if (missing <= 0) return missing === 0 ? x : narrow(x, x.rank + axis, 0, length);
  return pad(x, axis === -1 ? [0, missing] : [0, 0, 0, missing]);
}

const scaleOf = (norm: FftNorm, n: number, own: FftNorm): number =>
  norm === 'ortho' ? 1 / Math.sqrt(n) : norm === own ? 1 / n : 1;

/**
 * Spectrum of real signals along the last axis: the frequencies from 0 to n/2, since the others are their conjugates.
 * Lengths of any kind; products of small primes are fastest.
 *
 * @shape (…, L) → (…, ⌊n/2⌋ + 1, 2), real and imaginary parts
 * @dtype floats; computes in float32 (float64 in float64)
 * @throws ShapeError if there is no axis or no element along it
 * @cost 2.5·n·log2(n) flops a row
 */
export function rfft(x: Tensor, options: FftOptions = {}): Tensor {
  checkSignal('rfft', 'x', x);
  if (x.rank === 0 || (x.shape.at(-1) === 0 && options.n === undefined)) {
    throw new ShapeError({
      op: 'rfft',
      argument: 'x',
      expected: 'a last axis that is not empty',
      actual: formatShape(x.shape),
    });
  }
  const n = checkInteger('rfft', 'n', options.n ?? x.shape.at(-1)!, 1);
  const norm = checkOneOf('rfft', 'norm', options.norm ?? 'backward', norms);
  const scale = scaleOf(norm, n, 'forward');
  return rfftOp.call([resized(x, -1, n)], { n, edge: scale, middle: scale });
}

/**
 * Real signals of n samples from the spectra that {@link rfft} gives. The imaginary part at frequency 0 and, for even n, at n/2
 * does not count.
 *
 * @shape (…, bins, 2) → (…, n)
 * @dtype floats; computes in float32 (float64 in float64)
 * @throws ShapeError if the last axis is not of length 2, or the one before is empty
 * @cost 2.5·n·log2(n) flops a row
 */
export function irfft(y: Tensor, options: FftOptions = {}): Tensor {
  checkSignal('irfft', 'y', y);
  const bins = y.shape.at(-2) ?? 0;
  if (y.rank < 2 || y.shape.at(-1) !== 2 || bins === 0) {
    throw new ShapeError({ op: 'irfft', argument: 'y', expected: 'shape (…, bins, 2)', actual: formatShape(y.shape) });
  }
  const n = checkInteger('irfft', 'n', options.n ?? Math.max(1, 2 * (bins - 1)), 1);
  const norm = checkOneOf('irfft', 'norm', options.norm ?? 'backward', norms);
  const scale = scaleOf(norm, n, 'backward');
  return irfftOp.call([resized(y, -2, Math.floor(n / 2) + 1)], { n, edge: scale, middle: 2 * scale });
}

/** Frequencies of the bins of {@link rfft}, in units of the sampling rate: k/n for k = 0 … n/2. */
export function rfftFrequencies(n: number, sampleRate = 1): Tensor {
  checkInteger('rfftFrequencies', 'n', n, 1);
  return tensor(Float32Array.from({ length: Math.floor(n / 2) + 1 }, (_, k) => (k * sampleRate) / n));
}
