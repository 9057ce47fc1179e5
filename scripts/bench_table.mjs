// node scripts/bench_table.mjs [--check]: writes the tables of README.md and the guides from the newest records in docs/benchmarks (of
// compressed models: in its folder compression; the goals of the reference machine: reference), between the marks `<!-- bench: all -->` (or
// `headline`, `goals`, `compression`, `compression headline`) and `<!-- /bench -->`. --check only compares.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { main, root, ScriptError } from './common.mjs';
import { compressionTables } from './compression_table.mjs';

const records = join(root, 'docs', 'benchmarks');
const documents = ['README.md', 'docs/performance.md', 'docs/guides/compress.md'];
/** Rows that the README shows, by name and shape. */
export const headline = [
  'matmul NN 1024x1024x1024',
  'matmul NN 256x50257x768',
  'linear, weights in memory 1x50257x768',
  'matmulInteger u8u8 512x2304x768',
  'linear int4, groups of 32, int8 activations 1x50257x768',
  'sparseLinear csr 90 % 512x3072x768',
  'attention forward+backward 1x12x1024x64',
  'softmax 8192x1024',
  'crossEntropy forward+backward 256x50257',
  'adamw 8388608',
  'add, whole call 2',
  'training step 6 layers, 384 wide, 12x256',
  'training step: peak memory 6 layers, 384 wide, 12x256',
  'training step: event-loop gap 6 layers, 384 wide, 12x256',
  'prefill 12 layers, 768 wide, 512 tokens',
  'decode 12 layers, 768 wide, 64 tokens after 128',
  'import fresh process',
];

const figure = (value) =>
  value >= 1000 ? Math.round(value).toLocaleString('en-US') : value >= 100 ? value.toFixed(0) : value.toPrecision(3);

/** The newest record of a folder and its name, or undefined. */
export function newestRecord(folder = records) {
  const files = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.json')) : [];
  const name = files.sort().at(-1);
  return name === undefined ? undefined : { name, ...JSON.parse(readFileSync(join(folder, name), 'utf8')) };
}

/** A table as Prettier lays it out. */
function layOut(head, cells) {
  const width = head.map((title, i) => Math.max(3, title.length, ...cells.map((line) => line[i].length)));
  const line = (parts) => `| ${parts.map((part, i) => part.padEnd(width[i])).join(' | ')} |`;
  return [line(head), line(width.map((n) => '-'.repeat(n))), ...cells.map(line)].join('\n');
}

function table(record, kind) {
  const chosen = (row) => headline.includes(`${row.name} ${row.shape}`);
  const rows = record.rows.filter((row) => kind === 'all' || chosen(row));
  const cells = rows.map((row) => [
    row.name,
    row.shape,
    `${figure(row.ours)} ${row.unit}`,
    row.ofCeiling === null ? '' : `${(100 * row.ofCeiling).toFixed(0)} %`,
    row.peer === null ? '' : `${figure(row.peer)} (${row.peerName})`,
    row.ratio === null ? '' : row.ratio.toFixed(2),
  ]);
  const head = ['what', 'shape', 'omnigrad', 'of ceiling', 'best peer', 'ratio'];
  return [about(record), '', layOut(head, cells)].join('\n');
}

function about({ cpu, isa, threads, node, date, commit, versions }) {
  const peers = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
  return `${cpu}, ${isa}, ${threads} thread${threads === 1 ? '' : 's'}, Node ${node}, ${date.slice(0, 10)}, commit ${commit.replace('+', '')}; ${peers.join(', ')}.`;
}

/** The goals that a run could judge. */
function goals(record) {
  const judged = record.targets.filter(({ verdict }) => verdict !== 'not measured');
  const cells = judged.map(({ goal, against, atLeast, over, rows, reached, verdict }) => [
    goal,
    against,
    `${over === 'each' && rows > 1 ? 'each ' : ''}${atLeast}`,
    reached === null ? '' : figure(reached),
    verdict,
  ]);
  const met = judged.filter(({ verdict }) => verdict === 'met').length;
  const head = ['goal', 'against', 'at least', 'reached', ''];
  return [`${about(record)} ${met} of ${judged.length} met.`, '', layOut(head, cells)].join('\n');
}

/** The text with its tables as the records have them; `reference` is the one with the goals of the reference machine. */
export function withTables(text, record, compression, reference) {
  const marked =
    /(<!-- bench: (all|headline|goals|compression|compression headline) -->\n)[\s\S]*?(\n<!-- \/bench -->)/g;
  const tables = {
    all: record && (() => table(record, 'all')),
    headline: record && (() => table(record, 'headline')),
    goals: reference && (() => goals(reference)),
    compression: compression && (() => compressionTables(compression, 'all', layOut)),
    'compression headline': compression && (() => compressionTables(compression, 'headline', layOut)),
  };
  return text.replace(marked, (whole, begin, kind, end) => {
    const make = tables[kind];
    return make === undefined ? whole : `${begin}\n${make()}\n${end}`;
  });
}

if (process.argv[1] === import.meta.filename) {
  await main((args) => {
    const record = newestRecord();
    const compression = newestRecord(join(records, 'compression'));
    const reference = newestRecord(join(records, 'reference'));
    if (record === undefined) throw new ScriptError('bench_table: docs/benchmarks holds no record');
    let stale = 0;
    for (const name of documents) {
      const before = readFileSync(join(root, name), 'utf8');
      const after = withTables(before, record, compression, reference);
      if (before === after) continue;
      stale++;
      if (args.includes('--check')) console.log(`${name}: its tables are not those of the newest records`);
      else writeFileSync(join(root, name), after);
    }
    return args.includes('--check') && stale > 0 ? 1 : 0;
  });
}
