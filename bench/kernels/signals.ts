/** Convolutions, Fourier transforms and audio features. */
import { og } from '../library.js';
import { uniform, type KernelCase } from './case.js';

/** Channels in and out, sides of window and input. Padded so that the size stays, or (`patches`) window beside window. */
function conv(axes: 1 | 2, from: number, to: number, window: number, length: number, patches = false): KernelCase {
  const stride = patches ? window : 1;
  const padding = patches ? 0 : (window - 1) / 2;
  const positions = (length / stride) ** axes;
  return {
    name: `conv${axes}d${patches ? ' patches' : ''}`,
    shape: `${from}x${Array(axes).fill(length).join('x')} to ${to}, ${window}`,
    unit: 'GFLOP/s',
    amount: 2 * positions * from * to * window ** axes,
    other: 4 * (from * length ** axes + positions * to + from * to * window ** axes),
    op: 'conv',
    args: { axes, from, to, window, length, stride, padding },
    prepare: () => {
      const [lengths, windows] = [Array<number>(axes).fill(length), Array<number>(axes).fill(window)];
      const [x, weight, bias] = [uniform(1, from, ...lengths), uniform(to, from, ...windows), uniform(to)];
      if (axes === 1) return () => og.conv1d(x, weight, bias, { padding, stride }).dispose();
      return () => og.conv2d(x, weight, bias, { padding, stride }).dispose();
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
  conv(1, 384, 384, 3, 3000),
  conv(2, 64, 64, 3, 56),
  conv(2, 3, 768, 16, 224, true),
  rfft(3001, 400),
  rfft(1024, 1024),
  logMel(30),
];
