/**
 * Padding and cropping.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import { full, tensor } from '../tensor/create.js';
import { needsRecord, record } from '../tensor/tape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkInteger, checkOneOf } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { indexSelect } from './indexing.js';
import { concat } from './join.js';
import { slice } from './views.js';

const copyKernel = kernelId('copy', 1, 1, 0);

const modes: readonly PadMode[] = ['constant', 'reflect', 'replicate', 'circular'];

/** What new elements are: a constant, the mirror image without the edge, the edge, or the other end. */
export type PadMode = 'constant' | 'reflect' | 'replicate' | 'circular';

/** Options of {@link pad}. */
export interface PadOptions {
  /** Default `constant`. */
  readonly mode?: PadMode;
  /** The constant. Default 0. */
  readonly value?: number;
}

/** [axis, before, after] for each axis that changes; `pads` counts pairs from the last axis. */
function amounts(x: Tensor, pads: readonly number[]): [number, number, number][] {
  if (!Array.isArray(pads) || pads.length % 2 !== 0 || pads.length > 2 * x.rank) {
    const expected = `up to ${x.rank} pairs of integers, from the last axis`;
    throw new AttributeError({ op: 'pad', argument: 'pads', expected, actual: formatValue(pads) });
  }
  const list: [number, number, number][] = [];
  for (let i = 0; i < pads.length; i += 2) {
    const before = checkInteger('pad', 'pads', pads[i]);
    const after = checkInteger('pad', 'pads', pads[i + 1]);
    const axis = x.rank - 1 - i / 2;
    if (x.shape[axis]! + before + after < 0) {
      throw new ShapeError({
        op: 'pad',
        argument: 'pads',
        expected: `to leave a length of axis ${axis}`,
        actual: `${formatValue(pads)} on ${formatShape(x.shape)}`,
      });
    }
    if (before !== 0 || after !== 0) list.push([axis, before, after]);
  }
  return list;
}

/** Where each element of a padded axis comes from. */
function sources(mode: Exclude<PadMode, 'constant'>, length: number, before: number, after: number): Int32Array {
  const limit = mode === 'reflect' ? length - 1 : mode === 'circular' ? length : Infinity;
  if (length === 0 || Math.max(before, after) > limit) {
    const expected = `at most ${Math.max(0, limit)} in mode ${mode} on an axis of ${length}`;
    throw new AttributeError({ op: 'pad', argument: 'pads', expected, actual: formatValue([before, after]) });
  }
  const from = new Int32Array(length + before + after);
  for (let i = 0; i < from.length; i++) {
    const at = i - before;
    if (mode === 'replicate') from[i] = Math.min(Math.max(at, 0), length - 1);
    else if (mode === 'circular') from[i] = (at + length) % length;
    else from[i] = at < 0 ? -at : at >= length ? 2 * (length - 1) - at : at;
  }
  return from;
}

function padConstant(x: Tensor, pads: readonly number[], value: number): Tensor {
  const shape = [...x.shape];
  const offsets = new Array<number>(x.rank).fill(0);
  const recorded = needsRecord([x]);
  let inner = recorded ? x.alias() : x; // the cropping below is part of this node, not a record of its own
  for (const [axis, before, after] of amounts(x, pads)) {
    shape[axis]! += before + after;
    offsets[axis] = Math.max(0, before);
    const length = x.shape[axis]!;
    inner = slice(inner, axis, Math.min(length, Math.max(0, -before)), Math.max(0, length + Math.min(0, after)));
  }
  const y = full(shape, value, { dtype: x.dtype });
  const offset = offsets.reduce((sum, start, axis) => sum + start * y.strides[axis]!, y.offset);
  const { storage, strides, dtypeId, itemBytes } = y;
  if (inner.size > 0)
    submit(copyKernel, [inner], [{ storage, strides, dtypeId, itemBytes, offset, shape: inner.shape }], [], inner.size);
  if (recorded) {
    const back = pads.map((count) => -count);
    record('pad', [x], [y], [], (_node, [grad]) => [padConstant(grad!, back, 0)]);
  }
  return y;
}

/**
 * New elements at the ends of axes; a negative amount crops.
 *
 * @param pads - [before, after] of the last axis, then of the one before it, and so on, as in PyTorch
 * @throws AttributeError if a reflected or circular margin is longer than the axis allows
 * @throws ShapeError if cropping takes more than there is
 */
export function pad(x: Tensor, pads: readonly number[], options: PadOptions = {}): Tensor {
  checkTensor('pad', 'x', x);
  const { value = 0 } = options;
  const mode = checkOneOf('pad', 'mode', options.mode ?? 'constant', modes);
  if (typeof value !== 'number')
    throw new DTypeError({ op: 'pad', argument: 'value', expected: 'a number', actual: formatValue(value) });
  const list = amounts(x, pads);
  if (list.length === 0) return x;
  if (mode === 'constant') return padConstant(x, pads, value);
  return list.reduce((y, [axis, before, after]) => {
    const length = y.shape[axis]!;
    if (before <= 0 && after <= 0) return slice(y, axis, -before, length + after);
    const from = sources(mode, length, before, after);
    if (before < 0 || after < 0) return indexSelect(y, axis, tensor(from));
    const margins = [from.subarray(0, before), from.subarray(before + length)].map((part) =>
      part.length === 0 ? [] : [indexSelect(y, axis, tensor(part))],
    );
    return concat([...margins[0]!, y, ...margins[1]!], axis);
  }, x);
}
