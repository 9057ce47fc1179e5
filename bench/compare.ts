/** Two runs beside each other: what became faster or slower beyond what the machine's noise explains. */
import { readFileSync } from 'node:fs';
import type { Row } from './harness.js';
import type { Origin } from './origin.js';
import type { Judgement } from './targets.js';

/** What `--json` writes. */
export interface Recorded extends Origin {
  readonly versions: Readonly<Record<string, string>>;
  readonly load: number;
  readonly rows: readonly Row[];
  /** Goals of runs with so many threads; absent in records from before there were any. */
  readonly targets?: readonly Judgement[];
}

export type Verdict = 'better' | 'worse' | 'same';

export interface Comparison {
  readonly name: string;
  readonly shape: string;
  readonly before: number;
  readonly after: number;
  readonly unit: string;
  /** How many times better than before, whichever direction is good; above 1 is progress. */
  readonly change: number;
  /** Changes below this share are noise. */
  readonly band: number;
  readonly verdict: Verdict;
}

/** A median of seven samples moves by about its spread between runs of one build; clocks and neighbours move all by this. */
const leastBand = 0.08;
const bandsOfSpread = 2;

const keyOf = ({ name, shape, dtype, threads }: Row): string => [name, shape, dtype, threads].join('|');

/**
 * Reads a run that `--json` wrote.
 *
 * @throws Error if the file is no such record
 */
export function readRecorded(file: string): Recorded {
  const found = JSON.parse(readFileSync(file, 'utf8')) as Partial<Recorded> | null;
  if (found === null || typeof found !== 'object' || !Array.isArray(found.rows)) {
    throw new Error(`${file}: expected a record that npm run bench -- --json wrote, got ${typeof found} without rows`);
  }
  return found as Recorded;
}

/** Rows that both runs have, in the order of the newer one. Absolute figures compare on one machine only. */
export function compareRows(before: readonly Row[], after: readonly Row[]): Comparison[] {
  const old = new Map(before.map((row) => [keyOf(row), row]));
  return after.flatMap((row) => {
    const was = old.get(keyOf(row));
    if (was === undefined) return [];
    const change = row.better === 'higher' ? row.ours / was.ours : was.ours / row.ours;
    const band = Math.max(leastBand, bandsOfSpread * (row.spread + was.spread));
    const verdict: Verdict = change > 1 + band ? 'better' : change < 1 / (1 + band) ? 'worse' : 'same';
    const { name, shape, unit } = row;
    return [{ name, shape, unit, before: was.ours, after: row.ours, change, band, verdict }];
  });
}

const figure = (value: number): string =>
  value >= 1000 ? Math.round(value).toLocaleString('en-US') : value.toPrecision(3);

/** One line of the comparison. */
export function formatComparison({ name, shape, unit, before, after, change, band, verdict }: Comparison): string {
  const columns = [
    `${name} `.padEnd(44),
    shape.padEnd(41),
    `${figure(before)} → ${figure(after)} ${unit}`.padStart(30),
    `${change.toFixed(2)}x`.padStart(8),
    `±${(100 * band).toFixed(0)} %`.padStart(7),
    verdict === 'same' ? '' : `  ${verdict}`,
  ];
  return columns.join('').trimEnd();
}
