/**
 * Writes down what happens in a run: a log that other programs read, and TensorBoard's files.
 *
 * @module
 */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { AttributeError, OmniError, StateError } from '../errors.js';
import type { Module } from '../nn/module.js';
import { describeMachine } from '../runtime/machine.js';
import { memory } from '../tensor/memory.js';
import { defaultGenerator } from '../tensor/random.js';
import { checkBoolean, checkInteger, checkKeys } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { AppendFile } from './append_file.js';
import type { TrainCallback, TrainContext } from './callback.js';
import { flattenConfig } from './config_difference.js';
import type { EvalEvent, StepEvent, TrainEvent } from './events.js';
import type { ReportRow } from './report.js';
import { encodeLine, LOG_FILE, LOG_FORMAT, type HardwareUse } from './run_lines.js';
import { ParameterHistograms } from './run_histograms.js';
import { TensorBoardWriter } from './tensorboard/writer.js';

/** Samples that a {@link RunLogger} asks for now and then. */
export interface SampleOptions<M extends Module> {
  /** Steps between samples. */
  readonly every: number;
  /** Runs in evaluation mode; the shared stream of random numbers is put back afterwards. */
  make(
    model: M,
    step: number,
  ): Promise<readonly { title: string; text: string }[]> | readonly { title: string; text: string }[];
}

/** Options of {@link RunLogger}. */
export interface RunLoggerOptions<M extends Module = Module> {
  /** Folder of the run: `run.jsonl` and `tensorboard/` go there. Made if it is not there. */
  readonly dir: string;
  /** Default: the last part of `dir`. */
  readonly name?: string;
  /** What describes the run: shown in reports, compared between runs. JSON-safe. */
  readonly config?: unknown;
  /** What describes the data. JSON-safe. */
  readonly card?: Readonly<Record<string, unknown>>;
  /** Steps between logged steps. Default 1. */
  readonly every?: number;
  /** Write TensorBoard's files, too. Default true. */
  readonly tensorboard?: boolean;
  /** Steps between histograms of weights and gradients in TensorBoard's files, which take a copy of the gradients. Default: none. */
  readonly histograms?: number;
  /** Default: none. */
  readonly samples?: SampleOptions<M>;
}

const optionKeys = ['dir', 'name', 'config', 'card', 'every', 'tensorboard', 'histograms', 'samples'];

function checkJson(argument: string, value: unknown): void {
  try {
    JSON.stringify(value);
  } catch (cause) {
    const actual = `${formatValue(value)} (${(cause as Error).message.split('\n')[0]})`;
    throw new AttributeError({ op: 'RunLogger', argument, expected: 'what JSON can hold', actual, cause });
  }
}

const withPrefix = (prefix: string, values: object): Record<string, number> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [`${prefix}/${name}`, value as number]));

/**
 * A callback that logs a run: every event as a line of JSON in `run.jsonl`, with memory and processor use beside each step, and the
 * same as scalars and texts for TensorBoard. The log only grows. A run that goes on from a checkpoint appends to it, and
 * `readRun` leaves out the steps that were done again; a line that a killed process left unfinished is cut off.
 *
 * A folder that cannot be written fails at the first step. When a write fails later (a full disk), the run goes on, and a warning
 * of the process says what is not logged.
 *
 * @example
 * ```ts
 * const logger = new og.RunLogger({ dir: 'runs/demo', config: { lr: 1e-3 } });
 * const trainer = new og.Trainer(model, { ...options, callbacks: [logger] });
 * for await (const event of trainer.run());
 * await og.writeRunReport('runs/demo/report.html', [await og.readRun('runs/demo')]);
 * ```
 */
export class RunLogger<M extends Module = Module> implements TrainCallback<M> {
  /** Folder of the run. */
  readonly dir: string;
  private readonly options: RunLoggerOptions<M>;
  private readonly every: number;
  private file: AppendFile | null = null;
  private board: TensorBoardWriter | null = null;
  private histograms: ParameterHistograms | null = null;
  private lastStep = 0;
  private lastSampled = -1;
  private lastUse = { time: 0, cpu: 0 };
  private hasWarned = false;

  /** @throws AttributeError naming the first option that cannot be */
  constructor(options: RunLoggerOptions<M>) {
    checkKeys('RunLogger', options, optionKeys);
    if (typeof options.dir !== 'string' || options.dir === '') {
      const actual = formatValue(options.dir);
      throw new AttributeError({ op: 'RunLogger', argument: 'dir', expected: 'the path of a folder', actual });
    }
    this.every = checkInteger('RunLogger', 'every', options.every ?? 1, 1);
    checkBoolean('RunLogger', 'tensorboard', options.tensorboard ?? true);
    if (options.samples !== undefined) checkInteger('RunLogger', 'samples.every', options.samples.every, 1);
    if (options.histograms !== undefined) {
      checkInteger('RunLogger', 'histograms', options.histograms, 1);
      if (options.tensorboard === false) {
        throw new AttributeError({
          op: 'RunLogger',
          argument: 'histograms',
          expected: 'tensorboard, whose files hold them',
          actual: 'tensorboard: false',
        });
      }
      this.histograms = new ParameterHistograms(options.histograms);
    }
    checkJson('config', options.config);
    checkJson('card', options.card);
    this.options = options;
    this.dir = options.dir;
  }

  beforeStep(context: TrainContext<M>): void {
    if (this.file === null) this.begin(context);
  }

  onGradients(context: TrainContext<M>): void {
    this.histograms?.onGradients(context);
  }

  async onEvent(event: TrainEvent, context: TrainContext<M>): Promise<void> {
    if (this.file === null) this.begin(context);
    const isSkipped = event.type === 'step' && event.step % this.every !== 0 && event.step !== event.total;
    if (event.type === 'step') this.noteStep(event.step);
    if (event.type === 'step' && !isSkipped) {
      const use = this.use();
      this.log({ ...event, ...use });
      this.attempt(() => this.showStep(event, use));
    } else if (event.type !== 'step') {
      this.log(event);
      if (event.type === 'eval') this.attempt(() => this.showEval(event));
    }
    if (event.type === 'step' && this.histograms !== null && this.board !== null) {
      const { board } = this;
      const ready = await this.histograms.read(context);
      this.attempt(() => ready.forEach(({ tag, values }) => board.addHistogram(tag, values, event.step)));
    }
    await this.sample(event, context);
    if (event.type === 'checkpoint' || event.type === 'done') {
      this.attempt(() => {
        this.file?.sync();
        this.board?.sync();
      });
    }
    if (event.type === 'done') this.end('success');
  }

  /**
   * Adds lines about the finished run: rows of a table of results, facts.
   *
   * @throws StateError before the run has begun
   */
  addResults(results: {
    readonly rows?: readonly ReportRow[];
    readonly facts?: Readonly<Record<string, string>>;
  }): void {
    checkKeys('RunLogger.addResults', results, ['rows', 'facts']);
    this.later({ type: 'results', ...results });
  }

  /** Adds a sample made after the run, or between steps. */
  addSample(sample: { readonly title: string; readonly text: string }): void {
    this.later({ type: 'sample', step: this.lastStep, ...sample });
    if (this.options.tensorboard === false) return;
    this.attempt(() => {
      const board = this.board ?? new TensorBoardWriter(path.join(this.dir, 'tensorboard'));
      board.addText(`samples/${sample.title}`, sample.text, this.lastStep);
      if (board !== this.board) board.close();
    });
  }

  /** Writes down that the run ended with an error. */
  fail(error: unknown): void {
    if (this.file === null) return;
    const message = error instanceof Error ? error.message : String(error);
    this.log({ type: 'failed', step: this.lastStep, message });
    this.end('failure');
  }

  /** Closes the files. A run's end does so for TensorBoard's; what is added later opens the log again. */
  close(): void {
    this.file?.close();
    this.board?.close();
    this.file = this.board = null;
  }

  private begin({ step, total, model }: TrainContext<M>): void {
    const { dir, name = path.basename(path.resolve(dir)), config, card } = this.options;
    this.openLog();
    this.lastStep = step;
    if (this.options.tensorboard !== false)
      this.board = new TensorBoardWriter(path.join(dir, 'tensorboard'), { purgeStep: step + 1 });
    this.use();
    this.log({
      type: 'start',
      format: LOG_FORMAT,
      name,
      step,
      total,
      parameters: model.parameterCount(),
      machine: describeMachine(),
      config,
      card,
    });
    if (this.board !== null && config !== undefined) {
      const hparams = flattenConfig(config);
      this.attempt(() => this.board?.addHparams(hparams, ['train/loss', 'valid/loss']));
    }
  }

  private openLog(): AppendFile {
    const file = new AppendFile(path.join(this.dir, LOG_FILE), () => mkdirSync(this.dir, { recursive: true }));
    file.cutTornLine();
    this.file = file;
    return file;
  }

  /** A step that was done before: the run went back, and what TensorBoard was told since does not count. */
  private noteStep(step: number): void {
    if (step <= this.lastStep) this.attempt(() => this.board?.restart(step));
    this.lastStep = step;
  }

  private use(): HardwareUse {
    const now = performance.now();
    const { user, system } = process.cpuUsage();
    const cpu = (user + system) / 1000;
    const { time, cpu: before } = this.lastUse;
    this.lastUse = { time: now, cpu };
    const percent = time === 0 || now <= time ? 0 : (100 * (cpu - before)) / (now - time);
    return { memory: memory().bytes, rss: process.memoryUsage.rss(), cpu: Math.round(10 * percent) / 10 };
  }

  private showStep({ step, loss, lr, gradNorm, tokensPerSecond, tokens, epoch }: StepEvent, use: HardwareUse): void {
    const scalars = { loss, lr, gradNorm, tokensPerSecond, tokens, epoch };
    this.board?.addScalars({ ...withPrefix('train', scalars), ...withPrefix('hardware', use) }, step);
  }

  private showEval({ step, loss, perplexity }: EvalEvent): void {
    this.board?.addScalars(withPrefix('valid', { loss, perplexity }), step);
  }

  private async sample(event: TrainEvent, { model }: TrainContext<M>): Promise<void> {
    const { samples } = this.options;
    if (samples === undefined || (event.type !== 'step' && event.type !== 'done')) return;
    const isDue = event.type === 'done' || event.step % samples.every === 0;
    if (!isDue || event.step === this.lastSampled) return;
    this.lastSampled = event.step;
    const { training } = model;
    const stream = defaultGenerator();
    const { state } = stream;
    model.eval();
    try {
      for (const sample of await samples.make(model, event.step)) this.addSample(sample);
    } finally {
      stream.state = state;
      model.train(training);
    }
  }

  private end(status: 'success' | 'failure'): void {
    if (this.options.config !== undefined) this.attempt(() => this.board?.endHparams(status));
    this.histograms?.dispose();
    this.close();
  }

  /** A line outside the course of events. */
  private later(line: object): void {
    checkJson('line', line);
    if (this.file !== null) {
      this.log(line);
      return;
    }
    if (this.lastStep === 0) {
      throw new StateError({ op: 'RunLogger', expected: 'a run that has begun', actual: 'one that has not' });
    }
    const file = this.openLog();
    this.log(line);
    file.close();
    this.file = null;
  }

  private log(line: object): void {
    this.attempt(() => this.file?.append(Buffer.from(encodeLine({ time: Date.now(), ...line }))));
  }

  /** Logging must not cost the run. */
  private attempt(body: () => void): void {
    try {
      body();
    } catch (error) {
      if (!(error instanceof OmniError)) throw error;
      if (!this.hasWarned)
        process.emitWarning(`The run goes on without a part of its log. ${error.message}`, 'RunLogger');
      this.hasWarned = true;
    }
  }
}
