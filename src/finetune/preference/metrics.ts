/**
 * How well a model tells good answers from bad ones, gathered while it trains.
 */
import { noGrad } from '../../autograd/grad.js';
import { add, mul, sub } from '../../ops/arithmetic.js';
import { gt, lt } from '../../ops/comparison.js';
import { to } from '../../ops/copy.js';
import { stack } from '../../ops/join.js';
import { sum } from '../../ops/reduce.js';
import { detach } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { constant } from '../../tensor/create.js';
import { data } from '../../tensor/read.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';

/** Averages since the last reading. */
export interface PreferenceReport {
  /** Pairs seen, or single answers. */
  readonly examples: number;
  /** Mean reward of the chosen (or desirable) answers, and of the others. */
  readonly chosen: number;
  readonly rejected: number;
  /** Difference of the two. */
  readonly margin: number;
  /** Share that is told rightly, from 0 to 1: pairs whose chosen answer has the higher reward, single answers on their side of the reference point. */
  readonly accuracy: number;
}

/**
 * Sums up the rewards that a preference loss sees. Adding waits for nothing; {@link read} does. The reward is β · (ln π − ln π_ref) for
 * DPO and KTO, the mean log-probability for ORPO, β times it for SimPO, and a reward model's own.
 */
export class PreferenceMeter {
  /** Σ chosen, how many, Σ rejected, how many, how many right, of how many. */
  private sums: Tensor | null = null;

  /** @internal Rewards of pairs, `[N]` each. */
  addPairs(chosen: Tensor, rejected: Tensor): void {
    this.gather(() => {
      const [a, b] = [to(detach(chosen), 'float64'), to(detach(rejected), 'float64')];
      const count = constant(chosen.size, 'float64');
      return [sum(a), count, sum(b), count, sum(to(gt(a, b), 'float64')), count];
    });
  }

  /** @internal Rewards of single answers and the reference point they should be above or below. */
  addSingles(rewards: Tensor, desirable: Tensor, point: Tensor): void {
    this.gather(() => {
      const [r, good] = [to(detach(rewards), 'float64'), to(desirable, 'float64')];
      const bad = sub(1, good);
      const right = where(desirable, gt(r, point), lt(r, point));
      const count = constant(rewards.size, 'float64');
      return [sum(mul(r, good)), sum(good), sum(mul(r, bad)), sum(bad), sum(to(right, 'float64')), count];
    });
  }

  private gather(body: () => Tensor[]): void {
    const before = this.sums;
    this.sums = keep(scope(() => noGrad(() => (before === null ? stack(body()) : add(before, stack(body()))))));
    before?.dispose();
  }

  /** The averages since the last reading; NaN where there was nothing. */
  async read(): Promise<PreferenceReport> {
    const { sums } = this;
    this.sums = null;
    const none = new Float64Array(6);
    const values = sums === null ? none : ((await data(sums).finally(() => sums.dispose())) as Float64Array);
    const [chosen, rejected, accuracy] = [0, 2, 4].map((i) => values[i]! / values[i + 1]!) as [number, number, number];
    return { examples: values[5]!, chosen, rejected, margin: chosen - rejected, accuracy };
  }
}

/** What a loss reports to: batches in training, and those of validations. */
export class PreferenceMetrics {
  readonly train = new PreferenceMeter();
  readonly valid = new PreferenceMeter();

  /** @internal */
  of(isTraining: boolean): PreferenceMeter {
    return isTraining ? this.train : this.valid;
  }
}
