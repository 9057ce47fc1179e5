/** Attention and what stands around it. */
import { og } from '../library.js';
import { copiesInMemory, discard, inTurn, uniform, type KernelCase } from './case.js';
import type { Tensor } from '../../src/index.js';

interface Attention {
  readonly batch: number;
  readonly heads: number;
  /** Of keys and values; default `heads`. */
  readonly kvHeads?: number;
  readonly time: number;
  readonly width: number;
  readonly backward?: boolean;
  readonly window?: number;
  readonly softCap?: number;
}

/** Pairs of a query and a key that it sees; causal counts half of T², as everybody does. */
function pairs({ time, window }: Attention): number {
  return window === undefined ? (time * time) / 2 : window * time - (window * window) / 2;
}

/** Causal. The backward pass has five products where the forward pass has two. */
function attention(geometry: Attention): KernelCase {
  const { batch, heads, kvHeads = heads, time, width, backward = false, window, softCap } = geometry;
  const forward = 4 * batch * heads * width * pairs(geometry);
  const [queries, keys] = [heads, kvHeads].map((count) => 4 * batch * count * time * width) as [number, number];
  const kind = [
    kvHeads === heads ? [] : [`${kvHeads} key heads`],
    window === undefined ? [] : [`window ${window}`],
    softCap === undefined ? [] : [`soft cap ${softCap}`],
  ].flat();
  return {
    name: ['attention', backward ? 'forward+backward' : 'forward', ...kind].join(' '),
    shape: `${batch}x${heads}x${time}x${width}`,
    unit: 'GFLOP/s',
    amount: backward ? 3.5 * forward : forward,
    other: (queries + keys) * (backward ? 6 : 2), // q, k, v, y; read again with y's gradient, three written
    op: 'attention',
    args: { batch, heads, kvHeads, time, width, backward, window: window ?? null, softCap: softCap ?? null },
    variants: {
      onnxruntime: ['GroupQueryAttention', ...(window === undefined && softCap === undefined ? ['Attention'] : [])],
    },
    prepare: () => {
      const operands = [heads, kvHeads, kvHeads].map((count) =>
        uniform(batch, count, time, width).requiresGrad_(backward),
      );
      const [q, k, v] = operands as [Tensor, Tensor, Tensor];
      const gradient = uniform(batch, heads, time, width);
      const options = { causal: true, window: window ?? null, softCap: softCap ?? null };
      return discard(() => {
        const y = og.scaledDotProductAttention(q, k, v, options);
        if (backward) og.gradientsOf(y, operands, { gradOutputs: [gradient] });
      });
    },
  };
}

/** One query against a long cache in memory: bytes of keys and values. */
function decoding(heads: number, kvHeads: number, keys: number, width: number): KernelCase {
  const bytes = 8 * kvHeads * keys * width;
  const copies = copiesInMemory(bytes);
  return {
    name: `attention, one query${kvHeads === heads ? '' : ` ${kvHeads} key heads`}`,
    shape: `1x${heads}x${keys}x${width}`,
    unit: 'GB/s',
    amount: bytes,
    other: 4 * heads * keys * width,
    limit: 'read',
    op: 'attentionDecode',
    args: { heads, kvHeads, keys, width, copies },
    prepare: () => {
      const q = uniform(1, heads, 1, width);
      const cache = inTurn(copies, () => [uniform(1, kvHeads, keys, width), uniform(1, kvHeads, keys, width)] as const);
      return () => {
        const [k, v] = cache();
        og.scaledDotProductAttention(q, k, v, { causal: true }).dispose();
      };
    },
  };
}

/** Turns queries by their positions. */
function rope(batch: number, heads: number, time: number, width: number): KernelCase {
  const size = batch * heads * time * width;
  return {
    name: 'rope',
    shape: `${batch}x${heads}x${time}x${width}`,
    unit: 'GB/s',
    amount: 8 * size,
    other: 3 * size,
    op: 'rope',
    args: { batch, heads, time, width },
    prepare: () => {
      const x = uniform(batch, heads, time, width);
      const { cos, sin } = og.ropeTables(time, width);
      return () => og.rope(x, cos, sin).dispose();
    },
  };
}

export const attentionCases: readonly KernelCase[] = [
  attention({ batch: 12, heads: 6, time: 256, width: 64 }),
  attention({ batch: 12, heads: 6, time: 256, width: 64, backward: true }),
  attention({ batch: 1, heads: 12, time: 1024, width: 64 }),
  attention({ batch: 1, heads: 12, time: 1024, width: 64, backward: true }),
  attention({ batch: 1, heads: 8, time: 2048, width: 128 }),
  attention({ batch: 1, heads: 8, time: 2048, width: 128, backward: true }),
  attention({ batch: 1, heads: 16, kvHeads: 4, time: 1024, width: 64 }),
  attention({ batch: 1, heads: 12, time: 2048, width: 64, window: 256 }),
  attention({ batch: 1, heads: 12, time: 1024, width: 64, softCap: 50 }),
  decoding(12, 12, 8192, 64),
  decoding(32, 8, 4096, 128),
  rope(8, 12, 1024, 64),
];
