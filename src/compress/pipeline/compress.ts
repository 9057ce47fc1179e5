/**
 * Carrying out plans: steps in order, taken up where an interruption left them, then a card and a report.
 *
 * @module
 */
import './steps.js';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { AttributeError, BackendError, StateError } from '../../errors.js';
import { defaults, hardware as costOf, type HardwareCost } from '../../cost/hardware.js';
import { checkDataset, type Dataset } from '../../data/loader.js';
import type { GPT } from '../../models/gpt.js';
import type { ScoredText } from '../../models/perplexity.js';
import { load, saveModel, type SaveModelOptions } from '../../models/saved_model.js';
import { describeMachine } from '../../runtime/machine.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkBoolean, checkKeys } from '../../util/assert.js';
import { calibrationBatches, checkCalibration, type Calibration } from '../calibration.js';
import { CARD_FORMAT, stepsOf, type CompressionCard } from './card.js';
import { checkMetrics, measureModels, type CompressionMetric, type ModelMeasurement } from './measure.js';
import { checkPlan, type CompressionPlan, type ResolvedPlan } from './plan.js';
import { writeCompressionReport } from './report.js';
import { checkKey, keyOf, modelHash, PipelineState, remove, type CompressionKey } from './state.js';
import { rehearse } from './rehearsal.js';
import type { StepNote, TrainFunction } from './step.js';

/** What is told while plans are carried out. */
export type CompressionEvent =
  | { readonly type: 'resume'; readonly plan: string; readonly step: number; readonly layers: number }
  | {
      readonly type: 'step';
      readonly plan: string;
      readonly step: number;
      readonly steps: number;
      readonly kind: string;
    }
  | { readonly type: 'note'; readonly plan: string; readonly step: number; readonly note: StepNote }
  | { readonly type: 'measure'; readonly what: string };

/** Options of {@link compress}. */
export interface CompressOptions {
  /** Folder of the result, in which unfinished work is kept as well. */
  readonly dir: string;
  /** Inputs of the model, or a dataset that the plan's `calibration` draws from. */
  readonly calibration?: Calibration | Dataset<{ readonly x: Tensor }>;
  /** Text that the model has not seen: its perplexity is measured before and after. */
  readonly evaluation?: Dataset<ScoredText>;
  /** Further numbers that are measured before and after, by name. */
  readonly metrics?: Readonly<Record<string, CompressionMetric>>;
  /** Saved with the model. */
  readonly tokenizer?: NonNullable<SaveModelOptions['tokenizer']>;
  /** Trains, for `finetune` and `distill` steps. */
  readonly train?: TrainFunction;
  /** Measure quality, memory and speed, and write a report. Default true. */
  readonly measure?: boolean;
  /** What the model that came is called in tables. Default `original`. */
  readonly baseline?: string;
  /** Told of steps, layers and measurements. */
  readonly onEvent?: (event: CompressionEvent) => void;
  /** Stops between layers; the promise is rejected with its reason, and the same call goes on later. */
  readonly signal?: AbortSignal;
}

/** A compressed model, loaded from where it was saved. */
export interface CompressedModel {
  readonly model: GPT;
  readonly card: CompressionCard;
  /** Its folder, for `load`. */
  readonly dir: string;
}

/** What {@link compressAll} gives. */
export interface CompressedModels {
  /** By the plans' names. */
  readonly models: Readonly<Record<string, CompressedModel>>;
  /** The original, measured in turns with the others; null if measuring was switched off. */
  readonly baseline: ModelMeasurement | null;
}

const OP = 'compress';
const optionKeys = [
  'dir', 'calibration', 'evaluation', 'metrics', 'tokenizer', 'train', 'measure', 'baseline', 'onEvent', 'signal',
]; // prettier-ignore

/** A plan with all that it works with. */
interface Job {
  readonly plan: ResolvedPlan;
  readonly dir: string;
  readonly calibration: Calibration | null;
  readonly key: CompressionKey;
  readonly state: PipelineState;
  /** Of the model in `dir`, if an earlier call finished it. */
  readonly finished: CompressionCard | null;
}

/** Where the compressed model of a job lies, once its steps are done. */
const folderOf = ({ finished, dir, state }: Job): string => (finished === null ? state.modelFolder(state.done) : dir);

function checkOptions(options: CompressOptions): void {
  checkKeys(OP, options, optionKeys);
  const { dir, evaluation, metrics, train } = options;
  const refuse = (argument: string, expected: string, actual: unknown): never => {
    throw new AttributeError({ op: OP, argument, expected, actual: String(actual) });
  };
  if (typeof dir !== 'string' || dir === '') refuse('dir', 'the path of a folder', dir);
  if (evaluation !== undefined) checkDataset(OP, 'evaluation', evaluation);
  if (metrics !== undefined) checkMetrics(OP, metrics);
  if (train !== undefined && typeof train !== 'function') refuse('train', 'a function', train);
  checkBoolean(OP, 'measure', options.measure ?? true);
}

function calibrationOf(plan: ResolvedPlan, given: CompressOptions['calibration']): Calibration | null {
  if (given === undefined) return null;
  if (Array.isArray(given)) return checkCalibration(OP, given);
  checkDataset(OP, 'calibration', given);
  const dataset = given as Dataset<{ readonly x: Tensor }>;
  const { batchSize = Math.min(8, dataset.length), batches, seed = 0 } = plan.calibration ?? {};
  const most = Math.max(1, Math.min(16, Math.floor(dataset.length / batchSize)));
  return calibrationBatches(dataset, { batchSize, batches: batches ?? most, seed });
}

/** The card of a model that this very plan made there, or null. @throws StateError if another model is there */
async function finishedCard(dir: string, key: CompressionKey): Promise<CompressionCard | null> {
  if (!existsSync(path.join(dir, 'config.json'))) return null;
  const { model, card } = await load(dir);
  model.dispose();
  const found = card as Partial<CompressionCard> | null | undefined;
  if (found?.format !== CARD_FORMAT || found.key === undefined) {
    const [expected, hint] = ['a folder without a model', 'Use another folder'];
    throw new StateError({ op: OP, argument: dir, expected, actual: 'one with a model that was not made here', hint });
  }
  checkKey(dir, found.key, key);
  return found as CompressionCard;
}

/** Carries out the steps that are not done, and leaves the model in the folder of the state. */
async function carryOut(
  model: GPT,
  { plan, calibration, state, finished }: Job,
  options: CompressOptions,
): Promise<void> {
  if (finished !== null) return;
  const { onEvent, signal, train } = options;
  let current = (await state.lastModel()) ?? model;
  try {
    const layers = state.notesOf(state.done).length;
    if (state.done > 0 || layers > 0) onEvent?.({ type: 'resume', plan: plan.name, step: state.done, layers });
    for (let i = state.done; i < plan.steps.length; i++) {
      signal?.throwIfAborted();
      const { kind, options: own } = plan.steps[i]!;
      onEvent?.({ type: 'step', plan: plan.name, step: i, steps: plan.steps.length, kind: kind.name });
      const pending: StepNote[] = [];
      const dir = path.join(state.stepFolder(i), 'files');
      await mkdir(dir, { recursive: true });
      const result = await kind.run(current, own, {
        original: model,
        calibration,
        journal: state.journal(i, pending),
        dir,
        train,
        signal,
        note(note) {
          pending.push(note);
          onEvent?.({ type: 'note', plan: plan.name, step: i, note });
        },
      });
      if (current !== model) current.dispose();
      current = result;
      await state.addNotes(i, pending);
      await state.finishStep(i, current);
    }
  } finally {
    if (current !== model) current.dispose();
  }
}

/** Measures the original and all results together. */
async function measureAll(
  model: GPT,
  jobs: readonly Job[],
  baseline: string,
  options: CompressOptions,
): Promise<Record<string, ModelMeasurement>> {
  const { evaluation, metrics, signal, onEvent } = options;
  const [first] = jobs;
  const original = path.join(first!.state.folder, 'original');
  await saveModel(original, model);
  const entries = await Promise.all(
    jobs.map(async (job) => {
      const folder = folderOf(job);
      return [job.plan.name, { model: (await load(folder)).model, folder }] as const;
    }),
  );
  const wasTraining = model.training;
  try {
    return await measureModels(Object.fromEntries([[baseline, { model, folder: original }], ...entries]), {
      evaluation,
      perplexity: first!.plan.evaluation,
      metrics,
      benchmark: first!.plan.benchmark,
      hardware: hardwareOf(first!.plan),
      signal,
      onMeasure: (what) => onEvent?.({ type: 'measure', what }),
    });
  } finally {
    model.train(wasTraining);
    for (const [, { model: loaded }] of entries) loaded.dispose();
    await remove(original);
  }
}

const hardwareOf = ({ hardware }: ResolvedPlan): HardwareCost => costOf(hardware ?? { hourly: defaults.rent.value });

/** All plans, checked and with their state, before any work. */
async function prepare(
  model: GPT,
  plans: readonly { readonly plan: ResolvedPlan; readonly dir: string }[],
  options: CompressOptions,
): Promise<Job[]> {
  const calibrations = plans.map(({ plan }) => calibrationOf(plan, options.calibration));
  for (const [i, { plan }] of plans.entries()) await rehearse(OP, model, plan, calibrations[i]!, options.train);
  const hash = await modelHash(model);
  const jobs: Job[] = [];
  for (const [i, { plan, dir }] of plans.entries()) {
    const calibration = calibrations[i]!;
    const key = await keyOf(hash, plan, calibration);
    const finished = await finishedCard(dir, key);
    const state = await PipelineState.open(path.join(dir, 'unfinished'), key);
    jobs.push({ plan, dir, calibration, key, state, finished });
  }
  return jobs;
}

/** Frees calibration tensors that were drawn here. */
function release(jobs: readonly Pick<Job, 'calibration'>[], given: CompressOptions['calibration']): void {
  if (Array.isArray(given)) return;
  for (const { calibration } of jobs) for (const tensor of calibration ?? []) tensor.dispose();
}

async function runPlans(
  model: GPT,
  plans: readonly { readonly plan: ResolvedPlan; readonly dir: string }[],
  options: CompressOptions,
): Promise<CompressedModels> {
  const { measure = true, baseline = 'original', tokenizer } = options;
  if (plans.some(({ plan }) => plan.name === baseline)) {
    const expected = 'a name that no plan has';
    throw new AttributeError({ op: OP, argument: 'baseline', expected, actual: JSON.stringify(baseline) });
  }
  const jobs = await prepare(model, plans, options);
  const cards = new Map(jobs.map(({ plan, finished }) => [plan.name, finished]));
  try {
    // figures of one table are measured together: all of them, or none
    if (jobs.some(({ finished }) => finished === null || (measure && finished.after === null))) {
      for (const job of jobs) await carryOut(model, job, options);
      const measured = measure ? await measureAll(model, jobs, baseline, options) : {};
      for (const job of jobs) {
        const { plan, dir, finished } = job;
        const [before, after] = [measured[baseline] ?? null, measured[plan.name] ?? null];
        const card: CompressionCard = { ...(finished ?? newCard(job)), before, after, hardware: hardwareOf(plan) };
        const { model: made } = await load(folderOf(job));
        await saveModel(dir, made, { card, ...(tokenizer === undefined ? {} : { tokenizer }) });
        made.dispose();
        cards.set(plan.name, card);
      }
      if (measure) await report(options.dir, [...cards.values()] as CompressionCard[], baseline);
    }
    for (const { state } of jobs) await remove(state.folder);
  } finally {
    release(jobs, options.calibration);
  }
  const models: Record<string, CompressedModel> = {};
  for (const { plan, dir } of jobs)
    models[plan.name] = { model: (await load(dir)).model, card: cards.get(plan.name)!, dir };
  return { models, baseline: [...cards.values()][0]!.before };
}

/** What a card says of a model that was not measured. */
function newCard({ plan, key, calibration, state }: Job): CompressionCard {
  const { host: _1, pid: _2, ...machine } = describeMachine();
  const elements = (calibration ?? []).reduce((sum, { size }) => sum + size, 0);
  return {
    format: CARD_FORMAT,
    name: plan.name,
    made: new Date().toISOString(),
    key,
    steps: stepsOf(plan, (step) => state.notesOf(step)),
    calibration: calibration === null ? null : { inputs: calibration.length, elements },
    before: null,
    after: null,
    hardware: hardwareOf(plan),
    machine,
  };
}

/** Writes the page; the models do not depend on it, so packages that are not there are no failure. */
async function report(dir: string, cards: readonly CompressionCard[], baseline: string): Promise<void> {
  await writeCompressionReport(path.join(dir, 'report.html'), cards, { baseline }).catch((error: unknown) => {
    if (!(error instanceof BackendError)) throw error;
  });
}

/**
 * Carries out a plan: its steps in order, on a copy of the model; measures it beside the original; saves it with its card in
 * `dir`, where `load` finds it, and a report in `dir/report.html`.
 *
 * Plan and options are checked as a whole before any work. What is finished is kept in `dir/unfinished`, layer by layer: the same
 * call goes on after an interruption, and its result has the same bits. A call whose result is there already gives it back.
 *
 * @example
 * ```ts
 * const plan = { steps: [{ quantize: { scheme: 'w4a16', method: 'gptq' } }] };
 * const { model, card } = await compress(gpt, plan, { dir: 'runs/int4', calibration: train, evaluation: valid, tokenizer });
 * ```
 * @throws AttributeError naming the first entry of the plan or option that cannot be
 * @throws StateError if `dir` holds another model, or the unfinished work of another compression
 */
export async function compress(model: GPT, plan: CompressionPlan, options: CompressOptions): Promise<CompressedModel> {
  const resolved = checkPlan(plan);
  checkOptions(options);
  const { models } = await runPlans(model, [{ plan: resolved, dir: options.dir }], options);
  return models[resolved.name]!;
}

/**
 * Checks a plan as {@link compress} does before any work, with the model and the options, and does nothing.
 *
 * @throws AttributeError or StateError naming the first entry of the plan or option that cannot be
 */
export async function checkCompression(model: GPT, plan: CompressionPlan, options: CompressOptions): Promise<void> {
  const resolved = checkPlan(plan);
  checkOptions(options);
  const calibration = calibrationOf(resolved, options.calibration);
  try {
    await rehearse(OP, model, resolved, calibration, options.train);
  } finally {
    release([{ calibration }], options.calibration);
  }
}

/**
 * Carries out several plans on one model, each in a folder of its name below `dir`, and measures all results in turns with the
 * original: one report for all, in `dir/report.html`. Evaluation, benchmark and hardware are those of the first plan.
 *
 * @throws as {@link compress}; AttributeError if two plans have the same name
 */
export async function compressAll(
  model: GPT,
  plans: readonly CompressionPlan[],
  options: CompressOptions,
): Promise<CompressedModels> {
  const resolved = plans.map((plan) => checkPlan(plan));
  checkOptions(options);
  const names = resolved.map(({ name }) => name);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (names.length === 0 || twice !== undefined) {
    const actual = twice === undefined ? 'none' : `two that are called ${twice}`;
    throw new AttributeError({ op: OP, argument: 'plans', expected: 'plans with different names', actual });
  }
  const all = resolved.map((plan) => ({ plan, dir: path.join(options.dir, plan.name) }));
  return runPlans(model, all, options);
}
