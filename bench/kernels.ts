/** Rows that time one operation. */
import { og } from './library.js';
import type { Subject, Work } from './subject.js';
import type { Tensor } from '../src/index.js';

export interface KernelCase extends Work {
  readonly name: string;
  readonly shape: string;
  readonly unit: 'GFLOP/s' | 'GB/s' | 'µs';
  /** Floating-point operations, or bytes that must at least be read and written, of one repetition. */
  readonly amount: number;
  /** The other of the two, where it is known: bytes of a row in GFLOP/s, operations of one in GB/s. */
  readonly other?: number;
  /** Makes the operands; the returned function does the work once and leaves nothing behind. */
  prepare(): () => void;
}

const uniform = (...shape: number[]): Tensor => og.uniform(shape, -1, 1);

/** Runs `body` and frees what it made. */
const discard = (body: () => unknown) => (): void => {
  og.scope(() => void body());
};

/** `NN`: a [M, K] · b [K, N]. `NT`: b is stored [N, K], as weights of linear layers. `TN`: a is stored [K, M], as in their gradient. */
function matmul(m: number, n: number, k: number, form: 'NN' | 'NT' | 'TN' = 'NN'): KernelCase {
  return {
    name: `matmul ${form}`,
    shape: `${m}x${n}x${k}`,
    unit: 'GFLOP/s',
    amount: 2 * m * n * k,
    other: 4 * (m * k + k * n + m * n),
    op: 'matmul',
    args: { m, n, k, form },
    prepare: () => {
      const a = form === 'TN' ? og.transpose(uniform(k, m), 0, 1) : uniform(m, k);
      const b = form === 'NT' ? og.transpose(uniform(n, k), 0, 1) : uniform(k, n);
      return () => og.matmul(a, b).dispose();
    },
  };
}

/** Causal: half of T² counts. The backward pass has five products where the forward pass has two. */
function attention(batch: number, heads: number, time: number, width: number, backward: boolean): KernelCase {
  const forward = (4 * batch * heads * time * time * width) / 2;
  return {
    name: `attention ${backward ? 'forward+backward' : 'forward'}`,
    shape: `${batch}x${heads}x${time}x${width}`,
    unit: 'GFLOP/s',
    amount: backward ? 3.5 * forward : forward,
    other: 4 * batch * heads * time * width * (backward ? 12 : 4), // q, k, v, y; read again with y's gradient, three written
    op: 'attention',
    args: { batch, heads, time, width, backward },
    prepare: () => {
      const operands = [0, 1, 2].map(() => uniform(batch, heads, time, width).requiresGrad_(backward));
      const [q, k, v] = operands as [Tensor, Tensor, Tensor];
      const gradient = uniform(batch, heads, time, width);
      return discard(() => {
        const y = og.scaledDotProductAttention(q, k, v, { causal: true });
        if (backward) og.gradientsOf(y, operands, { gradOutputs: [gradient] });
      });
    },
  };
}

function rows(kind: 'softmax' | 'layerNorm' | 'rmsNorm' | 'gelu', count: number, width: number): KernelCase {
  return {
    name: kind,
    shape: `${count}x${width}`,
    unit: 'GB/s',
    amount: 8 * count * width,
    other: { softmax: 5, layerNorm: 8, rmsNorm: 4, gelu: 20 }[kind] * count * width,
    op: 'rows',
    args: { kind, rows: count, width },
    prepare: () => {
      const [x, weight, bias] = [uniform(count, width), uniform(width), uniform(width)];
      const once = {
        softmax: () => og.softmax(x),
        layerNorm: () => og.layerNorm(x, width, weight, bias),
        rmsNorm: () => og.rmsNorm(x, width, weight),
        gelu: () => og.gelu(x),
      }[kind];
      return () => once().dispose();
    },
  };
}

function crossEntropy(count: number, classes: number, backward: boolean): KernelCase {
  return {
    name: `crossEntropy ${backward ? 'forward+backward' : 'forward'}`,
    shape: `${count}x${classes}`,
    unit: 'GB/s',
    amount: (backward ? 12 : 4) * count * classes,
    other: (backward ? 8 : 4) * count * classes,
    op: 'crossEntropy',
    args: { rows: count, classes, backward },
    prepare: () => {
      const x = uniform(count, classes).requiresGrad_(backward);
      const target = og.randint(0, classes, [count], { dtype: 'int32' });
      return discard(() => {
        const loss = og.crossEntropy(x, target);
        if (backward) og.gradientsOf(loss, [x]);
      });
    },
  };
}

/** Reads weight, gradient and both moments, writes all but the gradient. */
function adamw(size: number): KernelCase {
  return {
    name: 'adamw',
    shape: String(size),
    unit: 'GB/s',
    amount: 28 * size,
    other: 14 * size,
    op: 'adamw',
    args: { size },
    prepare: () => {
      const parameter = uniform(size).requiresGrad_();
      og.backward(parameter, uniform(size));
      const optimizer = new og.optim.AdamW([parameter], { lr: 1e-3 });
      return () => void optimizer.step();
    },
  };
}

function add(shape: readonly number[], unit: 'GB/s' | 'µs'): KernelCase {
  const size = shape.reduce((a, b) => a * b, 1);
  return {
    name: unit === 'µs' ? 'add, whole call' : 'add',
    shape: shape.join('x'),
    unit,
    amount: 12 * size,
    other: size,
    op: 'add',
    args: { shape },
    prepare: () => {
      const [a, b] = [uniform(...shape), uniform(...shape)];
      return () => og.add(a, b).dispose();
    },
  };
}

export const kernelCases: readonly KernelCase[] = [
  matmul(1024, 1024, 1024),
  matmul(512, 2304, 768),
  matmul(512, 2304, 768, 'NT'),
  matmul(512, 2304, 768, 'TN'),
  matmul(512, 3072, 768),
  matmul(512, 768, 3072),
  matmul(3072, 384, 384),
  matmul(3072, 1536, 384),
  matmul(3072, 1536, 384, 'NT'),
  matmul(3072, 1536, 384, 'TN'),
  matmul(256, 50257, 768),
  attention(12, 6, 256, 64, false),
  attention(12, 6, 256, 64, true),
  attention(1, 12, 1024, 64, false),
  attention(1, 12, 1024, 64, true),
  rows('softmax', 8192, 1024),
  rows('layerNorm', 8192, 1024),
  rows('rmsNorm', 8192, 1024),
  rows('gelu', 8192, 1024),
  crossEntropy(256, 50257, false),
  crossEntropy(256, 50257, true),
  adamw(8 << 20),
  add([8192, 1024], 'GB/s'),
  add([2], 'µs'),
];

/** Floating-point operations a byte. */
export function intensityOf({ unit, amount, other }: KernelCase): number | null {
  if (other === undefined || unit === 'µs') return null;
  return unit === 'GFLOP/s' ? amount / other : other / amount;
}

/** Our side of a case. */
export function subjectOf(kernel: KernelCase): Subject {
  const inner = og.scope();
  const once = kernel.prepare();
  return {
    run: async (count) => {
      const begun = performance.now();
      for (let i = 0; i < count; i++) once();
      await og.synchronize();
      return (performance.now() - begun) / 1e3;
    },
    dispose: () => inner.dispose(),
  };
}
