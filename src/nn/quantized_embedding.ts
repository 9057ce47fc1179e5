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
import { dequantize, quantize, type Quantized } from '../ops/quantization.js';
import { quantizedLinear } from '../ops/quantized_linear.js';
import { sum } from '../ops/reduce.js';
import { detach, narrow, reshape } from '../ops/views.js';
import { tensor } from '../tensor/create.js';
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

/**
 * A frozen table of vectors, looked up by id, as int8 codes with a scale a row, or in bfloat16. It also is the output layer of a model whose
 * tables are tied ({@link logits}, {@link crossEntropy}); gradients flow to what is multiplied, not to the table.
 *
 * Shapes: ids `[…]` (int32 or int64) → `[…, width]`, in the dtype of `scale`; `codes` `[count, width]`; `scale` `[count]`, or a scalar 1
 * beside bfloat16.
 */
export class QuantizedEmbedding extends Module {
  readonly count: number;
  readonly width: number;
  codes: Tensor;
  scale: Tensor;

  /** Takes over the tensors. {@link QuantizedEmbedding.from} makes one of an Embedding. */
  constructor(codes: Tensor, scale: Tensor) {
    super();
    const isInteger = codes.dtype === 'int8';
    if (codes.rank !== 2 || scale.size !== (isInteger ? codes.shape[0] : 1)) {
      const expected = 'codes [count, width] with a scale a row, or a scalar beside floats';
      const actual = `${codes.dtype} ${formatShape(codes.shape)} with ${formatShape(scale.shape)}`;
      throw new ShapeError({ op: 'QuantizedEmbedding', argument: 'codes', expected, actual });
    }
    [this.count, this.width] = codes.shape as [number, number];
    this.codes = codes;
    this.scale = scale;
  }

  /** A table rounded to nearest; it gives vectors of the same dtype as before. */
  static from({ weight }: Embedding, format: 'int8' | 'bfloat16'): QuantizedEmbedding {
    checkOneOf('QuantizedEmbedding', 'format', format, ['int8', 'bfloat16']);
    return scope(() =>
      noGrad(() => {
        const plain = detach(weight);
        if (format === 'bfloat16')
          return new QuantizedEmbedding(keep(clone(to(plain, 'bfloat16'))), keep(tensor(1, { dtype: weight.dtype })));
        const { codes, scale } = quantize(plain, { axis: 0 });
        return new QuantizedEmbedding(keep(codes), keep(to(scale, weight.dtype)));
      }),
    );
  }

  /** The table that the codes stand for, `[count, width]`, made anew at each reading. */
  get weight(): Tensor {
    const { codes, scale } = this;
    return noGrad(() =>
      codes.dtype === 'int8' ? dequantize(this.quantized, scale.dtype) : to(detach(codes), scale.dtype),
    );
  }

  private get quantized(): Quantized {
    const { codes, scale } = this;
    return { codes, scale, zeroPoint: null, bits: 8, axis: 0, groupSize: null, scheme: 'symmetric' };
  }

  /** Integer ids `[…]` → vectors `[…, width]`. */
  forward(ids: Tensor): Tensor {
    return scope(() => {
      const { codes, scale } = this;
      const rows = to(embedding(codes, ids), scale.dtype);
      if (codes.dtype !== 'int8') return rows;
      return mul(rows, embedding(reshape(scale, [this.count, 1]), ids));
    });
  }

  /** x·Tᵀ for the table T: `[…, width]` → `[…, count]`. */
  logits(x: Tensor): Tensor {
    return this.codes.dtype === 'int8' ? quantizedLinear(x, this.quantized) : linear(x, this.codes);
  }

  /**
   * Mean cross-entropy of {@link logits}, of which few are held at a time. Targets of -100 do not count. First derivatives only.
   *
   * Shapes: hidden `[…, width]`, targets `[…]` → a scalar.
   */
  crossEntropy(hidden: Tensor, targets: Tensor): Tensor {
    if (this.codes.dtype !== 'int8') return linearCrossEntropy(hidden, this.codes, targets);
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
