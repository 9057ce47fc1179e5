/**
 * One self-contained HTML page about a run: curves, a table, samples. Drawn by Observable Plot into SVG, so it needs no network
 * and no script to be read.
 *
 * @module
 */
import { writeFileAtomically } from '../util/atomic_file.js';
import { importOptional } from '../util/optional.js';
import type { EvalEvent, StepEvent } from './events.js';

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

interface PlotModule {
  plot(options: object): { outerHTML: string };
  line(data: readonly object[], options: object): object;
  dot(data: readonly object[], options: object): object;
  ruleY(data: readonly number[]): object;
}

const escape = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!);

/** Exponential moving average, corrected for its start. */
function smooth(values: readonly number[]): number[] {
  const weight = 1 - 1 / Math.max(5, Math.min(20, values.length / 25)); // a short run cannot afford to lag 20 steps behind
  let average = 0;
  return values.map((value, i) => {
    average = weight * average + (1 - weight) * value;
    return average / (1 - weight ** (i + 1));
  });
}

/** At most `count` evenly spaced entries, the last one included. */
function thin<T>(values: readonly T[], count = 800): T[] {
  if (values.length <= count) return [...values];
  return Array.from({ length: count }, (_, i) => values[Math.round((i * (values.length - 1)) / (count - 1))]!);
}

async function charts({ steps, evals }: ReportContent): Promise<{ title: string; svg: string }[]> {
  if (steps.length === 0) return [];
  const plot = await importOptional<PlotModule>('@observablehq/plot', 'report');
  const { parseHTML } = await importOptional<{ parseHTML(html: string): { document: unknown } }>('linkedom', 'report');
  const { document } = parseHTML('<html><body></body></html>');
  const averaged = smooth(steps.map((event) => event.loss));
  const points = thin(steps.map((event, i) => ({ ...event, smoothed: averaged[i]! })));
  const draw = (label: string, marks: readonly object[], y: object = {}): string =>
    plot.plot({
      document,
      width: 720,
      height: 300,
      marginLeft: 60,
      x: { label: 'step' },
      y: { label, grid: true, ...y },
      marks,
    }).outerHTML;
  const result = [
    {
      title: 'Loss',
      svg: draw('nats a token', [
        plot.line(points, { x: 'step', y: 'loss', stroke: '#b8c7e0', strokeWidth: 1 }),
        plot.line(points, { x: 'step', y: 'smoothed', stroke: '#2458b3', strokeWidth: 2 }),
        ...(evals.length > 1 ? [plot.line(evals, { x: 'step', y: 'loss', stroke: '#c8501e', strokeWidth: 2 })] : []),
        plot.dot(evals, { x: 'step', y: 'loss', fill: '#c8501e', r: 4 }),
      ]),
    },
    {
      title: 'Learning rate',
      svg: draw('learning rate', [plot.line(points, { x: 'step', y: 'lr', stroke: '#2458b3' })], { tickFormat: '.1e' }),
    },
    {
      title: 'Gradient norm',
      svg: draw('norm', [plot.line(points, { x: 'step', y: 'gradNorm', stroke: '#2458b3' })], { type: 'log' }),
    },
    {
      title: 'Throughput',
      svg: draw('tokens/s', [
        plot.ruleY([0]),
        plot.line(points, { x: 'step', y: 'tokensPerSecond', stroke: '#2458b3' }),
      ]),
    },
  ];
  return result;
}

const style = `
  :root { color-scheme: light; }
  body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 1540px; margin: 2rem auto; padding: 0 1.5rem; }
  h1 { margin-bottom: 0.2rem; } h2 { margin: 2rem 0 0.5rem; font-size: 1.2rem; } h3 { font-size: 1rem; margin: 0; }
  .charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(720px, 100%), 1fr)); gap: 1.5rem; }
  .charts svg { max-width: 100%; height: auto; }
  table { border-collapse: collapse; } th, td { padding: 0.35rem 0.9rem; border-bottom: 1px solid #d8dee8; text-align: right; }
  th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
  pre { background: #f4f6fa; border-radius: 6px; padding: 0.9rem; white-space: pre-wrap; font-size: 14px; }
  .key { font-size: 14px; } .key b { font-weight: 600; }
`;

function table(rows: readonly ReportRow[]): string {
  if (rows.length === 0) return '';
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row.cells)))];
  const head = ['model', ...columns].map((title) => `<th>${escape(title)}</th>`).join('');
  const body = rows.map((row) => {
    const cells = columns.map((column) => `<td>${escape(row.cells[column] ?? '–')}</td>`).join('');
    return `<tr><td>${escape(row.name)}</td>${cells}</tr>`;
  });
  return `<h2>Result</h2><table><thead><tr>${head}</tr></thead><tbody>${body.join('')}</tbody></table>`;
}

/** The page as text. */
export async function renderReport(content: ReportContent): Promise<string> {
  const figures = (await charts(content)).map(({ title, svg }) => `<figure><h3>${escape(title)}</h3>${svg}</figure>`);
  const legend =
    '<p class="key"><b style="color:#7d95bd">▬</b> every step &nbsp; <b style="color:#2458b3">▬</b> smoothed &nbsp; <b style="color:#c8501e">●</b> validation</p>';
  const samples = content.samples.map(({ title, text }) => `<h3>${escape(title)}</h3><pre>${escape(text)}</pre>`);
  const facts = Object.entries(content.facts).map(
    ([key, value]) => `<tr><td>${escape(key)}</td><td>${escape(value)}</td></tr>`,
  );
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(content.title)}</title>
<style>${style}</style>
<body>
<h1>${escape(content.title)}</h1>
<p>${escape(content.summary)}</p>
${table(content.rows)}
${figures.length > 0 ? `<h2>Training</h2>${legend}<div class="charts">${figures.join('')}</div>` : ''}
${samples.length > 0 ? `<h2>Samples</h2>${samples.join('')}` : ''}
<h2>Run</h2><table>${facts.join('')}</table>
</body>
</html>
`;
}

/** Writes the page, atomically. */
export async function writeReport(path: string, content: ReportContent): Promise<void> {
  const html = await renderReport(content);
  await writeFileAtomically(path, (write) => write(new TextEncoder().encode(html)));
}
