/**
 * A table of vectors in fewer bits.
 *
 * @module
 */
import { customFunction } from '../autograd/custom.js';
import { enableGrad, gradientsOf, noGrad } from '../autograd/grad.js';
import { StateError, ShapeError } from '../errors.js';
import { add, div, mul, sub } from '../ops/arithmetic.js';
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

const isLike = (a: Tensor, b: Tensor): boolean => a.dtype === b.dtype && a.shape.join() === b.shape.join();

/** How a table is held: see {@link QuantizedEmbedding}. */
export type EmbeddingFormat = 'int8' | 'int4' | 'int4+int4' | 'bfloat16';
export const embeddingFormats: readonly EmbeddingFormat[] = ['int8', 'int4', 'int4+int4', 'bfloat16'];

/** Numbers of a vector that share a scale among 4-bit codes. */
export const EMBEDDING_GROUP = 32;
const int4: QuantizeOptions = { bits: 4, groupSize: EMBEDDING_GROUP, packed: true, scaleDType: 'float16' };

/**
 * A frozen table of vectors, looked up by id, in fewer bits: int8 codes with a scale a row, 4-bit codes with a float16 scale for 32 numbers, or
 * bfloat16. It also is the output layer of a model whose tables are tied ({@link logits}, {@link crossEntropy}); gradients flow to what is
 * multiplied, not to the table.
 *
 * `int4+int4` is quantisation in two stages (Juang & Gray, "Multiple stage vector quantization for speech coding", ICASSP 1982): what the first 4 bits
 * leave of each number is held in 4 more. Vectors that are looked up are the sum, about as exact as int8; logits, for which a whole table is read for each
 * token, take the first stage alone, as fast as int4. A language model minds coarse logits much less than coarse inputs.
 *
 * Shapes: ids `[…]` (int32 or int64) → `[…, width]`, in `dtype`. int8: `codes` `[count, width]`, `scale` `[count]`. int4: `codes`
 * `[count, width / 2]`, uint8, two a byte, `scale` `[count, width / 32]`; `remainder` and `remainderScale` alike, if there are any. bfloat16: `scale`
 * is a scalar 1.
 */
export class QuantizedEmbedding extends Module {
  readonly count: number;
  readonly width: number;
  /** Of the vectors. */
  readonly dtype: DType;
  codes: Tensor;
  scale: Tensor;
  /** Codes of the second stage of `int4+int4`, else null. */
  remainder: Tensor | null;
  remainderScale: Tensor | null;

  /**
   * Takes over the tensors. {@link QuantizedEmbedding.from} makes one of an Embedding.
   *
   * @param dtype - of the vectors; default: that of the scale
   * @param remainder - of 4-bit codes: the second stage
   */
  constructor(
    codes: Tensor,
    scale: Tensor,
    dtype: DType = scale.dtype,
    remainder: Pick<Quantized, 'codes' | 'scale'> | null = null,
  ) {
    super();
    const [count, width] = codes.rank === 2 ? (codes.shape as [number, number]) : [0, 0];
    const scales = codes.dtype === 'int8' ? count : codes.dtype === 'uint8' ? (count * width * 2) / EMBEDDING_GROUP : 1;
    if (codes.rank !== 2 || scale.size !== scales) {
      const expected = `codes [count, width] with a scale a row, [count, width / 2] with one for ${EMBEDDING_GROUP}, or floats with a scalar`;
      const actual = `${codes.dtype} ${formatShape(codes.shape)} with ${formatShape(scale.shape)}`;
      throw new ShapeError({ op: 'QuantizedEmbedding', argument: 'codes', expected, actual });
    }
    if (
      remainder !== null &&
      (codes.dtype !== 'uint8' || !isLike(remainder.codes, codes) || remainder.scale.size !== scales)
    ) {
      const expected = `uint8 ${formatShape(codes.shape)} with ${scales} scales, as the codes it belongs to`;
      const actual = `${remainder.codes.dtype} ${formatShape(remainder.codes.shape)} with ${remainder.scale.size}`;
      throw new ShapeError({ op: 'QuantizedEmbedding', argument: 'remainder', expected, actual });
    }
    [this.count, this.width] = [count, codes.dtype === 'uint8' ? 2 * width : width];
    this.dtype = dtype;
    this.codes = codes;
    this.scale = scale;
    this.remainder = remainder?.codes ?? null;
    this.remainderScale = remainder?.scale ?? null;
  }

  /**
   * A table rounded to nearest; it gives vectors of the same dtype as before.
   *
   * @throws ShapeError for 4-bit codes if the width is no multiple of 32
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
        return QuantizedEmbedding.inFourBits(weight, format, (part) => quantize(part, int4));
      }),
    );
  }

  /**
   * A table of 4-bit codes in groups of 32 with float16 scales.
   *
   * @param round - chooses the codes of a table, or of what the first stage leaves
   * @param given - the first stage, if it was chosen otherwise
   */
  static inFourBits(
    weight: Tensor,
    format: 'int4' | 'int4+int4',
    round: (part: Tensor) => Quantized,
    given: Quantized | null = null,
  ): QuantizedEmbedding {
    return scope(() =>
      noGrad(() => {
        const kept = ({ codes, scale, ...rest }: Quantized): Quantized => ({
          ...rest,
          codes: keep(codes),
          scale: keep(scale),
        });
        const plain = detach(weight);
        const first = kept(given ?? round(plain));
        const rest = format === 'int4' ? null : kept(round(sub(to(plain, 'float32'), dequantize(first))));
        return new QuantizedEmbedding(first.codes, first.scale, weight.dtype, rest);
      }),
    );
  }

  /** The table that ids look up, `[count, width]`, made anew at each reading. */
  get weight(): Tensor {
    const { remainder, dtype } = this;
    return remainder === null ? this.outputWeight : noGrad(() => scope(() => to(this.sum(this.stages), dtype)));
  }

  /** The table that {@link logits} multiplies with: {@link weight}, but for `int4+int4` the first stage of it. */
  get outputWeight(): Tensor {
    const { codes, dtype } = this;
    return noGrad(() => (isFloating(codes.dtype) ? to(detach(codes), dtype) : dequantize(this.quantized, dtype)));
  }

  private get stages(): Quantized[] {
    const { quantized, remainder, remainderScale } = this;
    return remainder === null ? [quantized] : [quantized, { ...quantized, codes: remainder, scale: remainderScale! }];
  }

  private sum(stages: readonly Quantized[]): Tensor {
    return stages.map((stage) => dequantize(stage)).reduce((all, stage) => add(all, stage));
  }

  private get quantized(): Quantized {
    const { codes, scale } = this;
    const common = { codes, scale, zeroPoint: null, scheme: 'symmetric' } as const;
    return codes.dtype === 'int8'
      ? { ...common, bits: 8, axis: 0, groupSize: null }
      : { ...common, bits: 4, axis: null, groupSize: EMBEDDING_GROUP, packed: true };
  }

  /** Integer ids `[…]` → vectors `[…, width]`. */
  forward(ids: Tensor): Tensor {
    return scope(() => {
      const { codes, scale, dtype, count } = this;
      if (isFloating(codes.dtype)) return to(embedding(codes, ids), dtype);
      if (codes.dtype === 'int8')
        return mul(to(embedding(codes, ids), dtype), embedding(reshape(scale, [count, -1]), ids));
      const rows = this.stages.map((stage) => ({
        ...stage,
        codes: embedding(stage.codes, ids),
        scale: embedding(reshape(stage.scale, [count, -1]), ids),
      }));
      return to(this.sum(rows), dtype);
    });
  }

  /** x·Tᵀ for the table T, {@link outputWeight}: `[…, width]` → `[…, count]`. */
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
