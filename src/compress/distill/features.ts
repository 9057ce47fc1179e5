/**
 * What a student can learn from inside a teacher: hidden states, through projections where widths differ, and attention maps.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import { Linear } from '../../nn/linear.js';
import type { Module } from '../../nn/module.js';
import { add, div, mul, sub } from '../../ops/arithmetic.js';
import { expand } from '../../ops/broadcast.js';
import { gt, logicalAnd, lt } from '../../ops/comparison.js';
import { to } from '../../ops/copy.js';
import { cosineSimilarity } from '../../ops/losses.js';
import { sum } from '../../ops/reduce.js';
import { logSoftmax, softmax } from '../../ops/softmax.js';
import { clamp, square } from '../../ops/unary.js';
import { detach, reshape, unsqueeze } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { arange } from '../../tensor/create.js';
import type { Generator } from '../../tensor/random.js';
import { sameShape } from '../../tensor/shape.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkBoolean, checkInteger, checkKeys, checkNumber, checkOneOf } from '../../util/assert.js';
import { formatShape, formatValue } from '../../util/format.js';
import { pairsOf, type LayerMap, type Point } from './layer_map.js';

/** How hidden states are compared. */
export interface HiddenStateOptions {
  /** Default `uniform`. */
  readonly layers?: LayerMap;
  /** Factor of this part of the loss. Default 1. */
  readonly weight?: number;
  /** Mean squared difference, or 1 − cosine of the vectors. Default `mse`. */
  readonly loss?: 'mse' | 'cosine';
  /** A trainable matrix from the student's width to the teacher's for each pair. Default: where the widths differ. */
  readonly project?: boolean;
  /** Widths of student and teacher. Default: `config.width` of the models. */
  readonly widths?: readonly [student: number, teacher: number];
  /** Stream of the projections' initial values. Default: the shared one. */
  readonly generator?: Generator;
}

/** How attention maps are compared. The numbers of heads must be equal. */
export interface AttentionMapOptions {
  /** Blocks from 1 on, or paths. Default `uniform`. */
  readonly layers?: LayerMap;
  /** Factor of this part of the loss. Default 1. */
  readonly weight?: number;
  /** Mean squared difference of the scores before softmax, or KL(teacher ‖ student) of the weights after it. Default `scores`. */
  readonly of?: 'scores' | 'probabilities';
}

/** @internal A pair of places, and the loss of what is read there. `counts`: `[B, T]`, 1 where a position counts; null: all. */
export interface FeatureTerm {
  readonly student: Point;
  readonly teacher: Point;
  loss(student: Tensor, teacher: Tensor, counts: Tensor | null): Tensor;
}

function widthOf(op: string, which: 'student' | 'teacher', model: Module): number {
  const width = (model as { readonly config?: { readonly width?: unknown } }).config?.width;
  if (typeof width === 'number') return width;
  const expected = `widths: [student, teacher], as the ${which} has no config.width`;
  throw new AttributeError({ op, argument: 'hidden.widths', expected, actual: 'none' });
}

/** Σ over the counted positions of `[B, T]` divided by their number. */
function meanOverPositions(values: Tensor, counts: Tensor | null): Tensor {
  if (counts === null) return div(sum(values), values.size);
  return div(sum(mul(values, counts)), clamp(sum(counts), 1));
}

/** @internal The terms of hidden states, and the projections that train with the student, in their order. */
export function hiddenTerms(
  op: string,
  student: Module,
  teacher: Module,
  options: HiddenStateOptions,
): { terms: FeatureTerm[]; projections: Linear[] } {
  checkKeys(op, options, ['layers', 'weight', 'loss', 'project', 'widths', 'generator']);
  const weight = checkNumber(op, 'hidden.weight', options.weight ?? 1, 0, Number.MAX_VALUE);
  const kind = checkOneOf(op, 'hidden.loss', options.loss ?? 'mse', ['mse', 'cosine']);
  const pairs = pairsOf(op, 'hidden', student, teacher, options.layers ?? 'uniform', false);
  const [own, others] = options.widths ?? [widthOf(op, 'student', student), widthOf(op, 'teacher', teacher)];
  checkInteger(op, 'hidden.widths[0]', own, 1);
  checkInteger(op, 'hidden.widths[1]', others, 1);
  const project = checkBoolean(op, 'hidden.project', options.project ?? own !== others);
  if (!project && own !== others) {
    const expected = `true, to bring the student's width ${own} to the teacher's ${others}`;
    throw new AttributeError({ op, argument: 'hidden.project', expected, actual: 'false' });
  }
  const made = options.generator === undefined ? {} : { generator: options.generator };
  const projections = project ? pairs.map(() => new Linear(own, others, { bias: false, ...made })) : [];
  const terms = pairs.map(([mine, theirs], i): FeatureTerm => ({
    student: mine,
    teacher: theirs,
    loss: (x, y, counts) => {
      const [a, b] = [projections[i] === undefined ? x : projections[i].forward(x), detach(y)];
      if (!sameShape(a.shape, b.shape)) {
        const argument = `hidden.layers[${i}]`;
        throw new ShapeError({ op, argument, expected: formatShape(b.shape), actual: formatShape(a.shape) });
      }
      const values =
        kind === 'cosine' ? sub(1, cosineSimilarity(a, b)) : div(sum(square(sub(a, b)), -1), b.shape.at(-1)!);
      return mul(meanOverPositions(values, counts), weight / pairs.length);
    },
  }));
  return { terms, projections };
}

/** @internal The terms of attention maps. */
export function attentionTerms(
  op: string,
  student: Module,
  teacher: Module,
  options: AttentionMapOptions,
): FeatureTerm[] {
  checkKeys(op, options, ['layers', 'weight', 'of']);
  const weight = checkNumber(op, 'attention.weight', options.weight ?? 1, 0, Number.MAX_VALUE);
  const kind = checkOneOf(op, 'attention.of', options.of ?? 'scores', ['scores', 'probabilities']);
  const pairs = pairsOf(op, 'attention', student, teacher, options.layers ?? 'uniform', true);
  return pairs.map(([mine, theirs], i): FeatureTerm => {
    const heads = [mine, theirs].map(({ module }) => (module as unknown as { readonly heads: number }).heads);
    if (heads[0] !== heads[1]) {
      const [expected, actual] = [`${heads[1]} heads, as the teacher has`, `${heads[0]}`];
      throw new AttributeError({ op, argument: `attention.layers[${i}]`, expected, actual });
    }
    return {
      student: mine,
      teacher: theirs,
      loss: (x, y, counts) => {
        const [a, b] = [x, detach(y)];
        if (!sameShape(a.shape, b.shape)) {
          const argument = `attention.layers[${i}]`;
          throw new ShapeError({ op, argument, expected: formatShape(b.shape), actual: formatShape(a.shape) });
        }
        return mul(scoreLoss(a, b, counts, kind), weight / pairs.length);
      },
    };
  });
}

/** Both `[B, H, T, S]`, −∞ where a query may not look. */
function scoreLoss(a: Tensor, b: Tensor, counts: Tensor | null, kind: 'scores' | 'probabilities'): Tensor {
  const seen = noGrad(() => logicalAnd(gt(detach(a), -Infinity), gt(b, -Infinity)));
  const queries = counts === null ? null : unsqueeze(unsqueeze(counts, 1), 3); // [B, 1, T, 1]
  if (kind === 'scores') {
    const differences = square(sub(where(seen, a, 0), where(seen, b, 0)));
    const visible = noGrad(() => {
      const ones = to(seen, a.dtype);
      return queries === null ? ones : mul(ones, queries);
    });
    return div(sum(queries === null ? differences : mul(differences, queries)), clamp(sum(visible), 1));
  }
  const p = noGrad(() => softmax(b));
  const logs = where(
    seen,
    sub(
      noGrad(() => logSoftmax(b)),
      logSoftmax(a),
    ),
    0,
  );
  const rows = sum(where(seen, mul(p, logs), 0), -1); // [B, H, T]
  if (queries === null) return div(sum(rows), rows.size);
  const weights = expand(reshape(counts!, [counts!.shape[0]!, 1, counts!.shape[1]!]), rows.shape);
  return meanOverPositions(rows, weights);
}

/** @internal 1 where a position belongs to its row, 0 where it fills it up: lengths `[B]` → `[B, T]`. */
export function countedPositions(op: string, lengths: Tensor, x: Tensor): Tensor {
  if (lengths.rank !== 1 || lengths.shape[0] !== x.shape[0]) {
    const [expected, actual] = [`[${x.shape[0]}]`, formatShape(lengths.shape)];
    throw new ShapeError({ op, argument: 'batch.lengths', expected, actual });
  }
  return noGrad(() => to(lt(unsqueeze(arange(x.shape[1]!), 0), unsqueeze(lengths, 1)), 'float32'));
}

/** @internal The terms' sum over what was read. */
export function sumOfTerms(
  terms: readonly FeatureTerm[],
  student: ReadonlyMap<Point, Tensor>,
  teacher: ReadonlyMap<Point, Tensor>,
  counts: Tensor | null,
): Tensor {
  const at = (read: ReadonlyMap<Point, Tensor>, point: Point): Tensor => {
    const value = read.get(point);
    if (value !== undefined) return value;
    const actual = `${formatValue(point.name)}, which the model did not call`;
    throw new AttributeError({
      op: 'distillation',
      argument: 'layers',
      expected: 'modules of the forward pass',
      actual,
    });
  };
  return terms
    .map((term) => term.loss(at(student, term.student), at(teacher, term.teacher), counts))
    .reduce((a, b) => add(a, b));
}
