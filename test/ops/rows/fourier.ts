/** Fourier transforms of real signals. */
import * as og from '../../../src/index.js';
import { get, make, type Row } from '../row.js';

const angle = (k: number, j: number, n: number): number => (2 * Math.PI * ((k * j) % n)) / n;
const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

export const fourierRows: readonly Row[] = [
  {
    name: 'fft.rfft',
    call: (x) => og.fft.rfft(x!),
    oracle: (x) => {
      const n = x!.shape.at(-1)!;
      return make([...x!.shape.slice(0, -1), Math.floor(n / 2) + 1, 2], (index) => {
        const [k, part] = [index.at(-2)!, index.at(-1)!];
        const f = part === 0 ? Math.cos : (a: number) => -Math.sin(a);
        return range(n).reduce((sum, j) => sum + get(x!, [...index.slice(0, -2), j]) * f(angle(k, j, n)), 0);
      });
    },
    shapes: [[[3, 6]], [[0, 6]], [[1]], [[2, 17]], [[2, 37]]],
    large: [[300, 400]],
    ulps: 32,
    magnitude: 4,
    kernels: ['rfft', 'irfft'],
  },
  {
    name: 'fft.irfft',
    call: (y) => og.fft.irfft(y!),
    oracle: (y) => {
      const last = y!.shape.at(-2)! - 1; // of an even length, so it counts once, as the first does
      const n = 2 * last;
      return make([...y!.shape.slice(0, -2), n], (index) => {
        const at = (k: number, part: number): number => get(y!, [...index.slice(0, -1), k, part]);
        const term = (k: number): number => {
          const a = angle(k, index.at(-1)!, n);
          if (k === 0 || k === last) return at(k, 0) * Math.cos(a);
          return 2 * (at(k, 0) * Math.cos(a) - at(k, 1) * Math.sin(a));
        };
        return range(last + 1).reduce((sum, k) => sum + term(k), 0) / n;
      });
    },
    shapes: [[[3, 4, 2]], [[0, 4, 2]], [[2, 17, 2]]],
    large: [[300, 201, 2]],
    misfits: [[[3, 3]], [[4, 0, 2]]],
    ulps: 32,
    kernels: ['irfft', 'rfft'],
    exceptions: { single: 'a spectrum is made of pairs' },
  },
];
