/**
 * Old examples among new ones.
 */
import type { Dataset } from '../../data/loader.js';
import { permutationOf } from '../../data/permutation.js';
import { AttributeError, ShapeError } from '../../errors.js';
import { concat } from '../../ops/join.js';
import { noGrad } from '../../autograd/grad.js';
import { scope } from '../../tensor/scope.js';
import { Tensor } from '../../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber } from '../../util/assert.js';
import { formatShape } from '../../util/format.js';

/** Options of {@link RehearsalDataset}. */
export interface RehearsalOptions<B> {
  /** Share of old examples in an epoch, from 0 to below 1. Default 0.1. */
  readonly ratio?: number;
  /** Seed of the order in which old examples come. Default 0. */
  readonly seed?: number;
  /** Makes one batch of new examples and old ones. Default: {@link mergeBatches}. */
  readonly merge?: (current: B, old: B) => B;
}

/**
 * One batch of two, row by row: tensors are put behind each other along axis 0, other fields must be null in both.
 *
 * @throws ShapeError if tensors differ in their other axes: fill rows up to one length
 * @throws AttributeError if the batches differ in their fields
 */
export function mergeBatches<B>(current: B, old: B): B {
  const op = 'mergeBatches';
  const [a, b] = [current, old] as unknown as [Record<string, unknown>, Record<string, unknown>];
  const keys = [...new Set([...Object.keys(a), ...Object.keys(b)])];
  return scope(() =>
    noGrad(() => {
      const merged: Record<string, unknown> = {};
      for (const key of keys) {
        const [first, second] = [a[key] ?? null, b[key] ?? null];
        if (first === null && second === null) merged[key] = a[key];
        else if (first instanceof Tensor && second instanceof Tensor) {
          if (first.rank !== second.rank || first.shape.some((n, i) => i > 0 && n !== second.shape[i])) {
            const [expected, actual] = [formatShape(first.shape), formatShape(second.shape)];
            const hint = 'Fill the rows of both datasets up to one length, or pass { merge }';
            throw new ShapeError({ op, argument: key, expected: `${expected}, axis 0 aside`, actual, hint });
          }
          merged[key] = concat([first, second]);
        } else {
          const [expected, actual] = ['a tensor in both batches', 'a tensor in one, or something else'];
          throw new AttributeError({ op, argument: key, expected, actual, hint: 'Pass { merge } to the dataset' });
        }
      }
      return merged as B;
    }),
  );
}

/**
 * The examples of a new task with some of an old one among them, against forgetting. An epoch is all new examples and as many old ones as
 * `ratio` asks for; the old ones walk through their dataset in a shuffled order, on and on over the epochs, so none comes again before all
 * have been there. Everything follows from indices and epoch: a run goes on from a checkpoint with the same batches.
 *
 * @throws AttributeError if an option cannot be
 * @source Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal"; for language models: Scialom et al. 2022, arXiv 2205.12393
 * @example
 * ```ts
 * const train = new RehearsalDataset(legal, web, { ratio: 0.05 });
 * ```
 */
export class RehearsalDataset<B> implements Dataset<B> {
  readonly current: Dataset<B>;
  readonly old: Dataset<B>;
  /** Examples of an epoch that are old. */
  readonly rehearsed: number;
  private readonly seed: number;
  private readonly merge: (current: B, old: B) => B;

  constructor(current: Dataset<B>, old: Dataset<B>, options: RehearsalOptions<B> = {}) {
    const op = 'RehearsalDataset';
    checkKeys(op, options, ['ratio', 'seed', 'merge']);
    const ratio = checkNumber(op, 'ratio', options.ratio ?? 0.1, 0, 1);
    this.seed = checkInteger(op, 'seed', options.seed ?? 0, 0);
    if (ratio >= 1) throw new AttributeError({ op, argument: 'ratio', expected: 'a share below 1', actual: '1' });
    if (old.length === 0 && ratio > 0) {
      throw new AttributeError({ op, argument: 'old', expected: 'at least one example', actual: 'none' });
    }
    this.current = current;
    this.old = old;
    this.rehearsed = Math.round((current.length * ratio) / (1 - ratio));
    this.merge = options.merge ?? mergeBatches;
  }

  get length(): number {
    return this.current.length + this.rehearsed;
  }

  batch(indices: readonly number[], epoch: number): B {
    const [recent, old]: [number[], number[]] = [[], []];
    for (const index of indices) {
      // old examples stand evenly among the new ones: so many of them up to and including this place
      const before = Math.floor((index * this.rehearsed) / this.length);
      const upTo = Math.floor(((index + 1) * this.rehearsed) / this.length);
      if (upTo === before) recent.push(index - before);
      else old.push(this.oldAt(epoch * this.rehearsed + before));
    }
    if (old.length === 0) return this.current.batch(recent, epoch);
    if (recent.length === 0) return this.old.batch(old, epoch);
    return this.merge(this.current.batch(recent, epoch), this.old.batch(old, epoch));
  }

  /** The old example whose turn is the given one, counted from the beginning of the run. */
  private oldAt(turn: number): number {
    const { length } = this.old;
    const pass = Math.floor(turn / length);
    if (this.order?.pass !== pass) this.order = { pass, of: permutationOf(length, { seed: this.seed, epoch: pass }) };
    return this.order.of[turn % length]!;
  }

  /** The last pass's order. It follows from seed and pass, and is kept for speed only. */
  private order: { readonly pass: number; readonly of: Uint32Array } | null = null;
}
