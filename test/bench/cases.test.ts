/** What the bench measures: rows that can be told apart, goals and headlines that name rows which exist, ceilings. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { makeRow } from '../../bench/harness.js';
import { copiesInMemory, inTurn, intensityOf, limitOf, type KernelCase } from '../../bench/kernels/case.js';
import { kernelCases } from '../../bench/kernels/index.js';
import { modelCases, partsOf } from '../../bench/models.js';
import { withFinalCeilings } from '../../bench/run.js';
import { concerns, referenceTargets, targets } from '../../bench/targets.js';

const cases = [...kernelCases, ...modelCases(false)];
const label = ({ name, shape }: { readonly name: string; readonly shape: string }): string => `${name} ${shape}`;

test('every row has a label and an amount of its own', () => {
  const labels = cases.map(label);
  assert.deepEqual(
    labels.filter((text, i) => labels.indexOf(text) !== i),
    [],
  );
  for (const kernel of kernelCases) assert.ok(kernel.amount > 0 && Number.isFinite(kernel.amount), label(kernel));
});

test('a quick run has the rows of a full one, with smaller models', () => {
  const quick = modelCases(true);
  assert.ok(quick.length < modelCases(false).length);
  for (const { name } of modelCases(false))
    assert.ok(
      quick.some((model) => model.name === name),
      name,
    );
});

test('every goal is about a row, and every kernel goal that names torch about one that torch knows', () => {
  const ofModels = modelCases(false).flatMap((model) =>
    partsOf(model).map((part) => ({ name: model.name + part, shape: model.shape })),
  );
  const rows = [...kernelCases, ...ofModels];
  const aboutNothing = [...targets, ...referenceTargets].filter((target) => !rows.some((row) => concerns(target, row)));
  assert.deepEqual(aboutNothing, []);
  for (const target of targets) {
    if (target.against === 'ceiling') {
      const rows = kernelCases.filter((row) => concerns(target, row));
      assert.ok(
        rows.every((row) => limitOf(row) !== null),
        `${target.goal}: a row without a ceiling`,
      );
      continue;
    }
    if (target.against === 'figure') continue;
    // A goal against one way of a peer needs a row that has this way.
    for (const [peer, way] of target.against.map((name) => name.split(' ', 2))) {
      if (way === undefined || peer === 'omnigrad') continue;
      const rows = kernelCases.filter((row) => concerns(target, row));
      assert.ok(
        rows.every((row) => row.variants?.[peer!]?.some((variant) => variant.startsWith(way))),
        `${target.goal}: no ${peer} ${way}`,
      );
    }
  }
});

test('a case is held against the ceiling of its unit, or the one it names', () => {
  const kernel = (parts: Partial<KernelCase>): KernelCase => ({
    name: 'x',
    shape: '1',
    unit: 'GB/s',
    amount: 8,
    op: 'x',
    args: {},
    prepare: () => () => undefined,
    ...parts,
  });
  assert.equal(limitOf(kernel({})), 'copy');
  assert.equal(limitOf(kernel({ limit: 'read' })), 'read');
  assert.equal(limitOf(kernel({ limit: null })), null);
  assert.equal(limitOf(kernel({ unit: 'GOP/s' })), 'int8');
  assert.equal(limitOf(kernel({ unit: 'µs' })), null);
  assert.equal(intensityOf(kernel({ other: 2 })), 0.25);
  assert.equal(intensityOf(kernel({ unit: 'GFLOP/s', other: 2 })), 4);
  assert.equal(intensityOf(kernel({})), null);
});

test('rows end up against the ceilings that the whole run saw', () => {
  const common = { name: 'x', shape: '1', threads: 1, unit: 'GB/s', better: 'higher', ours: 20 } as const;
  const rows = [makeRow({ ...common, limit: 'read', ceiling: 25 }), makeRow(common)];
  const seen = { get: (kind: string) => (kind === 'read' ? 40 : 100) };
  const [read, free] = withFinalCeilings(rows, seen);
  assert.deepEqual([read!.ceiling, read!.limit, read!.ofCeiling], [40, 'read', 0.5]);
  assert.deepEqual([free!.ceiling, free!.ofCeiling], [null, null]);
});

test('operands in turn are enough to leave the caches', () => {
  assert.ok(copiesInMemory(1 << 20) * 2 ** 20 > 128 << 20);
  assert.equal(copiesInMemory(1 << 30), 1);
  let made = 0;
  const next = inTurn(3, () => made++);
  assert.deepEqual([next(), next(), next(), next()], [0, 1, 2, 0]);
});
