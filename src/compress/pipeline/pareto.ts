/**
 * Quality against size and speed: which models no other one beats in both.
 *
 * @module
 */
import { labelPlaces } from '../../util/label_places.js';
import { formatTick, loadPlot, type PlotModule } from '../../util/plot.js';
import { colorOf, escapeHtml } from '../../util/report_page.js';
import type { ComparedModel } from './card.js';
import type { ModelMeasurement } from './measure.js';

interface Axis {
  readonly title: string;
  readonly label: string;
  readonly of: (measured: ModelMeasurement) => number | null;
  readonly better: 'less' | 'more';
}

const axes: readonly Axis[] = [
  { title: 'Quality against size', label: 'MiB on disk', of: ({ bytes }) => bytes / 2 ** 20, better: 'less' },
  { title: 'Quality against speed', label: 'tokens/s generated', of: ({ speed }) => speed.decode, better: 'more' },
  {
    title: 'Quality against cost',
    label: '$ a million tokens generated',
    of: ({ cost }) => cost.output,
    better: 'less',
  },
];

interface Point {
  readonly name: string;
  /** Shown when the mouse is over it. */
  readonly title: string;
  readonly x: number;
  readonly y: number;
  readonly color: string;
}

/**
 * Points that no other point beats: none is at least as good in both and better in one. In order of x.
 *
 * @param better - which x is better; a smaller y always is
 */
export function paretoFront<P extends { readonly x: number; readonly y: number }>(
  points: readonly P[],
  better: 'less' | 'more',
): P[] {
  const gain = (a: P, b: P): number => (better === 'less' ? b.x - a.x : a.x - b.x);
  const beats = (a: P, b: P): boolean => gain(a, b) >= 0 && a.y <= b.y && (gain(a, b) > 0 || a.y < b.y);
  return points.filter((point) => !points.some((other) => beats(other, point))).sort((a, b) => a.x - b.x);
}

/** A scale's ends with room for labels; values that are all but the same get a scale on which they look so. */
function domainOf(values: readonly number[], left: number, right: number): [number, number] {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const span = Math.max(most - least, Math.abs(most) / 50) || 1;
  return [Math.max(0, least - left * span), most + right * span];
}

const [WIDTH, HEIGHT] = [640, 300];
const MARGINS = { left: 58, right: 24, top: 26, bottom: 42 } as const;

function chart(plot: PlotModule, document: unknown, models: readonly ComparedModel[], axis: Axis): string {
  const points = models.flatMap(({ name, how, measured }, i): Point[] => {
    const [x, y] = [axis.of(measured), measured.perplexity];
    return x === null || y === null
      ? []
      : [{ name, title: [name, ...(how ?? [])].join('\n'), x, y, color: colorOf(i) }];
  });
  if (points.length === 0) return '';
  const front = paretoFront(points, axis.better);
  const at = { x: 'x', y: 'y' };
  const [xs, ys] = [
    domainOf(points.map(({ x }) => x), 0.12, 0.22),
    domainOf(points.map(({ y }) => y), 0.15, 0.15),
  ]; // prettier-ignore
  const share = (value: number, [low, high]: [number, number]): number => (value - low) / (high - low);
  // from the axis on
  const inPixels = points.map(({ name, x, y }) => ({
    text: name,
    x: share(x, xs) * (WIDTH - MARGINS.left - MARGINS.right),
    y: MARGINS.top + (1 - share(y, ys)) * (HEIGHT - MARGINS.top - MARGINS.bottom),
  }));
  const labels = labelPlaces(inPixels, WIDTH - MARGINS.left, HEIGHT - MARGINS.bottom);
  const svg = plot.plot({
    document,
    width: WIDTH,
    height: HEIGHT,
    marginLeft: MARGINS.left,
    marginRight: MARGINS.right,
    marginTop: MARGINS.top,
    marginBottom: MARGINS.bottom,
    style: { fontSize: '12px', background: 'none' },
    x: {
      label: `${axis.label} (${axis.better === 'less' ? 'less' : 'more'} is better)`,
      labelAnchor: 'center',
      labelArrow: 'none',
      tickFormat: formatTick,
      ticks: 7,
      domain: xs,
    },
    y: {
      label: 'perplexity (less is better)',
      grid: true,
      tickFormat: formatTick,
      ticks: 5,
      domain: ys,
    },
    marks: [
      plot.line(front, {
        ...at,
        curve: axis.better === 'less' ? 'step-after' : 'step-before',
        stroke: 'currentColor',
        strokeOpacity: 0.45,
        strokeDasharray: '5 3',
      }),
      plot.dot(points, { ...at, fill: 'color', r: 5, title: 'title' }),
      ...points.map((point, i) => plot.text([point], { ...at, text: 'name', ...labels[i]!, fill: point.color })),
    ],
  }).outerHTML;
  return `<figure><h3>${escapeHtml(axis.title)}</h3>${svg}</figure>`;
}

/**
 * Charts of perplexity against size, speed and cost, as HTML for a report; the dashed line joins the models that no other one beats.
 * Empty without perplexities.
 *
 * @throws BackendError if there is something to draw and `@observablehq/plot` or `linkedom` is not installed
 */
export async function paretoCharts(models: readonly ComparedModel[]): Promise<string> {
  if (models.every(({ measured }) => measured.perplexity === null)) return '';
  const { plot, document } = await loadPlot('report');
  const figures = axes.map((axis) => chart(plot, document, models, axis));
  return `<p class="soft">The dashed line joins the models that no other one beats in both.</p><div class="charts">${figures.join('')}</div>`;
}
