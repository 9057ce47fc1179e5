/**
 * The lines of a run's log: one JSON object each, in a file that only grows.
 *
 * @module
 */
import type { Machine } from '../runtime/machine.js';
import type { EvalEvent, StepEvent } from './events.js';

/** Name of the log in a run's folder. */
export const LOG_FILE = 'run.jsonl';

/** Version of what the lines hold. */
export const LOG_FORMAT = 1;

/** Where a run ran. */
export type RunMachine = Machine;

/** A process begins to train, or goes on. */
export interface StartLine {
  readonly type: 'start';
  /** Milliseconds since 1970, as in every line. */
  readonly time: number;
  readonly format: number;
  readonly name: string;
  /** Steps done before. */
  readonly step: number;
  /** Steps of the whole run. */
  readonly total: number;
  /** Numbers in the model's parameters. */
  readonly parameters: number;
  readonly machine: RunMachine;
  readonly config?: unknown;
  readonly card?: Readonly<Record<string, unknown>>;
}

/** What the process used when an optimiser step was logged. */
export interface HardwareUse {
  /** Bytes that tensors hold. */
  readonly memory: number;
  /** Bytes of the process. */
  readonly rss: number;
  /** Processor time since the line before, in percent of one core. */
  readonly cpu: number;
}

/** An optimiser step as it is logged. */
export type LoggedStep = StepEvent & HardwareUse & { readonly time: number };

/** A validation as it is logged. */
export type LoggedEval = EvalEvent & { readonly time: number };

/** Something that the model produced on the way. */
export interface RunSample {
  readonly title: string;
  readonly text: string;
  readonly step: number;
}

/** Any other line: a resume, a checkpoint, whatever else a trainer tells. */
export interface LoggedEvent {
  readonly type: string;
  readonly time: number;
  readonly step?: number;
  readonly [field: string]: unknown;
}

/** One line. Numbers that JSON does not have are written as "NaN", "Infinity" and "-Infinity". */
export function encodeLine(line: object): string {
  return `${JSON.stringify(line, (_, value: unknown) =>
    typeof value === 'number' && !Number.isFinite(value) ? String(value) : value,
  )}\n`;
}

const odd: Readonly<Record<string, number>> = { NaN, Infinity, '-Infinity': -Infinity };

/** What a line holds; null if it is not a line of a log. */
export function decodeLine(text: string): LoggedEvent | null {
  let value: unknown;
  try {
    value = JSON.parse(text, (key, field: unknown) =>
      typeof field === 'string' && key !== 'text' && key !== 'title' && Object.hasOwn(odd, field) ? odd[field] : field,
    );
  } catch {
    return null;
  }
  const line = value as Partial<LoggedEvent> | null;
  return typeof line?.type === 'string' && typeof line.time === 'number' ? (line as LoggedEvent) : null;
}
