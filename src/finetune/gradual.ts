/**
 * Gradual unfreezing in the training loop.
 */
import { AttributeError, StateError } from '../errors.js';
import type { Module } from '../nn/module.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys } from '../util/assert.js';
import { unfreezeLast } from './freeze.js';

/** Options of {@link gradualUnfreezing}. */
export interface GradualUnfreezingOptions {
  /** Steps between one layer and the next (an epoch in the paper). */
  readonly every?: number;
  /** Or the steps at which one more layer opens, rising. */
  readonly at?: readonly number[];
  /** Numbered layers that train from the start, beside what stands behind them. Default 0: the head. */
  readonly initial?: number;
}

/** What the callback reads of a run. */
export interface UnfreezingContext {
  readonly model: Module;
  readonly optimizer: { parameters(): readonly Tensor[] };
  readonly step: number;
}

/**
 * A callback for `Trainer`: the head (what stands behind the numbered layers) trains first, then one more layer opens from the top
 * every so many steps, the embeddings at last. Which layers train follows from the step alone, so a resumed run goes on alike. Make the
 * optimiser of all parameters, with rates that fall with depth:
 *
 * @example
 * ```ts
 * new og.Trainer(model, {
 *   train, loss: labelledLoss, batchSize: 16, callbacks: [gradualUnfreezing({ every: 100 })],
 *   optimizer: (_, model) => new og.optim.AdamW(og.optim.layerwiseRates(model, { lr: 1e-3, decay: 1 / 2.6 })),
 *   schedule: og.schedules.slantedTriangular(),
 * });
 * ```
 * @throws AttributeError unless there is `every` or `at`
 * @source Howard and Ruder 2018, arXiv 1801.06146, §3.2 (rates of 1/2.6 a layer) and §3.3
 */
export function gradualUnfreezing(options: GradualUnfreezingOptions): {
  readonly name: string;
  beforeStep(context: UnfreezingContext): void;
} {
  const op = 'gradualUnfreezing';
  checkKeys(op, options, ['every', 'at', 'initial']);
  const initial = checkInteger(op, 'initial', options.initial ?? 0, 0);
  const { every, at } = options;
  if ((every === undefined) === (at === undefined)) {
    const actual = every === undefined ? 'neither' : 'both';
    throw new AttributeError({ op, argument: 'every', expected: 'either every or at', actual });
  }
  if (every !== undefined) checkInteger(op, 'every', every, 1);
  at?.forEach((step, i) => checkInteger(op, `at[${i}]`, step, i === 0 ? 0 : at[i - 1]! + 1));
  const layersAt = (step: number): number =>
    initial + (at === undefined ? Math.floor(step / every!) : at.filter((opens) => opens <= step).length);
  let open = -1;
  return {
    name: 'gradualUnfreezing',
    beforeStep({ model, optimizer, step }) {
      const layers = layersAt(step);
      if (layers === open) return;
      unfreezeLast(model, layers);
      open = layers;
      const held = new Set(optimizer.parameters());
      const missed = model.namedParameters().find(([, tensor]) => tensor.requiresGrad && !held.has(tensor));
      if (missed === undefined) return;
      throw new StateError({
        op,
        argument: 'optimizer',
        expected: 'all parameters of the model',
        actual: `none called ${missed[0]}`,
        hint: 'Unfreeze the model before the Trainer is made',
      });
    },
  };
}
