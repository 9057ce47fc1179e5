/** Pages about runs, made of logs. What they look like is for the eye; here is what they hold. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import * as og from '../../src/index.js';
import { parseHTML } from 'linkedom';
import { makeRun as makeRunIn, type MadeRun } from '../helpers/made_run.js';

let root = '';
before(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'omnigrad-report-'));
});
after(() => rm(root, { recursive: true, force: true }));

const makeRun = (options: Omit<MadeRun, 'dir'>): Promise<og.RunRecord> =>
  makeRunIn({ ...options, dir: path.join(root, options.name.replaceAll(/\W/g, '_')) });

const textOf = (html: string): { document: ReturnType<typeof parseHTML>['document']; text: string } => {
  const { document } = parseHTML(html);
  return { document, text: document.body.textContent ?? '' };
};

test('a page of one run holds its curves, figures, samples, events, data and configuration', async () => {
  const run = await makeRun({ name: 'one & only' });
  const file = path.join(root, 'one.html');
  await og.writeRunReport(file, [run]);
  const html = await readFile(file, 'utf8');
  const { document, text } = textOf(html);
  assert.equal(document.querySelector('h1')!.textContent, 'one & only');
  const titles = [...document.querySelectorAll('figure h3')].map((title) => title.textContent);
  assert.deepEqual(titles.slice(0, 4), ['Loss', 'Learning rate', 'Gradient norm', 'Throughput']);
  assert.ok(titles.includes('Memory: process, and (dashed) tensors'));
  for (const svg of document.querySelectorAll('figure svg')) {
    const paths = [...svg.querySelectorAll('path')].map((drawn) => drawn.getAttribute('d') ?? '');
    assert.ok(paths.some((d) => d.length > 20));
    assert.doesNotMatch(svg.outerHTML, /NaN|Infinity/, 'odd numbers are left out of curves');
  }
  assert.equal(document.querySelectorAll('figure')[0]!.querySelectorAll('circle').length, 4, 'a dot a validation');
  for (const expected of [
    '40 of 40',
    '1.075',
    'best validation loss (step 40)',
    'text & more of 40',
    'text & more of 10',
    'rollback',
    'a <spike>',
    '<made up>',
    'optimizer.lr',
    'adamw',
  ])
    // prettier-ignore
    assert.ok(text.includes(expected), expected);
  assert.doesNotMatch(html, /<script|https?:\/\/(?!www\.w3\.org)/, 'nothing from elsewhere');
});

test('a page of several runs lays curves over each other and names differences; equal names become folders', async () => {
  const runs = [await makeRun({ name: 'a', lr: 0.001 }), await makeRun({ name: 'b', lr: 0.01, floor: 0.5, steps: 30 })];
  const { document, text } = textOf(await og.renderRunReport(runs));
  const titles = [...document.querySelectorAll('figure h3')].map((title) => title.textContent);
  assert.deepEqual(titles.slice(0, 2), ['Training loss', 'Validation loss']);
  const strokes = new Set([...document.querySelectorAll('figure')[0]!.querySelectorAll('[stroke^="#"]')].map((g) => g.getAttribute('stroke'))); // prettier-ignore
  assert.equal(strokes.size, 2, 'a colour a run');
  assert.ok(text.includes('optimizer.lr') && !text.includes('batchSize'), 'only what differs');
  const best = [...document.querySelectorAll('td.best')].map((cell) => cell.textContent);
  assert.ok(best.includes('0.6'), `validation loss of b is marked: ${best.join(' ')}`);
  const twins = await og.renderRunReport([runs[0]!, { ...runs[0]!, dir: 'elsewhere/a' }]);
  assert.match(twins, /elsewhere\/a/);
  assert.match(twins, /The configurations are the same/);
  assert.doesNotMatch(twins, /<h2>Result/);
  const scored = runs.map((run, i) => ({ ...run, rows: [{ name: `row ${i}`, cells: { score: `0.5${i}` } }] }));
  const table = textOf(await og.renderRunReport(scored)).text;
  for (const expected of ['row 0', '0.50', 'row 1', '0.51']) assert.ok(table.includes(expected), expected);
});

test('a run of one step, and one without any, make pages too', async () => {
  const one = await og.renderRunReport([await makeRun({ name: 'tiny', steps: 1 })]);
  assert.ok(textOf(one).document.querySelectorAll('figure circle').length > 0, 'a dot where a line has no length');
  const run = await makeRun({ name: 'none', steps: 1 });
  const html = await og.renderRunReport([{ ...run, steps: [], evals: [], samples: [] }]);
  assert.equal(textOf(html).document.querySelectorAll('figure').length, 0);
  await assert.rejects(og.renderRunReport([]), /runs: expected at least one run, got none/);
});

test('a report of given content is made as before', async () => {
  const { steps, evals } = await makeRun({ name: 'content' });
  const facts = { machine: '<two> cores' };
  const rows = [{ name: 'float32', cells: { perplexity: '12.3' } }];
  const samples = [{ title: 'Sample', text: 'once' }];
  const html = await og.renderReport({ title: 'T', summary: 'S', steps, evals, rows, samples, facts });
  const { document, text } = textOf(html);
  assert.equal(document.querySelectorAll('figure').length, 4, 'memory and processor were not logged');
  for (const expected of ['12.3', 'float32', 'once', '<two> cores']) assert.ok(text.includes(expected), expected);
});
