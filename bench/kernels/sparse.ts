/** Products with sparse weights, in operations of the dense product that they save. */
import { og } from '../library.js';
import { uniform, type KernelCase } from './case.js';
import type { Tensor } from '../../src/index.js';

type Layout = 'csr' | 'block' | '2:4';

const side = 32;

/** A weight with zeros: single elements, blocks, or two of four. */
function sparseWeight(n: number, k: number, layout: Layout, zeros: number): Tensor {
  const weight = uniform(n, k);
  if (layout === '2:4') {
    const kept = og.tensor([1, 0, 1, 0]).expand([n, k / 4, 4]);
    return og.mul(weight, kept.reshape([n, k]));
  }
  const unit = layout === 'block' ? side : 1;
  const kept = og.to(og.rand([n / unit, 1, k / unit, 1]).ge(zeros), 'float32');
  return og.mul(weight, og.contiguous(kept.expand([n / unit, unit, k / unit, unit])).reshape([n, k]));
}

/** Held against no ceiling: the dense product that it saves has no place beside what the machine computes. */
function sparseLinear(m: number, n: number, k: number, layout: Layout, zeros: number): KernelCase {
  const what = layout === '2:4' ? '2:4' : `${layout === 'csr' ? 'csr' : `blocks of ${side}`} ${100 * zeros} %`;
  return {
    name: `sparseLinear ${what}`,
    shape: `${m}x${n}x${k}`,
    unit: 'GFLOP/s',
    amount: 2 * m * n * k,
    limit: null,
    op: 'sparseLinear',
    args: { m, n, k, layout, zeros, side },
    variants: { torch: layout === 'csr' ? ['csr', 'dense'] : layout === 'block' ? ['bsr', 'dense'] : ['dense'] },
    also: {
      'omnigrad dense': () => {
        const [x, weight] = [uniform(m, k), uniform(n, k)];
        return () => og.linear(x, weight).dispose();
      },
    },
    prepare: () => {
      const x = uniform(m, k);
      const dense = sparseWeight(n, k, layout, zeros);
      const weight = og.toSparseSync(dense, { layout });
      return () => og.sparseLinear(x, weight).dispose();
    },
  };
}

export const sparseCases: readonly KernelCase[] = [
  sparseLinear(512, 3072, 768, 'csr', 0.8),
  sparseLinear(512, 3072, 768, 'csr', 0.9),
  sparseLinear(512, 3072, 768, 'csr', 0.95),
  sparseLinear(512, 3072, 768, 'block', 0.8),
  sparseLinear(512, 3072, 768, 'block', 0.9),
  sparseLinear(512, 3072, 768, '2:4', 0.5),
  sparseLinear(1, 3072, 768, '2:4', 0.5),
];
