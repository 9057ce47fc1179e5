/**
 * One self-contained HTML page about compressed models beside the one they were made of.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { defaults } from '../../cost/hardware.js';
import { writeFileAtomically } from '../../util/atomic_file.js';
import { checkKeys } from '../../util/assert.js';
import { formatBytes } from '../../util/format.js';
import { colorOf, escapeHtml, factTable, htmlPage, htmlTable, section, type Cell } from '../../util/report_page.js';
import {
  comparedTo,
  compressionTable,
  describeSteps,
  figures,
  type ComparedModel,
  type CompressionCard,
} from './card.js';
import { paretoCharts } from './pareto.js';
import type { StepNote } from './step.js';

/** Options of {@link renderCompressionReport}. */
export interface CompressionReportOptions {
  /** Default: made of the names. */
  readonly title?: string;
  /** What the original is called. Default `original`. */
  readonly baseline?: string;
}

/** The original and all compressed models that were measured. */
export function comparedModels(cards: readonly CompressionCard[], baseline = 'original'): ComparedModel[] {
  const before = cards.find((card) => card.before !== null)?.before ?? null;
  return [
    ...(before === null ? [] : [{ name: baseline, measured: before }]),
    ...cards.flatMap((card) =>
      card.after === null ? [] : [{ name: card.name, how: describeSteps(card), measured: card.after }],
    ),
  ];
}

/** What was done to each model. */
function stepsTable(models: readonly ComparedModel[]): string {
  const rows = models.flatMap(({ name, how }) => (how === undefined ? [] : [[name, how.join('; then ')]]));
  return rows.length === 0 ? '' : factTable(Object.fromEntries(rows) as Record<string, string>);
}

/** The table, with the best figure of each column marked. */
function resultTable(models: readonly ComparedModel[]): string {
  if (models.length === 0) return '';
  const rows = compressionTable(models);
  const titles = Object.keys(rows[0]!.cells);
  const bestOf = (title: string): number => {
    const figure = figures.find((one) => one.title === title);
    if (figure === undefined) return -1;
    const values = models.map(({ measured }) => figure.of(measured) ?? NaN);
    const finite = values.filter(Number.isFinite);
    return values.indexOf(figure.better === 'less' ? Math.min(...finite) : Math.max(...finite));
  };
  const best = titles.map(bestOf);
  const body = rows.map(({ name, cells }, i): Cell[] => [
    { html: `<i class="swatch" style="background:${colorOf(i)}"></i>${escapeHtml(name)}`, className: 'name' },
    ...titles.map((title, j): Cell => ({ html: escapeHtml(cells[title]!), className: best[j] === i ? 'best' : '' })),
  ]);
  return htmlTable(['model', ...titles], body);
}

/** Percentiles and the like that the table has no room for. */
function detailTable(models: readonly ComparedModel[]): string {
  if (models.length === 0) return '';
  const ms = (seconds: number): string => `${(1000 * seconds).toFixed(2)} ms`;
  const head = ['model', 'first token, median', 'first token, p95', 'next token, median', 'next token, p95'];
  const memory = ['process without model', 'with model', 'peak'];
  const rows = models.map(({ name, measured: { speed, memory: size } }) => [
    name,
    ...[speed.firstToken, speed.nextToken].flatMap(({ p50, p95 }) => [ms(p50), ms(p95)]),
    ...[size.without, size.resident, size.peak].map(formatBytes),
  ]);
  const [{ measured }] = models as [ComparedModel];
  const { promptTokens, newTokens, runs } = measured.speed;
  const how = `One sequence: a prompt of ${promptTokens} tokens, ${newTokens} generated greedily; ${runs} runs after a warm one, the models in turns. Memory is that of a process of its own, which loads the model and generates.`;
  return `<p class="soft">${how}</p>${htmlTable([...head, ...memory], rows)}`;
}

const cell = (value: unknown): string => {
  if (typeof value !== 'number') return String(value ?? '–');
  return Number.isInteger(value) ? value.toLocaleString('en') : value.toPrecision(3);
};

function notesTable(notes: readonly StepNote[]): string {
  if (notes.length === 0) return '';
  const titles = [...new Set(notes.flatMap((note) => Object.keys(note)))];
  const rows = notes.map((note) => titles.map((title) => cell(note[title])));
  const layers = notes.some((note) => note['path'] !== undefined) ? `${notes.length} layers` : 'what was noted';
  return `<details><summary>${layers}</summary>${htmlTable(titles, rows)}</details>`;
}

function cardSection(card: CompressionCard): string {
  const done = describeSteps(card);
  const steps = card.steps.map(({ settings, notes }, i) => {
    const facts = Object.entries(settings).map(([key, value]) => [key, JSON.stringify(value)] as const);
    return `<h3>${i + 1}. ${escapeHtml(done[i]!)}</h3>${factTable(Object.fromEntries(facts))}${notesTable(notes)}`;
  });
  const { calibration, key } = card;
  const data =
    calibration === null
      ? 'none'
      : `${calibration.inputs} inputs, ${calibration.elements.toLocaleString('en')} numbers, SHA-256 ${key.calibration}`;
  const facts = { calibration: data, 'hash of the original': key.model, 'hash of the plan': key.plan, made: card.made };
  return section(card.name, ...steps, factTable(facts));
}

function costFacts({ hardware, machine }: CompressionCard): Record<string, string> {
  const { assumptions, perBusyHour } = hardware;
  const isDefault = assumptions['hourly'] === defaults.rent.value;
  const rent = isDefault ? ` (${defaults.rent.unit}; ${defaults.rent.source})` : '';
  return {
    'an hour in which tokens are made': `$${perBusyHour.toPrecision(3)}`,
    assumptions: `${Object.entries(assumptions).map(([name, value]) => `${name} ${value}`).join(', ')}${rent}`, // prettier-ignore
    processor: `${machine.processor}, ${machine.threads} threads, ${machine.isa}`,
    platform: `${machine.platform}, Node ${machine.node}, omnigrad ${machine.omnigrad}`,
  };
}

/**
 * The page as text: a table with the original first, charts of quality against size, speed and cost, and each model's card.
 *
 * @throws AttributeError without a card
 * @throws BackendError if `@observablehq/plot` or `linkedom` is not installed
 */
export async function renderCompressionReport(
  cards: readonly CompressionCard[],
  options: CompressionReportOptions = {},
): Promise<string> {
  const op = 'renderCompressionReport';
  checkKeys(op, options, ['title', 'baseline']);
  const [first] = cards;
  if (first === undefined)
    throw new AttributeError({ op, argument: 'cards', expected: 'at least one card', actual: 'none' });
  const models = comparedModels(cards, options.baseline);
  const title = options.title ?? `Compressed: ${cards.map(({ name }) => name).join(', ')}`;
  const changes = cards.flatMap(({ name, before, after }) => {
    if (before === null || after === null) return [];
    const parts = [
      `${comparedTo(after.bytes, before.bytes)} of the size`,
      `${comparedTo(after.speed.decode, before.speed.decode)} of the speed`,
    ];
    if (after.perplexity !== null && before.perplexity !== null)
      parts.push(`perplexity ${comparedTo(after.perplexity, before.perplexity)}`);
    return [`${name}: ${parts.join(', ')}`];
  });
  return htmlPage(title, changes.join('; '), [
    section('Result', resultTable(models)),
    section('How they were made', stepsTable(models)),
    section('Quality against size and speed', await paretoCharts(models)),
    section('Latency and memory', detailTable(models)),
    ...cards.map(cardSection),
    section('Cost and machine', factTable(costFacts(first))),
  ]);
}

/** Writes the page of {@link renderCompressionReport}, atomically. */
export async function writeCompressionReport(
  file: string,
  cards: readonly CompressionCard[],
  options?: CompressionReportOptions,
): Promise<void> {
  const html = await renderCompressionReport(cards, options);
  await writeFileAtomically(file, (write) => write(new TextEncoder().encode(html)));
}
