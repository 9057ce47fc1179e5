/**
 * One self-contained HTML page about a run: curves, a table, samples. Drawn by Observable Plot into SVG, so it needs no network
 * and no script to be read.
 *
 * @module
 */
import { writeFileAtomically } from '../util/atomic_file.js';
import type { EvalEvent, StepEvent } from './events.js';
import { renderCharts } from './report_charts.js';
import { escapeHtml, factTable, htmlPage, htmlTable, section } from '../util/report_page.js';

/** One row of the table: a model as it came out, and what it costs. */
export interface ReportRow {
  readonly name: string;
  /** By column title; numbers are formatted by the caller. */
  readonly cells: Readonly<Record<string, string>>;
}

/** What a report shows. */
export interface ReportContent {
  readonly title: string;
  /** One or two sentences under the title. */
  readonly summary: string;
  readonly steps: readonly StepEvent[];
  readonly evals: readonly EvalEvent[];
  readonly rows: readonly ReportRow[];
  readonly samples: readonly { readonly title: string; readonly text: string }[];
  /** Name and value of what describes the run: machine, versions, settings. */
  readonly facts: Readonly<Record<string, string>>;
}

/** @internal The rows of a table of results, as HTML. */
export function resultTable(rows: readonly ReportRow[]): string {
  if (rows.length === 0) return '';
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row.cells)))];
  const body = rows.map((row) => [row.name, ...columns.map((column) => row.cells[column] ?? '–')]);
  return htmlTable(['model', ...columns], body);
}

/**
 * The page as text. For a run that a `RunLogger` logged, see `renderRunReport`.
 *
 * @throws BackendError if there are steps to draw and `@observablehq/plot` or `linkedom` is not installed
 */
export async function renderReport(content: ReportContent): Promise<string> {
  const { title, summary, steps, evals, rows, samples, facts } = content;
  const { training } = await renderCharts([{ name: title, steps, evals, marks: [] }]);
  return htmlPage(title, summary, [
    section('Result', resultTable(rows)),
    section('Training', training),
    section('Samples', ...samples.map((one) => `<h3>${escapeHtml(one.title)}</h3><pre>${escapeHtml(one.text)}</pre>`)),
    section('Run', factTable(facts)),
  ]);
}

/** Writes the page, atomically. */
export async function writeReport(path: string, content: ReportContent): Promise<void> {
  const html = await renderReport(content);
  await writeFileAtomically(path, (write) => write(new TextEncoder().encode(html)));
}
