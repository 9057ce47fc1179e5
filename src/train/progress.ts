/**
 * A progress bar for training events.
 *
 * @module
 */
import { createRequire } from 'node:module';
import type * as Bars from 'cli-progress';
import type { Module } from '../nn/module.js';
import { memory } from '../tensor/memory.js';
import { checkKeys, checkNumber, checkOneOf } from '../util/assert.js';
import { formatBytes } from '../util/format.js';
import type { TrainCallback, TrainPhase } from './callback.js';
import type { StepEvent, TrainEvent } from './events.js';

/** Loaded with the first bar: it is a tenth of the time that importing this library takes. */
const loadBars = (): typeof Bars => createRequire(import.meta.url)('cli-progress') as typeof Bars;

/** 83 → "1:23". */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '–';
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value: number): string => String(value).padStart(2, '0');
  return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** Where a bar or lines go. */
export interface ProgressStream {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

/** Options of {@link TrainingProgress}. */
export interface ProgressOptions {
  /** Default: standard error. */
  readonly stream?: ProgressStream;
  /** Seconds until the run is stopped, if that may come before its last step. */
  readonly timeLimit?: number;
  /** A bar on a terminal and lines elsewhere, or lines everywhere. Default `auto`. */
  readonly mode?: 'auto' | 'lines';
  /** Seconds between lines. Default 10. */
  readonly interval?: number;
}

const optionKeys = ['stream', 'timeLimit', 'mode', 'interval'];

/** Weight of the past in the smoothed loss. */
const MEMORY = 0.9;

/** Cells of the bar. */
const CELLS = 24;

const figures = (value: number): string =>
  value !== 0 && Math.abs(value) < 0.01 ? value.toExponential(1) : String(Number(value.toPrecision(3)));

/** Any event that is not drawn otherwise, as words. */
function describe(event: { readonly type: string }): string {
  const { type, message, ...fields } = event as { type: string; message?: unknown } & Record<string, unknown>;
  if (typeof message === 'string') return `${type}: ${message}`;
  const short = Object.entries(fields).flatMap(([name, value]) =>
    typeof value === 'number' || typeof value === 'string' || typeof value === 'boolean'
      ? [`${name} ${typeof value === 'number' ? figures(value) : value}`]
      : [],
  );
  return [type, ...short].join('  ');
}

/** The bar of a terminal: two lines, redrawn in place a few times a second. The state of the terminal itself is never changed. */
class Bar {
  private readonly bars: Bars.MultiBar;
  private readonly lines: readonly Bars.SingleBar[];

  constructor(stream: ProgressStream, total: number, first: () => string, second: () => string) {
    const { MultiBar } = loadBars();
    const fit = (text: string): string => {
      const columns = stream.columns === undefined || stream.columns < 1 ? 80 : stream.columns; // 0: a terminal that does not know
      return text.length < columns ? text : `${text.slice(0, Math.max(0, columns - 2))}…`;
    };
    this.bars = new MultiBar({
      stream: stream as NodeJS.WriteStream,
      fps: 8,
      linewrap: true,
      hideCursor: false,
      gracefulExit: false,
      forceRedraw: true, // without clearing first, so nothing flickers
      format: (_, __, { line }: { line: 0 | 1 }) => fit(line === 0 ? first() : second()),
    });
    this.lines = [0, 1].map((line) => this.bars.create(total, 0, { line }));
  }

  update(step: number): void {
    for (const line of this.lines) line.update(step);
  }

  /** A line above the bar. */
  log(text: string): void {
    this.bars.log(`${text}\n`);
    this.bars.update();
  }

  stop(): void {
    this.bars.stop();
  }
}

/**
 * Shows a run as it goes on: on a terminal a bar with loss, rates, gradient norm, memory and time left, elsewhere a line now and
 * then. Either tell it the events, or make it a callback, whereby it also learns what the trainer is doing between steps.
 * Events that it does not know are written as lines.
 *
 * @example
 * ```ts
 * const progress = new og.TrainingProgress();
 * const trainer = new og.Trainer(model, { ...options, callbacks: [progress] });
 * for await (const event of trainer.run());
 * ```
 */
export class TrainingProgress<M extends Module = Module> implements TrainCallback<M> {
  /** What is being done, in a word. */
  phase: TrainPhase | (string & {}) = 'training';
  private readonly stream: ProgressStream;
  private readonly hasBar: boolean;
  private readonly timeLimit: number;
  private readonly interval: number;
  private bar: Bar | null = null;
  private last: StepEvent | null = null;
  private firstStep = 0;
  private smoothed = 0;
  private validation = '';
  private lastLine = -Infinity;
  private use = { text: '', at: -Infinity };

  /** @throws AttributeError naming the first option that cannot be */
  constructor(options: ProgressOptions = {}) {
    checkKeys('TrainingProgress', options, optionKeys);
    this.stream = options.stream ?? process.stderr;
    this.timeLimit = checkNumber('TrainingProgress', 'timeLimit', options.timeLimit ?? Infinity, 0);
    this.interval = checkNumber('TrainingProgress', 'interval', options.interval ?? 10, 0);
    const mode = checkOneOf('TrainingProgress', 'mode', options.mode ?? 'auto', ['auto', 'lines']);
    this.hasBar = mode === 'auto' && this.stream.isTTY === true;
  }

  onPhase(phase: TrainPhase): void {
    this.phase = phase;
  }

  onEvent(event: TrainEvent): void {
    this.show(event);
  }

  /** Shows what an event changes. */
  show(event: TrainEvent): void {
    switch (event.type) {
      case 'step':
        this.showStep(event);
        break;
      case 'eval':
        this.validation = event.loss.toFixed(3); // without the perplexity, the bar fits 80 columns
        if (!this.hasBar)
          this.line(`step ${event.step}  valid ${this.validation} (perplexity ${figures(event.perplexity)})`);
        break;
      case 'checkpoint':
        break;
      case 'resume':
        this.line(`Going on from step ${event.step} (${event.path}).`);
        break;
      case 'done':
        this.stop();
        this.stream.write(this.ending(event));
        break;
      default:
        this.line(describe(event));
    }
  }

  /** Writes a line of one's own, above the bar if there is one. */
  note(text: string): void {
    this.line(text);
  }

  /** Ends the bar, if there is one: needed where a run is left before its end. */
  stop(): void {
    this.bar?.stop();
    this.bar = null;
  }

  [Symbol.dispose](): void {
    this.stop();
  }

  private ending({ step, reason, elapsed }: { step: number; reason: string; elapsed: number }): string {
    const known: Readonly<Record<string, string>> = { finished: 'Finished', aborted: 'Stopped', time: 'Stopped' };
    const how = known[reason] ?? `Ended (${reason})`;
    return `${how} at step ${step} after ${formatDuration(elapsed)}.\n`;
  }

  private showStep(event: StepEvent): void {
    if (this.last === null || event.step <= this.firstStep) {
      this.firstStep = event.step - 1;
      this.smoothed = event.loss;
    }
    this.smoothed = Number.isFinite(this.smoothed) ? MEMORY * this.smoothed + (1 - MEMORY) * event.loss : event.loss;
    this.last = event;
    if (this.hasBar) {
      this.bar ??= new Bar(
        this.stream,
        event.total,
        () => this.firstLine(),
        () => this.secondLine(),
      );
      this.bar.update(event.step);
    } else if (event.elapsed - this.lastLine >= this.interval || event.step === event.total) {
      this.lastLine = event.elapsed;
      this.line(`step ${this.place()}  ${this.quality()}  ${this.details()}`);
    }
  }

  private line(text: string): void {
    if (this.bar === null) this.stream.write(`${text}\n`);
    else this.bar.log(text);
  }

  private place(): string {
    const { step, total, epoch } = this.last!;
    return `${step}/${total}  epoch ${epoch + 1}`;
  }

  private quality(): string {
    const valid = this.validation === '' ? '' : `  valid ${this.validation}`;
    return `loss ${this.smoothed.toFixed(3)}${valid}`;
  }

  private timeLeft(): string {
    const { step, total, elapsed } = this.last!;
    const rest = (elapsed / (step - this.firstStep)) * (total - step);
    return formatDuration(Math.min(rest, this.timeLimit - elapsed));
  }

  private firstLine(): string {
    const { step, total } = this.last!;
    const full = Math.round((CELLS * Math.min(step, total)) / total);
    const bar = '█'.repeat(full) + '░'.repeat(CELLS - full);
    return `${bar} ${this.place()}  ${this.quality()}  ${this.timeLeft()} left`;
  }

  private secondLine(): string {
    return `${this.phase}  ${this.details(false)}`;
  }

  private details(withTime = true): string {
    const { lr, gradNorm, tokensPerSecond } = this.last!;
    const rate = `${Math.round(tokensPerSecond).toLocaleString('en')} tokens/s`;
    const parts = [`lr ${figures(lr)}`, `grad norm ${figures(gradNorm)}`, rate, this.memoryUse()];
    return [...parts, ...(withTime ? [`${this.timeLeft()} left`] : [])].join('  ');
  }

  /** Of tensors and of the process; asked for a few times a second at most. */
  private memoryUse(): string {
    const now = performance.now();
    if (now - this.use.at > 250) {
      const text = `memory ${formatBytes(memory().bytes)} (process ${formatBytes(process.memoryUsage.rss())})`;
      this.use = { text, at: now };
    }
    return this.use.text;
  }
}
