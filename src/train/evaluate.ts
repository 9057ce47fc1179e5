/**
 * Measuring a model on validation sets: the loss, and whatever metrics the run names.
 *
 * @module
 */
import { setImmediate } from 'node:timers/promises';
import { AttributeError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { checkDataset, DataLoader, type Dataset } from '../data/loader.js';
import type { Module } from '../nn/module.js';
import type { EMA } from '../optim/ema.js';
import { defaultGenerator } from '../tensor/random.js';
import { item } from '../tensor/read.js';
import { scope } from '../tensor/scope.js';
import { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { nearestName } from '../util/nearest.js';
import type { EvalEvent, Measurement } from './events.js';
import type { LossFunction } from './loss.js';

/** A number about a model on a batch, or a tensor of one element. The mean over the examples of the set is reported. */
export type MetricFunction<M, B> = (model: M, batch: B) => number | Tensor;

/** One validation set, or several by name; the first is the one that `loss` of an event is about. */
export type ValidationSets<B> = Dataset<B> | Readonly<Record<string, Dataset<B>>>;

/** Name of a validation set that was given without one. */
const DEFAULT_SET = 'valid';

/** What an {@link Evaluator} is told. */
interface EvaluatorOptions<M, B> {
  readonly sets: ValidationSets<B>;
  readonly loss: LossFunction<M, B>;
  readonly metrics: Readonly<Record<string, MetricFunction<M, B>>>;
  readonly batchSize: number;
  readonly batches: number;
  readonly ema: EMA | null;
  /** Copies of the weights in 16 bits, if the run computes with some. */
  readonly arithmetic: { refresh(): void; dispose(): void };
}

function checkSets<B>(given: ValidationSets<B>): [string, Dataset<B>][] {
  const isOne = typeof (given as Partial<Dataset<B>> | null)?.batch === 'function' || Array.isArray(given);
  const sets = isOne || typeof given !== 'object' || given === null ? { [DEFAULT_SET]: given } : given;
  const entries = Object.entries(sets as Readonly<Record<string, Dataset<B>>>);
  if (entries.length === 0) {
    throw new AttributeError({ op: 'Trainer', argument: 'valid', expected: 'at least one set', actual: 'none' });
  }
  for (const [name, set] of entries) {
    if (name === '' || name.includes('.')) {
      const expected = 'names of sets without a dot';
      throw new AttributeError({ op: 'Trainer', argument: 'valid', expected, actual: formatValue(name) });
    }
    checkDataset('Trainer', isOne ? 'valid' : `valid.${name}`, set);
  }
  return entries;
}

/** @internal Measures a model on every validation set of a run. */
export class Evaluator<M extends Module, B> {
  private readonly sets: readonly [string, Dataset<B>][];
  private readonly metrics: readonly [string, MetricFunction<M, B>][];
  private readonly options: EvaluatorOptions<M, B>;

  /** @throws AttributeError for sets and metrics that cannot be */
  constructor(options: EvaluatorOptions<M, B>) {
    this.options = options;
    this.sets = checkSets(options.sets);
    this.metrics = Object.entries(options.metrics);
    for (const [name, metric] of this.metrics) {
      const argument = `metrics.${name}`;
      if (name === 'loss' || name === 'perplexity' || name.includes('.')) {
        const expected = 'a name other than loss and perplexity, without a dot';
        throw new AttributeError({ op: 'Trainer', argument, expected, actual: formatValue(name) });
      }
      if (typeof metric !== 'function') {
        const expected = 'a function from model and batch to a number';
        throw new AttributeError({ op: 'Trainer', argument, expected, actual: formatValue(metric) });
      }
    }
    checkInteger('Trainer', 'evalBatches', options.batches, 1);
  }

  /** Names that {@link metricOf} finds in an event of this evaluator. */
  get names(): string[] {
    const own = ['loss', 'perplexity', ...this.metrics.map(([name]) => name)];
    return [...own, ...this.sets.flatMap(([set]) => own.map((name) => `${set}.${name}`))];
  }

  /**
   * Throws unless events have a metric of that name.
   *
   * @throws AttributeError naming the nearest
   */
  checkMetric(argument: string, name: unknown): void {
    const { names } = this;
    if (names.includes(name as string)) return;
    const nearest = typeof name === 'string' ? nearestName(name, names) : undefined;
    throw new AttributeError({
      op: 'Trainer',
      argument,
      expected: names.join(', '),
      actual: formatValue(name),
      hint: nearest === undefined ? undefined : `Did you mean ${nearest}`,
    });
  }

  /**
   * Measures every set, in evaluation mode, with the averages in the parameters' place if the run keeps them. Null if `stopped`
   * told to leave off.
   */
  async measure(model: M, step: number, stopped: () => boolean = () => false): Promise<EvalEvent | null> {
    const modes = [...model.namedModules()].map(([, module]) => [module, module.training] as const);
    const { ema, arithmetic } = this.options;
    const stream = defaultGenerator().state;
    model.eval();
    ema?.apply();
    arithmetic.refresh();
    try {
      const sets: Record<string, Measurement> = {};
      for (const [name, set] of this.sets) {
        const measured = await this.measureSet(model, name, set, stopped);
        if (measured === null) {
          defaultGenerator().state = stream; // as if it had not begun
          return null;
        }
        sets[name] = measured;
      }
      const { loss, perplexity, metrics } = sets[this.sets[0]![0]]!;
      return { type: 'eval', step, loss, perplexity, metrics, sets };
    } finally {
      ema?.restore();
      arithmetic.dispose();
      for (const [module, training] of modes) module.training = training;
    }
  }

  private async measureSet(
    model: M,
    name: string,
    set: Dataset<B>,
    stopped: () => boolean,
  ): Promise<Measurement | null> {
    const batchSize = Math.min(this.options.batchSize, set.length);
    const loader = new DataLoader(set, { batchSize, shuffle: false });
    const count = Math.min(loader.length, this.options.batches);
    const sums = new Map<string, number>();
    const note = (key: string, value: number): void => void sums.set(key, (sums.get(key) ?? 0) + value);
    for (let i = 0; i < count; i++) {
      if (stopped()) return null;
      const results = scope(() =>
        noGrad(() => {
          const batch = loader.next();
          const loss: [string, number | Tensor] = ['loss', this.options.loss(model, batch)];
          return [loss, ...this.metrics.map(([key, metric]): [string, number | Tensor] => [key, metric(model, batch)])];
        }),
      );
      for (const [key, value] of results) note(key, await this.numberOf(`${name}.${key}`, value));
      await setImmediate();
    }
    const mean = (key: string): number => sums.get(key)! / count;
    const loss = mean('loss');
    const metrics = Object.fromEntries(this.metrics.map(([key]) => [key, mean(key)]));
    return { loss, perplexity: Math.exp(loss), metrics };
  }

  private async numberOf(key: string, value: unknown): Promise<number> {
    if (typeof value === 'number') return value;
    if (value instanceof Tensor && value.size === 1) return item(value).finally(() => value.dispose());
    const expected = 'a number, or a tensor of one element';
    throw new StateError({ op: 'Trainer.evaluate', argument: key, expected, actual: formatValue(value) });
  }
}

/** @internal A metric of an event: `loss`, `accuracy` (of the first set), or `<set>.<metric>`. */
export function metricOf(event: EvalEvent, name: string): number {
  const dot = name.indexOf('.');
  const { loss, perplexity, metrics } = dot < 0 ? event : event.sets[name.slice(0, dot)]!;
  return { ...metrics, loss, perplexity }[dot < 0 ? name : name.slice(dot + 1)]!;
}

/** Steps between validations, or tokens. */
export type EvalInterval = number | { readonly steps: number } | { readonly tokens: number };

/**
 * Whether a validation is due after a step that took the run from `before` to `after` tokens.
 *
 * @internal
 * @throws AttributeError for an interval that cannot be
 */
export function evalSchedule(every: EvalInterval): (step: number, before: number, after: number) => boolean {
  if (typeof every === 'object' && every !== null) {
    checkKeys('Trainer', every, ['steps', 'tokens']);
    if ('tokens' in every && !('steps' in every)) {
      const tokens = checkInteger('Trainer', 'evalEvery.tokens', every.tokens, 1);
      return (_, before, after) => Math.floor(after / tokens) > Math.floor(before / tokens);
    }
    const steps = checkInteger('Trainer', 'evalEvery.steps', 'tokens' in every ? undefined : every.steps, 1);
    return (step) => step % steps === 0;
  }
  const steps = checkInteger('Trainer', 'evalEvery', every, 1);
  return (step) => step % steps === 0;
}
