/**
 * Comparisons and logic, element by element, with broadcasting. Results are bool; nothing is differentiable.
 *
 * @module
 */
import type { Tensor } from '../tensor/tensor.js';
import { defineBinary, type Operand } from './elementwise.js';

/** An element-wise comparison: the result is a bool tensor of the broadcast shape. */
export type Comparison = (a: Operand, b: Operand) => Tensor;
const comparison = (name: string): Comparison => defineBinary({ name, result: () => 'bool' });

/** a = b. NaN equals nothing. */
export const eq: Comparison = comparison('eq');
/** a ≠ b. */
export const ne: Comparison = comparison('ne');
/** a < b. */
export const lt: Comparison = comparison('lt');
/** a ≤ b. */
export const le: Comparison = comparison('le');
/** a > b. */
export const gt: Comparison = comparison('gt');
/** a ≥ b. */
export const ge: Comparison = comparison('ge');
/** Both are other than zero. */
export const logicalAnd: Comparison = comparison('logical_and');
/** One at least is other than zero. */
export const logicalOr: Comparison = comparison('logical_or');
/** Exactly one is other than zero. */
export const logicalXor: Comparison = comparison('logical_xor');
