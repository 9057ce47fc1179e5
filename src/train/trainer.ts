/**
 * The training loop.
 *
 * @module
 */
import { StateError } from '../errors.js';
import { DataLoader } from '../data/loader.js';
import type { Module } from '../nn/module.js';
import { clipFactor, gradNorm } from '../optim/clip.js';
import { EMA } from '../optim/ema.js';
import type { OptimizerOptions } from '../optim/groups.js';
import type { Optimizer } from '../optim/optimizer.js';
import { constant, type Schedule } from '../optim/schedule.js';
import { defaultGenerator } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys } from '../util/assert.js';
import { turn } from '../util/turn.js';
import { Arithmetic } from './arithmetic.js';
import type { TrainCallback, TrainContext, TrainPhase } from './callback.js';
import * as files from './checkpoint.js';
import { addPlace, checkWeights, explainNonFinite, type StepStart } from './diagnose.js';
import { evalSchedule } from './evaluate.js';
import type { CheckpointEvent, EvalEvent, RollbackEvent, StepEvent, TrainEvent } from './events.js';
import { accumulateGradients } from './gradients.js';
import { defaultLoss, elementsOfX, type Batch, type LossFunction } from './loss.js';
import type { Spike } from './loss_spikes.js';
import type { ProbeSubject } from './memory_probe.js';
import { planRun, type PlanOptions, type TrainingPlan } from './plan.js';
import { idleWatch, watchOf, type StepWatch } from './profile.js';
import { factsOf, type RunFacts } from './resume_check.js';
import { resumeFrom } from './resume.js';
import { restoreBest, restoreParts, takeSnapshot, type RunParts } from './run_state.js';
import { StopClock } from './signals.js';
import {
  checkTrainerOptions,
  runOptionKeys,
  stepsOf,
  type RunOptions,
  type TrainerOptions,
} from './trainer_options.js';
import { Watch } from './watch.js';

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
  /** @internal */ readonly options: TrainerOptions<M, B>;
  /** @internal */ readonly loader: DataLoader<B>;
  /** @internal */ readonly accumulation: number;
  /** @internal */ readonly arithmetic: Arithmetic;
  private readonly schedule: Schedule;
  /** @internal */ readonly ema: EMA | null;
  private readonly computeLoss: LossFunction<M, B>;
  private readonly countTokens: (batch: B) => number;
  private readonly callbacks: readonly TrainCallback<M>[];
  private readonly watch: Watch<M, B>;
  private readonly isEvalDue: (step: number, before: number, after: number) => boolean;
  private step = 0;
  private tokens = 0;
  /** What is still to be done at this step; a validation that was cut short is done after resuming. */
  private due = { evaluation: false, save: false, best: null as number | null };
  private evaluated = -1;
  private saved = 0;
  private lastPath: string | null = null;
  private facts: RunFacts | null = null;

  /** @throws AttributeError naming the first option that cannot be */
  constructor(model: M, options: TrainerOptions<M, B>) {
    checkTrainerOptions(options);
    this.model = model;
    this.options = options;
    this.accumulation = checkInteger('Trainer', 'gradientAccumulation', options.gradientAccumulation ?? 1, 1);
    this.loader = new DataLoader(options.train, { batchSize: options.batchSize, seed: options.seed ?? 0 });
    this.total = stepsOf(options, this.loader.length, this.accumulation);
    this.computeLoss = options.loss ?? defaultLoss('Trainer');
    this.countTokens = options.countTokens ?? elementsOfX;
    this.callbacks = options.callbacks ?? [];
    const trained = model.parameters().filter(({ requiresGrad }) => requiresGrad);
    this.optimizer = options.optimizer(trained, model);
    this.arithmetic = new Arithmetic(model, options);
    this.schedule = options.schedule ?? constant();
    this.ema = options.ema === undefined ? null : new EMA(model.parameters(), options.ema);
    this.watch = new Watch(options, (_model, batch) => this.lossOf(batch), this.ema, this.arithmetic);
    this.isEvalDue = evalSchedule(options.evalEvery ?? 200);
  }

  /** Where the run stands, for callbacks. */
  private get context(): TrainContext<M> {
    return { model: this.model, optimizer: this.optimizer, step: this.step, total: this.total, averages: this.ema };
  }

  private announce(phase: TrainPhase): void {
    for (const callback of this.callbacks) callback.onPhase?.(phase, this.context);
  }

  /** Events of the run, from where it stands to its end. */
  async *run(options: RunOptions = {}): AsyncGenerator<TrainEvent, void, undefined> {
    try {
      for await (const event of this.events(options)) {
        for (const callback of this.callbacks) await callback.onEvent?.(event, this.context);
        yield event;
      }
    } finally {
      this.arithmetic.dispose();
    }
  }

  /**
   * What the run will take: parameters, memory, floating-point operations, and with `probe` or `flopsPerSecond` its time and cost. One
   * and two examples are run forward and backward to find out; the run does not change by it.
   *
   * @throws AttributeError for options that are unknown or cannot be
   * @throws ResourceError if the budget of `activationCheckpointing` is too small
   */
  plan(options: PlanOptions = {}): Promise<TrainingPlan> {
    return planRun({ ...this.subject, run: this, takeStep: () => this.takeStep() }, options);
  }

  /** The run as probes see it. */
  private get subject(): ProbeSubject<B, Arithmetic> {
    const { model, arithmetic, options, countTokens } = this;
    return { model, arithmetic, options, countTokens, lossOf: (batch) => this.lossOf(batch) };
  }

  private async *events(options: RunOptions): AsyncGenerator<TrainEvent, void, undefined> {
    checkKeys('Trainer.run', options, runOptionKeys);
    const clock = new StopClock(options);
    try {
      yield* this.begin(options);
      this.arithmetic.settle(this.subject);
      this.model.train();
      let reason: 'finished' | 'aborted' | 'time' | 'earlyStopping' = 'finished';
      for (;;) {
        if (this.due.evaluation) yield* this.validate(true, () => clock.reason() === 'aborted');
        yield* this.store(this.due.save && !this.due.evaluation && !this.watch.spikes?.pending);
        const stop = this.watch.stopped ? 'earlyStopping' : this.step >= this.total ? 'finished' : clock.reason();
        if (stop !== null) {
          reason = stop;
          break;
        }
        yield await this.trainStep(clock);
      }
      if (reason === 'finished' && this.watch.evaluator !== null && this.evaluated !== this.step)
        yield* this.validate(false);
      yield* this.store(this.options.checkpoint !== undefined && this.saved !== this.step);
      if (reason === 'time' && this.watch.evaluator !== null && this.evaluated !== this.step)
        yield await this.evaluate();
      if ((reason === 'finished' || reason === 'earlyStopping') && this.watch.early?.restoreBest)
        yield await restoreBest(this.model, this.ema, this.watch.best!, this.step);
      if (reason === 'aborted') clock.setExitCode();
      const signal = reason !== 'aborted' || clock.signal === null ? {} : { signal: clock.signal };
      yield { type: 'done', step: this.step, reason, elapsed: clock.elapsed, ...signal };
    } finally {
      clock.close();
    }
  }

  /** Takes up the newest checkpoint, if asked to; a run that may go back writes one to go back to. */
  private async *begin(options: RunOptions): AsyncGenerator<TrainEvent, void, undefined> {
    const { checkpoint } = this.options;
    if (checkpoint === undefined || this.step !== 0) return;
    const found = await resumeFrom(checkpoint.dir, options, this.model.stateDict(), this.parts.facts);
    if (found !== null) {
      this.restore(found.checkpoint);
      files.disposeCheckpoint(found.checkpoint);
      [this.saved, this.lastPath] = [this.step, found.path];
      for (const warning of found.warnings) yield warning;
      yield { type: 'resume', step: this.step, path: found.path };
    } else if (this.watch.spikes !== null) yield* this.store(true);
  }

  /** What is saved and restored beside the counts. */
  private get parts(): RunParts<M> {
    const { model, optimizer, loader, callbacks, watch, arithmetic } = this;
    this.facts ??= factsOf(this.options, { optimizer, accumulation: this.accumulation, steps: this.total });
    return { model, optimizer, ema: this.ema, loader, callbacks, watch, arithmetic, facts: this.facts };
  }

  private draw(): B {
    const { loader } = this;
    if (this.watch.spikes !== null) loader.position = this.watch.spikes.next(loader.position);
    return loader.next();
  }

  /** One step; or none, but a roll-back. If it fails, the trainer is as it was before. */
  private async trainStep(clock: StopClock): Promise<StepEvent | RollbackEvent> {
    const begun = performance.now();
    const start: StepStart = { loader: this.loader.state, generator: defaultGenerator().state };
    const scale = this.arithmetic.state;
    const { scheduleTokens } = this.options;
    const place =
      scheduleTokens === undefined ? ([this.step, this.total] as const) : ([this.tokens, scheduleTokens] as const);
    this.optimizer.setRateFactor(this.schedule(...place));
    for (const callback of this.callbacks) callback.beforeStep?.(this.context);
    const watch = await watchOf(this.options.profile);
    let [loss, gradNorm, tokens] = [NaN, NaN, 0];
    let norm: Tensor | null = null;
    let skipped = false;
    try {
      const queued = await this.enqueueGradients(watch);
      ({ norm, tokens } = queued);
      skipped = await this.arithmetic.mustSkip(norm);
      // Both are known before the update: what is not finite, or a spike, never reaches the weights.
      [loss, gradNorm] = [await queued.loss.item(), await norm.item()];
      queued.loss.dispose();
      const spike = skipped ? null : await this.inspect(loss, gradNorm, start);
      if (spike !== null) {
        norm.dispose();
        return await this.rollBack(spike);
      }
    } catch (error) {
      norm?.dispose();
      addPlace(error, this.step + 1, this.loader.last);
      this.optimizer.zeroGrad();
      this.loader.state = start.loader;
      this.arithmetic.state = scale;
      defaultGenerator().state = start.generator;
      throw error;
    }
    if (skipped) this.optimizer.zeroGrad();
    else watch.part(() => this.enqueueUpdate(norm!));
    norm.dispose();
    await watch.border('optimizer');
    this.step++;
    this.tokens += tokens;
    const { checkpoint } = this.options;
    this.due.evaluation = this.watch.evaluator !== null && this.isEvalDue(this.step, this.tokens - tokens, this.tokens);
    this.due.save ||= checkpoint !== undefined && this.step % (checkpoint.every ?? 200) === 0;
    for (const callback of this.callbacks) callback.afterStep?.(this.context);
    return {
      type: 'step',
      step: this.step,
      total: this.total,
      epoch: this.loader.state.epoch,
      loss,
      lr: this.optimizer.lr,
      gradNorm,
      tokens: this.tokens,
      tokensPerSecond: (tokens * 1000) / (performance.now() - begun),
      elapsed: clock.elapsed,
      ...this.arithmetic.report(),
      ...watch.report(),
    };
  }

  /** A spike that is to be undone; throws for what is not finite, unless that counts as a spike. */
  private async inspect(loss: number, gradNorm: number, start: StepStart): Promise<Spike | null> {
    const { spikes } = this.watch;
    const isFinite = Number.isFinite(loss) && Number.isFinite(gradNorm);
    if (!isFinite && spikes?.nonFinite !== 'rollback') {
      throw await explainNonFinite({
        model: this.model,
        loader: this.loader,
        accumulation: this.accumulation,
        loss: (_model, batch) => this.lossOf(batch),
        start,
        draw: () => this.draw(),
        step: this.step + 1,
        values: { loss, gradNorm },
        checkpoint: this.lastPath,
      });
    }
    const from = start.loader.epoch * this.loader.length + start.loader.batch;
    return spikes?.observe(loss, gradNorm, { step: this.step + 1, from, to: this.loader.position }) ?? null;
  }

  /** Back to the last regular checkpoint from before a spike. Which one that is depends on the run alone, not on when it was stopped. */
  private async rollBack(spike: Spike): Promise<RollbackEvent> {
    const { spikes } = this.watch;
    const { dir, every = 200 } = this.options.checkpoint!;
    const step = this.step + 1;
    spikes!.checkLimit(spike, step);
    const found = await files.checkpointBefore(dir, every, spike.step);
    this.optimizer.zeroGrad();
    this.restore(found.checkpoint, true);
    [this.saved, this.lastPath] = [this.step, found.path];
    await files.removeAfter(dir, this.step);
    const counts = spikes!.rewind(spike, found.checkpoint.run.lossSpikes, this.loader.position, this.accumulation);
    files.disposeCheckpoint(found.checkpoint);
    const { signal, value, limit } = spike;
    return { type: 'rollback', step, to: this.step, path: found.path, signal, value, limit, ...counts };
  }

  /** The loss of one batch, as the run computes it. */
  private lossOf(batch: B): Tensor {
    return this.arithmetic.forward(() => this.computeLoss(this.model, batch));
  }

  /** Queues forward and backward, and the norm of the gradients. */
  private async enqueueGradients(
    watch: StepWatch,
    callbacks = this.callbacks,
  ): Promise<{ loss: Tensor; norm: Tensor; tokens: number }> {
    const { accumulation, loader } = this;
    const source = { ...this.subject, accumulation, ready: () => loader.ready(), draw: () => this.draw() };
    const sums = await accumulateGradients(source, watch);
    for (const callback of callbacks) callback.onGradients?.(this.context);
    const norm = gradNorm(this.optimizer.parameters());
    await turn();
    return { ...sums, norm };
  }

  /** One step for a plan: no callback, no check. */
  private async takeStep(): Promise<{ loss: Tensor; norm: Tensor }> {
    const { loss, norm } = await this.enqueueGradients(idleWatch, []);
    if (await this.arithmetic.mustSkip(norm)) this.optimizer.zeroGrad();
    else this.enqueueUpdate(norm);
    return { loss, norm };
  }

  /** Queues the update. */
  private enqueueUpdate(norm: Tensor): void {
    const { clipGradNorm: limit } = this.options;
    const gradScale = limit === undefined ? 1 : clipFactor(norm, limit);
    this.optimizer.step({ gradScale });
    if (typeof gradScale !== 'number') gradScale.dispose();
    this.optimizer.zeroGrad();
    this.ema?.update();
  }

  /** Mean loss and metrics of the validation sets (at most `evalBatches` batches each), in evaluation mode, with the averages if kept. */
  async evaluate(): Promise<EvalEvent> {
    if (this.watch.evaluator !== null) return (await this.measure())!;
    throw new StateError({
      op: 'Trainer.evaluate',
      expected: 'a validation set',
      actual: 'none',
      hint: 'Pass { valid } to the Trainer',
    });
  }

  private async measure(cut?: () => boolean): Promise<EvalEvent | null> {
    this.announce('validating');
    try {
      return await this.watch.evaluator!.measure(this.model, this.step, cut);
    } finally {
      this.announce('training');
    }
  }

  /** Measures, and tells everyone; if it was cut short, it is due again. */
  private async *validate(regular: boolean, cut?: () => boolean): AsyncGenerator<EvalEvent, void, undefined> {
    const event = await this.measure(cut);
    if (event === null) return;
    this.due.evaluation = false;
    this.evaluated = this.step;
    this.due.best = this.watch.observe(event, regular);
    yield event;
  }

  /** Saves: a regular checkpoint if `regular`, and one of the best if this step is among them. */
  private async *store(regular: boolean): AsyncGenerator<CheckpointEvent, void, undefined> {
    const [best, rank] = [this.watch.best, this.due.best];
    if (!regular && rank === null) return;
    this.announce('saving');
    await checkWeights(this.model, this.step, this.lastPath);
    const counts = { step: this.step, tokens: this.tokens, evalDue: this.due.evaluation };
    const checkpoint = takeSnapshot(this.parts, counts, this.options.config);
    let path: string | undefined;
    if (rank !== null) {
      // Before the regular one: who resumes from that finds the best that it lists.
      path = await best!.store(this.step, (target) => files.writeCheckpoint(target, checkpoint));
      this.due.best = null;
    }
    if (regular) {
      path = this.lastPath = await files.saveCheckpoint(this.options.checkpoint!, checkpoint, path);
      [this.saved, this.due.save] = [this.step, false];
      await best?.prune();
    }
    files.disposeCheckpoint(checkpoint);
    const entry = rank === null ? undefined : best!.entries[rank - 1];
    this.announce('training');
    yield {
      type: 'checkpoint',
      step: this.step,
      path: path!,
      ...(entry === undefined ? {} : { best: { metric: best!.metric, value: entry.value, rank: rank! } }),
    };
  }

  private restore(checkpoint: files.Checkpoint, isRollback = false): void {
    const { step, tokens, evalDue } = restoreParts(this.parts, checkpoint, isRollback);
    [this.step, this.tokens, this.evaluated] = [step, tokens, -1];
    this.due = { evaluation: evalDue && this.watch.evaluator !== null, save: false, best: null };
  }
}
