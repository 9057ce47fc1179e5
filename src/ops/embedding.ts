/**
 * Rows of a table by number.
 *
 * @module
 */
import { DTypeError, ShapeError } from '../errors.js';
import { kernelId } from '../runtime/kernels.js';
import { submit, type View } from '../runtime/queue.js';
import { constant, zeros } from '../tensor/create.js';
import { contiguousStrides, type Shape } from '../tensor/shape.js';
import { Addend, isGradEnabled, needsRecord, record, setRecording } from '../tensor/tape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { eq } from './comparison.js';
import { contiguous, copy_ } from './copy.js';
import { defineOp, type Op } from './define.js';
import { narrow, unsqueeze } from './views.js';
import { maskedFill } from './where.js';

interface EmbeddingAttrs {
  /** Row that gets no gradient; -1 for none. */
  readonly padding: number;
  readonly table: Shape;
}

const indexAddKernel = kernelId('index_add', 2, 1, 1);

/** A contiguous tensor as rows of its last `keep` axes. */
function rowsOf(x: Tensor, keep: 0 | 1): View {
  const { storage, offset, dtypeId, itemBytes } = x;
  const shape = keep === 0 ? [x.size] : [x.shape.slice(0, -1).reduce((a, b) => a * b, 1), x.shape.at(-1)!];
  return { storage, offset, dtypeId, itemBytes, shape, strides: contiguousStrides(shape) };
}

const embeddingOp: Op<EmbeddingAttrs> = defineOp<EmbeddingAttrs>({
  name: 'embedding',
  kernel: 'index_select',
  inputs: [
    { name: 'weight', kind: 'any' },
    { name: 'ids', kind: 'integer' },
  ],
  attrCount: 1,
  output: ([weight, ids]) => ({ shape: [...ids!.shape, weight!.shape[1]!], dtype: weight!.dtype }),
  operands: ([weight, ids]) => [weight!, rowsOf(ids!, 0)],
  results: (_inputs, _attrs, [y]) => [rowsOf(y!, 1)],
  encode: () => [0],
  saves: ([, ids]) => [ids!],
  backward: ({ grad, saved: [ids], attrs }) => [tableGradient(grad, ids!, attrs), null],
  cost: (_inputs, [y]) => ({ flops: 0, bytes: 2 * y!.bytes }),
});

/** Adds rows to those of a table that they came from. */
function addRows(table: Tensor, grad: Tensor, ids: Tensor): void {
  const source = contiguous(grad);
  submit(indexAddKernel, [rowsOf(ids, 0), rowsOf(source, 1)], [table], [0], source.size);
}

/** The table's gradient has few rows that are not zero: where there is a gradient already (of a tied output layer), they join it. */
function tableGradient(grad: Tensor, ids: Tensor, attrs: EmbeddingAttrs): Tensor | Addend {
  const make = (): Tensor => embeddingBackward(grad, ids, attrs);
  return isGradEnabled() || attrs.padding >= 0
    ? make()
    : new Addend(grad.dtype, make, (total) => addRows(total, grad, ids));
}

/** Gradient of the table: the rows of `grad` added up where they came from, in one new tensor. */
function embeddingBackward(grad: Tensor, ids: Tensor, attrs: EmbeddingAttrs): Tensor {
  const { padding, table } = attrs;
  const total = zeros(table, { dtype: grad.dtype });
  addRows(total, grad, ids);
  if (padding >= 0) {
    const before = setRecording(false);
    copy_(narrow(total, 0, padding, 1), constant(0, grad.dtype));
    setRecording(before);
  }
  if (needsRecord([grad])) {
    record('embedding_backward', [grad], [total], [ids], (node, grads) => {
      const index = node.unpack()[0]!;
      const picked = embeddingOp.call([grads[0]!, index], attrs);
      return [padding < 0 ? picked : maskedFill(picked, unsqueeze(eq(index, padding), -1), 0)];
    });
  }
  return total;
}

/** Options of {@link embedding}. */
export interface EmbeddingOptions {
  /** Row that gets no gradient (its values are looked up all the same). Negative counts from the end. Default none. */
  readonly paddingIdx?: number;
}

/**
 * The rows of `weight` that `ids` name.
 *
 * An id outside the table is an error found by the kernel: it is thrown at the call for tiny work, else where a result is waited
 * for.
 *
 * @shape weight: (V, D), ids: any → (…ids, D)
 * @dtype weight: any, ids: int32 or int64 → that of weight
 * @throws ShapeError if `weight` does not have two axes
 * @throws AttributeError if an id lies outside the table, or `paddingIdx` does
 */
export function embedding(weight: Tensor, ids: Tensor, options: EmbeddingOptions = {}): Tensor {
  checkTensor('embedding', 'weight', weight);
  checkTensor('embedding', 'ids', ids);
  if (weight.rank !== 2) {
    throw new ShapeError({
      op: 'embedding',
      argument: 'weight',
      expected: 'shape [rows, width]',
      actual: formatShape(weight.shape),
    });
  }
  if (ids.dtype !== 'int64' && ids.dtype !== 'int32') {
    throw new DTypeError({
      op: 'embedding',
      argument: 'ids',
      expected: 'an int32 or int64 tensor',
      actual: ids.dtype,
      hint: "Cast it with to('int64')",
    });
  }
  const rows = weight.shape[0]!;
  const given = options.paddingIdx;
  const padding = given === undefined ? -1 : checkInteger('embedding', 'paddingIdx', given, -rows, rows - 1);
  const attrs = { padding: given !== undefined && padding < 0 ? padding + rows : padding, table: weight.shape };
  return embeddingOp.call([weight, contiguous(ids)], attrs);
}
