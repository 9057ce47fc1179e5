/**
 * How a run computes losses and gradients: in which precision, with which scale of the loss, with which blocks computed twice.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { backwardInSlices, type Pace } from '../autograd/backward.js';
import type { Module } from '../nn/module.js';
import { to } from '../ops/copy.js';
import { full } from '../tensor/create.js';
import { keep, scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkOneOf } from '../util/assert.js';
import { LossScaler, type LossScaleOptions, type LossScaleState } from './loss_scale.js';
import { probeBatch, type ProbeSubject } from './memory_probe.js';
import { MixedPrecision, precisions, type Precision } from './precision.js';
import { Recomputation, type RecomputationOptions } from './recomputation.js';

/** What {@link Arithmetic} is told. */
export interface ArithmeticOptions {
  readonly precision?: Precision;
  readonly lossScale?: LossScaleOptions;
  readonly activationCheckpointing?: boolean | RecomputationOptions;
}

/** @internal One for each run. */
export class Arithmetic {
  readonly recomputation: Recomputation | null;
  private readonly mixed: MixedPrecision | null;
  private readonly scaler: LossScaler | null;
  /** What the step under way was scaled by, and whether it was skipped. */
  private last = { lossScale: 1, skipped: false };

  /** @throws AttributeError, DTypeError for what cannot be */
  constructor(model: Module, options: ArithmeticOptions) {
    const precision = checkOneOf('Trainer', 'precision', options.precision ?? 'float32', precisions);
    if (options.lossScale !== undefined && precision !== 'float16') {
      const expected = "none without precision: 'float16'";
      throw new AttributeError({ op: 'Trainer', argument: 'lossScale', expected, actual: 'one' });
    }
    this.mixed = precision === 'float32' ? null : new MixedPrecision(model, precision);
    this.scaler = precision === 'float16' ? new LossScaler(options.lossScale) : null;
    const { activationCheckpointing = false } = options;
    this.recomputation = activationCheckpointing === false ? null : new Recomputation(model, activationCheckpointing);
  }

  /** Finds out how many blocks have to be computed again, where that is not known yet. */
  settle<B>(subject: ProbeSubject<B>): void {
    this.recomputation?.settle(() => probeBatch(subject).activationBytes);
  }

  /** Takes up the weights as they are now. */
  refresh(): void {
    this.mixed?.refresh();
  }

  /** Runs `body` with the model as it computes in this run: its copies of 16 bits, if any, in place. */
  within<T>(body: () => T): T {
    const run = (): T => (this.recomputation === null ? body() : this.recomputation.within(body));
    return this.mixed === null ? run() : this.mixed.run(run);
  }

  /** The loss, in no less than float32. */
  forward(compute: () => Tensor): Tensor {
    const loss = this.within(compute);
    return this.mixed === null ? loss : to(loss, 'float32');
  }

  /** Adds the gradients of a loss to those of the model's parameters, a slice at a time. */
  async backward(loss: Tensor, pace: Pace): Promise<void> {
    const { mixed } = this;
    if (mixed === null) return backwardInSlices(loss, null, pace);
    const scale = this.scaler?.scale ?? 1;
    const start = keep(full(loss.shape, scale, { dtype: loss.dtype }));
    try {
      await backwardInSlices(loss, start, { ...pace, run: (slice) => pace.run(() => mixed.run(slice)) });
    } finally {
      start.dispose();
    }
    pace.run(() => scope(() => mixed.collect(scale)));
  }

  /** Whether the step has to be skipped, given the norm of its gradients, which is waited for in float16 only. */
  async mustSkip(norm: Tensor): Promise<boolean> {
    if (this.scaler === null) return false;
    const lossScale = this.scaler.scale;
    const skipped = !Number.isFinite(await norm.item());
    this.scaler.update(skipped);
    this.last = { lossScale, skipped };
    return skipped;
  }

  /** What the step's event says of it. */
  report(): { readonly lossScale?: number; readonly skipped?: boolean } {
    return this.scaler === null ? {} : this.last;
  }

  /** Bytes of the 16-bit copies that a step holds. */
  copyBytes(): number {
    return this.mixed?.bytes ?? 0;
  }

  /** For a checkpoint. */
  get state(): { readonly lossScale?: LossScaleState } {
    return this.scaler === null ? {} : { lossScale: this.scaler.stateDict() };
  }

  set state({ lossScale }: { readonly lossScale?: LossScaleState }) {
    if (lossScale !== undefined) this.scaler?.loadStateDict(lossScale);
  }

  /** Frees what is made anew by {@link refresh}. */
  dispose(): void {
    this.mixed?.dispose();
  }
}
