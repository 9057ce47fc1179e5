/** Convolutions, Fourier transforms and audio features. */
import { og } from '../library.js';
import { discard, uniform, type KernelCase } from './case.js';

interface ConvCase {
  readonly axes: 1 | 2;
  readonly from: number;
  readonly to: number;
  /** Side of the window, and of the input. */
  readonly window: number;
  readonly length: number;
  readonly kind?: 'patches' | 'depthwise';
  readonly backward?: boolean;
}

/** Padded so that the size stays; or window beside window (`patches`); or a window for each channel alone (`depthwise`). */
function conv({ axes, from, to, window, length, kind, backward = false }: ConvCase): KernelCase {
  const stride = kind === 'patches' ? window : 1;
  const padding = kind === 'patches' ? 0 : (window - 1) / 2;
  const groups = kind === 'depthwise' ? from : 1;
  const positions = (length / stride) ** axes;
  const [input, output, weights] = [from * length ** axes, positions * to, (from / groups) * to * window ** axes];
  return {
    name: `conv${axes}d${kind === undefined ? '' : ` ${kind}`}${backward ? ' backward' : ''}`,
    shape: `${from}x${Array(axes).fill(length).join('x')} to ${to}, ${window}`,
    unit: 'GFLOP/s',
    amount: 2 * positions * weights * (backward ? 2 : 1),
    other: 4 * (input + output + weights) * (backward ? 2 : 1),
    op: 'conv',
    args: { axes, from, to, window, length, stride, padding, groups, backward },
    prepare: () => {
      const [lengths, windows] = [Array<number>(axes).fill(length), Array<number>(axes).fill(window)];
      const operands = [uniform(1, from, ...lengths), uniform(to, from / groups, ...windows), uniform(to)] as const;
      const [x, weight, bias] = operands;
      const convolve = axes === 1 ? og.conv1d : og.conv2d;
      if (!backward) return () => convolve(x, weight, bias, { padding, stride, groups }).dispose();
      for (const operand of operands) operand.requiresGrad_();
      const y = convolve(x, weight, bias, { padding, stride, groups });
      const gradient = uniform(...y.shape);
      return discard(() => og.gradientsOf(y, [...operands], { gradOutputs: [gradient], retainGraph: true }));
    },
  };
}

/** 2.5·n·log2(n) operations a row of real numbers. */
function rfft(rows: number, n: number): KernelCase {
  return {
    name: 'rfft',
    shape: `${rows}x${n}`,
    unit: 'GFLOP/s',
    amount: 2.5 * rows * n * Math.log2(n),
    other: 4 * rows * (2 * n + 2),
    op: 'rfft',
    args: { rows, n },
    prepare: () => {
      const x = uniform(rows, n);
      return () => og.fft.rfft(x).dispose();
    },
  };
}

/** Whisper's features of a piece of sound. */
function logMel(seconds: number): KernelCase {
  const samples = 16000 * seconds;
  return {
    name: 'logMel, whole call',
    shape: `${seconds} s of sound`,
    unit: 'µs',
    amount: 1,
    op: 'logMel',
    args: { samples },
    prepare: () => {
      const x = uniform(samples);
      const filters = og.audio.melFilterBank({ bins: 201, mels: 80, sampleRate: 16000 });
      return () => og.audio.logMel(x, { filters }).dispose();
    },
  };
}

export const signalCases: readonly KernelCase[] = [
  conv({ axes: 1, from: 384, to: 384, window: 3, length: 3000 }),
  conv({ axes: 2, from: 64, to: 64, window: 3, length: 56 }),
  conv({ axes: 2, from: 3, to: 768, window: 16, length: 224, kind: 'patches' }),
  conv({ axes: 2, from: 256, to: 256, window: 3, length: 56, kind: 'depthwise' }),
  conv({ axes: 1, from: 384, to: 384, window: 3, length: 3000, backward: true }),
  conv({ axes: 2, from: 64, to: 64, window: 3, length: 56, backward: true }),
  conv({ axes: 2, from: 3, to: 768, window: 16, length: 224, kind: 'patches', backward: true }),
  conv({ axes: 2, from: 256, to: 256, window: 3, length: 56, kind: 'depthwise', backward: true }),
  rfft(3001, 400),
  rfft(1024, 1024),
  logMel(30),
];
