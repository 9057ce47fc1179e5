/**
 * Measures sparse layouts against the dense product, and writes the break-even points that the library chooses by:
 *
 *     node --import tsx bench/sparse_breakeven.ts [--write]
 *
 * One thread. All contenders of a shape run in turn, in one run; medians. Without --write only the tables are printed.
 */
import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { og } from './library.js';

type Layout = 'csr' | 'block' | '2:4';

const rows = [1, 8, 128, 512];
const shapes = [
  [768, 768],
  [3072, 768],
  [768, 3072],
  [384, 1536],
] as const;
const sparsities = [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95];
const rounds = 11;
const sampleSeconds = 0.002;

interface Contender {
  readonly layout: Layout | 'dense';
  readonly sparsity: number;
  readonly run: () => void;
  readonly samples: number[];
}

function sample(run: () => void): number {
  const start = performance.now();
  let calls = 0;
  let spent = 0;
  do {
    og.scope(() => {
      for (let i = 0; i < 4; i++) run();
    });
    og.synchronizeSync();
    calls += 4;
    spent = performance.now() - start;
  } while (spent < 1000 * sampleSeconds);
  return spent / calls;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

/** A mask of single elements or of blocks. */
function maskOf(n: number, k: number, unit: number, sparsity: number): Tensor {
  const kept = og.rand([n / unit, k / unit]).ge(sparsity);
  return og
    .contiguous(kept.reshape([n / unit, 1, k / unit, 1]).expand([n / unit, unit, k / unit, unit]))
    .reshape([n, k]);
}
type Tensor = ReturnType<typeof og.zeros>;

/** Where the speed-up passes 1, between measured sparsities on a straight line; 1 if it never does. */
function crossing(points: readonly { sparsity: number; speedup: number }[]): number {
  for (const [i, { sparsity, speedup }] of points.entries()) {
    if (speedup < 1 || points.slice(i).some((later) => later.speedup < 0.97)) continue;
    const before = points[i - 1];
    if (before === undefined) return sparsity;
    const share = (1 - before.speedup) / (speedup - before.speedup);
    return Math.round(1000 * (before.sparsity + Math.min(1, Math.max(0, share)) * (sparsity - before.sparsity))) / 1000;
  }
  return 1;
}

og.manualSeed(1);
og.setThreads(1);
const lines: string[] = [];
const { isa } = og.backend();
console.log(`${cpus()[0]!.model}, ${isa}, one thread; times faster than dense`);
for (const m of rows) {
  for (const [n, k] of shapes) {
    const x = og.randn([m, k]);
    const w = og.randn([n, k]);
    const contenders: Contender[] = [{ layout: 'dense', sparsity: 0, run: () => og.linear(x, w), samples: [] }];
    const add = (layout: Layout, sparsity: number, weight: Parameters<typeof og.sparseLinear>[1]): void => {
      contenders.push({ layout, sparsity, run: () => og.sparseLinear(x, weight), samples: [] });
    };
    for (const sparsity of sparsities) {
      add('csr', sparsity, og.toSparseSync(w, { mask: maskOf(n, k, 1, sparsity) }));
      add('block', sparsity, og.toSparseSync(w, { layout: 'block', mask: maskOf(n, k, 32, sparsity) }));
    }
    const { indices } = og.topk(w.abs().reshape([(n * k) / 4, 4]), 2);
    const fours = og.scatter(og.full([(n * k) / 4, 4], false), -1, indices, 1).reshape([n, k]);
    add('2:4', 0.5, og.toSparseSync(w, { layout: '2:4', mask: fours }));
    og.noGrad(() => {
      for (const contender of contenders) sample(contender.run);
      for (let round = 0; round < rounds; round++)
        for (const contender of contenders) contender.samples.push(sample(contender.run));
    });
    const dense = median(contenders[0]!.samples);
    console.log(`M ${m} N ${n} K ${k}: dense ${((2e-6 * m * n * k) / dense).toFixed(1)} GFLOP/s`);
    for (const layout of ['csr', 'block', '2:4'] as const) {
      const points = contenders
        .filter((contender) => contender.layout === layout)
        .map(({ sparsity, samples }) => ({ sparsity, speedup: dense / median(samples) }));
      const sparsity = crossing(points);
      const table = points.map((point) => `${Math.round(100 * point.sparsity)} %: ${point.speedup.toFixed(2)}`);
      console.log(`  ${layout.padEnd(5)} ${table.join('  ')}  break-even ${sparsity}`);
      lines.push(`  { layout: '${layout}', m: ${m}, n: ${n}, k: ${k}, sparsity: ${sparsity} },`);
    }
  }
}
if (process.argv.includes('--write')) {
  const file = new URL('../src/ops/sparse_breakeven.ts', import.meta.url);
  writeFileSync(
    file,
    `/**
 * Measured break-even points, written by bench/sparse_breakeven.ts: do not edit. \`sparsity\`: the share of zeros from which on a
 * layout takes less time than the dense product (1: at none that was measured). docs/performance.md names machine and date.
 *
 * @module
 */

/** @internal */
export interface BreakEvenPoint {
  readonly layout: 'csr' | 'block' | '2:4';
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly sparsity: number;
}

/** @internal */
export const breakEvenPoints: readonly BreakEvenPoint[] = [
${lines.join('\n')}
];
`,
  );
  console.log('written to src/ops/sparse_breakeven.ts');
}
