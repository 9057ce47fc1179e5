/**
 * What ends a run before its last step: an abort signal, a time limit, or a signal of the operating system.
 *
 * @module
 */
import { constants } from 'node:os';
import { AttributeError } from '../errors.js';
import { checkBoolean, checkNumber } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import type { RunOptions } from './trainer_options.js';

function signalsOf(given: RunOptions['handleSignals']): readonly NodeJS.Signals[] {
  if (given === undefined || typeof given === 'boolean') return given ? ['SIGINT', 'SIGTERM'] : [];
  const known = (name: unknown): boolean => typeof name === 'string' && Object.hasOwn(constants.signals, name);
  if (Array.isArray(given) && given.every((name) => known(name) && name !== 'SIGKILL' && name !== 'SIGSTOP'))
    return given;
  throw new AttributeError({
    op: 'Trainer.run',
    argument: 'handleSignals',
    expected: 'true, false or names of signals that a process can catch',
    actual: formatValue(given),
  });
}

/**
 * Knows why a run should stop. The first signal asks it to; handlers are gone then, so that a second one ends the process at once.
 * When the run is over after a signal and nothing else has set it, the exit code is 128 + the signal's number, as shells have it.
 *
 * @internal
 */
export class StopClock {
  private readonly begun = performance.now();
  private readonly timeLimit: number;
  private readonly abort: AbortSignal | undefined;
  private readonly handled: readonly NodeJS.Signals[];
  private received: NodeJS.Signals | null = null;

  /** @throws AttributeError for options that cannot be */
  constructor({ signal, timeLimit, handleSignals }: RunOptions) {
    if (signal !== undefined && typeof signal?.aborted !== 'boolean') {
      const actual = formatValue(signal);
      throw new AttributeError({ op: 'Trainer.run', argument: 'signal', expected: 'an AbortSignal', actual });
    }
    this.abort = signal;
    this.timeLimit = timeLimit === undefined ? Infinity : checkNumber('Trainer.run', 'timeLimit', timeLimit, 0);
    this.handled = signalsOf(handleSignals);
    for (const name of this.handled) process.on(name, this.onSignal);
  }

  private readonly onSignal = (name: NodeJS.Signals): void => {
    this.received ??= name;
    this.close();
  };

  /** Since the run began in this process, seconds. */
  get elapsed(): number {
    return (performance.now() - this.begun) / 1000;
  }

  /** The signal that asked the run to stop, if one did. */
  get signal(): NodeJS.Signals | null {
    return this.received;
  }

  /** Why to stop now; null to go on. */
  reason(): 'aborted' | 'time' | null {
    if (this.received !== null || this.abort?.aborted) return 'aborted';
    return this.elapsed >= this.timeLimit ? 'time' : null;
  }

  /** Sets the exit code, if a signal ended the run. */
  setExitCode(): void {
    if (this.received !== null) process.exitCode ??= 128 + constants.signals[this.received];
  }

  /** Takes the handlers off. */
  close(): void {
    for (const name of this.handled) process.off(name, this.onSignal);
  }
}

/** Whether going on from a checkpoint is asked for, and how strictly. */
export function checkResume(given: RunOptions['resume']): boolean | 'strict' {
  return given === 'strict' ? given : checkBoolean('Trainer.run', 'resume', given ?? true);
}
