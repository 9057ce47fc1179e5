/**
 * Reports from the logs of runs: one run, or several over each other.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { writeFileAtomically } from '../util/atomic_file.js';
import { checkKeys } from '../util/assert.js';
import { formatBytes } from '../util/format.js';
import { configDifferences, flattenConfig, type Setting } from './config_difference.js';
import { formatDuration } from './progress.js';
import { resultTable } from './report.js';
import { renderCharts, type RunCurves } from './report_charts.js';
import { colorOf, escapeHtml, factTable, htmlPage, htmlTable, section, type Cell } from '../util/report_page.js';
import type { LoggedEvent } from './run_lines.js';
import { summarizeRun, type RunRecord } from './run_reader.js';

/** Options of {@link renderRunReport}. */
export interface RunReportOptions {
  /** Default: the run's name, or that runs are compared. */
  readonly title?: string;
  /** A sentence under the title. Default: made of the figures. */
  readonly summary?: string;
  /** Further parts of the page of one run, after its table of results. HTML that is safe, such as `paretoCharts` gives. */
  readonly sections?: readonly { readonly title: string; readonly html: string }[];
}

const number = (value: number, digits = 4): string => {
  if (!Number.isFinite(value)) return '–';
  return Math.abs(value) >= 1e4 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(digits)));
};
const bytes = (value: number): string => (Number.isFinite(value) ? formatBytes(value) : '–');
const date = (time: number): string => new Date(time).toISOString().slice(0, 19).replace('T', ' ');
const setting = (value: Setting | undefined): string => (value === undefined ? '–' : String(value));

/** What a saved checkpoint or the start of a process tells is shown elsewhere. */
const isNews = ({ type }: LoggedEvent): boolean => type !== 'checkpoint';

function describeEvent(event: LoggedEvent): string {
  if (typeof event['message'] === 'string') return event['message'];
  return Object.entries(event)
    .filter(([name]) => !['type', 'time', 'step'].includes(name))
    .map(
      ([name, value]) =>
        `${name}: ${typeof value === 'number' ? number(value) : typeof value === 'string' ? value : JSON.stringify(value)}`,
    )
    .join(', ');
}

/** What the charts show of a run, with what happened to it as marks. */
function curvesOf(run: RunRecord, name: string): RunCurves {
  const marks = run.events
    .filter((event) => isNews(event) && event.type !== 'done' && typeof event.step === 'number')
    .map((event) => ({ step: event.step!, label: `${event.type} at step ${event.step}` }));
  return { name, steps: run.steps, evals: run.evals, marks };
}

/** Figures by which runs are judged; `better` says which of two is. */
const figures: readonly {
  readonly title: string;
  readonly of: (run: RunRecord, summary: ReturnType<typeof summarizeRun>) => number;
  readonly show: (value: number) => string;
  readonly better?: 'less' | 'more';
}[] = [
  { title: 'steps', of: (_, { step }) => step, show: number },
  { title: 'training loss', of: (_, { loss }) => loss, show: number, better: 'less' },
  { title: 'best validation loss', of: (_, { bestValid }) => bestValid, show: number, better: 'less' },
  { title: 'best perplexity', of: (_, { bestValid }) => Math.exp(bestValid), show: number, better: 'less' },
  { title: 'at step', of: (_, { bestStep }) => bestStep, show: number },
  { title: 'tokens', of: (_, { tokens }) => tokens, show: number },
  { title: 'tokens/s (median)', of: (_, { tokensPerSecond }) => tokensPerSecond, show: number, better: 'more' },
  { title: 'training time', of: ({ elapsed }) => elapsed, show: formatDuration },
  { title: 'peak memory', of: (_, { peakRss }) => peakRss, show: bytes, better: 'less' },
  { title: 'parameters', of: ({ sessions }) => sessions.at(-1)!.parameters, show: number },
];

function comparison(runs: readonly RunRecord[], names: readonly string[]): string {
  const summaries = runs.map(summarizeRun);
  const rows = runs.map((run, i): Cell[] => {
    const cells = figures.map(({ of, show, better }): Cell => {
      const values = runs.map((other, at) => of(other, summaries[at]!)).filter(Number.isFinite);
      const value = of(run, summaries[i]!);
      const best = better === 'less' ? Math.min(...values) : Math.max(...values);
      const isBest = better !== undefined && value === best && values.some((other) => other !== best);
      return { html: escapeHtml(show(value)), className: isBest ? 'best' : '' };
    });
    const name = `<i class="swatch" style="background:${colorOf(i)}"></i>${escapeHtml(names[i]!)}`;
    return [{ html: name, className: 'name' }, run.status, ...cells];
  });
  return htmlTable(['run', 'status', ...figures.map(({ title }) => title)], rows, [1]);
}

function tiles(run: RunRecord): string {
  const summary = summarizeRun(run);
  const shown = figures
    .map(({ title, of, show }) => [title, of(run, summary), show] as const)
    .filter(([title, value]) => Number.isFinite(value) && title !== 'at step')
    .map(([title, value, show]) => {
      const text = title === 'steps' ? `${number(value)} of ${number(run.total)}` : show(value);
      const where = title === 'best validation loss' ? ` (step ${number(summary.bestStep)})` : '';
      return `<div class="tile"><b>${escapeHtml(text)}</b><span>${escapeHtml(title + where)}</span></div>`;
    });
  return `<div class="tiles">${shown.join('')}</div>`;
}

/** The samples of each title, the newest shown, those before folded away. */
function samplesOf(run: RunRecord): string {
  const titles = [...new Set(run.samples.map(({ title }) => title))];
  return titles
    .map((title) => {
      const all = run.samples.filter((sample) => sample.title === title);
      const older = all.slice(0, -1).reverse();
      // Evenly spaced, where there are more than one cares to read.
      const kept = older.filter(
        (_, i) => Math.floor((i * 12) / older.length) !== Math.floor(((i - 1) * 12) / older.length),
      );
      const [newest] = all.slice(-1);
      const folded = kept.map(
        ({ step, text }) => `<details><summary>step ${number(step)}</summary><pre>${escapeHtml(text)}</pre></details>`,
      );
      const when = all.length > 1 ? ` <span class="soft">step ${number(newest!.step)}</span>` : '';
      return `<h3>${escapeHtml(title)}${when}</h3><pre>${escapeHtml(newest!.text)}</pre>${folded.join('')}`;
    })
    .join('\n');
}

function eventsOf(run: RunRecord): string {
  const starts = run.sessions.map(({ time, step, machine }) => ({
    time,
    cells: [
      date(time),
      String(step),
      step === 0 ? 'start' : 'start again',
      `process ${machine.pid} on ${machine.host}`,
    ],
  }));
  const events = run.events.filter(isNews).map((event) => ({
    time: event.time,
    cells: [date(event.time), event.step === undefined ? '–' : String(event.step), event.type, describeEvent(event)],
  }));
  const all = [...starts, ...events].sort((a, b) => a.time - b.time);
  const shown = all.length > 60 ? [...all.slice(0, 10), ...all.slice(-50)] : all;
  const left = all.length > 60 ? `<p class="soft">${all.length - 60} events in between are not shown.</p>` : '';
  const counts = [
    `${run.events.filter(({ type }) => type === 'checkpoint').length} checkpoints were written`,
    ...(run.superseded > 0 ? [`${run.superseded} logged lines were done again after a resume`] : []),
    ...(run.damaged > 0 ? [`${run.damaged} lines of the log could not be read`] : []),
  ];
  const table = htmlTable(
    ['time (UTC)', 'step', 'event', ''],
    shown.map(({ cells }) => cells),
    [2, 3],
  );
  return `${table}${left}<p class="soft">${counts.join('; ')}.</p>`;
}

const texts = (values: Readonly<Record<string, unknown>>): Record<string, string> =>
  Object.fromEntries(Object.entries(flattenConfig(values)).map(([name, value]) => [name, String(value)]));

/** Where and when a run ran. */
function placeOf(run: RunRecord): Record<string, string> {
  const { machine, time } = run.sessions.at(-1)!;
  return {
    ...run.facts,
    processor: `${machine.processor}, ${machine.threads} threads, ${machine.isa}`,
    platform: `${machine.platform}, Node ${machine.node}, omnigrad ${machine.omnigrad}`,
    folder: run.dir,
    started: `${date(run.sessions[0]!.time)} UTC${run.sessions.length > 1 ? `, last time ${date(time)}` : ''}`,
  };
}

/** Names that tell runs apart: the folder, where two are called the same. */
export function distinctNames(runs: readonly RunRecord[]): string[] {
  return runs.map(({ name, dir }) => (runs.filter((other) => other.name === name).length > 1 ? dir : name));
}

async function reportOfOne(run: RunRecord, options: RunReportOptions): Promise<string> {
  const charts = await renderCharts([curvesOf(run, run.name)]);
  const reason = run.reason === '' || run.reason === run.status ? '' : ` (${run.reason})`;
  const summary = options.summary ?? `${run.status}${reason}, ${date(run.updated)} UTC`;
  return htmlPage(options.title ?? run.name, summary, [
    tiles(run),
    section('Result', resultTable(run.rows)),
    ...(options.sections ?? []).map(({ title, html }) => section(title, html)),
    section('Training', charts.training),
    section('Hardware', charts.hardware),
    section('Samples', samplesOf(run)),
    section('Events', eventsOf(run)),
    section('Data', Object.keys(run.card).length === 0 ? '' : factTable(texts(run.card))),
    section('Configuration', run.config === undefined ? '' : factTable(texts(run.config as Record<string, unknown>))),
    section('Run', factTable(placeOf(run))),
  ]);
}

async function reportOfSeveral(runs: readonly RunRecord[], options: RunReportOptions): Promise<string> {
  const names = distinctNames(runs);
  const charts = await renderCharts(runs.map((run, i) => curvesOf(run, names[i]!)));
  const differences = configDifferences(runs.map(({ config }) => config));
  const rows = differences.map(({ name, values }) => [name, ...values.map(setting)]);
  const table =
    rows.length === 0 ? '<p class="soft">The configurations are the same.</p>' : htmlTable(['setting', ...names], rows);
  const last = runs.map((run, i) => {
    const newest = new Map(run.samples.map((sample) => [sample.title, sample]));
    const parts = [...newest.values()].map(
      ({ title, text }) => `<h3>${escapeHtml(title)}</h3><pre>${escapeHtml(text)}</pre>`,
    );
    return parts.length === 0 ? '' : `<details><summary>${escapeHtml(names[i]!)}</summary>${parts.join('')}</details>`;
  });
  const title = options.title ?? `Comparison of ${runs.length} runs`;
  return htmlPage(title, options.summary ?? names.join(', '), [
    section('Figures', comparison(runs, names)),
    section('Result', resultTable(runs.flatMap(({ rows }) => rows))),
    section('Differences of the configurations', table),
    section('Training', charts.training),
    section('Hardware', charts.hardware),
    section('Samples', ...last),
    section(
      'Runs',
      ...runs.map(
        (run, i) => `<details><summary>${escapeHtml(names[i]!)}</summary>${factTable(placeOf(run))}</details>`,
      ),
    ),
  ]);
}

/**
 * A page about one run, or one that compares several: curves over each other, a table of figures with the best ones marked, and
 * the settings in which the runs differ. One file without scripts; how much curves are smoothed is chosen on the page.
 *
 * @param runs as `readRun` or `listRuns` returns them
 * @throws AttributeError without a run
 * @throws BackendError if `@observablehq/plot` or `linkedom` is not installed
 */
export async function renderRunReport(runs: readonly RunRecord[], options: RunReportOptions = {}): Promise<string> {
  checkKeys('renderRunReport', options, ['title', 'summary', 'sections']);
  const [first] = runs;
  if (first === undefined)
    throw new AttributeError({ op: 'renderRunReport', argument: 'runs', expected: 'at least one run', actual: 'none' });
  return runs.length === 1 ? reportOfOne(first, options) : reportOfSeveral(runs, options);
}

/** Writes the page of {@link renderRunReport}, atomically. */
export async function writeRunReport(
  path: string,
  runs: readonly RunRecord[],
  options?: RunReportOptions,
): Promise<void> {
  const html = await renderRunReport(runs, options);
  await writeFileAtomically(path, (write) => write(new TextEncoder().encode(html)));
}
