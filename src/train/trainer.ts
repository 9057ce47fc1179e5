/**
 * The training loop.
 *
 * @module
 */
import { setImmediate } from 'node:timers/promises';
import { AttributeError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { DataLoader } from '../data/loader.js';
import type { Module } from '../nn/module.js';
import { clipFactor, gradNorm } from '../optim/clip.js';
import { EMA } from '../optim/ema.js';
import type { OptimizerOptions } from '../optim/groups.js';
import type { Optimizer } from '../optim/optimizer.js';
import { isObserving } from '../optim/plateau.js';
import { constant, type Schedule } from '../optim/schedule.js';
import { add, div } from '../ops/arithmetic.js';
import { detach } from '../ops/views.js';
import { defaultGenerator } from '../tensor/random.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber, checkOneOf } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { loadLatestCheckpoint, saveCheckpoint, type Checkpoint } from './checkpoint.js';
import { defaultLoss, type Batch, type LossFunction } from './loss.js';
import type { TrainCallback, TrainContext } from './callback.js';
import { optionKeys, type RunOptions, type TrainerOptions } from './trainer_options.js';
import type { CheckpointEvent, EvalEvent, StepEvent, TrainEvent } from './events.js';

/** Elements of the batch's `x`. */
function elementsOfX(batch: unknown): number {
  return (batch as { readonly x?: Tensor }).x?.size ?? 0;
}

/**
 * Trains a module. `run` yields typed events; with checkpoints, a run that was killed at any moment goes on from the last one
 * and ends with the same weights, bit for bit, as one that was not.
 *
 * @example
 * ```ts
 * const trainer = new Trainer(gpt, {
 *   train: new TextDataset(tokens, { context: 256 }), batchSize: 12, steps: 1000,
 *   optimizer: (p) => new optim.AdamW(p, { lr: 1e-3 }), schedule: schedules.cosine({ warmup: 100 }),
 * });
 * for await (const event of trainer.run()) if (event.type === 'step') console.log(event.loss);
 * ```
 */
export class Trainer<M extends Module, B = Batch> {
  readonly model: M;
  readonly optimizer: Optimizer<OptimizerOptions>;
  /** Steps of the whole run. */
  readonly total: number;
  private readonly options: TrainerOptions<M, B>;
  private readonly loader: DataLoader<B>;
  private readonly accumulation: number;
  private readonly schedule: Schedule;
  private readonly ema: EMA | null;
  private readonly computeLoss: LossFunction<M, B>;
  private readonly countTokens: (batch: B) => number;
  private readonly callbacks: readonly TrainCallback<M>[];
  private step = 0;
  private tokens = 0;

  /** @throws AttributeError naming the first option that cannot be */
  constructor(model: M, options: TrainerOptions<M, B>) {
    checkKeys('Trainer', options, optionKeys);
    this.model = model;
    this.options = options;
    this.accumulation = checkInteger('Trainer', 'gradientAccumulation', options.gradientAccumulation ?? 1, 1);
    checkOneOf('Trainer', 'precision', options.precision ?? 'float32', ['float32']);
    if (options.clipGradNorm !== undefined) checkNumber('Trainer', 'clipGradNorm', options.clipGradNorm, 0);
    this.loader = new DataLoader(options.train, { batchSize: options.batchSize, seed: options.seed ?? 0 });
    this.total = checkInteger(
      'Trainer',
      'steps',
      options.steps ?? Math.max(1, Math.floor(this.loader.length / this.accumulation)),
      1,
    );
    this.computeLoss = options.loss ?? defaultLoss('Trainer');
    this.countTokens = options.countTokens ?? elementsOfX;
    this.callbacks = options.callbacks ?? [];
    if (typeof options.optimizer !== 'function') {
      throw new AttributeError({
        op: 'Trainer',
        argument: 'optimizer',
        expected: 'a function from parameters to an optimizer',
        actual: formatValue(options.optimizer),
      });
    }
    this.optimizer = options.optimizer(
      model.parameters().filter((parameter) => parameter.requiresGrad),
      model,
    );
    this.schedule = options.schedule ?? constant();
    if (options.scheduleTokens !== undefined) checkInteger('Trainer', 'scheduleTokens', options.scheduleTokens, 1);
    if (isObserving(this.schedule) && options.valid === undefined) {
      throw new AttributeError({
        op: 'Trainer',
        argument: 'valid',
        expected: 'a validation set, whose loss the schedule observes',
        actual: 'none',
      });
    }
    this.ema = options.ema === undefined ? null : new EMA(model.parameters(), options.ema);
  }

  /** Where the run stands, for callbacks. */
  private get context(): TrainContext<M> {
    return { model: this.model, optimizer: this.optimizer, step: this.step, total: this.total };
  }

  /** Events of the run, from where it stands to its end. */
  async *run(options: RunOptions = {}): AsyncGenerator<TrainEvent, void, undefined> {
    for await (const event of this.events(options)) {
      for (const callback of this.callbacks) await callback.onEvent?.(event, this.context);
      yield event;
    }
  }

  private async *events(options: RunOptions): AsyncGenerator<TrainEvent, void, undefined> {
    const begun = performance.now();
    const elapsed = (): number => (performance.now() - begun) / 1000;
    if ((options.resume ?? true) && this.options.checkpoint !== undefined && this.step === 0) {
      const latest = await loadLatestCheckpoint(this.options.checkpoint.dir);
      if (latest !== null) {
        this.restore(latest.checkpoint);
        yield { type: 'resume', step: this.step, path: latest.path };
      }
    }
    this.model.train();
    let saved = this.step;
    let evaluated = -1;
    const stopReason = (): 'aborted' | 'time' | null => {
      if (options.signal?.aborted) return 'aborted';
      return options.timeLimit !== undefined && elapsed() >= options.timeLimit ? 'time' : null;
    };
    let reason: 'finished' | 'aborted' | 'time' = 'finished';
    while (this.step < this.total) {
      const stop = stopReason();
      if (stop !== null) {
        reason = stop;
        break;
      }
      yield await this.trainStep(elapsed);
      if (this.step % (this.options.evalEvery ?? 200) === 0 && this.options.valid !== undefined) {
        evaluated = this.step;
        const event = await this.evaluate();
        if (isObserving(this.schedule)) this.schedule.observe(event.loss);
        yield event;
      }
      if (this.options.checkpoint !== undefined && this.step % (this.options.checkpoint.every ?? 200) === 0) {
        saved = this.step;
        yield await this.save();
      }
    }
    if (this.options.checkpoint !== undefined && saved !== this.step) yield await this.save();
    if (reason !== 'aborted' && this.options.valid !== undefined && evaluated !== this.step)
      yield await this.evaluate();
    yield { type: 'done', step: this.step, reason, elapsed: elapsed() };
  }

  private async trainStep(elapsed: () => number): Promise<StepEvent> {
    const begun = performance.now();
    const { scheduleTokens } = this.options;
    const place =
      scheduleTokens === undefined ? ([this.step, this.total] as const) : ([this.tokens, scheduleTokens] as const);
    this.optimizer.setRateFactor(this.schedule(...place));
    for (const callback of this.callbacks) callback.beforeStep?.(this.context);
    const { loss, norm, tokens } = await this.enqueueStep();
    const [lossValue, normValue] = [await loss.item(), await norm.item()];
    loss.dispose();
    norm.dispose();
    this.step++;
    this.tokens += tokens;
    for (const callback of this.callbacks) callback.afterStep?.(this.context);
    if (Number.isNaN(lossValue)) {
      throw new StateError({
        op: 'Trainer',
        expected: 'a finite loss',
        actual: `NaN at step ${this.step}`,
        hint: 'Lower the learning rate, or set clipGradNorm; the last checkpoint is intact',
      });
    }
    return {
      type: 'step',
      step: this.step,
      total: this.total,
      epoch: this.loader.state.epoch,
      loss: lossValue,
      lr: this.optimizer.lr,
      gradNorm: normValue,
      tokens: this.tokens,
      tokensPerSecond: (tokens * 1000) / (performance.now() - begun),
      elapsed: elapsed(),
    };
  }

  /**
   * Queues forward, backward and update; nothing waits for a kernel. Each part is synchronous, so that no other code runs inside
   * its scope, and the event loop turns between the parts.
   */
  private async enqueueStep(): Promise<{ loss: Tensor; norm: Tensor; tokens: number }> {
    let tokens = 0;
    let total: Tensor | null = null;
    for (let i = 0; i < this.accumulation; i++) {
      const before: Tensor | null = total;
      await this.loader.ready();
      const part = scope(() => {
        const batch = this.loader.next();
        tokens += this.countTokens(batch);
        return div(this.computeLoss(this.model, batch), this.accumulation);
      });
      await setImmediate();
      total = scope(() => {
        part.backward();
        return noGrad(() => (before === null ? detach(part) : add(before, part)));
      });
      before?.dispose();
      part.dispose();
      await setImmediate();
    }
    for (const callback of this.callbacks) callback.onGradients?.(this.context);
    const parameters = this.optimizer.parameters();
    const { clipGradNorm: limit } = this.options;
    const norm = gradNorm(parameters);
    await setImmediate();
    const gradScale = limit === undefined ? 1 : clipFactor(norm, limit);
    this.optimizer.step({ gradScale });
    if (typeof gradScale !== 'number') gradScale.dispose();
    this.optimizer.zeroGrad();
    this.ema?.update();
    return { loss: total!, norm, tokens };
  }

  /** Mean loss over the validation set (at most `evalBatches` batches), in evaluation mode, with the averages if kept. */
  async evaluate(): Promise<EvalEvent> {
    const { valid } = this.options;
    if (valid === undefined) {
      throw new StateError({
        op: 'Trainer.evaluate',
        expected: 'a validation set',
        actual: 'none',
        hint: 'Pass { valid } to the Trainer',
      });
    }
    const batchSize = Math.min(this.options.batchSize, valid.length);
    const loader = new DataLoader(valid, { batchSize, shuffle: false });
    const batches = Math.min(loader.length, this.options.evalBatches ?? 50);
    this.model.eval();
    this.ema?.apply();
    try {
      let sum = 0;
      for (let i = 0; i < batches; i++) {
        const loss = scope(() => noGrad(() => this.computeLoss(this.model, loader.next())));
        sum += await loss.item();
        loss.dispose();
      }
      return { type: 'eval', step: this.step, loss: sum / batches, perplexity: Math.exp(sum / batches) };
    } finally {
      this.ema?.restore();
      this.model.train();
    }
  }

  private async save(): Promise<CheckpointEvent> {
    const checkpoint: Checkpoint = {
      model: this.model.stateDict(),
      optimizer: this.optimizer.stateDict(),
      ...(this.ema === null ? {} : { ema: this.ema.stateDict() }),
      run: {
        step: this.step,
        tokens: this.tokens,
        loader: this.loader.state,
        generator: defaultGenerator().state,
        ...(isObserving(this.schedule) ? { schedule: this.schedule.stateDict() } : {}),
        callbacks: Object.fromEntries(
          this.callbacks.flatMap((callback) =>
            callback.name === undefined || callback.stateDict === undefined
              ? []
              : [[callback.name, callback.stateDict()]],
          ),
        ),
      },
      config: this.options.config,
    };
    const path = await saveCheckpoint(this.options.checkpoint!, checkpoint);
    return { type: 'checkpoint', step: this.step, path };
  }

  private restore(checkpoint: Checkpoint): void {
    this.model.loadStateDict(checkpoint.model);
    // Options are the program's: who lowers the rate and goes on wants the new one.
    this.optimizer.loadStateDict(checkpoint.optimizer, { options: false });
    const { schedule } = checkpoint.run;
    if (schedule !== undefined && isObserving(this.schedule)) this.schedule.loadStateDict(schedule);
    if (this.ema !== null) this.ema.loadStateDict(checkpoint.ema ?? {});
    for (const callback of this.callbacks) {
      const saved = callback.name === undefined ? undefined : checkpoint.run.callbacks?.[callback.name];
      if (saved !== undefined) callback.loadStateDict?.(saved);
    }
    this.loader.state = checkpoint.run.loader;
    defaultGenerator().state = checkpoint.run.generator;
    this.step = checkpoint.run.step;
    this.tokens = checkpoint.run.tokens;
  }
}
