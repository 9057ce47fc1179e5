/** Products of floating-point matrices. */
import { og } from '../library.js';
import { copiesInMemory, inTurn, uniform, type KernelCase } from './case.js';

type FloatDType = 'float32' | 'bfloat16' | 'float16';

/** `NN`: a [M, K] · b [K, N]. `NT`: b is stored [N, K], as weights of linear layers. `TN`: a is stored [K, M], as in their gradient. */
function matmul(
  m: number,
  n: number,
  k: number,
  form: 'NN' | 'NT' | 'TN' = 'NN',
  dtype: FloatDType = 'float32',
): KernelCase {
  return {
    name: `matmul ${dtype === 'float32' ? '' : `${dtype} `}${form}`,
    shape: `${m}x${n}x${k}`,
    dtype,
    unit: 'GFLOP/s',
    amount: 2 * m * n * k,
    other: (dtype === 'float32' ? 4 : 2) * (m * k + k * n + m * n),
    ...(dtype === 'bfloat16' ? { limit: null } : {}), // beyond that of float32 where pairs are multiplied at once
    op: 'matmul',
    args: { m, n, k, form, dtype },
    prepare: () => {
      const values = (...shape: number[]): ReturnType<typeof uniform> => og.to(uniform(...shape), dtype);
      const a = form === 'TN' ? og.transpose(values(k, m), 0, 1) : values(m, k);
      const b = form === 'NT' ? og.transpose(values(n, k), 0, 1) : values(k, n);
      return () => og.matmul(a, b).dispose();
    },
  };
}

/** One large product on all threads of the run, beside the same on one: what a second core is worth. */
function scaling(m: number, n: number, k: number): KernelCase {
  const prepare = (): (() => void) => {
    const [a, b] = [uniform(m, k), uniform(k, n)];
    return () => og.matmul(a, b).dispose();
  };
  return {
    name: 'product on all threads',
    shape: `${m}x${n}x${k}`,
    unit: 'GFLOP/s',
    amount: 2 * m * n * k,
    other: 4 * (m * k + k * n + m * n),
    op: 'scaling',
    args: { m, n, k },
    also: {
      'omnigrad one thread': () => {
        const once = prepare();
        return () => {
          const threads = og.getThreads();
          og.setThreads(1); // waits for what was queued before
          once();
          og.setThreads(threads);
        };
      },
    },
    prepare,
  };
}

/**
 * A linear layer whose weights stay the same from call to call, so that a peer may lay them out once. Up to 16 rows are told apart
 * by where the weights lie: layers in turn that together fit the last cache but no smaller one, or that are far larger than all
 * caches. One row counts the bytes of its weights.
 */
function linear(
  m: number,
  n: number,
  k: number,
  place?: 'cache' | 'memory',
  dtype: FloatDType = 'float32',
): KernelCase {
  const bytes = (dtype === 'float32' ? 4 : 2) * n * k;
  const copies = place === undefined ? 1 : place === 'cache' ? 2 : copiesInMemory(bytes);
  const name = `linear${dtype === 'float32' ? '' : ` ${dtype}`}${place === undefined ? '' : `, weights in ${place}`}`;
  const operations = 2 * m * n * k;
  const moved = bytes + (m * (n + k) * bytes) / (n * k);
  const measure: Pick<KernelCase, 'unit' | 'amount' | 'other' | 'limit'> =
    m === 1
      ? { unit: 'GB/s', amount: bytes, other: operations, limit: place === 'memory' ? 'read' : null }
      : { unit: 'GFLOP/s', amount: operations, other: moved, ...(dtype === 'bfloat16' ? { limit: null } : {}) };
  return {
    ...measure,
    name,
    shape: `${m}x${n}x${k}`,
    dtype,
    op: 'linear',
    args: { m, n, k, copies, dtype },
    prepare: () => {
      const x = og.to(uniform(m, k), dtype);
      const weight = inTurn(copies, () => og.to(uniform(n, k), dtype));
      return () => og.linear(x, weight()).dispose();
    },
  };
}

export const matmulCases: readonly KernelCase[] = [
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
  scaling(1024, 1024, 1024),
  linear(512, 2304, 768),
  linear(512, 3072, 768),
  linear(8, 2304, 768, 'cache'),
  linear(8, 3072, 768, 'memory'),
  linear(8, 50257, 768, 'memory'),
  linear(4, 3072, 768, 'memory'),
  linear(1, 2304, 768, 'cache'),
  linear(1, 3072, 768, 'memory'),
  linear(1, 50257, 768, 'memory'),
  linear(512, 2304, 768, undefined, 'bfloat16'),
  linear(512, 768, 3072, undefined, 'bfloat16'),
  linear(8, 3072, 768, 'memory', 'bfloat16'),
  matmul(3072, 1536, 384, 'NN', 'bfloat16'),
  matmul(3072, 1536, 384, 'NT', 'bfloat16'),
  matmul(3072, 1536, 384, 'TN', 'bfloat16'),
  linear(1, 3072, 768, 'memory', 'bfloat16'),
  linear(512, 2304, 768, undefined, 'float16'),
  linear(1, 3072, 768, 'memory', 'float16'),
];
