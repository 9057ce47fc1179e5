/** Every row of the op table through every check, and the table against the lists of operations and kernels. */
import { describe, test } from 'node:test';
import { checkBits, checkCoverage, checkForward, checkGradient, checkLayouts, checkWrongInputs } from './checks.js';
import { table } from './table.js';

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
