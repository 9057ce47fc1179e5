/**
 * A student that learns from a teacher, as one module for the `Trainer`.
 *
 * @module
 */
import { AttributeError, StateError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import { inEvaluation } from '../../nn/evaluation.js';
import type { Linear } from '../../nn/linear.js';
import { Module } from '../../nn/module.js';
import { add, div, mul } from '../../ops/arithmetic.js';
import { contiguous } from '../../ops/copy.js';
import { crossEntropy, wideOf } from '../../ops/cross_entropy.js';
import { sum } from '../../ops/reduce.js';
import { narrow, reshape } from '../../ops/views.js';
import { scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import type { Tokenizer } from '../../tokenizer/tokenizer.js';
import { checkInteger, checkKeys, checkNumber } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import {
  checkChoice,
  checkLogits,
  checkTarget,
  choiceKeys,
  countOf,
  onlyCounted,
  rowLosses,
  type ResolvedDivergence,
  type DivergenceChoice,
} from './divergence.js';
import {
  attentionTerms,
  countedPositions,
  hiddenTerms,
  sumOfTerms,
  type AttentionMapOptions,
  type FeatureTerm,
  type HiddenStateOptions,
} from './features.js';
import { reading, type Point } from './layer_map.js';
import { sumOverBlocks } from './row_blocks.js';
import { checkTokenizers } from './tokenizers.js';
import { checkTopK, rowsOf, topKLosses, type TopKPredictions } from './top_k.js';

/** A model that gives logits `[…, V]`. Models with `hidden(x)` and `logits(hidden)`, as GPT has, never hold all logits. */
export type LogitsModel = Module & { forward(x: Tensor): Tensor };

/** What a student learns from in one step. */
export interface DistillationBatch {
  readonly x: Tensor;
  /** Class numbers, `[…]` of the logits' shape without its last axis; those of `ignoreIndex` do not count. */
  readonly y: Tensor;
  /** The teacher's predictions at these places, if they were computed before (see `TeacherCache`). */
  readonly teacher?: TeacherBatch;
  /** The student wrote `y` itself: there is nothing to learn from it but what the teacher thinks of it. */
  readonly onPolicy?: boolean;
  /** Positions of each row that do not fill it up, `[B]`: hidden states and attention of the others do not count. */
  readonly lengths?: Tensor;
}

/** Predictions with the temperature that they were softened with. */
export interface TeacherBatch extends TopKPredictions {
  readonly temperature: number;
}

/** Options of {@link Distillation}. */
export interface DistillationModuleOptions<S extends LogitsModel> extends DivergenceChoice {
  readonly student: S;
  /** It is left as it is, and runs in evaluation mode without recording; it may be quantised. Not needed if all batches carry `teacher`. */
  readonly teacher?: LogitsModel;
  /** Share of the teacher's part, from 0 to 1; the rest is the task's cross-entropy with `y`. Default 0.5. */
  readonly alpha?: number;
  /** Targets of this number do not count, in either part. Default -100. */
  readonly ignoreIndex?: number;
  /** Learn hidden states as well. */
  readonly hidden?: HiddenStateOptions;
  /** Learn attention maps as well. */
  readonly attention?: AttentionMapOptions;
  /** Checked to be the same, token by token, if given. */
  readonly tokenizers?: { readonly student: Tokenizer; readonly teacher: Tokenizer };
  /** Rows whose logits are held at a time. Default: as many as make 16 MiB, at least 256. */
  readonly blockRows?: number;
}

const op = 'Distillation';
const keys = [
  'student', 'teacher', ...choiceKeys, 'alpha', 'ignoreIndex', 'hidden', 'attention', 'tokenizers', 'blockRows',
]; // prettier-ignore
const BLOCK_BYTES = 1 << 24;
const LEAST_ROWS = 256;

/** A forward pass without its last layer, if the model can do that. */
interface Pass {
  /** `[…, D]`, or the logits. */
  readonly output: Tensor;
  logits(rows: Tensor): Tensor;
}

function pass(model: LogitsModel, x: Tensor): Pass {
  const { hidden, logits } = model as unknown as { hidden?: unknown; logits?: unknown };
  if (typeof hidden !== 'function' || typeof logits !== 'function' || Object.hasOwn(model, 'forward')) {
    return { output: model.forward(x), logits: (rows) => rows };
  }
  const parts = model as unknown as { hidden(x: Tensor): Tensor; logits(x: Tensor): Tensor };
  return { output: parts.hidden(x), logits: (rows) => parts.logits(rows) };
}

function vocabularyOf(model: Module): number | null {
  const size = (model as { readonly config?: { readonly vocabSize?: unknown } }).config?.vocabSize;
  return typeof size === 'number' ? size : null;
}

function checkModels(student: unknown, teacher: unknown): void {
  const expected = 'a module that gives logits';
  if (!(student instanceof Module)) {
    throw new AttributeError({ op, argument: 'student', expected, actual: formatValue(student) });
  }
  if (teacher === undefined) return;
  if (!(teacher instanceof Module)) {
    throw new AttributeError({ op, argument: 'teacher', expected, actual: formatValue(teacher) });
  }
  const shared = new Set(student.parameters());
  if (student === teacher || teacher.parameters().some((parameter) => shared.has(parameter))) {
    const [wanted, hint] = ['a model of its own', 'Copy the teacher first: og.cloneModel(teacher)'];
    throw new StateError({ op, argument: 'teacher', expected: wanted, actual: 'tensors of the student', hint });
  }
  const [own, others] = [vocabularyOf(student), vocabularyOf(teacher)];
  if (own === null || others === null || own === others) return;
  const hint = 'Teacher and student need one vocabulary: the same tokenizer, and tables of the same size';
  const wanted = `a vocabulary of ${own}, as the student has`;
  throw new AttributeError({ op, argument: 'teacher', expected: wanted, actual: String(others), hint });
}

/**
 * A student that learns from a teacher: `new Trainer(new Distillation({ student, teacher }), { train, batchSize, optimizer })`. The module
 * holds the student and, while it learns, the projections of hidden states: both are in its parameters and checkpoints, and the
 * optimiser gets both. The teacher is no part of it. Afterwards `student` is the model as it was given, with no trace of it all.
 *
 * The loss of a batch is alpha · T² · divergence(teacher, student) + (1 − alpha) · cross-entropy, each the mean over the targets that
 * count, plus weight · mean over the pairs of layers for hidden states and attention maps. In evaluation mode (validations) it is the
 * cross-entropy alone, so that figures compare with training without a teacher.
 *
 * @throws AttributeError if an option cannot be, vocabularies or tokenizers differ, or a layer is out of range
 * @throws StateError if the teacher is the student, or shares tensors with it
 * @source soft targets: arXiv 1503.02531; hidden states: FitNets, 1412.6550; layer maps and attention: TinyBERT, 1909.10351; cosine of
 * hidden states: DistilBERT, 1910.01108
 * @example
 * ```ts
 * const distillation = new Distillation({ student, teacher, temperature: 2, alpha: 0.5 });
 * const trainer = new og.Trainer(distillation, { train, valid, batchSize: 16, optimizer: (p) => new optim.AdamW(p, { lr: 1e-3 }) });
 * for await (const event of trainer.run()) console.log(event);
 * await og.saveModel('student', distillation.student);
 * ```
 */
export class Distillation<S extends LogitsModel = LogitsModel> extends Module {
  readonly student: S;
  readonly projections: readonly Linear[];
  readonly alpha: number;
  readonly ignoreIndex: number;
  /** Which divergence, with its defaults. */
  readonly choice: Readonly<ResolvedDivergence>;
  readonly #teacher: LogitsModel | null;
  readonly #terms: readonly FeatureTerm[];
  readonly #blockRows: number | null;

  constructor(options: DistillationModuleOptions<S>) {
    super();
    checkKeys(op, options, keys);
    const { student, teacher, hidden, attention } = options;
    checkModels(student, teacher);
    if (options.tokenizers !== undefined) checkTokenizers(op, options.tokenizers.student, options.tokenizers.teacher);
    this.choice = checkChoice(op, options);
    this.alpha = checkNumber(op, 'alpha', options.alpha ?? 0.5, 0, 1);
    this.ignoreIndex = checkInteger(op, 'ignoreIndex', options.ignoreIndex ?? -100);
    this.#blockRows = options.blockRows === undefined ? null : checkInteger(op, 'blockRows', options.blockRows, 1);
    if (teacher === undefined && (hidden ?? attention) !== undefined) {
      const argument = hidden === undefined ? 'attention' : 'hidden';
      throw new AttributeError({ op, argument, expected: 'a teacher to read it from', actual: 'none' });
    }
    const states = hidden === undefined ? null : hiddenTerms(op, student, teacher!, hidden);
    const maps = attention === undefined ? [] : attentionTerms(op, student, teacher!, attention);
    this.student = student;
    this.projections = states?.projections ?? [];
    this.#teacher = teacher ?? null;
    this.#terms = [...(states?.terms ?? []), ...maps];
    this.train(student.training);
  }

  /** What the student gives. */
  forward(x: Tensor): Tensor {
    return this.student.forward(x);
  }

  /** The loss of a batch of inputs and targets: what the `Trainer` takes by default. */
  loss(x: Tensor, y: Tensor): Tensor {
    return this.lossOf({ x, y });
  }

  /**
   * The loss of a batch that may carry more: a scalar.
   *
   * @throws ShapeError if teacher and student give logits of different shapes
   * @throws StateError if there is neither a teacher nor predictions in the batch, or they are of another temperature
   */
  lossOf(batch: DistillationBatch): Tensor {
    if (!this.training) return this.taskLoss(batch);
    const alpha = batch.onPolicy === true ? 1 : this.alpha;
    const teacher = this.#teacher;
    const precomputed = alpha > 0 ? this.precomputed(batch) : null;
    const isLive = alpha > 0 && precomputed === null;
    if (isLive && teacher === null) {
      const [expected, actual] = ['a teacher, or batches with its predictions', 'neither'];
      throw new StateError({
        op,
        argument: 'teacher',
        expected,
        actual,
        hint: 'Pass { teacher }, or train on a TeacherCache',
      });
    }
    const points = (which: 'student' | 'teacher'): Point[] => this.#terms.map((term) => term[which]);
    return scope(() => {
      const theirs =
        isLive || this.#terms.length > 0
          ? reading(points('teacher'), () => inEvaluation(teacher!, () => noGrad(() => pass(teacher!, batch.x))))
          : null;
      const mine = reading(points('student'), () => pass(this.student, batch.x));
      try {
        const loss = this.ofLogits(mine.result, isLive ? theirs!.result : precomputed, batch.y, alpha);
        if (this.#terms.length === 0) return loss;
        const counts = batch.lengths === undefined ? null : countedPositions(op, batch.lengths, batch.x);
        return add(loss, sumOfTerms(this.#terms, mine.read, theirs!.read, counts));
      } finally {
        for (const tensor of [...mine.read.values(), ...(theirs?.read.values() ?? [])]) tensor.dispose();
      }
    });
  }

  private taskLoss({ x, y }: DistillationBatch): Tensor {
    const { loss } = this.student as unknown as { loss?: (x: Tensor, y: Tensor) => Tensor };
    if (typeof loss === 'function' && this.ignoreIndex === -100) return loss.call(this.student, x, y);
    return scope(() => crossEntropy(this.student.forward(x), y, { ignoreIndex: this.ignoreIndex }));
  }

  private precomputed({ teacher }: DistillationBatch): TopKPredictions | null {
    if (teacher === undefined) return null;
    if (teacher.temperature === this.choice.temperature || this.choice.divergence === 'hard') return teacher;
    const expected = `predictions at temperature ${this.choice.temperature}`;
    const hint = 'Cache the teacher at the temperature that the student learns at';
    throw new StateError({ op, argument: 'batch.teacher', expected, actual: String(teacher.temperature), hint });
  }

  /** alpha · divergence + (1 − alpha) · cross-entropy, in blocks of rows. */
  private ofLogits(mine: Pass, theirs: Pass | TopKPredictions | null, y: Tensor, alpha: number): Tensor {
    const outer = mine.output.shape.slice(0, -1);
    const target = reshape(contiguous(checkTarget(op, y, outer)!), [-1]);
    const count = target.size;
    if (theirs !== null && !('output' in theirs)) checkTopK(op, theirs, outer, Infinity);
    const flat = (x: Tensor): Tensor => reshape(x, [count, -1]);
    const rows = flat(mine.output);
    const isLive = theirs !== null && 'output' in theirs;
    const teacherRows = isLive ? flat(theirs.output) : null;
    const { student, ignoreIndex, choice } = this;
    const trained = student.parameters().filter(({ requiresGrad }) => requiresGrad);
    const kept =
      theirs === null || 'output' in theirs
        ? null
        : { indices: flat(theirs.indices), logProbs: flat(theirs.logProbs), rest: reshape(theirs.rest, [-1]) };
    const total = sumOverBlocks(rows, trained, this.rowsAtATime(rows, vocabularyOf(student)), (block, begin) => {
      const logits = mine.logits(block);
      const size = block.shape[0]!;
      const own = narrow(target, 0, begin, size);
      const hard = alpha === 1 ? null : crossEntropy(logits, own, { ignoreIndex, reduction: 'sum' });
      if (theirs === null) return mul(hard!, 1 - alpha);
      let losses: Tensor;
      if (isLive) {
        const teacherLogits = noGrad(() => theirs.logits(narrow(teacherRows!, 0, begin, size)));
        checkLogits(op, logits, teacherLogits);
        losses = rowLosses(logits, teacherLogits, choice);
      } else {
        checkTopK(op, rowsOf(kept!, begin, size), [size], logits.shape[1]!);
        losses = topKLosses(logits, rowsOf(kept!, begin, size), choice);
      }
      const soft = mul(sum(onlyCounted(losses, own, ignoreIndex)), alpha);
      return hard === null ? soft : add(soft, mul(hard, 1 - alpha));
    });
    return div(total, countOf(count, target, ignoreIndex, total.dtype));
  }

  private rowsAtATime(rows: Tensor, classes: number | null): number {
    const wide = wideOf(rows.dtype) === 'float64' ? 8 : 4;
    const fitting = Math.floor(BLOCK_BYTES / (wide * Math.max(1, classes ?? rows.shape[1]!)));
    return this.#blockRows ?? Math.max(LEAST_ROWS, fitting);
  }
}

/** The loss of a {@link Distillation}, for a `Trainer` whose batches carry more than inputs and targets. */
export function batchLoss(model: Distillation, batch: DistillationBatch): Tensor {
  return model.lossOf(batch);
}
