/**
 * What this library wants to reach, in ratios that move little from machine to machine: against a peer, or a ceiling, of the same
 * run. Kernels are judged on one thread, whole models on two. The goals stand here and nowhere else; docs/performance.md says
 * how they are read.
 */
import type { Row } from './harness.js';

export interface Target {
  /** The kernels that it is about. */
  readonly goal: string;
  /** Rows by the beginning of `name shape`; every one that matches counts. */
  readonly rows: readonly string[];
  /**
   * Beginnings of names of peers, of which the best counts; `['']` is any peer, `ceiling` what the machine can do. `figure`: nothing, the
   * row's own figure counts, in its unit.
   */
  readonly against: readonly string[] | 'ceiling' | 'figure';
  readonly atLeast: number;
  /** Of the run that can judge it. */
  readonly threads: 1 | 2;
  /** `mean`: the geometric mean of the rows has to reach it. `each`: the worst row has to. */
  readonly over: 'mean' | 'each';
}

const products = ['matmul NN', 'matmul NT', 'matmul TN', 'linear 512'];
const wide = ['matmul NN 256x50257x768'];
const any = [''];
const torch = ['torch'];
const ort = ['onnxruntime'];
const dense = ['omnigrad dense', 'torch dense'];

const one = (
  goal: string,
  row: string | readonly string[],
  against: Target['against'],
  atLeast: number,
  over: Target['over'] = 'mean',
): Target => ({ goal, rows: typeof row === 'string' ? [row] : row, against, atLeast, over, threads: 1 });

const two = (...parts: Parameters<typeof one>): Target => ({ ...one(...parts), threads: 2 });

export const targets: readonly Target[] = [
  one('float32 products', products, any, 1.02),
  one('float32 products, none far behind', products, any, 0.97, 'each'),
  one('float32 products', products, torch, 1.1),
  one('float32 products', products, 'ceiling', 0.85),
  one('float32 product, wide', wide, torch, 1.65),
  one('bfloat16 products', ['matmul bfloat16', 'linear bfloat16 512'], torch, 1),
  one('8 rows, weights in cache', 'linear, weights in cache 8x', ort, 1.15),
  one('8 rows, weights in memory', 'linear, weights in memory 8x', ort, 1.4),
  one('1 row, weights in memory', 'linear, weights in memory 1x', any, 1),
  one('1 row, weights in memory', 'linear, weights in memory 1x', torch, 1.7),
  one('1 row, weights in memory', 'linear, weights in memory 1x', 'ceiling', 0.95),
  one('1 row, weights in cache', 'linear, weights in cache 1x', any, 1.1),
  one('1 row, weights in cache', 'linear, weights in cache 1x', torch, 2),
  one('int8 products, exact, u8u8', 'matmulInteger u8u8', ort, 1.05),
  one('int8 products, exact, s8s8', 'matmulInteger s8s8', ort, 5),
  one('int8 layer', ['linearInt8 512'], ['torch onednn'], 1.08),
  one('int8 layer, 1 row, weights in memory', 'linearInt8, weights in memory 1x', ort, 1.2),
  one('int8 layer, 1 row, weights in memory', 'linearInt8, weights in memory 1x', ['torch fbgemm'], 2),
  one('int4 layer, many rows', 'linear int4, groups of 32 512x', ort, 2.1),
  one('int4 layer, many rows', 'linear int4, groups of 32 512x', torch, 4.5),
  one('int4 layer, int8 activations, many rows', 'linear int4, groups of 32, int8 activations 512x', ort, 2.1),
  one('int4 layer, int8 activations, many rows', 'linear int4, groups of 32, int8 activations 512x', torch, 4.5),
  one('int4 layer, 1 row', 'linear int4, groups of 32, int8 activations 1x', ort, 1.7),
  one('int4 layer, 1 row', 'linear int4, groups of 32, int8 activations 1x', torch, 4),
  one(
    'causal attention, 1024 and more',
    ['attention forward 1x12x1024x64', 'attention forward 1x8x2048x128'],
    torch,
    1.75,
  ),
  one('causal attention, 256', 'attention forward 12x6x256x64', torch, 2.2),
  one('causal attention, forward+backward', 'attention forward+backward', torch, 1.3, 'each'),
  one('attention, one query', 'attention, one query 1x12', torch, 2),
  one('attention, one query', 'attention, one query 1x12', 'ceiling', 0.88),
  one('CSR 80 %', 'sparseLinear csr 80 %', dense, 1.6),
  one('CSR 80 %', 'sparseLinear csr 80 %', ['torch csr'], 2.7),
  one('CSR 90 %', 'sparseLinear csr 90 %', dense, 3.6),
  one('CSR 90 %', 'sparseLinear csr 90 %', ['torch csr'], 2.6),
  one('CSR 95 %', 'sparseLinear csr 95 %', dense, 6.5),
  one('CSR 95 %', 'sparseLinear csr 95 %', ['torch csr'], 3),
  one('blocks of 32, 80 %', 'sparseLinear blocks of 32 80 %', dense, 4),
  one('blocks of 32, 90 %', 'sparseLinear blocks of 32 90 %', dense, 7.5),
  one('blocks of 32', 'sparseLinear blocks', ['torch bsr'], 4.6),
  one('2:4, 512 rows', 'sparseLinear 2:4 512x', dense, 1.2),
  one('quantise, scales of rows', 'quantize int8, a scale a row', ort, 1.4),
  one('quantise, scales of rows', 'quantize int8, a scale a row', ['torch scales given'], 18),
  one('quantise, scales of rows found first', 'quantize int8, a scale a row', ['torch composed'], 6),
  one('softmax, logSoftmax, exp', ['softmax', 'logSoftmax', 'exp'], torch, 2.6),
  one('cross-entropy', 'crossEntropy forward 256x50257', torch, 7),
  one('cross-entropy, forward+backward', 'crossEntropy forward+backward', torch, 7),
  one('GELU tanh', 'gelu tanh 8192', torch, 5.5),
  one('GELU tanh, backward', 'gelu tanh backward', torch, 4),
  one('layerNorm', 'layerNorm 8192', torch, 1.6),
  one('layerNorm, backward', 'layerNorm backward', torch, 1.6),
  one('rmsNorm', 'rmsNorm 8192', torch, 2),
  one('rmsNorm, backward', 'rmsNorm backward', torch, 7),
  one('AdamW', 'adamw', ['torch fused'], 1),
  one('AdamW', 'adamw', ['torch default'], 7.7),
  one('a call of two elements', 'add, whole call', torch, 2.2),
  two('1 row, weights in memory', 'linear, weights in memory 1x', torch, 2.3),
  two('1 row, weights in cache', 'linear, weights in cache 1x', torch, 3.5),
  two('a large product on two threads', 'product on all threads', ['omnigrad one thread'], 1.75),
  two('training, 0.1 million parameters', 'training step 2 layers', torch, 2),
  two('training, 0.8 million parameters', 'training step 4 layers', torch, 1.3),
  two('training, 10.8 million parameters', 'training step 6 layers', torch, 1.1),
  two('training, 124 million parameters', 'training step 12 layers', torch, 1.1),
  two('training adapters, 124 million parameters', 'LoRA step 12 layers', torch, 1.2),
  two('memory of training, 124 million parameters', 'training step: peak memory 12 layers', torch, 1 / 0.85),
  two('memory of adapters over 4 bits', 'QLoRA step: memory between steps 12 layers', ['omnigrad float32'], 1 / 0.35),
  two(
    'peak memory of adapters over 4 bits, blocks computed again',
    'QLoRA step, blocks computed again: peak memory 12 layers',
    ['omnigrad float32'],
    1 / 0.35,
  ),
  two('reading a prompt, 124 million parameters', 'prefill 12 layers', torch, 1.4),
  two('generating, 124 million parameters', 'decode 12 layers', torch, 1.6),
];

/**
 * What the same goals are in absolute figures, on the machine that they were set on: two vCPUs of a Zen 3 at 3.15 GHz with AVX2, 101 GFLOP/s
 * and 26 GB/s read on one thread. Elsewhere they say nothing.
 */
export const referenceTargets: readonly Target[] = [
  one('float32 products, packed in the call', ['matmul NN', 'matmul NT', 'matmul TN'], 'figure', 86),
  one('float32 products, packed weights', 'linear 512', 'figure', 88),
  one('float32 product, wide', wide, 'figure', 85),
  one('8 rows, weights in cache', 'linear, weights in cache 8x', 'figure', 60),
  one('8 rows, weights in memory', 'linear, weights in memory 8x', 'figure', 48),
  one('1 row, weights in memory', 'linear, weights in memory 1x', 'figure', 21),
  one('1 row, weights in cache', 'linear, weights in cache 1x', 'figure', 60),
  one('int8 products, exact', 'matmulInteger', 'figure', 135),
  one('int8 layer', 'linearInt8 512', 'figure', 168),
  one('int8 layer, 1 row, weights in memory', 'linearInt8, weights in memory 1x', 'figure', 18),
  one('int4 layer, int8 activations, many rows', 'linear int4, groups of 32, int8 activations 512x', 'figure', 180),
  one('int4 layer, 1 row', 'linear int4, groups of 32, int8 activations 1x', 'figure', 19.5),
  one('causal attention, 1024', 'attention forward 1x12x1024x64', 'figure', 72),
  one('causal attention, 256', 'attention forward 12x6x256x64', 'figure', 57),
  one('causal attention, forward+backward', 'attention forward+backward', 'figure', 58, 'each'),
  one('attention, one query', 'attention, one query 1x12', 'figure', 17.5),
  one('quantise, scales of rows found first', 'quantize int8, a scale a row', 'figure', 15),
  one('softmax, logSoftmax, exp', ['softmax', 'logSoftmax', 'exp'], 'figure', 13, 'each'),
  one('cross-entropy', 'crossEntropy forward 256x50257', 'figure', 7),
  one('cross-entropy, forward+backward', 'crossEntropy forward+backward', 'figure', 8),
  one('GELU tanh', 'gelu tanh 8192', 'figure', 12),
  one('GELU tanh, backward', 'gelu tanh backward', 'figure', 13),
  one('layerNorm', 'layerNorm 8192', 'figure', 20),
  one('layerNorm, backward', 'layerNorm backward', 'figure', 18),
  one('rmsNorm', 'rmsNorm 8192', 'figure', 20),
  one('rmsNorm, backward', 'rmsNorm backward', 'figure', 14),
  one('AdamW', 'adamw', 'figure', 34),
  two('1 row, weights in memory', 'linear, weights in memory 1x', 'figure', 28),
  two('1 row, weights in cache', 'linear, weights in cache 1x', 'figure', 110),
  two('int8 layer, 1 row, weights in memory', 'linearInt8, weights in memory 1x', 'figure', 27),
  two('int4 layer, 1 row', 'linear int4, groups of 32, int8 activations 1x', 'figure', 26),
  two('softmax, logSoftmax, exp', ['softmax', 'logSoftmax', 'exp'], 'figure', 25),
  two('AdamW', 'adamw', 'figure', 40),
  two('training, 10.8 million parameters', 'training step 6 layers', 'figure', 1900),
  two('training, 124 million parameters', 'training step 12 layers', 'figure', 145),
  two('reading a prompt, 124 million parameters', 'prefill 12 layers', 'figure', 740),
  two('generating, 124 million parameters', 'decode 12 layers', 'figure', 38),
];

export interface Judgement {
  readonly goal: string;
  readonly against: string;
  readonly atLeast: number;
  readonly over: Target['over'];
  /** Rows that had the peer. */
  readonly rows: number;
  /** Mean or worst of their ratios; null without any. */
  readonly reached: number | null;
  readonly verdict: 'met' | 'missed' | 'no peer' | 'not measured';
}

/** How much better than the best of some peers a row is, whichever direction is good; null if none of them took part. */
function ratioAgainst(row: Row, against: Target['against']): number | null {
  if (against === 'figure') return row.ours;
  if (against === 'ceiling') return row.ofCeiling;
  const values = Object.entries(row.peers)
    .filter(([name]) => against.some((start) => name.startsWith(start)))
    .map(([, value]) => value);
  if (values.length === 0) return null;
  return row.better === 'higher' ? row.ours / Math.max(...values) : Math.min(...values) / row.ours;
}

/** Whether a goal is about a row. */
export function concerns(target: Target, { name, shape }: { readonly name: string; readonly shape: string }): boolean {
  return target.rows.some((start) => `${name} ${shape}`.startsWith(start));
}

/** Each goal of runs with so many threads against the rows of one. */
export function judge(rows: readonly Row[], threads: number, goals: readonly Target[] = targets): Judgement[] {
  return goals
    .filter((target) => target.threads === threads)
    .map((target) => {
      const { goal, against, atLeast, over } = target;
      const measured = rows.filter((row) => concerns(target, row));
      const ratios = measured.map((row) => ratioAgainst(row, against)).filter((ratio) => ratio !== null);
      const named = typeof against === 'string' ? against : against.map((name) => name || 'best peer').join(' or ');
      const common = { goal, against: named, atLeast, over, rows: ratios.length };
      if (ratios.length === 0)
        return { ...common, reached: null, verdict: measured.length === 0 ? 'not measured' : 'no peer' };
      const logs = ratios.map((ratio) => Math.log(ratio));
      const mean = Math.exp(logs.reduce((sum, log) => sum + log, 0) / logs.length);
      const reached = over === 'mean' ? mean : Math.min(...ratios);
      return { ...common, reached, verdict: reached >= atLeast ? 'met' : 'missed' };
    });
}

/** One line of the table. */
export function formatJudgement({ goal, against, atLeast, over, rows, reached, verdict }: Judgement): string {
  const columns = [
    `${goal} `.padEnd(40),
    against.padEnd(32),
    `${over === 'each' && rows > 1 ? 'each ' : ''}>= ${atLeast.toFixed(2)}`.padStart(14),
    (reached === null ? '' : reached.toFixed(2)).padStart(8),
    `  ${verdict}`,
  ];
  return columns.join('');
}
