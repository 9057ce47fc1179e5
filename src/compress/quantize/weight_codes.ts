/**
 * Codes of a weight by rounding to the nearest, over its whole range or the part of it that loses least.
 *
 * @module
 */
import { noGrad } from '../../autograd/grad.js';
import { mul, sub } from '../../ops/arithmetic.js';
import { lt } from '../../ops/comparison.js';
import { to } from '../../ops/copy.js';
import { matmul } from '../../ops/matmul.js';
import { dequantize, quantize, type Quantized, type QuantizationScheme } from '../../ops/quantization.js';
import { sum } from '../../ops/reduce.js';
import { square } from '../../ops/unary.js';
import { concat } from '../../ops/join.js';
import { detach, diagonal, narrow, permute, reshape } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { full } from '../../tensor/create.js';
import { scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';

/** How a weight `[out, in]` becomes codes. */
export interface WeightGrid {
  readonly scheme: QuantizationScheme;
  readonly bits: 8 | 4;
  /** Inputs that share a scale; null: one scale an output. */
  readonly groupSize: number | null;
  readonly scaleDType: 'float32' | 'float16';
  readonly weightObserver: 'minmax' | 'mse';
}

/** Parts of the whole range that the search tries: 1, 0.99, … 0.3. */
const SHRINKS = Array.from({ length: 71 }, (_, i) => 1 - i / 100);

/** What a weight loses in each row or group: Σ lost², or lostᵀ·G·lost with the block of XᵀX of its inputs. */
function lossOf(lost: Tensor, groups: number, gram: Tensor | null): Tensor {
  const [out, inputs] = lost.shape as [number, number];
  const size = inputs / groups;
  const parts = reshape(lost, [out, groups, size]);
  if (gram === null) return sum(square(parts), 2);
  // the blocks on the diagonal of XᵀX as [groups, size, size]
  const blocks = permute(diagonal(permute(reshape(gram, [groups, size, groups, size]), [1, 3, 0, 2])), [2, 0, 1]);
  const byGroup = permute(parts, [1, 0, 2]);
  return permute(sum(mul(matmul(byGroup, blocks), byGroup), 2), [1, 0]);
}

/** Elements of the rows that are searched at a time: what is made of them stays in a cache. */
const BLOCK_ELEMENTS = 1 << 19;

/**
 * Scales (and zero points) for whose codes a weight loses least, found among 71 parts of the range of each row or group: least squares, or,
 * with XᵀX of the layer's inputs, the error of the group's share of the output, as AWQ's search for clipping does (Lin et al. 2024, arXiv
 * 2306.00978, section 4; without its protection of some layers).
 */
function leastLossGrid(weight: Tensor, grid: WeightGrid, gram: Tensor | null): Pick<Quantized, 'scale' | 'zeroPoint'> {
  const [out, inputs] = weight.shape as [number, number];
  const rows = Math.max(1, Math.floor(BLOCK_ELEMENTS / Math.max(1, inputs)));
  if (out <= rows) return leastLossOfRows(weight, grid, gram);
  const parts: Pick<Quantized, 'scale' | 'zeroPoint'>[] = [];
  for (let at = 0; at < out; at += rows)
    parts.push(leastLossOfRows(narrow(weight, 0, at, Math.min(rows, out - at)), grid, gram));
  const zeros = parts.flatMap(({ zeroPoint }) => (zeroPoint === null ? [] : [zeroPoint]));
  return { scale: concat(parts.map(({ scale }) => scale), 0), zeroPoint: zeros.length === 0 ? null : concat(zeros, 0) }; // prettier-ignore
}

function leastLossOfRows(
  weight: Tensor,
  { groupSize, scheme, bits, scaleDType }: WeightGrid,
  gram: Tensor | null,
): Pick<Quantized, 'scale' | 'zeroPoint'> {
  const grouping = groupSize === null ? { axis: 0 } : { groupSize };
  const groups = groupSize === null ? 1 : weight.shape[1]! / groupSize;
  return scope(() => {
    const whole = quantize(weight, { scheme, bits, scaleDType, ...grouping });
    let best = { scale: to(whole.scale, scaleDType), least: full([weight.shape[0]!, groups], Infinity) };
    for (const part of SHRINKS)
      best = scope(() => {
        const tried = to(mul(to(whole.scale, 'float32'), part), scaleDType);
        // the ends shrink alike, so that the zero point keeps its place among the codes
        const given = { scale: tried, ...(whole.zeroPoint === null ? {} : { zeroPoint: whole.zeroPoint }) };
        const codes = quantize(weight, { scheme, bits, scaleDType, ...grouping, ...given });
        const loss = lossOf(sub(weight, dequantize(codes)), groups, gram);
        const better = lt(loss, best.least);
        const { scale } = best;
        return { scale: where(reshape(better, scale.shape), tried, scale), least: where(better, loss, best.least) };
      });
    return { scale: best.scale, zeroPoint: whole.zeroPoint };
  });
}

/** Scales and zero points that a weight's codes will have. `gram`: XᵀX `[in, in]` of the inputs. */
export function gridOf(
  weight: Tensor,
  grid: WeightGrid,
  gram: Tensor | null = null,
): Pick<Quantized, 'scale' | 'zeroPoint'> {
  return scope(() =>
    noGrad(() => {
      const { groupSize, scheme, bits, scaleDType, weightObserver } = grid;
      const plain = detach(weight);
      if (weightObserver === 'mse') return leastLossGrid(to(plain, 'float32'), grid, gram);
      return quantize(plain, { scheme, bits, scaleDType, ...(groupSize === null ? { axis: 0 } : { groupSize }) });
    }),
  );
}

/** The nearest codes, 4-bit ones two a byte. `gram`: XᵀX `[in, in]` of the inputs, if what counts is the output. */
export function roundToNearest(weight: Tensor, grid: WeightGrid, gram: Tensor | null = null): Quantized {
  return scope(() =>
    noGrad(() => {
      const { groupSize, scheme, bits, scaleDType, weightObserver } = grid;
      const own = {
        scheme,
        bits,
        scaleDType,
        packed: bits === 4,
        ...(groupSize === null ? { axis: 0 } : { groupSize }),
      };
      const plain = detach(weight);
      if (weightObserver === 'minmax') return quantize(plain, own);
      const { scale, zeroPoint } = leastLossGrid(to(plain, 'float32'), grid, gram);
      return quantize(plain, { ...own, scale, ...(zeroPoint === null ? {} : { zeroPoint }) });
    }),
  );
}
