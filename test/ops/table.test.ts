/** Every row of the op table through every check, and the table against the lists of operations and kernels. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { registry } from '../../src/ops/define.js';
import * as ops from '../../src/ops/index.js';
import {
  checkBits,
  checkCoverage,
  checkForward,
  checkGradient,
  checkLayouts,
  checkWrongInputs,
  opsOf,
} from './checks.js';
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

/** Ops with a kernel that no row goes through, each with the reason. */
const unheard: Readonly<Record<string, string>> = {};

test('every op with a kernel is run by some row or by its gradient, and every row runs what it names', () => {
  const heard = new Set<string>();
  const unfounded: string[] = [];
  for (const row of table) {
    const own = opsOf(row);
    for (const name of own) heard.add(name);
    for (const name of row.kernels ?? []) if (!own.has(name)) unfounded.push(`${row.name}: ${name}`);
  }
  const missing = [...registry.keys()].filter((name) => !heard.has(name) && unheard[name] === undefined);
  assert.deepEqual(missing, [], 'ops that no row runs');
  const stale = Object.keys(unheard).filter((name) => heard.has(name) || !registry.has(name));
  assert.deepEqual(stale, [], 'reasons that are no longer needed');
  assert.deepEqual(unfounded, [], 'rows that do not run what they name');
});
