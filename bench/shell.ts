/**
 * benny as the shell: it runs the cases in turn and prints. Timing is ours (harness.ts): a case measures when benny looks at
 * it first, and gives that result again to the samples that benny takes.
 */
import benny from 'benny';
import type { Row } from './harness.js';

const number = (value: number): string =>
  value >= 1000
    ? Math.round(value).toLocaleString('en-US')
    : value >= 100
      ? value.toFixed(0)
      : value.toFixed(value >= 10 ? 1 : 2);

/** One line of the table. */
export function formatRow(row: Row): string {
  const columns = [
    `${row.name} `.padEnd(44),
    row.shape.padEnd(41),
    `${number(row.ours)} ${row.unit}`.padStart(17),
    `±${(100 * row.spread).toFixed(0)} %`.padStart(6),
    (row.ofCeiling === null ? '' : `${(100 * row.ofCeiling).toFixed(0)} % of ceiling`).padStart(17),
    row.peer === null ? '' : `  ${row.ratio!.toFixed(2)}x ${row.peerName} (${number(row.peer)})`,
  ];
  return columns.join('').trimEnd();
}

/** benny's own sampling, cut to the least. */
const onceOnly = { minSamples: 1, initCount: 1, minTime: 1e-6, maxTime: 1e-6 };

/** A part of the run: it gives one row or several. */
export interface Job {
  readonly name: string;
  measure(): Promise<readonly Row[]>;
}

/** Runs the jobs one after another, printing rows as they come; a job that fails is printed and does not end the run. */
export async function runJobs(jobs: readonly Job[]): Promise<{ rows: Row[]; failures: string[] }> {
  const rows: Row[] = [];
  const failures: string[] = [];
  for (const job of jobs) {
    let outcome: Promise<string> | undefined;
    const once = async (): Promise<string> => {
      try {
        const measured = await job.measure();
        rows.push(...measured);
        return measured.map(formatRow).join('\n');
      } catch (error) {
        failures.push(`${job.name}: ${(error as Error).message}`);
        return `${job.name}: failed: ${(error as Error).message}`;
      }
    };
    let text = '';
    // One suite a job: benny starts all cases of a suite at once. Its progress display would cut lines at 80 columns.
    await benny.suite(
      job.name,
      benny.add(job.name, async () => void (text = await (outcome ??= once())), onceOnly),
      benny.complete(() => console.log(text)),
    );
  }
  return { rows, failures };
}
