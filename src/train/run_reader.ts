/**
 * Reads the logs of runs.
 *
 * @module
 */
import { createReadStream, existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { hostname } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { AttributeError, FormatError } from '../errors.js';
import { nearestName } from '../util/nearest.js';
import type { ReportRow } from './report.js';
import {
  decodeLine,
  LOG_FILE,
  LOG_FORMAT,
  type LoggedEval,
  type LoggedEvent,
  type LoggedStep,
  type RunSample,
  type StartLine,
} from './run_lines.js';

/** How a run stands. `interrupted`: its process is gone without a word. */
export type RunStatus = 'running' | 'finished' | 'stopped' | 'failed' | 'interrupted';

/** A run, as its log tells it: without the steps that were done again after a resume. */
export interface RunRecord {
  readonly dir: string;
  readonly name: string;
  readonly status: RunStatus;
  /** Why it ended, where that is known: the reason of its end, or the error. */
  readonly reason: string;
  /** Each time that a process began or went on. */
  readonly sessions: readonly StartLine[];
  readonly config: unknown;
  readonly card: Readonly<Record<string, unknown>>;
  /** Steps of the whole run. */
  readonly total: number;
  readonly steps: readonly LoggedStep[];
  readonly evals: readonly LoggedEval[];
  readonly samples: readonly RunSample[];
  /** All other events, also those of steps that were done again. */
  readonly events: readonly LoggedEvent[];
  readonly rows: readonly ReportRow[];
  readonly facts: Readonly<Record<string, string>>;
  /** Lines that do not count, since their steps were done again. */
  readonly superseded: number;
  /** Lines that could not be read. */
  readonly damaged: number;
  /** Seconds of training, all sessions together. */
  readonly elapsed: number;
  /** Time of the last line, milliseconds since 1970. */
  readonly updated: number;
}

/** Whether a process of this machine is alive. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Takes lines one by one. */
class RunBuilder {
  readonly sessions: StartLine[] = [];
  private readonly steps: LoggedStep[] = [];
  private readonly evals: LoggedEval[] = [];
  private readonly samples: RunSample[] = [];
  private readonly events: LoggedEvent[] = [];
  private rows: readonly ReportRow[] = [];
  private facts: Record<string, string> = {};
  private superseded = 0;
  private updated = 0;
  private end: LoggedEvent | null = null;
  private elapsedBefore = 0;
  private elapsed = 0;
  damaged = 0;

  take(line: LoggedEvent): void {
    this.updated = line.time;
    switch (line.type) {
      case 'start':
        this.start(line as unknown as StartLine);
        break;
      case 'step': {
        const step = line as unknown as LoggedStep;
        if (step.step <= (this.steps.at(-1)?.step ?? 0)) this.forget(step.step - 1);
        this.steps.push(step);
        this.elapsed = step.elapsed;
        break;
      }
      case 'eval':
        // The end of a run measures again what a resumed one measured before.
        if (this.evals.at(-1)?.step === line.step) this.evals.pop();
        this.evals.push(line as unknown as LoggedEval);
        break;
      case 'sample':
        this.sample(line as unknown as RunSample);
        break;
      case 'results':
        if (Array.isArray(line['rows'])) this.rows = line['rows'] as ReportRow[];
        this.facts = { ...this.facts, ...(line['facts'] as Record<string, string> | undefined) };
        break;
      default:
        if (line.type === 'resume') this.forget(line.step ?? 0);
        if (line.type === 'done' || line.type === 'failed') this.end = line;
        if (typeof line['elapsed'] === 'number') this.elapsed = line['elapsed'];
        this.events.push(line);
    }
  }

  /** A run that is taken up at its end makes its last samples again. */
  private sample(line: RunSample): void {
    const at = this.samples.findIndex(({ step, title }) => step === line.step && title === line.title);
    if (at >= 0) this.samples[at] = line;
    else this.samples.push(line);
  }

  private start(line: StartLine): void {
    this.elapsedBefore += this.elapsed;
    this.elapsed = 0;
    this.end = null;
    if (line.step === 0 && this.steps.length > 0) this.elapsedBefore = 0; // started over
    this.forget(line.step);
    this.sessions.push(line);
  }

  /** Steps after this one are done again. */
  private forget(step: number): void {
    for (const list of [this.steps, this.evals, this.samples] as { readonly step: number }[][]) {
      while (list.length > 0 && list.at(-1)!.step > step) {
        list.pop();
        this.superseded++;
      }
    }
  }

  private status(): RunStatus {
    if (this.end?.type === 'failed') return 'failed';
    if (this.end !== null)
      return this.end['reason'] === 'aborted' || this.end['reason'] === 'time' ? 'stopped' : 'finished';
    const { machine } = this.sessions.at(-1)!;
    return machine.host === hostname() && isAlive(machine.pid) ? 'running' : 'interrupted';
  }

  finish(dir: string): RunRecord {
    const last = this.sessions.at(-1)!;
    const { steps, evals, samples, events, rows, facts, superseded, damaged, updated, sessions } = this;
    return {
      dir,
      name: last.name,
      status: this.status(),
      reason: String(this.end?.['reason'] ?? this.end?.['message'] ?? ''),
      sessions,
      config: last.config,
      card: last.card ?? {},
      total: last.total,
      steps,
      evals,
      samples,
      events,
      rows,
      facts,
      superseded,
      damaged,
      elapsed: this.elapsedBefore + this.elapsed,
      updated,
    };
  }
}

/**
 * Reads the log that a `RunLogger` wrote into a folder, also while the run goes on. Lines that cannot be read are counted and
 * passed over; a last line that is being written is left out.
 *
 * @throws FormatError if the folder holds no log, or one of another version
 */
export async function readRun(dir: string): Promise<RunRecord> {
  const file = path.join(dir, LOG_FILE);
  const wrong = (actual: string): FormatError =>
    new FormatError({ op: 'readRun', argument: file, expected: `a run's log of format ${LOG_FORMAT}`, actual });
  if (!existsSync(file)) throw wrong('no such file');
  const builder = new RunBuilder();
  let isLastDamaged = false;
  for await (const text of createInterface({ input: createReadStream(file), crlfDelay: Infinity })) {
    if (text.trim() === '') continue;
    const line = decodeLine(text);
    isLastDamaged = line === null;
    if (line === null) builder.damaged++;
    else if (line.type === 'start' && line['format'] !== LOG_FORMAT) throw wrong(`format ${String(line['format'])}`);
    else if (line.type !== 'start' && builder.sessions.length === 0) builder.damaged++;
    else builder.take(line);
  }
  if (isLastDamaged) builder.damaged--; // unfinished, not damaged
  if (builder.sessions.length === 0) throw wrong('a file without the start of a run');
  return builder.finish(dir);
}

async function foldersOfRuns(dir: string, depth: number): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch(() => []);
  const here = entries.some((entry) => entry.name === LOG_FILE) ? [dir] : [];
  if (depth === 0) return here;
  const below = entries.filter((entry) => entry.isDirectory() && !/^\.|^node_modules$/.test(entry.name));
  const nested = await Promise.all(below.map((entry) => foldersOfRuns(path.join(dir, entry.name), depth - 1)));
  return [...here, ...nested.flat()];
}

/** The runs below a folder (three levels deep), newest first. Folders whose log is not one are left out. */
export async function listRuns(dir: string): Promise<RunRecord[]> {
  const runs: RunRecord[] = [];
  for (const folder of await foldersOfRuns(dir, 3)) {
    try {
      runs.push(await readRun(folder));
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
    }
  }
  return runs.sort((a, b) => b.updated - a.updated);
}

/**
 * A run by the path of its folder, absolute or below `dir`, or by its name.
 *
 * @throws AttributeError if there is none, naming the nearest one
 */
export async function findRun(name: string, dir: string): Promise<RunRecord> {
  for (const folder of [name, path.join(dir, name)])
    if (existsSync(path.join(folder, LOG_FILE))) return readRun(folder);
  const runs = await listRuns(dir);
  const found = runs.find((run) => run.name === name);
  if (found !== undefined) return found;
  const names = [...new Set(runs.map((run) => run.name))];
  const nearest = nearestName(name, names);
  throw new AttributeError({
    op: 'findRun',
    argument: 'name',
    expected: names.length === 0 ? `a run below ${dir}, which holds none` : `one of ${names.slice(0, 12).join(', ')}`,
    actual: JSON.stringify(name),
    hint: nearest === undefined ? undefined : `Did you mean ${nearest}`,
  });
}

/** The figures of a run in one line. NaN where there is nothing to tell from. */
export interface RunSummary {
  /** Last step done. */
  readonly step: number;
  readonly total: number;
  /** Mean of the last 20 logged steps, nats a token. */
  readonly loss: number;
  /** Smallest validation loss, and its step. */
  readonly bestValid: number;
  readonly bestStep: number;
  /** Last validation loss. */
  readonly lastValid: number;
  /** Median of the logged steps. */
  readonly tokensPerSecond: number;
  readonly tokens: number;
  /** Largest memory of tensors and of the process, bytes. */
  readonly peakMemory: number;
  readonly peakRss: number;
}

const middle = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN;

const largest = (values: readonly number[]): number =>
  values.length === 0 ? NaN : values.reduce((a, b) => Math.max(a, b));

/** What a table of runs shows. */
export function summarizeRun({ steps, evals, total }: RunRecord): RunSummary {
  const tail = steps.slice(-20).map(({ loss }) => loss);
  const best = evals.reduce<LoggedEval | null>((least, x) => (least === null || x.loss < least.loss ? x : least), null);
  return {
    step: steps.at(-1)?.step ?? 0,
    total,
    loss: tail.length === 0 ? NaN : tail.reduce((a, b) => a + b, 0) / tail.length,
    bestValid: best?.loss ?? NaN,
    bestStep: best?.step ?? NaN,
    lastValid: evals.at(-1)?.loss ?? NaN,
    tokensPerSecond: middle(steps.map((step) => step.tokensPerSecond)),
    tokens: steps.at(-1)?.tokens ?? 0,
    peakMemory: largest(steps.map((step) => step.memory).filter((x) => x > 0)),
    peakRss: largest(steps.map((step) => step.rss).filter((x) => x > 0)),
  };
}
