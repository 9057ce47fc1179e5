import { AttributeError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { clone, copy_ } from '../ops/copy.js';
import { detach } from '../ops/views.js';
import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import { keep } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { formatValue } from '../util/format.js';

const lerp = kernelId('lerp_', 1, 1, 1);

/** A moving average of parameters: shadow += (1 − decay)·(parameter − shadow) after every step (Polyak averaging). */
export class EMA {
  readonly decay: number;
  private readonly params: readonly Tensor[];
  private readonly shadows: readonly Tensor[];
  private backup: Tensor[] | null = null;

  /** @param decay - in [0, 1). Default 0.999 */
  constructor(params: Iterable<Tensor>, decay = 0.999) {
    if (!(decay >= 0 && decay < 1)) {
      throw new AttributeError({
        op: 'EMA',
        argument: 'decay',
        expected: 'a number in [0, 1)',
        actual: formatValue(decay),
      });
    }
    this.decay = decay;
    this.params = [...params];
    this.shadows = noGrad(() => this.params.map((param) => keep(clone(param))));
  }

  /** Call it after each optimiser step. */
  update(): void {
    this.params.forEach((param, i) => submit(lerp, [param], [this.shadows[i]!], [1 - this.decay], param.size));
  }

  /** The average of a parameter, which shares memory with this object; null if it is not one of them. */
  averageOf(param: Tensor): Tensor | null {
    const at = this.params.indexOf(param);
    return at < 0 ? null : detach(this.shadows[at]!);
  }

  /** Puts the averages in the parameters' place until {@link restore}. */
  apply(): void {
    if (this.backup !== null)
      throw new StateError({ op: 'EMA.apply', expected: 'the parameters in place', actual: 'the averages' });
    noGrad(() => {
      this.backup = this.params.map((param) => keep(clone(param)));
      this.params.forEach((param, i) => copy_(param, this.shadows[i]!));
    });
  }

  /** Puts the parameters back. */
  restore(): void {
    const { backup } = this;
    if (backup === null) throw new StateError({ op: 'EMA.restore', expected: 'apply() before', actual: 'none' });
    noGrad(() => this.params.forEach((param, i) => copy_(param, backup[i]!)));
    for (const tensor of backup) tensor.dispose();
    this.backup = null;
  }

  /** The averages, in the order of the parameters; they share memory with this object. */
  stateDict(): Record<string, Tensor> {
    return Object.fromEntries(this.shadows.map((shadow, i) => [String(i), detach(shadow)]));
  }

  /**
   * Takes up saved averages.
   *
   * @throws StateError if one is missing
   */
  loadStateDict(state: Readonly<Record<string, Tensor>>): void {
    noGrad(() =>
      this.shadows.forEach((shadow, i) => {
        const value = state[String(i)];
        if (value === undefined)
          throw new StateError({
            op: 'EMA.loadStateDict',
            expected: `${this.shadows.length} tensors`,
            actual: `none for ${i}`,
          });
        copy_(shadow, value);
      }),
    );
  }

  /** Frees the averages. */
  dispose(): void {
    for (const tensor of this.shadows) tensor.dispose();
  }
}
