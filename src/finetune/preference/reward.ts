/**
 * Reward models: a number for a prompt with its answer.
 */
import { AttributeError, ShapeError } from '../../errors.js';
import { normal_ } from '../../nn/init.js';
import { Linear } from '../../nn/linear.js';
import { Module } from '../../nn/module.js';
import { sub } from '../../ops/arithmetic.js';
import { to } from '../../ops/copy.js';
import { takeAlongAxis } from '../../ops/indexing.js';
import { detach, reshape, select, squeeze, unsqueeze } from '../../ops/views.js';
import type { Generator } from '../../tensor/random.js';
import { scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber } from '../../util/assert.js';
import { formatShape } from '../../util/format.js';
import type { PreferenceBatch } from './dataset.js';
import { bradleyTerryLoss } from './losses.js';
import type { HiddenModel } from '../pooling.js';
import type { PreferenceMetrics } from './metrics.js';

/** Options of {@link RewardModel}. */
export interface RewardModelOptions {
  /** Width of the states. Default: the body's `config.width`. */
  readonly width?: number;
  readonly generator?: Generator;
}

/**
 * A language model whose output layer is replaced by one number: the reward is read off the last token. The body is shared, not copied.
 * The head starts with std 1/√(width + 1).
 *
 * Shapes: ids `[B, T]`, lengths `[B]` (tokens that are not padding) → rewards `[B]`.
 *
 * @source Ouyang et al. 2022, arXiv 2203.02155, §3.4; initial values: Stiennon et al. 2020, arXiv 2009.01325, appendix B
 */
export class RewardModel<Body extends HiddenModel = HiddenModel> extends Module {
  readonly body: Body;
  readonly head: Linear;

  constructor(body: Body, options: RewardModelOptions = {}) {
    super();
    const op = 'RewardModel';
    checkKeys(op, options, ['width', 'generator']);
    if (!(body instanceof Module) || typeof body.hidden !== 'function') {
      throw new AttributeError({ op, argument: 'body', expected: 'a model with hidden(ids)', actual: 'one without' });
    }
    const { config } = body as { readonly config?: { readonly width?: number } };
    const width = checkInteger(op, 'width', options.width ?? config?.width, 1);
    const dtype = body.parameters()[0]?.dtype ?? 'float32';
    this.body = body;
    this.head = new Linear(width, 1, {
      bias: false,
      dtype,
      ...(options.generator && { generator: options.generator }),
    });
    normal_(this.head.weight, 0, 1 / Math.sqrt(width + 1), options.generator);
  }

  /** Rewards `[B]` of rows that end where `lengths` says; default: at their end. */
  forward(ids: Tensor, lengths?: Tensor): Tensor {
    return scope(() => {
      const rewards = squeeze(this.head.forward(this.body.hidden(ids)), -1);
      if (lengths === undefined) return select(rewards, 1, rewards.shape[1]! - 1);
      if (lengths.rank !== 1 || lengths.size !== rewards.shape[0]) {
        const expected = formatShape([rewards.shape[0]!]);
        throw new ShapeError({ op: 'RewardModel', argument: 'lengths', expected, actual: formatShape(lengths.shape) });
      }
      return squeeze(takeAlongAxis(rewards, unsqueeze(to(sub(lengths, 1), 'int64'), 1), 1), 1);
    });
  }
}

/** Options of {@link rewardModeling}. */
export interface RewardModelingOptions {
  /** Weight of (chosen + rejected)², which keeps the rewards around zero. Default 0. */
  readonly centering?: number;
  /** Gathers rewards, margins and accuracy. */
  readonly metrics?: PreferenceMetrics;
}

/**
 * Training a reward model on the batches of a `PreferenceDataset`, as a loss for the `Trainer`: see {@link bradleyTerryLoss}. The
 * examples' margins count.
 *
 * @throws AttributeError if an option cannot be
 */
export function rewardModeling(
  options: RewardModelingOptions = {},
): (model: RewardModel, batch: PreferenceBatch) => Tensor {
  const op = 'rewardModeling';
  checkKeys(op, options, ['centering', 'metrics']);
  const centering = checkNumber(op, 'centering', options.centering ?? 0, 0, Number.MAX_VALUE);
  return (model, { x, lengths, margin }) =>
    scope(() => {
      const twos = reshape(model.forward(x, lengths), [-1, 2]);
      const [chosen, rejected] = [select(twos, 1, 0), select(twos, 1, 1)];
      options.metrics?.of(model.training).addPairs(detach(chosen), detach(rejected));
      return bradleyTerryLoss({ chosen, rejected }, { margin, centering });
    });
}
