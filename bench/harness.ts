/** Measuring: interleaved samples of several subjects, robust statistics, and the form of a result. */
import type { Timed } from './subject.js';

export interface MeasureOptions {
  /** Samples of each subject. */
  readonly rounds: number;
  /** A sample repeats the work until it takes at least this long. */
  readonly minSeconds: number;
  /** Seconds to rest after a sample, so that a peer's threads have stopped spinning. Default 0.01. */
  readonly restSeconds?: number;
  /** Seconds of work before the first sample counts. Default: ten of the shortest sample. */
  readonly warmUpSeconds?: number;
}

/** Seconds of one repetition. */
export interface Statistics {
  readonly median: number;
  readonly best: number;
  /** Median distance from the median. */
  readonly mad: number;
  readonly samples: number;
}

/**
 * What the machine can do at most: GFLOP/s of float32 multiply-adds (`fma`) and GOP/s of multiply-adds of bytes (`int8`) on
 * registers; GB/s copied, read and written (`copy`), and read only (`read`).
 */
export type CeilingKind = 'fma' | 'int8' | 'copy' | 'read';

/** One line of the result. `ours`, `peer` and `ceiling` are in `unit`; `peer` is the best of `peers`. */
export interface Row {
  readonly name: string;
  readonly shape: string;
  readonly dtype: string;
  readonly threads: number;
  readonly ours: number;
  readonly peer: number | null;
  readonly peerName: string | null;
  readonly unit: string;
  /** ours / peer. */
  readonly ratio: number | null;
  readonly ceiling: number | null;
  /** Which ceiling that is. */
  readonly limit: CeilingKind | null;
  /** ours / ceiling. */
  readonly ofCeiling: number | null;
  /** Floating-point operations a byte that must move; null where that says nothing. */
  readonly intensity: number | null;
  /** Which direction of `ours` and `ratio` is good. */
  readonly better: 'higher' | 'lower';
  /** Medians of all peers that took part. */
  readonly peers: Readonly<Record<string, number>>;
  /** Best sample of ours. */
  readonly best: number;
  /** Median distance of our samples from their median, as a share of it. */
  readonly spread: number;
}

const rest = (seconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, seconds * 1e3));

/** The middle value; the mean of the two middle ones of an even count. */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError('median: no values');
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

export function statistics(seconds: readonly number[]): Statistics {
  const middle = median(seconds);
  return {
    median: middle,
    best: Math.min(...seconds),
    mad: median(seconds.map((value) => Math.abs(value - middle))),
    samples: seconds.length,
  };
}

interface Repetitions {
  readonly count: number;
  /** Seconds of one. */
  readonly each: number;
}

/** Warm-up in units of the shortest sample, unless it is given. */
const warmUp = 10;

/** Repetitions that fill a sample, found by running ever more of them; the trials are the warm-up. */
async function repetitions(subject: Timed, minSeconds: number, warmUpSeconds: number): Promise<Repetitions> {
  await subject.run(1);
  let [count, each, spent] = [1, 0, 0];
  for (let trial = 0; trial < 40; trial++) {
    const seconds = await subject.run(count);
    each = seconds / count;
    spent += seconds;
    const isLongEnough = seconds >= minSeconds;
    if (isLongEnough && spent >= warmUpSeconds) break;
    if (isLongEnough) continue; // compiled code may still replace interpreted code
    count = Math.ceil(count * Math.min(10, Math.max(1.2, (1.1 * minSeconds) / Math.max(seconds, 1e-9))));
  }
  return { count, each };
}

/** A subject this many times slower than the fastest takes part in few rounds: its place is clear, and the time is long. */
const farBehind = 10;
const fewRounds = 3;

/** Times the subjects against each other: one sample of each per round, in alternating order. */
export async function measure(subjects: readonly Timed[], options: MeasureOptions): Promise<Statistics[]> {
  const { minSeconds, restSeconds = 0.01, warmUpSeconds = warmUp * minSeconds } = options;
  const planned: Repetitions[] = [];
  for (const subject of subjects) {
    planned.push(await repetitions(subject, minSeconds, warmUpSeconds));
    await rest(restSeconds);
  }
  const samples: number[][] = subjects.map(() => []);
  const fastest = Math.min(...planned.filter((_, i) => !subjects[i]!.isApart).map(({ each }) => each));
  const order = subjects.map((_, i) => i);
  for (let round = 0; round < options.rounds; round++) {
    for (const i of order) {
      const { count, each } = planned[i]!;
      if (round >= fewRounds && !subjects[i]!.isApart && each > farBehind * fastest) continue;
      samples[i]!.push((await subjects[i]!.run(count)) / count);
      await rest(restSeconds);
    }
    order.reverse();
  }
  return samples.map(statistics);
}

export interface RowParts {
  readonly name: string;
  readonly shape: string;
  readonly dtype?: string;
  readonly threads: number;
  readonly unit: string;
  readonly better: 'higher' | 'lower';
  readonly ours: number;
  readonly best?: number;
  readonly spread?: number;
  readonly peers?: Readonly<Record<string, number>>;
  readonly ceiling?: number | null;
  readonly limit?: CeilingKind | null;
  readonly intensity?: number | null;
}

/** Derives what follows from the measured values. */
export function makeRow(parts: RowParts): Row {
  const { name, shape, dtype = 'float32', threads, ours, unit, better, peers = {} } = parts;
  const { ceiling = null, limit = null, intensity = null } = parts;
  let [peer, peerName]: [number | null, string | null] = [null, null];
  for (const [candidate, value] of Object.entries(peers)) {
    if (peer !== null && (better === 'higher' ? value <= peer : value >= peer)) continue;
    [peer, peerName] = [value, candidate];
  }
  return {
    name,
    shape,
    dtype,
    threads,
    ours,
    peer,
    peerName,
    unit,
    ratio: peer === null ? null : ours / peer,
    ceiling,
    limit,
    ofCeiling: ceiling === null ? null : ours / ceiling,
    intensity,
    better,
    peers,
    best: parts.best ?? ours,
    spread: parts.spread ?? 0,
  };
}

/** Whether `--filter` chooses a row: every word occurs in its name or shape, in any case. */
export function chosen(filter: string | undefined, row: { readonly name: string; readonly shape: string }): boolean {
  const text = `${row.name} ${row.shape}`.toLowerCase();
  return (filter ?? '')
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
}
