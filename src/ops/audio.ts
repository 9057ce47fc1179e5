/**
 * From sound to what a speech model reads: `og.audio`.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { tensor } from '../tensor/create.js';
import { isFloating } from '../tensor/dtype.js';
import { scope } from '../tensor/scope.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger, checkNumber, checkOneOf } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { add, div, maximum, mul, sub } from './arithmetic.js';
import { to } from './copy.js';
import { rfft } from './fft.js';
import { makeView } from './make_view.js';
import { matmul } from './matmul.js';
import { pad, type PadMode } from './pad.js';
import { amax } from './reduce.js';
import { clamp, log, square } from './unary.js';
import { detach, narrow, reshape, select, transpose } from './views.js';

/**
 * A raised cosine, sin²(πk/n): the periodic one, as for spectra. The symmetric one has n − 1 in place of n.
 *
 * @throws AttributeError if `length` is no positive integer
 */
export function hannWindow(length: number, options: { readonly periodic?: boolean } = {}): Tensor {
  checkInteger('hannWindow', 'length', length, 1);
  const steps = checkBoolean('hannWindow', 'periodic', options.periodic ?? true) ? length : Math.max(1, length - 1);
  return tensor(
    Float64Array.from({ length }, (_, k) => Math.sin((Math.PI * k) / steps) ** 2),
    { dtype: 'float32' },
  );
}

/** Frames of `size` samples, `hop` apart, over the same memory: (…, L) → (…, frames, size). */
function frames(x: Tensor, size: number, hop: number): Tensor {
  const [length, lead] = [x.shape.at(-1)!, x.shape.slice(0, -1)];
  const count = Math.floor((length - size) / hop) + 1;
  const step = x.strides.at(-1)!;
  const strides = [...x.strides.slice(0, -1), step * hop, step];
  return makeView('frames', x, x.offset, [...lead, count, size], strides, (grad) => overlapAdd(grad, hop, length));
}

/** The transpose of {@link frames}: frames added where they overlap, (…, frames, size) → (…, length). */
function overlapAdd(grad: Tensor, hop: number, length: number): Tensor {
  const [count, size] = [grad.shape.at(-2)!, grad.shape.at(-1)!];
  const lead = grad.shape.slice(0, -2);
  let total: Tensor | undefined;
  // Pieces of one hop do not overlap with those of the next frame
  for (let begin = 0; begin < size; begin += hop) {
    const width = Math.min(hop, size - begin);
    const piece = pad(narrow(grad, grad.rank - 1, begin, width), [0, hop - width]);
    const line = reshape(piece, [...lead, count * hop]);
    const used = Math.min(count * hop, length - begin);
    const placed = pad(narrow(line, line.rank - 1, 0, used), [begin, length - begin - used]);
    total = total === undefined ? placed : add(total, placed);
  }
  return total!;
}

/** Options of {@link stft}. */
export interface StftOptions {
  /** Samples of a frame. */
  readonly nFft: number;
  /** Samples from one frame to the next. Default nFft / 4. */
  readonly hopLength?: number;
  /** What a frame is multiplied by, at most nFft numbers; a shorter one is centred. Default: {@link hannWindow}. */
  readonly window?: Tensor;
  /** Extend the signal so that frame t is centred at sample t·hopLength. Default true. */
  readonly center?: boolean;
  /** How. Default `reflect`. */
  readonly padMode?: PadMode;
}

interface Frames {
  readonly nFft: number;
  readonly hop: number;
  readonly window: Tensor;
}

function checkSignal(op: string, x: Tensor): void {
  checkTensor(op, 'x', x);
  if (!isFloating(x.dtype)) {
    throw new DTypeError({
      op,
      argument: 'x',
      expected: 'a floating-point tensor',
      actual: x.dtype,
      hint: 'Cast it with x.to(dtype)',
    });
  }
  if (x.rank === 0) throw new ShapeError({ op, argument: 'x', expected: 'at least 1 axis', actual: 'a scalar' });
}

function windowFor(op: string, window: Tensor | undefined, nFft: number): Tensor {
  if (window === undefined) return hannWindow(nFft);
  checkTensor(op, 'window', window);
  if (window.rank !== 1 || window.size > nFft || !isFloating(window.dtype)) {
    throw new ShapeError({
      op,
      argument: 'window',
      expected: `at most ${nFft} floating-point numbers`,
      actual: formatShape(window.shape),
    });
  }
  const before = Math.floor((nFft - window.size) / 2);
  return window.size === nFft ? window : pad(window, [before, nFft - window.size - before]);
}

/** Spectra of the frames, (…, frames, bins, 2). */
function spectra(op: string, x: Tensor, options: StftOptions): Tensor {
  checkSignal(op, x);
  const nFft = checkInteger(op, 'nFft', options.nFft, 1);
  const hop = checkInteger(op, 'hopLength', options.hopLength ?? Math.max(1, Math.floor(nFft / 4)), 1);
  const settings: Frames = { nFft, hop, window: to(windowFor(op, options.window, nFft), x.dtype) };
  const half = Math.floor(nFft / 2);
  const isCentred = checkBoolean(op, 'center', options.center ?? true);
  const line = isCentred ? pad(x, [half, half], { mode: options.padMode ?? 'reflect' }) : x;
  if (line.shape.at(-1)! < nFft) {
    const expected = `at least ${nFft} samples`;
    throw new ShapeError({ op, argument: 'x', expected, actual: formatShape(x.shape) });
  }
  return rfft(mul(frames(line, nFft, hop), settings.window));
}

/**
 * Short-time Fourier transform: spectra of frames that overlap, as torch.stft with `return_complex` gives them, real and imaginary
 * parts along a last axis of length 2.
 *
 * @shape (…, L) → (…, ⌊nFft/2⌋ + 1, frames, 2)
 * @dtype floats; computes in float32 (float64 in float64)
 * @throws ShapeError if the signal is shorter than a frame
 */
export function stft(x: Tensor, options: StftOptions): Tensor {
  const result = spectra('stft', x, options);
  return transpose(result, result.rank - 3, result.rank - 2);
}

/** How frequencies become mels: linear below 1 kHz and logarithmic above (Slaney 1998), or 2595·log10(1 + f/700). */
export type MelScale = 'slaney' | 'htk';

/** Options of {@link melFilterBank}. */
export interface MelFilterBankOptions {
  /** Frequency bins, ⌊nFft/2⌋ + 1. */
  readonly bins: number;
  /** Filters. */
  readonly mels: number;
  /** Samples a second. */
  readonly sampleRate: number;
  /** Lower end of the first filter, Hz. Default 0. */
  readonly minFrequency?: number;
  /** Upper end of the last filter, Hz. Default sampleRate / 2. */
  readonly maxFrequency?: number;
  /** Default `slaney`. */
  readonly scale?: MelScale;
  /** Divide each filter by half its width in Hz, so that all have one area. Default true. */
  readonly normalize?: boolean;
}

const SLANEY_BREAK = 1000; // Hz
const SLANEY_STEP = Math.log(6.4) / 27; // of the logarithm, a mel

function toMel(frequency: number, scale: MelScale): number {
  if (scale === 'htk') return 2595 * Math.log10(1 + frequency / 700);
  return frequency < SLANEY_BREAK ? (3 * frequency) / 200 : 15 + Math.log(frequency / SLANEY_BREAK) / SLANEY_STEP;
}

function toHertz(mel: number, scale: MelScale): number {
  if (scale === 'htk') return 700 * (10 ** (mel / 2595) - 1);
  return mel < 15 ? (200 * mel) / 3 : SLANEY_BREAK * Math.exp(SLANEY_STEP * (mel - 15));
}

/**
 * Triangular filters, equally wide in mels, over the bins of a power spectrum: power `[…, bins]` · filters gives mels.
 *
 * @shape → (bins, mels), float32
 * @throws AttributeError if the frequencies are not in order
 */
export function melFilterBank(options: MelFilterBankOptions): Tensor {
  const op = 'melFilterBank';
  const bins = checkInteger(op, 'bins', options.bins, 2);
  const mels = checkInteger(op, 'mels', options.mels, 1);
  const rate = checkNumber(op, 'sampleRate', options.sampleRate, Number.MIN_VALUE);
  const low = checkNumber(op, 'minFrequency', options.minFrequency ?? 0, 0);
  const high = checkNumber(op, 'maxFrequency', options.maxFrequency ?? rate / 2, 0);
  const scale = checkOneOf(op, 'scale', options.scale ?? 'slaney', ['slaney', 'htk']);
  const isNormalized = checkBoolean(op, 'normalize', options.normalize ?? true);
  if (high <= low)
    throw new AttributeError({ op, argument: 'maxFrequency', expected: `more than ${low} Hz`, actual: `${high} Hz` });
  const [first, last] = [toMel(low, scale), toMel(high, scale)];
  const edges = Array.from({ length: mels + 2 }, (_, i) => toHertz(first + ((last - first) * i) / (mels + 1), scale));
  const values = new Float64Array(bins * mels);
  for (let k = 0; k < bins; k++) {
    const frequency = (rate / 2 / (bins - 1)) * k;
    for (let i = 0; i < mels; i++) {
      const [left, middle, right] = [edges[i]!, edges[i + 1]!, edges[i + 2]!];
      const rising = (frequency - left) / (middle - left);
      const falling = (right - frequency) / (right - middle);
      const height = isNormalized ? 2 / (right - left) : 1;
      values[k * mels + i] = Math.max(0, Math.min(rising, falling)) * height;
    }
  }
  return tensor(values, { shape: [bins, mels], dtype: 'float32' });
}

/** Options of {@link logMel}; the defaults are those of Whisper. */
export interface LogMelOptions {
  /** Samples a second. Default 16000. */
  readonly sampleRate?: number;
  /** Samples of a frame. Default 400. */
  readonly nFft?: number;
  /** Samples from one frame to the next. Default 160. */
  readonly hopLength?: number;
  /** Mels. Default 80. */
  readonly mels?: number;
  /** Samples that the signal is cut to, or extended to with silence. Default: as given. Whisper's chunks have 480000. */
  readonly length?: number;
  /** Filters [bins, mels] in place of {@link melFilterBank}'s, made once for many signals. */
  readonly filters?: Tensor;
}

/**
 * Logarithmic mel spectrogram as Whisper reads it: log10 of the power in each mel band, cut off 8 decades below the largest value
 * of each signal, then moved to about [-1, 1] by (x + 4) / 4. The last frame is left out.
 *
 * @shape (…, L) → (…, mels, ⌊L / hopLength⌋)
 * @dtype floats; computes in float32 (float64 in float64)
 * @throws ShapeError if the signal is shorter than half a frame, or the filters have another number of bins
 * @source arXiv 2212.04356
 * @example
 * ```ts
 * const features = og.audio.logMel(samples, { length: 480_000 }); // (480000) → (80, 3000)
 * ```
 */
export function logMel(x: Tensor, options: LogMelOptions = {}): Tensor {
  const op = 'logMel';
  checkSignal(op, x);
  const { sampleRate = 16000, nFft = 400, hopLength = 160, mels = 80 } = options;
  const length = checkInteger(op, 'length', options.length ?? x.shape.at(-1)!, 1);
  return scope(() => {
    const given = x.shape.at(-1)!;
    const line = given < length ? pad(x, [0, length - given]) : narrow(x, x.rank - 1, 0, length);
    const all = spectra(op, line, { nFft, hopLength });
    const kept = narrow(all, all.rank - 3, 0, all.shape.at(-3)! - 1);
    const power = add(square(select(kept, -1, 0)), square(select(kept, -1, 1)));
    const bins = power.shape.at(-1)!;
    const filters = options.filters
      ? detach(options.filters)
      : melFilterBank({ bins, mels, sampleRate: checkNumber(op, 'sampleRate', sampleRate, Number.MIN_VALUE) });
    if (filters.rank !== 2 || filters.shape[0] !== bins) {
      const expected = `shape [${bins}, mels]`;
      throw new ShapeError({ op, argument: 'filters', expected, actual: formatShape(filters.shape) });
    }
    const decades = div(log(clamp(matmul(power, to(filters, x.dtype)), 1e-10)), Math.LN10);
    const largest = amax(decades, [-2, -1], { keepDims: true });
    return transpose(div(add(maximum(decades, sub(largest, 8)), 4), 4), -2, -1);
  });
}
