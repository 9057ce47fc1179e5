// node scripts/bench_table.mjs [--check]: writes the tables of README.md and docs/performance.md from the newest record in
// docs/benchmarks, between the marks `<!-- bench: all -->` (or `headline`) and `<!-- /bench -->`. --check only compares.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { main, root, ScriptError } from './common.mjs';

const folder = join(root, 'docs', 'benchmarks');
const documents = ['README.md', 'docs/performance.md'];
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

/** The newest record and its name, or undefined. */
export function newestRecord() {
  const files = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.json')) : [];
  const name = files.sort().at(-1);
  return name === undefined ? undefined : { name, ...JSON.parse(readFileSync(join(folder, name), 'utf8')) };
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
