/** The rows that the README shows are rows of the bench. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { kernelCases } from '../../bench/kernels/index.js';
import { modelCases, partsOf } from '../../bench/models.js';

const script = new URL('../../scripts/bench_table.mjs', import.meta.url);

test('every headline is a row', async () => {
  const { headline } = (await import(script.href)) as { headline: readonly string[] };
  const rows = [
    ...kernelCases,
    ...modelCases(false).flatMap((model) =>
      partsOf(model).map((part) => ({ name: model.name + part, shape: model.shape })),
    ),
    { name: 'import', shape: 'fresh process' },
  ].map(({ name, shape }) => `${name} ${shape}`);
  assert.deepEqual(
    headline.filter((label) => !rows.includes(label)),
    [],
  );
});
