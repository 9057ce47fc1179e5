/**
 * A linear layer whose weight is sparse.
 *
 * @module
 */
import { ShapeError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { clone } from '../ops/copy.js';
import {
  BlockTensor,
  CsrTensor,
  SparseTensor,
  sparseBsrTensor,
  sparseCsrTensor,
  sparseSemiStructuredTensor,
  type SemiStructuredTensor,
} from '../ops/sparse.js';
import { chooseLayout } from '../ops/sparse_choice.js';
import { toSparse, type ToSparseOptions } from '../ops/sparse_convert.js';
import { sparseLinear } from '../ops/sparse_linear.js';
import { detach } from '../ops/views.js';
import { keep, scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import type { Linear } from './linear.js';
import { Module, parameter, type StateDict } from './module.js';

/** Options of {@link SparseLinear.fromLinear}. */
export type SparseLinearOptions = ToSparseOptions;

/** Options of {@link sparsifyLinear}. */
export interface SparsifyOptions extends ToSparseOptions {
  /** Rows of x that the layer will mostly see: 1 when decoding, batch × length in training. */
  readonly rows: number;
}

/**
 * y = x·Wᵀ + b with a sparse W. Takes a {@link Linear}'s place: the same shapes, gradients for the kept values and the bias.
 *
 * State: `values` (and `scale` where they are int8), the indices of its layout (`crowIndices` and `colIndices`, or `indices`), `bias`.
 */
export class SparseLinear extends Module {
  readonly inFeatures: number;
  readonly outFeatures: number;
  values: Tensor;
  crowIndices: Tensor | null = null;
  colIndices: Tensor | null = null;
  indices: Tensor | null = null;
  scale: Tensor | null;
  bias: Tensor | null;
  private readonly form: SparseTensor;

  /** Takes over the parts of `weight`; the bias, if any, becomes a parameter. */
  constructor(weight: SparseTensor, bias: Tensor | null = null) {
    super();
    if (!(weight instanceof SparseTensor)) {
      throw new StateError({
        op: 'SparseLinear',
        argument: 'weight',
        expected: 'a sparse tensor',
        actual: 'something else',
        hint: 'Use SparseLinear.fromLinear, or og.toSparse',
      });
    }
    [this.outFeatures, this.inFeatures] = weight.shape;
    if (bias !== null && (bias.rank !== 1 || bias.size !== this.outFeatures)) {
      const expected = `shape [${this.outFeatures}]`;
      throw new ShapeError({ op: 'SparseLinear', argument: 'bias', expected, actual: formatShape(bias.shape) });
    }
    this.form = weight;
    const values = detach(weight.values);
    this.values = weight.scale === null ? parameter(values) : keep(values);
    this.scale = weight.scale === null ? null : keep(weight.scale);
    if (weight instanceof CsrTensor || weight instanceof BlockTensor) {
      this.crowIndices = keep(weight.crowIndices);
      this.colIndices = keep(weight.colIndices);
    } else {
      this.indices = keep((weight as SemiStructuredTensor).indices);
    }
    this.bias = bias === null ? null : parameter(detach(bias));
  }

  /** The weight with the values as they are now. */
  get weight(): SparseTensor {
    return this.form.withValues(this.values, this.scale);
  }

  /** `[…, in]` → `[…, out]`. */
  forward(x: Tensor): Tensor {
    return sparseLinear(x, this.weight, this.bias);
  }

  protected override release(): void {
    this.form.dispose();
  }

  /**
   * The layer without the weights that are 0, or that `mask` drops. The bias is copied.
   *
   * @throws ShapeError if the weight does not divide into the blocks (into fours for 2:4)
   */
  static async fromLinear(linear: Linear, options: SparseLinearOptions = {}): Promise<SparseLinear> {
    const weight = await toSparse(detach(linear.weight), options);
    return new SparseLinear(weight, linear.bias === null ? null : scope(() => noGrad(() => clone(linear.bias!))));
  }

  /**
   * A layer from the tensors of its state, as a file holds them: by their names the layout is known.
   *
   * @throws StateError if a tensor is missing
   */
  static fromState(state: Readonly<StateDict>, inFeatures: number): SparseLinear {
    const op = 'SparseLinear.fromState';
    checkInteger(op, 'inFeatures', inFeatures, 0);
    const part = (name: string): Tensor => {
      const found = state[name];
      if (found !== undefined) return found;
      const actual = Object.keys(state).join(', ') || 'none';
      throw new StateError({ op, argument: 'state', expected: `a tensor ${name}`, actual });
    };
    const values = part('values');
    const scale = state['scale'] ?? null;
    let weight: SparseTensor;
    if (state['indices'] !== undefined) {
      weight = sparseSemiStructuredTensor(values, part('indices'), [values.shape[0] ?? 0, inFeatures], scale);
    } else {
      const [crow, col] = [part('crowIndices'), part('colIndices')];
      const rows = Math.max(crow.size - 1, 0);
      weight =
        values.rank === 3
          ? sparseBsrTensor(crow, col, values, [rows * values.shape[1]!, inFeatures], scale)
          : sparseCsrTensor(crow, col, values, [rows, inFeatures], scale);
    }
    return new SparseLinear(weight, state['bias'] ?? null);
  }
}

/**
 * The layer in the sparse layout if it is expected to be faster so for inputs of `rows` rows (see `shouldUseSparse`), else the layer
 * itself. The sparsity is that of the weights that are 0, or of the mask.
 */
export async function sparsifyLinear(linear: Linear, options: SparsifyOptions): Promise<Linear | SparseLinear> {
  const { rows, ...form } = options;
  checkInteger('sparsifyLinear', 'rows', rows, 1);
  const made = await SparseLinear.fromLinear(linear, form);
  const size = { m: rows, n: made.outFeatures, k: made.inFeatures };
  const { layout, sparsity } = made.weight;
  if (chooseLayout({ ...size, sparsity, layouts: [layout] }) !== 'dense') return made;
  made.dispose();
  return linear;
}
