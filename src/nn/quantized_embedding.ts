/**
 * A table of vectors in fewer bits.
 *
 * @module
 */
import { customFunction } from '../autograd/custom.js';
import { enableGrad, gradientsOf, noGrad } from '../autograd/grad.js';
import { StateError, ShapeError } from '../errors.js';
import { add, div, mul } from '../ops/arithmetic.js';
import { ne } from '../ops/comparison.js';
import { clone, contiguous, to } from '../ops/copy.js';
import { crossEntropy } from '../ops/cross_entropy.js';
import { embedding } from '../ops/embedding.js';
import { concat } from '../ops/join.js';
import { linear } from '../ops/linear.js';
import { linearCrossEntropy } from '../ops/linear_cross_entropy.js';
import { dequantize, quantize, type Quantized, type QuantizeOptions } from '../ops/quantization.js';
import { quantizedLinear } from '../ops/quantized_linear.js';
import { sum } from '../ops/reduce.js';
import { detach, narrow, reshape } from '../ops/views.js';
import { tensor } from '../tensor/create.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { keep, scope } from '../tensor/scope.js';
import { isGradEnabled } from '../tensor/tape.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkOneOf } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import type { Embedding } from './embedding.js';
import { Module } from './module.js';

/** Logits that {@link QuantizedEmbedding.crossEntropy} holds at a time. */
const BLOCK_BYTES = 1 << 24;
/** Rows below which the codes are read too often. */
const LEAST_ROWS = 64;
const IGNORED = -100;

/** How a table is held: see {@link QuantizedEmbedding}. */
export type EmbeddingFormat = 'int8' | 'int4' | 'bfloat16';
export const embeddingFormats: readonly EmbeddingFormat[] = ['int8', 'int4', 'bfloat16'];

/** Numbers of a vector that share a scale among 4-bit codes. */
const GROUP = 32;
const int4: QuantizeOptions = { bits: 4, groupSize: GROUP, packed: true, scaleDType: 'float16' };

/**
 * A frozen table of vectors, looked up by id, in fewer bits: int8 codes with a scale a row, 4-bit codes with a float16 scale for 32 numbers, or
 * bfloat16. It also is the output layer of a model whose tables are tied ({@link logits}, {@link crossEntropy}); gradients flow to what is
 * multiplied, not to the table.
 *
 * Shapes: ids `[…]` (int32 or int64) → `[…, width]`, in `dtype`. int8: `codes` `[count, width]`, `scale` `[count]`. int4: `codes`
 * `[count, width / 2]`, uint8, two a byte, `scale` `[count, width / 32]`. bfloat16: `scale` is a scalar 1.
 */
export class QuantizedEmbedding extends Module {
  readonly count: number;
  readonly width: number;
  /** Of the vectors. */
  readonly dtype: DType;
  codes: Tensor;
  scale: Tensor;

  /**
   * Takes over the tensors. {@link QuantizedEmbedding.from} makes one of an Embedding.
   *
   * @param dtype - of the vectors; default: that of the scale
   */
  constructor(codes: Tensor, scale: Tensor, dtype: DType = scale.dtype) {
    super();
    const [count, width] = codes.rank === 2 ? (codes.shape as [number, number]) : [0, 0];
    const scales = codes.dtype === 'int8' ? count : codes.dtype === 'uint8' ? (count * width * 2) / GROUP : 1;
    if (codes.rank !== 2 || scale.size !== scales) {
      const expected = `codes [count, width] with a scale a row, [count, width / 2] with one for ${GROUP}, or floats with a scalar`;
      const actual = `${codes.dtype} ${formatShape(codes.shape)} with ${formatShape(scale.shape)}`;
      throw new ShapeError({ op: 'QuantizedEmbedding', argument: 'codes', expected, actual });
    }
    [this.count, this.width] = [count, codes.dtype === 'uint8' ? 2 * width : width];
    this.dtype = dtype;
    this.codes = codes;
    this.scale = scale;
  }

  /**
   * A table rounded to nearest; it gives vectors of the same dtype as before.
   *
   * @throws ShapeError for int4 if the width is no multiple of 32
   */
  static from({ weight }: Embedding, format: EmbeddingFormat): QuantizedEmbedding {
    checkOneOf('QuantizedEmbedding', 'format', format, embeddingFormats);
    return scope(() =>
      noGrad(() => {
        const plain = detach(weight);
        if (format === 'bfloat16')
          return new QuantizedEmbedding(keep(clone(to(plain, 'bfloat16'))), keep(tensor(1, { dtype: weight.dtype })));
        if (format === 'int8') {
          const { codes, scale } = quantize(plain, { axis: 0 });
          return new QuantizedEmbedding(keep(codes), keep(to(scale, weight.dtype)));
        }
        return QuantizedEmbedding.of(quantize(plain, int4), weight.dtype);
      }),
    );
  }

  /** A table of 4-bit codes that were made elsewhere, in groups of 32 with float16 scales. It owns them. */
  static of({ codes, scale }: Quantized, dtype: DType): QuantizedEmbedding {
    return new QuantizedEmbedding(keep(codes), keep(scale), dtype);
  }

  /** The table that the codes stand for, `[count, width]`, made anew at each reading. */
  get weight(): Tensor {
    const { codes, dtype } = this;
    return noGrad(() => (isFloating(codes.dtype) ? to(detach(codes), dtype) : dequantize(this.quantized, dtype)));
  }

  private get quantized(): Quantized {
    const { codes, scale } = this;
    const common = { codes, scale, zeroPoint: null, scheme: 'symmetric' } as const;
    return codes.dtype === 'int8'
      ? { ...common, bits: 8, axis: 0, groupSize: null }
      : { ...common, bits: 4, axis: null, groupSize: GROUP, packed: true };
  }

  /** Integer ids `[…]` → vectors `[…, width]`. */
  forward(ids: Tensor): Tensor {
    return scope(() => {
      const { codes, scale, dtype, count } = this;
      const rows = embedding(codes, ids);
      if (isFloating(codes.dtype)) return to(rows, dtype);
      const scales = embedding(reshape(scale, [count, -1]), ids);
      if (codes.dtype === 'int8') return mul(to(rows, dtype), scales);
      return dequantize({ ...this.quantized, codes: rows, scale: scales }, dtype);
    });
  }

  /** x·Tᵀ for the table T: `[…, width]` → `[…, count]`. */
  logits(x: Tensor): Tensor {
    return isFloating(this.codes.dtype) ? linear(x, this.codes) : quantizedLinear(x, this.quantized);
  }

  /**
   * Mean cross-entropy of {@link logits}, of which few are held at a time. Targets of -100 do not count. First derivatives only.
   *
   * Shapes: hidden `[…, width]`, targets `[…]` → a scalar.
   */
  crossEntropy(hidden: Tensor, targets: Tensor): Tensor {
    if (isFloating(this.codes.dtype)) return linearCrossEntropy(hidden, this.codes, targets);
    const wanted = isGradEnabled() && hidden.requiresGrad;
    return scope(() => {
      const ids = reshape(contiguous(targets), [-1]);
      const counted = sum(to(ne(ids, IGNORED), 'float32'));
      let slope: Tensor | null = null;
      const total = customFunction<readonly [Tensor]>({
        name: 'embeddingCrossEntropy',
        forward: (x) => {
          const made = this.blocks(reshape(x, [-1, this.width]), ids, wanted);
          slope = made.slope;
          return made.loss;
        },
        save: () => [slope],
        backward({ grad, saved }) {
          if (isGradEnabled()) {
            const [expected, actual] = ['first derivatives', 'createGraph'];
            throw new StateError({ op: 'QuantizedEmbedding.crossEntropy', expected, actual });
          }
          return [reshape(mul(saved[0]!, grad), hidden.shape)];
        },
      })(hidden);
      return div(total, counted);
    });
  }

  /** The sum of the losses, and its gradient for x `[rows, width]` if it is wanted, block by block. */
  private blocks(x: Tensor, ids: Tensor, wanted: boolean): { loss: Tensor; slope: Tensor | null } {
    const rows = ids.size;
    const size = Math.max(LEAST_ROWS, Math.floor(BLOCK_BYTES / (4 * Math.max(1, this.count))));
    return scope(() => {
      let loss = tensor(0);
      const slopes: Tensor[] = [];
      for (let at = 0; at < rows; at += size) {
        const count = Math.min(size, rows - at);
        const [part, slope] = scope(() => {
          const leaf = detach(narrow(x, 0, at, count));
          leaf.requiresGrad = wanted;
          const target = narrow(ids, 0, at, count);
          const compute = (): Tensor =>
            crossEntropy(this.logits(leaf), target, {
              reduction: 'sum',
              ignoreIndex: IGNORED,
              overwriteLogits: wanted,
            });
          const own = wanted ? enableGrad(compute) : compute();
          return [detach(own), wanted ? gradientsOf(own, [leaf])[0]! : null] as const;
        });
        loss = add(loss, part);
        if (slope !== null) slopes.push(slope);
      }
      return { loss, slope: slopes.length === 0 ? null : concat(slopes, 0) };
    });
  }
}
