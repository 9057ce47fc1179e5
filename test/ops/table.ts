/** The op table: a row for every operation, and a reason for each that has none. See checks.ts for what a row is put through. */
import { elementwiseRows } from './rows/elementwise.js';
import type { Row } from './row.js';

export const table: readonly Row[] = [...elementwiseRows];
