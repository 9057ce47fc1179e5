/**
 * The curves of reports, drawn by Observable Plot into SVG.
 *
 * @module
 */
import { formatTick, loadPlot, type PlotModule } from '../util/plot.js';
import type { EvalEvent, StepEvent } from './events.js';
import { colorOf, escapeHtml, smoothingChoice } from '../util/report_page.js';
import type { HardwareUse } from './run_lines.js';

/** What is drawn of a run. */
export interface RunCurves {
  readonly name: string;
  readonly steps: readonly (StepEvent & Partial<HardwareUse>)[];
  readonly evals: readonly EvalEvent[];
  /** Steps at which something happened, and what. */
  readonly marks: readonly { readonly step: number; readonly label: string }[];
}

interface Point {
  readonly x: number;
  readonly y: number;
}

interface Line {
  readonly color: string;
  readonly points: readonly Point[];
  readonly kind: 'smoothed' | 'plain' | 'measured' | 'dashed';
  /** Of the unsmoothed points behind a smoothed line. Default 0.3. */
  readonly opacity?: number;
}

interface Chart {
  readonly title: string;
  readonly x: string;
  readonly y: string;
  readonly lines: readonly Line[];
  readonly fromZero?: boolean;
  /** Logarithmic, if the values differ enough for it. */
  readonly log?: boolean;
  /** Vertical lines, with what they mean. */
  readonly rules?: readonly { readonly step: number; readonly label: string }[];
}

/** Points of a line, at most: more are not to be told apart on paper. */
const POINTS = 700;

/** At most `count` evenly spaced entries, the last one included. */
function thin<T>(values: readonly T[], count = POINTS): T[] {
  if (values.length <= count) return [...values];
  return Array.from({ length: count }, (_, i) => values[Math.round((i * (values.length - 1)) / (count - 1))]!);
}

/** As few points as {@link thin} leaves, but the least and the greatest of each stretch among them: spikes are what one looks for. */
function thinKeepingSpikes(points: readonly Point[]): Point[] {
  if (points.length <= POINTS) return [...points];
  const stretches = POINTS / 2;
  const kept: Point[] = [];
  for (let i = 0; i < stretches; i++) {
    const from = Math.floor((i * points.length) / stretches);
    const stretch = points.slice(from, Math.floor(((i + 1) * points.length) / stretches));
    const least = stretch.reduce((a, b) => (b.y < a.y ? b : a));
    const most = stretch.reduce((a, b) => (b.y > a.y ? b : a));
    kept.push(...(least.x < most.x ? [least, most] : least === most ? [least] : [most, least]));
  }
  return kept;
}

/** Exponential moving average over about `span` points, corrected for its start. */
function smooth(points: readonly Point[], span: number): Point[] {
  if (span <= 1) return [...points];
  const weight = 1 - 1 / span;
  let [average, total] = [0, 0];
  return points.map(({ x, y }) => {
    average = weight * average + (1 - weight) * y;
    total = weight * total + (1 - weight);
    return { x, y: average / total };
  });
}

const isDrawable = ({ x, y }: Point): boolean => Number.isFinite(x) && Number.isFinite(y);

function draw(plot: PlotModule, document: unknown, chart: Chart): string {
  const lines = chart.lines.map((line) => ({ ...line, points: line.points.filter(isDrawable) }));
  const values = lines.flatMap(({ points }) => points.map(({ y }) => y));
  if (values.length === 0) return '';
  const [least, most] = values.reduce(([a, b], y) => [Math.min(a, y), Math.max(b, y)] as const, [
    Infinity,
    -Infinity,
  ] as const);
  const isLog = chart.log === true && least > 0 && most / least > 30;
  // One value alone would leave the axis without an extent.
  const span = least === most ? Math.abs(least) || 1 : 0;
  const low = chart.fromZero === true ? Math.min(0, least) : least - span / 2;
  const axes = { x: 'x', y: 'y' };
  const marks = lines.flatMap(({ points, color, kind, opacity = 0.3 }) => {
    const dots = (r: number): object => plot.dot(points, { ...axes, fill: color, r });
    const line = (options: object, data: readonly Point[] = points): object =>
      plot.line(thin(data), { ...axes, stroke: color, ...options });
    if (points.length === 1) return [dots(4)];
    if (kind === 'measured') return [line({ strokeWidth: 1.5 }), dots(points.length > 40 ? 2 : 3.5)];
    if (kind === 'dashed') return [line({ strokeWidth: 1.5, strokeDasharray: '5 3' })];
    if (kind === 'plain') return [line({ strokeWidth: 1.8 })];
    const spans = [1, Math.max(4, Math.min(20, points.length / 25)), Math.max(8, Math.min(100, points.length / 8))];
    return [
      line({ strokeWidth: 1, strokeOpacity: opacity }, thinKeepingSpikes(points)),
      ...spans.map((width, i) => line({ strokeWidth: 1.8, className: `smooth-${i}` }, smooth(points, width))),
    ];
  });
  const rules = chart.rules ?? [];
  const svg = plot.plot({
    document,
    width: 640,
    height: 270,
    marginLeft: 58,
    marginRight: 16,
    marginTop: 26,
    marginBottom: 42,
    style: { fontSize: '12px', background: 'none' },
    x: { label: chart.x, labelAnchor: 'center', labelArrow: 'none', tickFormat: formatTick, ticks: 7 },
    y: {
      label: chart.y,
      grid: true,
      tickFormat: formatTick,
      ticks: 5,
      type: isLog ? 'log' : 'linear',
      ...(isLog ? {} : { nice: true, domain: [low, most + span / 2] }),
    },
    marks: [
      plot.ruleX(rules, {
        x: 'step',
        title: 'label',
        stroke: 'currentColor',
        strokeOpacity: 0.45,
        strokeDasharray: '2 3',
      }),
      ...marks,
    ],
  }).outerHTML;
  return `<figure><h3>${escapeHtml(chart.title)}</h3>${svg}</figure>`;
}

/** Seconds of training before each step, all sessions together. */
function secondsOf(steps: RunCurves['steps']): number[] {
  let [before, last] = [0, 0];
  return steps.map(({ elapsed }) => {
    if (elapsed < last) before += last;
    last = elapsed;
    return before + elapsed;
  });
}

const MIB = 2 ** 20;

const seconds = { name: 'seconds', seconds: 1 };
const minutes = { name: 'minutes', seconds: 60 };
const hours = { name: 'hours', seconds: 3600 };

function chartsOf(runs: readonly RunCurves[]): { training: Chart[]; hardware: Chart[] } {
  const alone = runs.length === 1;
  const opacity = alone ? 0.3 : 0.15;
  const longest = Math.max(0, ...runs.map(({ steps }) => secondsOf(steps).at(-1) ?? 0));
  const unit = longest > 10_800 ? hours : longest > 180 ? minutes : seconds;
  const each = (kind: Line['kind'], y: (step: RunCurves['steps'][number]) => number, color?: string): Line[] =>
    runs.map(({ steps }, i) => ({
      color: color ?? colorOf(i),
      kind,
      opacity,
      points: steps.map((step) => ({ x: step.step, y: y(step) })),
    }));
  const timed = (kind: Line['kind'], y: (step: RunCurves['steps'][number]) => number | undefined, shift = 0): Line[] =>
    runs.map(({ steps }, i) => {
      const times = secondsOf(steps);
      return {
        color: colorOf(i + shift),
        kind,
        opacity,
        points: steps.map((step, at) => ({ x: times[at]! / unit.seconds, y: y(step) ?? NaN })),
      };
    });
  const validations = runs.map(({ evals }, i): Line => ({
    color: colorOf(alone ? 1 : i),
    kind: 'measured',
    points: evals.map(({ step, loss }) => ({ x: step, y: loss })),
  }));
  const rules = alone ? { rules: runs[0]!.marks } : {};
  const step = { x: 'step' };
  const losses = each('smoothed', ({ loss }) => loss);
  const training: Chart[] = alone
    ? [{ ...step, title: 'Loss', y: 'nats a token', lines: [...losses, ...validations], ...rules }]
    : [
        { ...step, title: 'Training loss', y: 'nats a token', lines: losses },
        { ...step, title: 'Validation loss', y: 'nats a token', lines: validations },
      ];
  training.push(
    { ...step, title: 'Learning rate', y: 'learning rate', lines: each('plain', ({ lr }) => lr), fromZero: true },
    {
      ...step,
      title: 'Gradient norm',
      y: 'norm, before clipping',
      lines: each('smoothed', ({ gradNorm }) => gradNorm),
      log: true,
      ...rules,
    },
    {
      ...step,
      title: 'Throughput',
      y: 'tokens/s',
      lines: each('smoothed', ({ tokensPerSecond }) => tokensPerSecond),
      fromZero: true,
    },
  );
  const time = { x: `${unit.name} of training`, fromZero: true };
  const hardware: Chart[] = [
    {
      ...time,
      title: alone ? 'Memory: process, and (dashed) tensors' : 'Memory of the process',
      y: 'MiB',
      lines: [
        ...timed('plain', ({ rss }) => (rss === undefined ? undefined : rss / MIB)),
        ...(alone ? timed('dashed', ({ memory }) => (memory === undefined ? undefined : memory / MIB), 1) : []),
      ],
    },
    {
      ...time,
      title: 'Processor',
      y: '% of one core',
      lines: timed('smoothed', ({ cpu }) => (cpu === 0 ? undefined : cpu)),
    },
  ];
  return { training, hardware };
}

function legend(runs: readonly RunCurves[]): string {
  const key = (i: number, kind: string, text: string): string =>
    `<span><i class="${kind}" style="color:${colorOf(i)};border-color:${colorOf(i)}"></i><em title="${escapeHtml(text)}">${escapeHtml(text)}</em></span>`;
  if (runs.length > 1)
    return `<div class="legend">${runs.map(({ name }, i) => key(i, '', name)).join('')}${smoothingChoice}</div>`;
  const [run] = runs;
  const keys = [key(0, '', 'training'), key(0, 'faint', 'each step')];
  if (run!.evals.length > 0) keys.push(key(1, 'dot', 'validation'));
  if (run!.marks.length > 0) keys.push('<span>┊ <em>resumes and the like</em></span>');
  return `<div class="legend">${keys.join('')}${smoothingChoice}</div>`;
}

/**
 * The charts of one run, or of several over each other, as HTML. Empty where nothing was logged.
 *
 * @throws BackendError if there is something to draw and a package for it is not installed
 */
export async function renderCharts(runs: readonly RunCurves[]): Promise<{ training: string; hardware: string }> {
  if (runs.every(({ steps, evals }) => steps.length === 0 && evals.length === 0)) return { training: '', hardware: '' };
  const { plot, document } = await loadPlot('report');
  const { training, hardware } = chartsOf(runs);
  const figures = (charts: readonly Chart[]): string => {
    const drawn = charts.map((chart) => draw(plot, document, chart)).filter((html) => html !== '');
    return drawn.length === 0 ? '' : `<div class="charts">${drawn.join('')}</div>`;
  };
  return { training: `${legend(runs)}${figures(training)}`, hardware: figures(hardware) };
}
