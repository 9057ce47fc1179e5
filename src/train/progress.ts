/**
 * A progress bar for training events.
 *
 * @module
 */
import { createRequire } from 'node:module';
import type * as Bars from 'cli-progress';
import type { TrainEvent } from './events.js';

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

function makeBar(stream: NodeJS.WriteStream): Bars.SingleBar {
  const { Presets, SingleBar } = loadBars();
  const format = '{bar} {value}/{total}  loss {loss}{valid}  {rate} tokens/s  {left} left';
  return new SingleBar({ format, stream, hideCursor: true, barsize: 28, gracefulExit: false }, Presets.shades_classic);
}

/** Options of {@link TrainingProgress}. */
export interface ProgressOptions {
  /** Default: standard error. */
  readonly stream?: NodeJS.WriteStream;
  /** Seconds until the run is stopped, if that may come before its last step. */
  readonly timeLimit?: number;
}

/**
 * Shows events as they come: a bar with loss, tokens/s and time left on a terminal, now and then a line elsewhere.
 *
 * @example
 * ```ts
 * const progress = new TrainingProgress();
 * for await (const event of trainer.run()) progress.show(event);
 * ```
 */
export class TrainingProgress {
  private readonly stream: NodeJS.WriteStream;
  private readonly bar: Bars.SingleBar | null;
  private readonly timeLimit: number;
  private started = false;
  private firstStep = 0;
  private smoothed = 0;
  private validation = '';
  private lastLine = -Infinity;

  constructor(options: ProgressOptions = {}) {
    this.stream = options.stream ?? process.stderr;
    this.timeLimit = options.timeLimit ?? Infinity;
    this.bar = this.stream.isTTY ? makeBar(this.stream) : null;
  }

  /** Shows what an event changes. */
  show(event: TrainEvent): void {
    if (event.type === 'eval') {
      this.validation = `  valid ${event.loss.toFixed(3)} (perplexity ${event.perplexity.toFixed(2)})`;
    } else if (event.type === 'done') {
      this.bar?.stop();
      this.stream.write(
        `${event.reason === 'finished' ? 'Finished' : 'Stopped'} at step ${event.step} after ${formatDuration(event.elapsed)}.\n`,
      );
    } else if (event.type === 'resume') {
      this.stream.write(`Going on from step ${event.step} (${event.path}).\n`);
    } else if (event.type === 'step') {
      if (!this.started) {
        this.started = true;
        this.firstStep = event.step - 1;
        this.smoothed = event.loss;
        this.bar?.start(event.total, event.step, { loss: '…', rate: '…', left: '…', valid: '' });
      }
      this.smoothed += 0.1 * (event.loss - this.smoothed);
      const rest = (event.elapsed / (event.step - this.firstStep)) * (event.total - event.step);
      const left = formatDuration(Math.min(rest, this.timeLimit - event.elapsed));
      const rate = Math.round(event.tokensPerSecond).toLocaleString('en');
      const loss = this.smoothed.toFixed(3);
      if (this.bar !== null) {
        this.bar.update(event.step, { loss, rate, left, valid: this.validation });
      } else if (event.elapsed - this.lastLine >= 10) {
        this.lastLine = event.elapsed;
        this.stream.write(
          `step ${event.step}/${event.total}  loss ${loss}${this.validation}  ${rate} tokens/s  ${left} left\n`,
        );
      }
    }
  }
}
