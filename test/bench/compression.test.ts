/** Goals and tables of compressed models: what a record of known figures gives. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gapClosed, judge, layersFaster } from '../../bench/compression/goals.js';
import type { ModelQuality } from '../../bench/compression/quality.js';
import type { CompressionRecord } from '../../bench/compression/record.js';
import type { Speed } from '../../bench/compression/speed.js';

const script = new URL('../../scripts/bench_table.mjs', import.meta.url);
const origin = { date: '2026-01-02T00:00:00Z', cpu: 'a chip', isa: 'avx2', threads: 2, node: 'v20', commit: 'abc+' };

const quality: ModelQuality = {
  parameters: 2e6,
  steps: 100,
  tokens: 65_792,
  forms: {
    float32: { perplexity: 4, bytes: 1000 },
    'w8a8 SmoothQuant': { perplexity: 4.01, bytes: 260 },
    'w4a16 to nearest': { perplexity: 4.2, bytes: 160 },
    'w4a16 GPTQ': { perplexity: 4.1, bytes: 160 },
    '2:4, fine-tuned': { perplexity: 4.2, bytes: 590 },
    '2:4, fine-tuned, int8 table': { perplexity: 4.1, bytes: 610 },
    '2:4, fine-tuned, int8': { perplexity: 4.2, bytes: 190 },
    '90 %, fine-tuned': { perplexity: 6, bytes: 200 },
    '90 %, fine-tuned, int8': { perplexity: 6, bytes: 120 },
  },
  half: { magnitude: [5], wanda: [4.5, 4.6], sparsegpt: [4.4, 4.8] },
  student: {
    parameters: 5e5,
    alone: { perplexity: Math.E * 4, bytes: 240 },
    distilled: { perplexity: Math.sqrt(Math.E) * 4, bytes: 240 },
  },
  plan: { finetune: 1, student: 1, seeds: 2, training: true },
};
const form = (prefill: number, decode: number): { prefill: number; decode: number } => ({ prefill, decode });
const timings = (one: number, many: number): { rows: number; seconds: number }[] => [
  { rows: 1, seconds: one },
  { rows: 512, seconds: many },
];
const speed: Speed = {
  runs: 1,
  forms: {
    float32: form(100, 10),
    'w8a8 SmoothQuant': form(200, 30),
    w4a16: form(100, 40),
    w4a8: form(100, 50),
    '2:4': form(90, 12),
    '2:4, int8': form(90, 30),
    '90 %': form(100, 20),
    '90 %, int8': form(100, 25),
    student: form(300, 40),
  },
  layers: {
    float32: timings(4, 8),
    '2:4': timings(3, 9),
    '2:4, int8': timings(2, 9),
    '90 %': timings(1, 5),
    '90 %, int8': timings(1, 5),
  },
};
const record: Omit<CompressionRecord, 'judged'> = {
  quality: { small: { ...quality, origin } },
  speed: { ...speed, origin },
};

test('goals are judged by their own figures', () => {
  assert.ok(Math.abs(gapClosed(quality) - 0.5) < 1e-12);
  assert.equal(layersFaster(speed, '90 %', 1), 4);
  const missed = judge(record).filter(({ isMet }) => !isMet);
  assert.deepEqual(
    missed.map(({ goal, model }) => [goal, model]),
    [
      ['SparseGPT 50 %: perplexity over Wanda', 'small'], // 4.6 against 4.55
      ['2:4, fine-tuned: perplexity', 'small'], // 5 % more
      ['2:4, fine-tuned, int8 table: size', 'small'], // 0.61
      ['w4a16: decode', null], // 4 times
      ['90 %: layers, 512 rows', null], // 1.6 times
    ],
  );
  assert.ok(judge(record).some(({ goal, value }) => /less loss/.test(goal) && Math.abs(value - 0.49392) < 1e-4));
  assert.deepEqual(judge({ quality: {}, speed: null }), []);
  const { float32, ...others } = quality.forms;
  const untrained = {
    ...quality,
    forms: { float32: float32!, 'w8a8 SmoothQuant': others['w8a8 SmoothQuant']! },
    student: null,
  };
  const judged = judge({ quality: { small: { ...untrained, origin } }, speed: null });
  assert.equal(judged.length, 5, 'what was not measured is not judged'); // two of w8a8, three of half the weights
});

test('tables hold the figures of the record, and stay what they are', async () => {
  const { withTables } = (await import(script.href)) as {
    withTables: (text: string, record: unknown, compression: unknown) => string;
  };
  const page = (kind: string): string => `before\n<!-- bench: ${kind} -->\n\nold\n\n<!-- /bench -->\nafter\n`;
  const all = withTables(page('compression'), undefined, record);
  assert.match(all, /^before\n<!-- bench: compression -->\n\n\| /);
  const line = (text: string, start: string): string[] =>
    text.split('\n').find((row) => row.startsWith(`| ${start}`))!.split('|').map((cell) => cell.trim()).filter(Boolean); // prettier-ignore
  assert.deepEqual(line(all, 'w8a8'), ['w8a8, SmoothQuant', '4.010 (+0.25 %)', '0.26', '2.00', '3.00']);
  assert.deepEqual(line(all, 'float32'), ['float32', '4.000', '1.00', '100 tokens/s', '10 tokens/s']);
  assert.deepEqual(line(all, 'small'), ['small', '4.000', '5.000', '4.550 (4.500 to 4.600)', '4.600 (4.400 to 4.800)']);
  assert.deepEqual(line(all, '2:4, fine-tuned, int8 table'), [
    '2:4, fine-tuned, int8 table',
    '4.100 (+2.50 %)',
    '0.61',
  ]);
  assert.deepEqual(line(all, '90 %  '), ['90 %', '4.00', '1.60']);
  assert.match(
    all,
    /small: 2\.00 million parameters, perplexity on 65,792 tokens \(a chip, avx2, 2 threads, Node v20, 2026-01-02, commit abc\)/,
  );
  assert.equal(withTables(all, undefined, record), all);
  assert.ok(!all.includes('trained on'), 'rows that no model has are left out');
  const short = withTables(page('compression headline'), undefined, { ...record, speed: null });
  assert.ok(short.includes('a quarter, distilled') && !short.includes('to nearest') && !short.includes('tokens/s'));
  assert.equal(withTables(page('compression'), undefined, undefined), page('compression'));
});
