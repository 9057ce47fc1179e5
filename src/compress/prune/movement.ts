/**
 * Movement pruning: what to drop is learnt while the model is fine-tuned (Sanh, Wolf and Rush 2020, arXiv 2005.07683).
 *
 * @module
 */
import { AttributeError, StateError } from '../../errors.js';
import { customFunction } from '../../autograd/custom.js';
import { noGrad } from '../../autograd/grad.js';
import { Linear } from '../../nn/linear.js';
import { Module, parameter } from '../../nn/module.js';
import { place, type Site, type Target } from '../../nn/surgery.js';
import { add, mul } from '../../ops/arithmetic.js';
import { gt } from '../../ops/comparison.js';
import { clone } from '../../ops/copy.js';
import { sigmoid } from '../../ops/activation.js';
import { linear } from '../../ops/linear.js';
import { mean } from '../../ops/reduce.js';
import { detach, reshape } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { full, zeros } from '../../tensor/create.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkKeys, checkNumber, checkOneOf } from '../../util/assert.js';
import { dropSmallest } from './masks.js';
import { checkSchedule, cubicSparsity, denseSites, scheduleKeys, type SparsitySchedule } from './training_masks.js';

/**
 * W ∘ M with M made of the scores: the gradient of W is masked, that of the scores is ∂L/∂W′ ∘ W, as if M were the scores themselves
 * (straight through; equation 1 of the paper).
 */
const maskThrough = customFunction({
  name: 'maskThrough',
  forward: (weight: Tensor, _scores: Tensor, mask: Tensor) => where(mask, weight, 0),
  save: ([weight, , mask]) => [weight, mask],
  backward: ({ grad, saved: [weight, mask], needs }) => [
    needs(0) ? where(mask!, grad, 0) : null,
    needs(1) ? mul(grad, weight!) : null,
    null,
  ],
});

/** A linear layer in movement pruning: `weight` and `bias` as before, and trained `scores` of the weight's shape. */
export class MovementLinear extends Module {
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  /** `[out, in]`, 0 at first: what grows while training moves a weight away from 0. */
  readonly scores: Tensor;
  /** bool: what is kept at present. Made of the scores before every step. */
  mask: Tensor;

  /** Takes over the parameters of a layer. */
  constructor({ inFeatures, outFeatures, weight, bias, training }: Linear) {
    super();
    [this.inFeatures, this.outFeatures, this.weight, this.bias] = [inFeatures, outFeatures, weight, bias];
    this.scores = parameter(zeros(weight.shape, { dtype: weight.dtype }));
    this.mask = keep(full(weight.shape, true));
    this.excludeFromState('mask');
    this.training = training;
  }

  /** `[…, in]` → `[…, out]`. */
  forward(x: Tensor): Tensor {
    return linear(x, maskThrough(this.weight, this.scores, this.mask), this.bias);
  }

  /** Keeps the share of largest scores, or those above a threshold. */
  choose(rule: { readonly sparsity: number } | { readonly threshold: number }): void {
    const before = this.mask;
    this.mask = keep(
      scope(() =>
        noGrad(() => {
          const scores = detach(this.scores);
          if ('threshold' in rule) return gt(scores, rule.threshold);
          const flat = reshape(scores, [scores.size]);
          return reshape(dropSmallest(flat, Math.round(scores.size * rule.sparsity)), scores.shape);
        }),
      ),
    );
    before.dispose();
  }
}

/** Options of {@link movementPruning}. */
export interface MovementPruningOptions extends SparsitySchedule {
  /**
   * `topv`: each weight keeps the share of its largest scores that the cubic schedule says ("hard" movement pruning). `threshold`: it keeps
   * scores above `threshold`, and the loss holds the scores down ("soft"); the schedule is then that of the strength. Default `topv`.
   */
  readonly mode?: 'topv' | 'threshold';
  /** Of mode `threshold`. Default 0. */
  readonly threshold?: number;
  /** Of mode `threshold`: factor of the mean of sigmoid(scores) in the loss, at the end of the schedule. Default 1. */
  readonly strength?: number;
  /** Which layers. Default: all linear layers but the output layer. */
  readonly target?: Target;
}

/** A model in movement pruning: a callback and a loss for the Trainer, and what ends it. */
export interface MovementPruning<M extends Module> {
  /** Scores of all layers: give them a rate of their own (the paper: 1e-2), without weight decay. */
  readonly scores: readonly Tensor[];
  /** For `callbacks` of the Trainer. */
  readonly callback: {
    readonly name: string;
    beforeStep(context: { readonly step: number }): void;
  };
  /** A loss with what mode `threshold` adds in training; in mode `topv` the loss itself. */
  withPenalty<B>(loss: (model: M, batch: B) => Tensor): (model: M, batch: B) => Tensor;
  /** Puts plain pruned layers into the model in place of those with scores; `layer.pruned` is `unstructured`. Returns the model. */
  finish(): M;
}

/**
 * Puts layers with trained scores into a model (the model itself changes). A weight's score rises while updates move it away from 0 and
 * falls while they move it towards 0, so what fine-tuning needs is kept, whatever its size was after pre-training.
 *
 * Make it before the Trainer, so that the optimiser knows the scores. Models in movement pruning cannot be saved with saveModel:
 * call `finish` first; the Trainer's checkpoints hold the scores.
 *
 * @example
 * ```ts
 * const movement = movementPruning(gpt, { sparsity: 0.85, begin: 100, end: 800 });
 * const trainer = new Trainer(gpt, {
 *   …, callbacks: [movement.callback],
 *   optimizer: (params) => {
 *     const rest = params.filter((p) => !movement.scores.includes(p));
 *     return new optim.AdamW([{ params: rest }, { params: [...movement.scores], lr: 1e-2, weightDecay: 0 }], { lr: 1e-4 });
 *   },
 * });
 * for await (const event of trainer.run());
 * movement.finish();
 * ```
 * @throws AttributeError if the schedule cannot be, or the target names no layer
 * @throws StateError if a layer is pruned already
 * @source Sanh et al. 2020, arXiv 2005.07683
 */
export function movementPruning<M extends Module>(model: M, options: MovementPruningOptions): MovementPruning<M> {
  const op = 'movementPruning';
  checkKeys(op, options, [...scheduleKeys, 'mode', 'threshold', 'strength', 'target']);
  const { mode: wanted, threshold: limit, strength: factor, target = 'all-linear', ...given } = options;
  const schedule = checkSchedule(op, given);
  const mode = checkOneOf(op, 'mode', wanted ?? 'topv', ['topv', 'threshold']);
  const threshold = checkNumber(op, 'threshold', limit ?? 0, -Number.MAX_VALUE, Number.MAX_VALUE);
  const strength = checkNumber(op, 'strength', factor ?? 1, 0, Number.MAX_VALUE);
  if (mode === 'topv' && (limit !== undefined || factor !== undefined)) {
    const argument = limit === undefined ? 'strength' : 'threshold';
    throw new AttributeError({ op, argument, expected: "none unless mode is 'threshold'", actual: 'one' });
  }
  const sites = denseSites(op, model, target);
  const layers = sites.map((site): [Site, MovementLinear] => [site, new MovementLinear(site.layer)]);
  for (const [site, layer] of layers) place(op, site, layer);
  let [step, isOver] = [0, false];
  const choose = (): void => {
    const rule = mode === 'topv' ? { sparsity: cubicSparsity(step, schedule) } : { threshold };
    for (const [, layer] of layers) layer.choose(rule);
  };
  /** From 0 to 1 along the schedule. */
  const progress = (): number =>
    schedule.sparsity === 0 ? 0 : cubicSparsity(step, { ...schedule, initialSparsity: 0 }) / schedule.sparsity;
  return {
    scores: layers.map(([, { scores }]) => scores),
    callback: {
      name: op,
      beforeStep(context) {
        step = context.step;
        // all scores are 0 at first: nothing is known that a threshold could tell apart
        if (mode === 'topv' || step > schedule.begin) choose();
      },
    },
    withPenalty:
      (loss) =>
      (current, batch): Tensor => {
        const plain = loss(current, batch);
        if (mode === 'topv' || isOver || !current.training) return plain;
        const parts = layers.map(([, { scores }]) => mean(sigmoid(scores)));
        return add(plain, mul(parts.reduce((a, b) => add(a, b)), (strength * progress()) / parts.length)); // prettier-ignore
      },
    finish() {
      if (isOver) {
        const [expected, actual] = ['a model in movement pruning', 'one that is finished'];
        throw new StateError({ op: 'MovementPruning.finish', expected, actual });
      }
      isOver = true;
      step++;
      choose();
      for (const [site, layer] of layers) {
        const { mask, weight, bias, scores } = layer;
        const flags = [weight.requiresGrad, bias?.requiresGrad ?? false] as const;
        const made = Linear.of(keep(scope(() => noGrad(() => clone(where(mask, detach(weight), 0))))), bias);
        made.weight.requiresGrad = flags[0];
        if (bias !== null) bias.requiresGrad = flags[1];
        made.pruned = 'unstructured';
        made.train(layer.training);
        place(op, site, made);
        for (const tensor of [mask, weight, scores]) tensor.dispose();
      }
      return model;
    },
  };
}
