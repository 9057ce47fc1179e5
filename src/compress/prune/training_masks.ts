/**
 * Zeros that hold in training: hooks for the one training loop.
 *
 * @module
 */
import { AttributeError, StateError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import type { Linear } from '../../nn/linear.js';
import type { Module } from '../../nn/module.js';
import { chooseSites, type Site, type Target } from '../../nn/surgery.js';
import { ne } from '../../ops/comparison.js';
import { copy_, to } from '../../ops/copy.js';
import { abs } from '../../ops/unary.js';
import { where } from '../../ops/where.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkInteger, checkKeys } from '../../util/assert.js';
import { linearSites } from '../linear_sites.js';
import {
  checkDivides,
  checkSparsity,
  globalMasks,
  maskOfScores,
  patternName,
  resolvePattern,
  type PruneScope,
} from './pattern.js';
import type { BlockSize } from '../../ops/sparse.js';

/** Moving averages of parameters, as the Trainer keeps them. */
export interface WeightAverages {
  /** That of a parameter; null if there is none. */
  averageOf(parameter: Tensor): Tensor | null;
}

/** A part of a training run: a callback of the Trainer. */
export interface MaskCallback {
  readonly name: string;
  /** Gradients of dropped weights are 0, for norms and for the optimiser's averages. */
  onGradients(): void;
  /** Dropped weights are 0 again, whatever the optimiser did, and so are their moving averages. */
  afterStep(context: { readonly step: number; readonly averages?: WeightAverages | null }): void;
  /** For checkpoints. The masks themselves are the zeros of the weights. */
  stateDict(): unknown;
  /** Takes the masks from the zeros of the weights, which are those of the checkpoint. */
  loadStateDict(state: unknown): void;
  /** Frees the masks. */
  dispose(): void;
}

/** Masks of layers (bool, true = kept), and what they do. */
class Masks {
  private readonly masks = new Map<Site<Linear>, Tensor>();

  constructor(private readonly sites: readonly Site<Linear>[]) {}

  /** Keeps what is not 0 now. */
  fromZeros(): void {
    this.set(({ layer }) => ne(layer.weight, 0));
  }

  /** Replaces the masks. */
  set(make: (site: Site<Linear>, index: number) => Tensor): void {
    const made = scope(() => noGrad(() => this.sites.map((site, i) => keep(make(site, i)))));
    this.dispose();
    this.sites.forEach((site, i) => this.masks.set(site, made[i]!));
  }

  toGradients(): void {
    for (const [{ layer }, mask] of this.masks) {
      const { grad } = layer.weight;
      if (grad !== null) scope(() => noGrad(() => copy_(grad, where(mask, grad, 0))));
    }
  }

  toWeights(averages: WeightAverages | null = null): void {
    for (const [{ layer }, mask] of this.masks) {
      scope(() =>
        noGrad(() => {
          for (const x of [layer.weight, averages?.averageOf(layer.weight) ?? null])
            if (x !== null) copy_(x, where(mask, x, 0));
        }),
      );
    }
  }

  dispose(): void {
    for (const mask of this.masks.values()) mask.dispose();
    this.masks.clear();
  }
}

/** The linear layers of a target, checked. @throws StateError if one is pruned already */
export function denseSites(op: string, model: Module, target: Target): Site<Linear>[] {
  const sites = chooseSites(op, linearSites(op, model), target);
  const done = sites.find(({ layer }) => layer.pruned !== null);
  if (done === undefined) return sites;
  const actual = `${done.path} is (${done.layer.pruned})`;
  throw new StateError({ op, argument: 'model', expected: 'layers that are not pruned yet', actual });
}

/**
 * A callback for the Trainer under which the zeros of a pruned model stay zeros: gradients of dropped weights are 0, and whatever an update
 * makes of them is undone. Works for models that were saved and loaded as well.
 *
 * @param options - `target`: which of the pruned layers; default all
 * @example
 * ```ts
 * const half = await prune(gpt, { pattern: { sparsity: 0.5 }, method: 'wanda', calibration });
 * const trainer = new Trainer(half, { …, callbacks: [maskedTraining(half)] });
 * ```
 * @throws StateError if no layer is pruned
 */
export function maskedTraining(model: Module, options: { readonly target?: Target } = {}): MaskCallback {
  const op = 'maskedTraining';
  checkKeys(op, options, ['target']);
  const pruned = linearSites(op, model).filter(({ layer }) => layer.pruned !== null);
  if (pruned.length === 0) {
    const hint = 'Prune it first; layers of nn.SparseLinear need no masks';
    throw new StateError({ op, argument: 'model', expected: 'a pruned model', actual: 'no pruned layer', hint });
  }
  const masks = new Masks(options.target === undefined ? pruned : chooseSites(op, pruned, options.target));
  masks.fromZeros();
  return {
    name: op,
    onGradients: () => masks.toGradients(),
    afterStep: ({ averages }) => masks.toWeights(averages),
    stateDict: () => ({}),
    loadStateDict: () => masks.fromZeros(),
    dispose: () => masks.dispose(),
  };
}

/** When, and how far, sparsity rises. */
export interface SparsitySchedule {
  /** Share of the weights that are dropped in the end. */
  readonly sparsity: number;
  /** Share at the beginning. Default 0. */
  readonly initialSparsity?: number;
  /** Step of the first pruning. Default 0. */
  readonly begin?: number;
  /** Step of the last. */
  readonly end: number;
  /** Steps between two. Default 1. */
  readonly every?: number;
}

/**
 * Sparsity after `step` steps: s_f + (s_i − s_f)·(1 − (t − t₀) / (t₁ − t₀))³, in steps of `every`; 0 before
 * `begin`.
 *
 * @throws AttributeError if a share is not from 0 to below 1, falls, or `every` does not fit between `begin` and `end`
 * @source Zhu and Gupta 2017, arXiv 1710.01878, equation 1
 */
export function cubicSparsity(step: number, schedule: SparsitySchedule): number {
  const { sparsity, initialSparsity, begin, end, every } = checkSchedule('cubicSparsity', schedule);
  checkInteger('cubicSparsity', 'step', step, 0);
  if (step < begin) return 0;
  const at = step >= end ? end : begin + Math.floor((step - begin) / every) * every;
  return sparsity + (initialSparsity - sparsity) * (1 - (at - begin) / (end - begin)) ** 3;
}

/** @internal */
export const scheduleKeys = ['sparsity', 'initialSparsity', 'begin', 'end', 'every'] as const;

/** @internal A schedule with its defaults. */
export function checkSchedule(op: string, schedule: SparsitySchedule): Required<SparsitySchedule> {
  const sparsity = checkSparsity(op, 'sparsity', schedule.sparsity);
  const initialSparsity = checkSparsity(op, 'initialSparsity', schedule.initialSparsity ?? 0);
  const begin = checkInteger(op, 'begin', schedule.begin ?? 0, 0);
  const end = checkInteger(op, 'end', schedule.end, begin + 1);
  const every = checkInteger(op, 'every', schedule.every ?? 1, 1, end - begin);
  if (initialSparsity > sparsity) {
    const [expected, actual] = [`at most the final ${sparsity}`, String(initialSparsity)];
    throw new AttributeError({ op, argument: 'initialSparsity', expected, actual });
  }
  return { sparsity, initialSparsity, begin, end, every };
}

/** Options of {@link gradualPruning}. */
export interface GradualPruningOptions extends SparsitySchedule {
  /** Which weights compete: those of an output, of a layer (default), or all. */
  readonly scope?: PruneScope;
  /** Drop squares of this side instead of single weights. */
  readonly block?: BlockSize;
  /** Which layers. Default: all linear layers but the output layer. */
  readonly target?: Target;
}

/**
 * A callback for the Trainer that drops more and more weights of smallest magnitude while the model trains, along the cubic schedule of
 * {@link cubicSparsity}; what is dropped stays 0. The layers are pruned layers from the first pruning on.
 *
 * Moving averages of parameters (`ema`) drop the same weights.
 *
 * @example
 * ```ts
 * const pruning = gradualPruning(gpt, { sparsity: 0.8, begin: 100, end: 800, every: 20 });
 * const trainer = new Trainer(gpt, { …, steps: 1000, callbacks: [pruning] });
 * ```
 * @throws AttributeError if the schedule cannot be, the target names no layer, or squares do not divide a weight
 * @throws StateError if a layer is pruned already
 * @source Zhu and Gupta 2017, arXiv 1710.01878
 */
export function gradualPruning(model: Module, options: GradualPruningOptions): MaskCallback {
  const op = 'gradualPruning';
  checkKeys(op, options, [...scheduleKeys, 'scope', 'block', 'target']);
  const { scope: group, block, target = 'all-linear', ...given } = options;
  const schedule = checkSchedule(op, given);
  const pattern = resolvePattern(
    op,
    {
      sparsity: schedule.sparsity,
      ...(group === undefined ? {} : { scope: group }),
      ...(block === undefined ? {} : { block }),
    },
    'layer',
  );
  const sites = denseSites(op, model, target);
  for (const site of sites) checkDivides(op, site, pattern);
  const masks = new Masks(sites);
  const isDue = (step: number): boolean =>
    step === schedule.end ||
    (step >= schedule.begin && step < schedule.end && (step - schedule.begin) % schedule.every === 0);
  const prune = (step: number): void => {
    const sparsity = cubicSparsity(step, schedule);
    const scoreOf = ({ layer }: Site<Linear>): Tensor => abs(to(layer.weight, 'float32'));
    scope(() =>
      noGrad(() => {
        if (pattern.kind === 'share' && pattern.scope === 'global') {
          const made = globalMasks(sites.map(scoreOf), sparsity, pattern.block);
          masks.set((_site, i) => made[i]!);
        } else masks.set((site) => maskOfScores(scoreOf(site), pattern, sparsity));
      }),
    );
    for (const { layer } of sites) layer.pruned = patternName(pattern);
  };
  return {
    name: op,
    onGradients: () => masks.toGradients(),
    afterStep({ step, averages }) {
      masks.toWeights(averages); // momentum may have moved what was dropped
      if (!isDue(step)) return;
      prune(step);
      masks.toWeights(averages);
    },
    stateDict: () => ({ pruned: sites[0]!.layer.pruned !== null }),
    loadStateDict(state) {
      if ((state as { pruned?: boolean }).pruned !== true) return;
      masks.fromZeros();
      for (const { layer } of sites) layer.pruned = patternName(pattern);
    },
    dispose: () => masks.dispose(),
  };
}
