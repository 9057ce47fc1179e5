// node scripts/bench_table.mjs [--check]: writes the tables of README.md and docs/performance.md from the newest record in
// docs/benchmarks, between the marks `<!-- bench: all -->` (or `headline`) and `<!-- /bench -->`. --check only compares.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { main, root, ScriptError } from './common.mjs';

const folder = join(root, 'docs', 'benchmarks');
const documents = ['README.md', 'docs/performance.md'];
/** Rows that the README shows, by the beginning of name and shape. */
const headline = [
  'matmul NN 1024x1024x1024',
  'matmul NT 3072x1536x384',
  'matmul NN 256x50257x768',
  'attention forward+backward 1x12x1024x64',
  'softmax',
  'rmsNorm',
  'adamw',
  'matmulInt8',
  'linear int4',
  'sparse',
  'add, whole call',
  'training step',
  'prefill',
  'decode',
  'import',
];

const figure = (value) =>
  value >= 1000 ? Math.round(value).toLocaleString('en-US') : value >= 100 ? value.toFixed(0) : value.toPrecision(3);

/** The newest record and its name, or undefined. */
export function newestRecord() {
  const files = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.json')) : [];
  const name = files.sort().at(-1);
  return name === undefined ? undefined : { name, ...JSON.parse(readFileSync(join(folder, name), 'utf8')) };
}

function table(record, kind) {
  const chosen = (row) => headline.some((start) => `${row.name} ${row.shape}`.startsWith(start));
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
  const width = head.map((title, i) => Math.max(title.length, ...cells.map((line) => line[i].length)));
  const line = (parts) => `| ${parts.map((part, i) => part.padEnd(width[i])).join(' | ')} |`;
  const versions = Object.entries(record.versions).map(([name, version]) => `${name} ${version}`);
  const about = `${record.cpu}, ${record.isa}, ${record.threads} threads, Node ${record.node}, ${record.date.slice(0, 10)}, commit ${record.commit.replace('+', '')}; ${versions.join(', ')}.`;
  return [about, '', line(head), line(width.map((n) => '-'.repeat(n))), ...cells.map(line)].join('\n');
}

/** The text with its tables as the record has them. */
export function withTables(text, record) {
  return text.replace(
    /(<!-- bench: (all|headline) -->\n)[\s\S]*?(\n<!-- \/bench -->)/g,
    (_, begin, kind, end) => `${begin}\n${table(record, kind)}\n${end}`,
  );
}

if (process.argv[1] === import.meta.filename) {
  await main((args) => {
    const record = newestRecord();
    if (record === undefined) throw new ScriptError('bench_table: docs/benchmarks holds no record');
    let stale = 0;
    for (const name of documents) {
      const before = readFileSync(join(root, name), 'utf8');
      const after = withTables(before, record);
      if (before === after) continue;
      stale++;
      if (args.includes('--check')) console.log(`${name}: its table is not that of ${record.name}`);
      else writeFileSync(join(root, name), after);
    }
    return args.includes('--check') && stale > 0 ? 1 : 0;
  });
}
