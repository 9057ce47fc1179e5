/**
 * Preference tuning in the training loop: losses on batches of answers.
 */
import { AttributeError, StateError } from '../../errors.js';
import { Module } from '../../nn/module.js';
import { div, mul, sub } from '../../ops/arithmetic.js';
import { contiguous } from '../../ops/copy.js';
import { mean, sum } from '../../ops/reduce.js';
import { clamp, neg } from '../../ops/unary.js';
import { detach, reshape, select } from '../../ops/views.js';
import { scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkKeys } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { noGrad } from '../../autograd/grad.js';
import { withoutAdapters } from '../lora.js';
import type { KtoBatch, PairedBatch, PreferenceBatch } from './dataset.js';
import { answerLogProbs, asReference, type LogitsModel } from './log_probs.js';
import {
  dpoLoss,
  dpoLossKeys,
  ktoLoss,
  ktoLossKeys,
  orpoLoss,
  orpoLossKeys,
  simpoLoss,
  simpoLossKeys,
  type DpoLossOptions,
  type KtoLossOptions,
  type OrpoLossOptions,
  type PairLogProbs,
  type SimpoLossOptions,
} from './losses.js';
import { PreferenceMetrics } from './metrics.js';

/** A loss for the `Trainer`: a scalar of a model and a batch. */
export type PreferenceLoss<B> = (model: LogitsModel, batch: B) => Tensor;

/**
 * What the log-probabilities are compared with: another model (which is left as it is: put it where nothing trains it), or
 * `withoutAdapters`, the same model without its adapters. It runs in evaluation mode.
 */
export type Reference = LogitsModel | 'withoutAdapters';

/** Of every preference loss. */
export interface MeteredOptions {
  /** Gathers rewards, margins and accuracy. */
  readonly metrics?: PreferenceMetrics;
}

/** Of the losses that compare with a reference. */
export interface ReferenceOptions extends MeteredOptions {
  /** Default: what the dataset carries, see `precomputeReference`. */
  readonly reference?: Reference;
}

/** @throws AttributeError if an option is unknown or not what it should be */
function check(op: string, options: ReferenceOptions, keys: readonly string[]): void {
  checkKeys(op, options, keys);
  const { reference, metrics } = options;
  if (reference !== undefined && reference !== 'withoutAdapters' && !(reference instanceof Module)) {
    const expected = 'a model, or "withoutAdapters"';
    throw new AttributeError({ op, argument: 'reference', expected, actual: formatValue(reference) });
  }
  if (metrics !== undefined && !(metrics instanceof PreferenceMetrics)) {
    const actual = formatValue(metrics);
    throw new AttributeError({ op, argument: 'metrics', expected: 'new PreferenceMetrics()', actual });
  }
}

/** @internal Log-probabilities of all rows of a batch under a reference: `[2N]`. */
export function referenceSums(op: string, model: LogitsModel, batch: PairedBatch, reference?: Reference): Tensor {
  const sums = (of: LogitsModel): Tensor =>
    scope(() => asReference(of, () => answerLogProbs(of.forward(batch.x), batch.y).sum));
  if (reference === 'withoutAdapters') return withoutAdapters(model, () => sums(model));
  if (reference !== undefined) {
    if (reference !== model) return sums(reference);
    const hint = 'Pass a copy of the model, or "withoutAdapters" if it has adapters';
    throw new StateError({ op, argument: 'reference', expected: 'another model', actual: 'the one that trains', hint });
  }
  if (batch.reference !== null && batch.reference !== undefined) return batch.reference;
  throw new AttributeError({
    op,
    argument: 'reference',
    expected: 'a model, "withoutAdapters", or a dataset that carries log-probabilities',
    actual: 'none of them',
    hint: 'See precomputeReference',
  });
}

/** Even and odd entries of `[2N]`: `[N]` each. */
function pairOf(values: Tensor): PairLogProbs {
  const twos = reshape(values, [-1, 2]);
  return { chosen: select(twos, 1, 0), rejected: select(twos, 1, 1) };
}

/** Every other row of `[2N, T]`, from the first or the second on. */
function half(rows: Tensor, which: 0 | 1): Tensor {
  return contiguous(select(reshape(rows, [-1, 2, rows.shape[1]!]), 1, which));
}

const rest = (options: MeteredOptions & { readonly reference?: unknown }): object => {
  const { reference: _reference, metrics: _metrics, ...own } = options;
  return own;
};

/** Options of {@link dpo}. */
export interface DpoOptions extends DpoLossOptions, ReferenceOptions {}

/**
 * Direct preference optimisation (and cDPO, IPO) as a loss for the `Trainer`, on batches of a `PreferenceDataset`: see {@link dpoLoss}.
 *
 * @throws AttributeError if an option cannot be; the loss, if there is no reference
 * @example
 * ```ts
 * const metrics = new PreferenceMetrics();
 * const trainer = new Trainer(gpt, { train: pairs, loss: dpo({ reference, beta: 0.1, metrics }), batchSize: 8, optimizer });
 * ```
 */
export function dpo(options: DpoOptions = {}): PreferenceLoss<PreferenceBatch> {
  const op = 'dpo';
  check(op, options, [...dpoLossKeys, 'reference', 'metrics']);
  const own = rest(options) as DpoLossOptions;
  return (model, batch) =>
    scope(() => {
      const reference = pairOf(referenceSums(op, model, batch, options.reference));
      const policy = pairOf(answerLogProbs(model.forward(batch.x), batch.y).sum);
      const reward = (key: 'chosen' | 'rejected'): Tensor =>
        noGrad(() => mul(sub(detach(policy[key]), reference[key]), options.beta ?? 0.1));
      options.metrics?.of(model.training).addPairs(reward('chosen'), reward('rejected'));
      return dpoLoss(policy, reference, own);
    });
}

/** Options of {@link orpo}. */
export interface OrpoOptions extends OrpoLossOptions, MeteredOptions {}

/**
 * Odds-ratio preference optimisation as a loss for the `Trainer`, on batches of a `PreferenceDataset`: see {@link orpoLoss}. The
 * likelihood part is the mean over the tokens of all chosen answers of a batch.
 */
export function orpo(options: OrpoOptions = {}): PreferenceLoss<PreferenceBatch> {
  check('orpo', options, [...orpoLossKeys, 'metrics']);
  const own = rest(options) as OrpoLossOptions;
  return (model, batch) =>
    scope(() => {
      const logProbs = answerLogProbs(model.forward(batch.x), batch.y);
      const averages = pairOf(logProbs.average);
      options.metrics?.of(model.training).addPairs(averages.chosen, averages.rejected);
      const nll = neg(div(sum(pairOf(logProbs.sum).chosen), sum(pairOf(logProbs.count).chosen)));
      return orpoLoss(averages, nll, own);
    });
}

/** Options of {@link simpo}. */
export interface SimpoOptions extends SimpoLossOptions, MeteredOptions {}

/** Simple preference optimisation as a loss for the `Trainer`, on batches of a `PreferenceDataset`: see {@link simpoLoss}. */
export function simpo(options: SimpoOptions = {}): PreferenceLoss<PreferenceBatch> {
  check('simpo', options, [...simpoLossKeys, 'metrics']);
  const own = rest(options) as SimpoLossOptions;
  return (model, batch) =>
    scope(() => {
      const averages = pairOf(answerLogProbs(model.forward(batch.x), batch.y).average);
      const reward = (average: Tensor): Tensor => noGrad(() => mul(detach(average), options.beta ?? 2));
      options.metrics?.of(model.training).addPairs(reward(averages.chosen), reward(averages.rejected));
      return simpoLoss(averages, own);
    });
}

/** Options of {@link kto}. */
export interface KtoOptions extends KtoLossOptions, ReferenceOptions {}

/**
 * Kahneman–Tversky optimisation as a loss for the `Trainer`, on batches of a `KtoDataset`: see {@link ktoLoss}. The reference point
 * comes from the batch's mismatched rows, which the model reads without recording, in evaluation mode.
 *
 * @throws AttributeError if an option cannot be; the loss, if there is no reference
 */
export function kto(options: KtoOptions = {}): PreferenceLoss<KtoBatch> {
  const op = 'kto';
  check(op, options, [...ktoLossKeys, 'reference', 'metrics']);
  const own = rest(options) as KtoLossOptions;
  return (model, batch) =>
    scope(() => {
      const reference = pairOf(referenceSums(op, model, batch, options.reference));
      const mismatched = scope(() =>
        asReference(model, () => answerLogProbs(model.forward(half(batch.x, 1)), half(batch.y, 1)).sum),
      );
      const policy = answerLogProbs(model.forward(half(batch.x, 0)), half(batch.y, 0)).sum;
      if (options.metrics !== undefined) {
        noGrad(() => {
          const beta = options.beta ?? 0.1;
          const point = clamp(mul(mean(sub(mismatched, reference.rejected)), beta), 0);
          const rewards = mul(sub(detach(policy), reference.chosen), beta);
          options.metrics!.of(model.training).addSingles(rewards, batch.desirable, point);
        });
      }
      const others = { policy: mismatched, reference: reference.rejected };
      const inputs = { policy, reference: reference.chosen, desirable: batch.desirable, mismatched: others };
      return ktoLoss(inputs, own);
    });
}
