/** Every row of the op table through every check, and the table against the lists of operations and kernels. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { registry } from '../../src/ops/define.js';
import * as ops from '../../src/ops/index.js';
import { checkBits, checkCoverage, checkForward, checkGradient, checkLayouts, checkWrongInputs } from './checks.js';
import { table, withoutRow } from './table.js';

for (const row of table) {
  describe(row.name, () => {
    test('shapes', () => checkCoverage(row));
    test('values on every instruction set, in every dtype', () => checkForward(row));
    test('layouts', () => checkLayouts(row));
    test('gradient', () => checkGradient(row));
    test('bits', () => checkBits(row));
    test('wrong inputs', () => checkWrongInputs(row));
  });
}

test('every operation has a row, or a reason for having none', () => {
  const names = Object.entries(ops)
    .filter(([, value]) => typeof value === 'function')
    .map(([name]) => name);
  const inTable = new Set(table.map((row) => row.op ?? row.name));
  const missing = names.filter((name) => !inTable.has(name) && withoutRow[name] === undefined);
  assert.deepEqual(missing, [], 'operations without a row');
  const stale = Object.keys(withoutRow).filter((name) => inTable.has(name) || !names.includes(name));
  assert.deepEqual(stale, [], 'reasons that are no longer needed');
});

test('every kernel that a row names is in the registry', () => {
  const named = table.flatMap((row) => row.kernels ?? []);
  assert.deepEqual(
    named.filter((name) => !registry.has(name)),
    [],
  );
});
