/**
 * What a run will take, before it is begun.
 *
 * @module
 */
import { inspect } from 'node:util';
import { whenDone } from '../runtime/queue.js';
import { sizeClass } from '../runtime/pool.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber } from '../util/assert.js';
import { formatBytes } from '../util/format.js';
import type { Arithmetic } from './arithmetic.js';
import { probeBatch, type ProbeSubject } from './memory_probe.js';
import { formatDuration } from './progress.js';
import { snapshotRun, type RunParts } from './snapshot.js';

/** Options of `Trainer.plan`. */
export interface PlanOptions {
  /**
   * Steps to time: they are taken, one more to warm up, and everything is put back as it was, bit for bit; meanwhile weights and state
   * are in memory twice. Default 0: no time is given, unless `flopsPerSecond` is.
   */
  readonly probe?: number;
  /** FLOP/s to reckon with instead of timing steps. */
  readonly flopsPerSecond?: number;
  /** Price of an hour of this machine. */
  readonly pricePerHour?: number;
  /** Of the price, for the print. Default `$`. */
  readonly currency?: string;
}

/** Bytes that a run holds in tensors. */
export interface PlanMemory {
  /** Parameters and buffers, and their copies of 16 bits. */
  readonly weights: number;
  readonly gradients: number;
  readonly optimizer: number;
  /** Moving averages. */
  readonly averages: number;
  /** The batch, what is kept for the backward pass, and what passes through while a step is computed, at its largest. */
  readonly activations: number;
  /** Largest sum at any moment of a step: gradients come as activations go. */
  readonly peak: number;
}

/** Floating-point operations, as the operations report them. */
export interface PlanFlops {
  /** Of one step: forward, over all batches that are added up. */
  readonly forward: number;
  /** Backward, and what is computed again in it. */
  readonly backward: number;
  /** Both. The optimiser's few operations a parameter are left out. */
  readonly step: number;
  /** All steps, and the validations. */
  readonly run: number;
}

/** What a run will take. Prints as a table. */
export class TrainingPlan {
  readonly parameters: number;
  /** Parameters that ask for a gradient. */
  readonly trainable: number;
  readonly steps: number;
  readonly tokensPerStep: number;
  /** Blocks whose activations are computed again. */
  readonly recomputedBlocks: number;
  readonly memory: PlanMemory;
  readonly flops: PlanFlops;
  /** FLOP/s that the time is reckoned with; null if there is nothing to reckon with. */
  readonly flopsPerSecond: number | null;
  readonly secondsPerStep: number | null;
  /** Of the run. */
  readonly seconds: number | null;
  /** Of the run, in the currency of the price. */
  readonly cost: number | null;
  readonly currency: string;

  /** @internal */
  constructor(fields: Omit<TrainingPlan, 'toString' | typeof inspect.custom>) {
    this.parameters = fields.parameters;
    this.trainable = fields.trainable;
    this.steps = fields.steps;
    this.tokensPerStep = fields.tokensPerStep;
    this.recomputedBlocks = fields.recomputedBlocks;
    this.memory = fields.memory;
    this.flops = fields.flops;
    this.flopsPerSecond = fields.flopsPerSecond;
    this.secondsPerStep = fields.secondsPerStep;
    this.seconds = fields.seconds;
    this.cost = fields.cost;
    this.currency = fields.currency;
  }

  toString(): string {
    const { memory, flops, parameters, trainable } = this;
    const rows: [string, string][] = [
      ['parameters', `${count(parameters)}${trainable === parameters ? '' : `, ${count(trainable)} of them trained`}`],
      [
        'steps',
        `${count(this.steps)} of ${count(this.tokensPerStep)} tokens: ${count(this.steps * this.tokensPerStep)}`,
      ],
      ['weights', formatBytes(memory.weights)],
      ['gradients', formatBytes(memory.gradients)],
      ['optimiser', formatBytes(memory.optimizer)],
      ...(memory.averages > 0 ? [['averages', formatBytes(memory.averages)] as [string, string]] : []),
      [
        'activations',
        `${formatBytes(memory.activations)}${this.recomputedBlocks > 0 ? `, ${this.recomputedBlocks} blocks computed again` : ''}`,
      ],
      ['peak', formatBytes(memory.peak)],
      ['a step', `${scaled(flops.step)}FLOP${this.secondsPerStep === null ? '' : `, ${seconds(this.secondsPerStep)}`}`],
      ['the run', `${scaled(flops.run)}FLOP${this.seconds === null ? '' : `, ${seconds(this.seconds)}`}`],
      [
        'rate',
        this.flopsPerSecond === null ? 'unknown: ask with { probe: 3 }' : `${scaled(this.flopsPerSecond)}FLOP/s`,
      ],
      ...(this.cost === null ? [] : [['cost', `${this.currency}${this.cost.toFixed(2)}`] as [string, string]]),
    ];
    return rows.map(([name, value]) => `${name.padEnd(12)} ${value}`).join('\n');
  }

  /** @internal */
  [inspect.custom](): string {
    return this.toString();
  }
}

const count = (value: number): string => Math.round(value).toLocaleString('en');
const seconds = (value: number): string => (value < 60 ? `${value.toPrecision(3)} s` : formatDuration(value));

/** 1.5e12 → "1.50 T". */
function scaled(value: number): string {
  const units = ['', 'k', 'M', 'G', 'T', 'P', 'E', 'Z'];
  const power = value < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(value) / 3));
  return `${(value / 1000 ** power).toPrecision(3)} ${units[power]}`;
}

/** @internal A run, as far as a plan needs to know it. */
export interface PlanSubject<B> extends ProbeSubject<B, Arithmetic> {
  readonly options: ProbeSubject<B>['options'] & {
    readonly valid?: { readonly length: number };
    readonly evalEvery?: number;
    readonly evalBatches?: number;
  };
  readonly run: RunParts<B> & { readonly accumulation: number; readonly total: number };
  /** Takes one step, without callbacks. */
  takeStep(): Promise<{ readonly loss: Tensor; readonly norm: Tensor }>;
}

/** Seconds of a step: takes some, and puts everything back. */
async function timeSteps<B>({ model, run, takeStep }: PlanSubject<B>, steps: number): Promise<number> {
  const restore = snapshotRun(run);
  try {
    model.train();
    let begun = 0;
    for (let i = 0; i <= steps; i++) {
      if (i === 1) begun = performance.now(); // the first compiles the code and fills the pool
      const { loss, norm } = await takeStep();
      await loss.item();
      loss.dispose();
      norm.dispose();
      await whenDone();
    }
    return (performance.now() - begun) / 1000 / steps;
  } finally {
    restore();
  }
}

/** Examples that the run validates on, all in all. */
function validated<B>({ options, run }: PlanSubject<B>): number {
  const { valid, evalEvery = 200, evalBatches = 50 } = options;
  if (valid === undefined) return 0;
  const batchSize = Math.min(options.batchSize, valid.length);
  return Math.ceil(run.total / evalEvery) * Math.min(evalBatches, Math.floor(valid.length / batchSize)) * batchSize;
}

const heldBytes = (tensors: readonly { readonly bytes: number }[]): number =>
  tensors.reduce((total, { bytes }) => total + sizeClass(bytes), 0);

function memoryOf<B>(subject: PlanSubject<B>, activations: number, peakWithGradients: number): PlanMemory {
  const { model, arithmetic } = subject;
  const { optimizer, ema, accumulation } = subject.run;
  const parameters = model.parameters();
  const trained = parameters.filter((tensor) => tensor.requiresGrad);
  const weights =
    heldBytes([...parameters, ...model.namedBuffers().map(([, tensor]) => tensor)]) + arithmetic.copyBytes();
  const [gradients, state] = [heldBytes(trained), optimizer.stateBytes()];
  const averages = ema === null ? 0 : heldBytes(parameters);
  // While further batches are computed, all gradients of those before are there; so they are while the optimiser steps.
  const before = accumulation > 1 ? gradients : 0;
  const computing = before + (before > 0 && arithmetic.copyBytes() === 0 ? activations : peakWithGradients);
  const largest = Math.max(0, ...trained.map(({ bytes }) => sizeClass(bytes)));
  const peak = weights + state + averages + Math.max(computing, gradients + largest);
  return { weights, gradients, optimizer: state, averages, activations, peak };
}

/** @internal */
export async function planRun<B>(subject: PlanSubject<B>, options: PlanOptions): Promise<TrainingPlan> {
  const op = 'Trainer.plan';
  checkKeys(op, options, ['probe', 'flopsPerSecond', 'pricePerHour', 'currency']);
  const probe = checkInteger(op, 'probe', options.probe ?? 0, 0, 1000);
  const { pricePerHour, currency = '$' } = options;
  if (pricePerHour !== undefined) checkNumber(op, 'pricePerHour', pricePerHour, 0, Number.MAX_VALUE);
  if (options.flopsPerSecond !== undefined) {
    checkNumber(op, 'flopsPerSecond', options.flopsPerSecond, Number.MIN_VALUE, Number.MAX_VALUE);
  }
  const { model, arithmetic } = subject;
  const { accumulation, total: steps } = subject.run;
  const { recomputation } = arithmetic;
  arithmetic.settle(subject);
  const cost = probeBatch(subject);
  const memory = memoryOf(subject, cost.activationBytes, cost.peakBytes);
  const [forward, backward] = [accumulation * cost.forwardFlops, accumulation * cost.backwardFlops];
  const step = forward + backward;
  const each = cost.forwardFlops / subject.options.batchSize; // of one example
  const flops = { forward, backward, step, run: steps * step + validated(subject) * each };
  const timed = probe > 0 ? await timeSteps(subject, probe) : null;
  const flopsPerSecond = options.flopsPerSecond ?? (timed === null ? null : flops.step / timed);
  const secondsOfRun = flopsPerSecond === null ? null : flops.run / flopsPerSecond;
  arithmetic.dispose();
  return new TrainingPlan({
    parameters: model.parameterCount(),
    trainable: model.parameters().reduce((total, { requiresGrad, size }) => total + (requiresGrad ? size : 0), 0),
    steps,
    tokensPerStep: accumulation * cost.tokens,
    recomputedBlocks: recomputation?.count ?? 0,
    memory,
    flops,
    flopsPerSecond,
    secondsPerStep: flopsPerSecond === null ? null : flops.step / flopsPerSecond,
    seconds: secondsOfRun,
    cost: secondsOfRun === null || pricePerHour === undefined ? null : (secondsOfRun / 3600) * pricePerHour,
    currency,
  });
}
