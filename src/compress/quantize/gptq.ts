/**
 * GPTQ: accurate post-training quantisation (Frantar et al. 2023, arXiv 2210.17323).
 *
 * @module
 */
import { noGrad } from '../../autograd/grad.js';
import { sub } from '../../ops/arithmetic.js';
import { ne } from '../../ops/comparison.js';
import { clone, contiguous, copy_, to } from '../../ops/copy.js';
import { concat } from '../../ops/join.js';
import { indexSelect } from '../../ops/indexing.js';
import { matmul } from '../../ops/matmul.js';
import { obsBlock } from '../../ops/obs_block.js';
import { quantize, type Quantized, type QuantizationScheme } from '../../ops/quantization.js';
import { argsort } from '../../ops/sorting.js';
import { diagonal, narrow, reshape, unsqueeze } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { synchronize } from '../../runtime/backend.js';
import { tensor } from '../../tensor/create.js';
import { data } from '../../tensor/read.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { hessianFactor } from '../hessian.js';
import { packNibbles } from './pack.js';
import { gridOf } from './weight_codes.js';

/** Columns that are rounded before what they lost is taken from those behind them (the paper's B). */
const BLOCK = 128;

/** Options of {@link gptq}. */
export interface GptqOptions {
  readonly scheme: Exclude<QuantizationScheme, 'nf4'>;
  readonly bits: 8 | 4;
  /** Inputs that share a scale; null: one scale an output. */
  readonly groupSize: number | null;
  readonly scaleDType: 'float32' | 'float16';
  /**
   * Round the inputs with the largest Hessian diagonal first. Groups then keep the scales of the original weight ("static groups"), so
   * that columns stay in their places.
   */
  readonly actOrder: boolean;
  /** Share of the mean diagonal of the Hessian that is added to it. */
  readonly damping: number;
  /** Range of the codes. Default `minmax`. */
  readonly weightObserver?: 'minmax' | 'mse';
  /** Weights that are 0 stay 0: a pruned layer keeps its pattern, and what was pruned makes up for nothing. Default false. */
  readonly keepZeros?: boolean;
}

/** Scales of every column: a [out, 1] or [out, columns] view that obsBlock broadcasts. */
interface Grid {
  readonly scale: Tensor;
  readonly zeroPoint: Tensor | null;
}

/** Indices as argsort gives them. */
async function orderOf(order: Tensor): Promise<BigInt64Array> {
  return (await data(order)) as BigInt64Array;
}

/** Where each column was put by an order. */
function inverseOf(order: BigInt64Array): BigInt64Array {
  const inverse = new BigInt64Array(order.length);
  for (let j = 0; j < order.length; j++) inverse[Number(order[j]!)] = BigInt(j);
  return inverse;
}

/**
 * Codes of a weight `[out, in]` that keep the layer's output on calibration inputs, whose XᵀX and number of rows are given.
 *
 * @throws StateError if the Hessian cannot be factored
 */
export async function gptq(
  op: string,
  path: string,
  weight: Tensor,
  gram: Tensor,
  rows: number,
  options: GptqOptions,
): Promise<Quantized> {
  const {
    scheme,
    bits,
    groupSize,
    scaleDType,
    actOrder,
    damping,
    weightObserver = 'minmax',
    keepZeros = false,
  } = options;
  const inFeatures = weight.shape[1]!;
  const own = { scheme, bits, scaleDType } as const;
  const [lowest, highest] = scheme === 'affine' ? [0, 2 ** bits - 1] : [1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1];
  const made = new Set<Tensor>();
  const held = <T extends Tensor | null>(x: T): T => {
    if (x !== null) made.add(keep(x));
    return x;
  };
  try {
    let order: Tensor | null = null;
    if (actOrder) order = held(scope(() => noGrad(() => argsort(diagonal(gram), -1, true))));
    const inOrder = (x: Tensor, axis: number): Tensor => (order === null ? x : indexSelect(x, axis, order));
    const permuted = held(scope(() => noGrad(() => clone(inOrder(inOrder(gram, 0), 1)))));
    const { u, dead } = await hessianFactor(op, path, permuted, rows, damping);
    held(u);
    held(dead);
    const w = held(
      scope(() =>
        noGrad(() => where(unsqueeze(dead, 0), 0, to(inOrder(contiguous(to(weight, 'float32')), 1), 'float32'))),
      ),
    );
    const kept = keepZeros ? held(scope(() => noGrad(() => ne(w, 0)))) : null;
    // scales that are known beforehand: of whole rows, or of the original weight's groups
    const scalesOf = (x: Tensor, size: number | null): Pick<Quantized, 'scale' | 'zeroPoint'> =>
      gridOf(x, { ...own, weightObserver, groupSize: size });
    const isStatic = groupSize === null || actOrder;
    const fixed = isStatic ? scope(() => scalesOf(groupSize === null ? w : to(weight, 'float32'), groupSize)) : null;
    if (fixed !== null) [fixed.scale, fixed.zeroPoint].forEach(held);
    const columnGroups =
      fixed !== null && groupSize !== null
        ? held(tensor(Int32Array.from(await orderOf(order!), (j) => Math.floor(Number(j) / groupSize))))
        : null;
    const block = isStatic ? BLOCK : groupSize;
    const codes: Tensor[] = [];
    const scales: Tensor[] = [];
    const zeroPoints: Tensor[] = [];
    for (let at = 0; at < inFeatures; at += block) {
      const size = Math.min(block, inFeatures - at);
      const parts = scope(() =>
        noGrad(() => {
          const part = narrow(w, 1, at, size);
          const column = (x: Tensor): Tensor =>
            columnGroups === null ? unsqueeze(x, 1) : indexSelect(x, 1, narrow(columnGroups, 0, at, size));
          let grid: Grid;
          if (fixed !== null) {
            grid = { scale: column(fixed.scale), zeroPoint: fixed.zeroPoint === null ? null : column(fixed.zeroPoint) };
          } else {
            const found = scalesOf(contiguous(part), size);
            grid = found;
            scales.push(held(found.scale));
            if (found.zeroPoint !== null) zeroPoints.push(held(found.zeroPoint));
          }
          const scale = to(grid.scale, 'float32');
          const factor = narrow(narrow(u, 0, at, size), 1, at, size);
          const keep = kept === null ? null : contiguous(narrow(kept, 1, at, size));
          const result = obsBlock(part, factor, { keep, scale, zeroPoint: grid.zeroPoint, lowest, highest });
          const behind = inFeatures - at - size;
          if (behind > 0) {
            const rest = narrow(w, 1, at + size, behind);
            copy_(rest, sub(rest, matmul(result.errors, narrow(narrow(u, 0, at, size), 1, at + size, behind))));
          }
          return result.codes!;
        }),
      );
      codes.push(held(parts));
      await synchronize();
    }
    const back = order === null ? null : held(tensor(inverseOf(await orderOf(order))));
    return scope(() =>
      noGrad((): Quantized => {
        const all = codes.length === 0 ? quantize(w, { ...own, axis: 0 }).codes : concat(codes, 1);
        const plain = back === null ? all : contiguous(indexSelect(all, 1, back));
        const grouped = (list: readonly Tensor[]): Tensor => concat([...list], 1);
        const scale = fixed === null ? grouped(scales) : reshape(fixed.scale, fixed.scale.shape);
        const zeroPoint =
          scheme !== 'affine'
            ? null
            : fixed === null
              ? grouped(zeroPoints)
              : reshape(fixed.zeroPoint!, fixed.scale.shape);
        const packed = bits === 4;
        return {
          codes: packed ? packNibbles(plain) : plain,
          scale,
          zeroPoint,
          bits,
          axis: groupSize === null ? 0 : null,
          groupSize,
          scheme,
          packed,
        };
      }),
    );
  } finally {
    for (const x of made) x.dispose();
  }
}
