/**
 * Students that begin as a part of their teacher.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import { GPT } from '../../models/gpt.js';
import { MultiHeadAttention } from '../../nn/attention.js';
import type { Module } from '../../nn/module.js';
import { copy_, to } from '../../ops/copy.js';
import { narrow, reshape } from '../../ops/views.js';
import { scope } from '../../tensor/scope.js';
import { sameShape } from '../../tensor/shape.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkInteger, checkKeys, checkOneOf } from '../../util/assert.js';
import { formatShape, formatValue } from '../../util/format.js';
import { blocksOf } from '../block_walk.js';

/** Which of a teacher's N blocks the S blocks of a student begin as: block ⌊i·N / S⌋ (every second for half as many), the first, the last, or these. */
export type LayerChoice = 'uniform' | 'first' | 'last' | readonly number[];

/** Options of {@link initializeFromTeacher}. */
export interface InitializeOptions {
  /** Default `uniform`. */
  readonly layers?: LayerChoice;
  /**
   * `exact`: tensors of other shapes are refused. `truncate`: they take the leading part of the teacher's along every axis, heads and the
   * widths of heads each for themselves. A truncated model does not compute what the teacher does; it is a start for training. Default
   * `exact`.
   */
  readonly widths?: 'exact' | 'truncate';
}

const op = 'initializeFromTeacher';

/** @internal Numbers of `count` layers spread over so many: ⌊i·N / S⌋. */
export const spreadLayers = (count: number, of: number): number[] =>
  Array.from({ length: count }, (_, i) => Math.floor((i * of) / count));

function chosen(layers: LayerChoice, own: number, others: number): number[] {
  if (typeof layers !== 'string') {
    if (!Array.isArray(layers) || layers.length !== own) {
      const expected = `${own} blocks, one for each of the student's`;
      throw new AttributeError({ op, argument: 'layers', expected, actual: formatValue(layers) });
    }
    return layers.map((layer: unknown, i) => checkInteger(op, `layers[${i}]`, layer, 0, others - 1));
  }
  checkOneOf(op, 'layers', layers, ['uniform', 'first', 'last']);
  if (own > others) {
    const expected = `at most ${others} blocks, as the teacher has`;
    throw new AttributeError({ op, argument: 'student', expected, actual: String(own) });
  }
  if (layers === 'uniform') return spreadLayers(own, others);
  return Array.from({ length: own }, (_, i) => (layers === 'first' ? i : others - own + i));
}

/** Shapes in which axes that hold heads are split into heads and their width, by the path of the tensor. */
function headShapes(model: Module): Map<string, readonly number[]> {
  const shapes = new Map<string, readonly number[]>();
  for (const [path, module] of model.namedModules()) {
    if (!(module instanceof MultiHeadAttention)) continue;
    for (const name of ['q', 'k', 'v', 'o'] as const) {
      const heads = name === 'k' || name === 'v' ? module.kvHeads : module.heads;
      const { inFeatures, outFeatures } = module[name];
      const split = [heads, module.headWidth];
      const prefix = path === '' ? name : `${path}.${name}`;
      shapes.set(`${prefix}.weight`, name === 'o' ? [outFeatures, ...split] : [...split, inFeatures]);
      if (name !== 'o') shapes.set(`${prefix}.bias`, split);
    }
  }
  return shapes;
}

/** The leading part of a tensor, in the shape of another. */
function leading(
  name: string,
  from: Tensor,
  own: readonly number[],
  split: readonly number[] | undefined,
  of: readonly number[] | undefined,
): Tensor {
  const [wanted, held] = split !== undefined && of !== undefined ? [split, of] : [own, from.shape];
  if (wanted.length !== held.length || wanted.some((length, axis) => length > held[axis]!)) {
    const expected = `at least ${formatShape(wanted)} to take a part of`;
    throw new ShapeError({ op, argument: name, expected, actual: formatShape(held) });
  }
  const part = wanted.reduce((x, length, axis) => narrow(x, axis, 0, length), reshape(from, held));
  return reshape(part, own);
}

/**
 * Copies a teacher's tensors into a student of the same make: some of its blocks, and what stands around them (token and position
 * vectors, the last norm, the output layer). Nothing is copied if anything does not fit.
 *
 * @returns the numbers of the teacher's blocks, in the student's order
 * @throws AttributeError if a choice is out of range, or the teacher lacks a tensor that the student has (it may be quantised: start from
 *   the model before)
 * @throws ShapeError if shapes differ and `widths` is `exact`, or the student is wider
 * @source DistilBERT, arXiv 1910.01108, §3
 */
export function initializeFromTeacher(student: Module, teacher: Module, options: InitializeOptions = {}): number[] {
  checkKeys(op, options, ['layers', 'widths']);
  const widths = checkOneOf(op, 'widths', options.widths ?? 'exact', ['exact', 'truncate']);
  const [own, others] = [blocksOf(student), blocksOf(teacher)];
  const layers = chosen(options.layers ?? 'uniform', own.length, others.length);
  return scope(() =>
    noGrad(() => {
      const [mine, theirs] = [student.stateDict(), teacher.stateDict()];
      const [split, of] = [headShapes(student), headShapes(teacher)];
      const copies = Object.entries(mine).map(([name, target]): [Tensor, Tensor] => {
        const block = own.findIndex(([path]) => path !== '' && name.startsWith(`${path}.`));
        const source = block < 0 ? name : `${others[layers[block]!]![0]}${name.slice(own[block]![0].length)}`;
        const from = theirs[source];
        if (from === undefined) {
          const hint = 'Teacher and student need one make; start from a teacher that is not quantised';
          throw new AttributeError({ op, argument: 'teacher', expected: `a tensor ${source}`, actual: 'none', hint });
        }
        if (sameShape(from.shape, target.shape)) return [target, from];
        if (widths === 'truncate') return [target, leading(name, from, target.shape, split.get(name), of.get(source))];
        const hint = 'Pass { widths: "truncate" } to take a part of each tensor';
        throw new ShapeError({
          op,
          argument: name,
          expected: formatShape(target.shape),
          actual: formatShape(from.shape),
          hint,
        });
      });
      for (const [target, from] of copies) copy_(target, to(from, target.dtype));
      return layers;
    }),
  );
}

/**
 * A GPT with some of a teacher's blocks, of its widths: tensors of its own, with the teacher's values.
 *
 * @param layers - how many blocks, spread over the teacher's, or which (from 0)
 * @throws AttributeError if there are not so many
 * @example
 * ```ts
 * const student = studentOf(teacher, teacher.config.layers / 2); // every second layer, as DistilBERT
 * ```
 */
export function studentOf(teacher: GPT, layers: number | readonly number[]): GPT {
  const list = typeof layers === 'number' ? null : layers;
  const count = checkInteger(
    'studentOf',
    'layers',
    list === null ? layers : list.length,
    1,
    list === null ? teacher.config.layers : undefined,
  );
  const student = new GPT({ ...teacher.config, layers: count });
  try {
    initializeFromTeacher(student, teacher, { layers: list ?? 'uniform' });
  } catch (error) {
    student.dispose();
    throw error;
  }
  return student;
}
