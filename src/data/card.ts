/**
 * What a data set is made of and what was done to it, for people (Markdown) and programs (JSON).
 *
 * @module
 */
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { checkKeys } from '../util/assert.js';
import { writeFileAtomically } from '../util/atomic_file.js';
import { AttributeError } from '../errors.js';
import { formatValue } from '../util/format.js';
import type { CleanReport } from './clean/pipeline.js';
import type { FileReport } from './read/options.js';
import type { ShardIndex } from './shards/index_file.js';

/** A source as its user describes it. */
export interface DataSource {
  readonly name: string;
  /** Licence, as an SPDX identifier where there is one. */
  readonly licence?: string;
  readonly url?: string;
  readonly description?: string;
  /** What was read, from a `DocumentStream`. */
  readonly files?: readonly FileReport[];
}

/** What {@link dataCard} puts together. */
export interface DataCardContent {
  readonly name: string;
  readonly description?: string;
  readonly sources: readonly DataSource[];
  readonly cleaning?: CleanReport;
  readonly shards?: ShardIndex;
  /** Leave out beginnings of dropped texts (they may hold what was to be removed). Default false. */
  readonly withoutSamples?: boolean;
  /** When it was made, ISO 8601. Default: now. */
  readonly created?: string;
}

/** A data card as plain JSON: for `saveModel(…, { card: { data: card } })`, say. */
export interface DataCard {
  readonly format: 'omnigrad-data-card';
  readonly version: 1;
  readonly name: string;
  readonly description?: string;
  readonly created: string;
  readonly sources: readonly DataSource[];
  readonly cleaning?: CleanReport;
  /** Documents by language, where the cleaning looked for it. */
  readonly languages?: Readonly<Record<string, number>>;
  readonly tokens?: {
    readonly tokens: number;
    readonly documents: number;
    readonly shards: number;
    readonly tokenizer: ShardIndex['tokenizer'];
    /** SHA-256 over the documents that went in. */
    readonly sourceDigest: string;
    readonly sha256: readonly string[];
  };
}

const KEYS = ['name', 'description', 'sources', 'cleaning', 'shards', 'withoutSamples', 'created'];

function withoutSamples(report: CleanReport): CleanReport {
  const steps = report.steps.map((step) => ({
    ...step,
    dropped: Object.fromEntries(
      Object.entries(step.dropped).map(([reason, entry]) => [reason, { ...entry, samples: [] }]),
    ),
  }));
  return { ...report, steps };
}

/**
 * The card of a data set.
 *
 * @throws AttributeError if a name is missing
 */
export function dataCard(content: DataCardContent): DataCard {
  checkKeys('dataCard', content, KEYS);
  const { name, description, sources, cleaning, shards } = content;
  for (const [argument, value] of [
    ['name', name],
    ...sources.map((source, i) => [`sources[${i}].name`, source.name]),
  ]) {
    if (typeof value === 'string' && value !== '') continue;
    throw new AttributeError({ op: 'dataCard', argument: argument!, expected: 'a name', actual: formatValue(value) });
  }
  const languages = cleaning?.steps.find((step) => step.summary?.['languages'] !== undefined)?.summary!['languages'];
  return {
    format: 'omnigrad-data-card',
    version: 1,
    name,
    ...(description === undefined ? {} : { description }),
    created: content.created ?? new Date().toISOString(),
    sources: structuredClone(sources) as readonly DataSource[],
    ...(cleaning === undefined ? {} : { cleaning: content.withoutSamples ? withoutSamples(cleaning) : cleaning }),
    ...(languages === undefined ? {} : { languages: languages as Record<string, number> }),
    ...(shards === undefined
      ? {}
      : {
          tokens: {
            tokens: shards.tokens,
            documents: shards.documents,
            shards: shards.shards.length,
            tokenizer: shards.tokenizer,
            sourceDigest: shards.sourceDigest,
            sha256: shards.shards.map(({ sha256 }) => sha256),
          },
        }),
  };
}

const number = (value: number): string => value.toLocaleString('en-US');

/** Text inside a cell or a line: nothing in it is Markdown or HTML, or ends the cell. */
function plain(text: string): string {
  return text
    .replace(/\s+/g, ' ')
    .replace(/[\\`*_{}[\]()#+!|~]/g, '\\$&')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .trim();
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

function cleaningSection(report: CleanReport): string[] {
  const share = (after: number, before: number): string =>
    before === 0 ? '–' : `${((100 * after) / before).toFixed(1)} %`;
  const parts = [
    '## Cleaning',
    `${number(report.documents.before)} documents before, ${number(report.documents.after)} after (${share(report.documents.after, report.documents.before)}); ` +
      `${number(report.characters.before)} characters before, ${number(report.characters.after)} after (${share(report.characters.after, report.characters.before)}).`,
    table(
      ['step', 'documents before', 'documents after', 'characters before', 'characters after', 'changed'],
      report.steps.map((step) => [
        plain(step.name),
        number(step.documents.before),
        number(step.documents.after),
        number(step.characters.before),
        number(step.characters.after),
        number(step.changed),
      ]),
    ),
  ];
  for (const step of report.steps) {
    parts.push(`### ${plain(step.name)}`, `Options: \`${JSON.stringify(step.options).replaceAll('`', 'ˋ')}\``);
    const counts = Object.entries(step.counts);
    if (counts.length > 0) parts.push(counts.map(([name, times]) => `- ${plain(name)}: ${number(times)}`).join('\n'));
    const reasons = Object.entries(step.dropped);
    if (reasons.length === 0) continue;
    parts.push(
      table(
        ['dropped as', 'documents', 'characters'],
        reasons.map(([reason, entry]) => [plain(reason), number(entry.documents), number(entry.characters)]),
      ),
    );
    const samples = reasons.flatMap(([reason, entry]) =>
      entry.samples.map(({ id, text, detail }) => {
        const why = detail === undefined ? plain(reason) : `${plain(reason)} (${plain(detail)})`;
        return `- ${why}, ${plain(id)}: ${plain(text)}`;
      }),
    );
    if (samples.length > 0) parts.push(samples.join('\n'));
  }
  return parts;
}

/** A card as Markdown. */
export function dataCardMarkdown(card: DataCard): string {
  const parts = [`# ${plain(card.name)}`];
  if (card.description !== undefined) parts.push(plain(card.description));
  parts.push(`Made ${plain(card.created)}.`, '## Sources');
  parts.push(
    table(
      ['name', 'licence', 'documents', 'malformed', 'address', 'description'],
      card.sources.map(({ name, licence, url, description, files }) => [
        plain(name),
        plain(licence ?? 'not given'),
        files === undefined ? '–' : number(files.reduce((sum, { documents }) => sum + documents, 0)),
        files === undefined ? '–' : number(files.reduce((sum, { malformed }) => sum + malformed, 0)),
        plain(url ?? '–'),
        plain(description ?? '–'),
      ]),
    ),
  );
  if (card.languages !== undefined) {
    const rows = Object.entries(card.languages).map(([language, documents]) => [plain(language), number(documents)]);
    parts.push('## Languages', table(['language', 'documents'], rows));
  }
  if (card.cleaning !== undefined) parts.push(...cleaningSection(card.cleaning));
  if (card.tokens !== undefined) {
    const { tokens, documents, shards, tokenizer, sourceDigest } = card.tokens;
    parts.push(
      '## Tokens',
      `${number(tokens)} tokens of ${number(documents)} documents in ${number(shards)} shards.`,
      `- vocabulary: ${number(tokenizer.vocabSize)}, SHA-256 \`${tokenizer.hash}\`\n- documents: SHA-256 \`${sourceDigest}\``,
    );
  }
  return `${parts.join('\n\n')}\n`;
}

/**
 * Writes `data_card.json` and `DATA_CARD.md` into a folder.
 *
 * @throws ResourceError if a file cannot be written
 */
export async function saveDataCard(dir: string, card: DataCard): Promise<void> {
  await mkdir(dir, { recursive: true });
  const encoder = new TextEncoder();
  const json = encoder.encode(`${JSON.stringify(card, null, 2)}\n`);
  await writeFileAtomically(path.join(dir, 'data_card.json'), (write) => write(json));
  const markdown = encoder.encode(dataCardMarkdown(card));
  await writeFileAtomically(path.join(dir, 'DATA_CARD.md'), (write) => write(markdown));
}
