/** A run as one self-contained HTML page: a roofline of the kernels, bars against the best peer, and every row. */
import * as plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import type { Recorded } from './compare.js';
import type { CeilingKind, Row } from './harness.js';

const escape = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!);

type PageDocument = NonNullable<plot.PlotOptions['document']>;

const blue = '#2458b3';
const orange = '#c8501e';
const label = ({ name, shape }: Row): string => `${name} ${shape}`;

/** How much better than the best peer, whichever direction is good. */
export const advantage = ({ ratio, better }: Row): number => (better === 'higher' ? ratio! : 1 / ratio!);

interface Point {
  readonly intensity: number;
  readonly speed: number;
  readonly who: string;
  readonly text: string;
}

/** Floating-point operations a second of a row: its own unit, or through its intensity. */
function pointsOf(row: Row): Point[] {
  if (row.intensity === null || row.limit === null || row.limit === 'int8') return [];
  const { intensity } = row;
  const speed = (value: number): number => (row.unit === 'GFLOP/s' ? value : value * intensity);
  const ours: Point = { intensity, speed: speed(row.ours), who: 'omnigrad', text: label(row) };
  if (row.peer === null) return [ours];
  return [ours, { intensity, speed: speed(row.peer), who: 'best peer', text: `${label(row)}, ${row.peerName}` }];
}

function roofline(rows: readonly Row[], document: PageDocument): string {
  const points = rows.flatMap(pointsOf);
  const highest = (kind: CeilingKind): number =>
    Math.max(...rows.filter(({ limit }) => limit === kind).map(({ ceiling }) => ceiling ?? 0));
  const [flops, bytes] = [highest('fma'), highest('copy')];
  if (points.length === 0 || !(flops > 0) || !(bytes > 0)) return '';
  const [least, most] = [
    Math.min(...points.map((p) => p.intensity)) / 2,
    2 * Math.max(...points.map((p) => p.intensity)),
  ];
  const roof = [least, flops / bytes, most].map((x) => ({ x, y: Math.min(flops, x * bytes) }));
  return plot.plot({
    document,
    width: 900,
    height: 460,
    marginLeft: 60,
    grid: true,
    x: {
      type: 'log',
      label: 'floating-point operations a byte that must move',
      domain: [least, most],
      tickFormat: '~g',
    },
    y: { type: 'log', label: 'GFLOP/s', tickFormat: '~g' },
    color: { legend: false, domain: ['omnigrad', 'best peer'], range: [blue, orange] },
    marks: [
      plot.line(roof, { x: 'x', y: 'y', stroke: '#1c2430', strokeWidth: 1.5 }),
      plot.dot(points, {
        x: 'intensity',
        y: 'speed',
        stroke: 'who',
        fill: 'who',
        fillOpacity: 0.5,
        r: 4,
        title: 'text',
      }),
    ],
  }).outerHTML;
}

function bars(rows: readonly Row[], document: PageDocument): string {
  const compared = rows
    .filter((row) => row.ratio !== null)
    .map((row) => ({ what: label(row), x: advantage(row), peer: row.peerName }));
  if (compared.length === 0) return '';
  const most = Math.max(2, ...compared.map(({ x }) => x));
  const least = Math.min(0.5, ...compared.map(({ x }) => x));
  return plot.plot({
    document,
    width: 900,
    height: 60 + 22 * compared.length,
    marginLeft: 330,
    marginRight: 110,
    // twice as fast is as long as half as fast, and one peer without a fast way does not flatten all others
    x: {
      type: 'log',
      domain: [least, most],
      tickFormat: '~g',
      label: 'times the best peer (above 1 is better)',
      grid: true,
      axis: 'top',
    },
    y: { label: null, domain: compared.map(({ what }) => what) },
    marks: [
      plot.barX(compared, { x1: 1, x2: 'x', y: 'what', fill: (d: { x: number }) => (d.x >= 1 ? blue : orange) }),
      plot.text(compared, {
        x: (d: { x: number }) => Math.max(1, d.x),
        y: 'what',
        text: (d: { x: number; peer: string }) => `${d.x.toFixed(2)} (${d.peer})`,
        textAnchor: 'start',
        dx: 5,
      }),
      plot.ruleX([1], { strokeDasharray: '4 3' }),
    ],
  }).outerHTML;
}

const figure = (value: number | null): string =>
  value === null ? '–' : value >= 1000 ? Math.round(value).toLocaleString('en-US') : value.toPrecision(3);

function grid(head: readonly string[], body: readonly (readonly string[])[]): string {
  const cells = (tag: string, line: readonly string[]): string =>
    `<tr>${line.map((cell) => `<${tag}>${escape(cell)}</${tag}>`).join('')}</tr>`;
  return `<table><thead>${cells('th', head)}</thead><tbody>${body.map((line) => cells('td', line)).join('')}</tbody></table>`;
}

function table(rows: readonly Row[]): string {
  const head = ['what', 'shape', 'ours', 'unit', 'spread', 'of ceiling', 'best peer', 'peer', 'ratio'];
  const body = rows.map((row) => [
    row.name,
    row.shape,
    figure(row.ours),
    row.unit,
    `${(100 * row.spread).toFixed(0)} %`,
    row.ofCeiling === null ? '–' : `${(100 * row.ofCeiling).toFixed(0)} %`,
    row.peerName ?? '–',
    figure(row.peer),
    row.ratio === null ? '–' : row.ratio.toFixed(2),
  ]);
  return grid(head, body);
}

function goals({ targets = [] }: Recorded): string {
  const judged = targets.filter(({ verdict }) => verdict !== 'not measured');
  if (judged.length === 0) return '';
  const head = ['goal', 'against', 'at least', 'reached', ''];
  const body = judged.map(({ goal, against, atLeast, reached, verdict }) => [
    goal,
    against,
    atLeast.toFixed(2),
    reached === null ? '–' : reached.toFixed(2),
    verdict,
  ]);
  return `<h2>Goals</h2>${grid(head, body)}`;
}

const style = `
  :root { color-scheme: light; }
  body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 960px; margin: 2rem auto; padding: 0 1.5rem; }
  h1 { margin-bottom: 0.2rem; } h2 { margin: 2rem 0 0.5rem; font-size: 1.2rem; }
  svg { max-width: 100%; height: auto; }
  table { border-collapse: collapse; font-size: 14px; } th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #d8dee8; text-align: right; }
  th:nth-child(-n + 2), td:nth-child(-n + 2) { text-align: left; } th { font-weight: 600; }
`;

/** The page as text. */
export function renderPage(run: Recorded): string {
  const { document } = parseHTML('<html><body></body></html>');
  const versions = Object.entries(run.versions).map(([name, version]) => `${name} ${version}`);
  const about = `${run.cpu}, ${run.isa}, ${run.threads} threads, Node ${run.node}, ${run.date.slice(0, 10)}, commit ${run.commit}, load ${run.load.toFixed(1)}; ${versions.join(', ') || 'no peers'}`;
  const roof = roofline(run.rows, document);
  const beside = bars(run.rows, document);
  const legend = `<p><b style="color:${blue}">●</b> omnigrad &nbsp; <b style="color:${orange}">●</b> best peer &nbsp; — what the machine can do at most</p>`;
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>omnigrad bench</title>
<style>${style}</style>
<body>
<h1>omnigrad bench</h1>
<p>${escape(about)}</p>
${roof === '' ? '' : `<h2>Roofline</h2>${legend}${roof}`}
${beside === '' ? '' : `<h2>Against the best peer of each row</h2>${beside}`}
${goals(run)}
<h2>Rows</h2>${table(run.rows)}
</body>
</html>
`;
}
