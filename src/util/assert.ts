/** Checks of option values. Each throws the sentence that a user should read. */
import { AttributeError } from '../errors.js';
import { formatValue } from './format.js';
import { nearestName } from './nearest.js';

/** @throws AttributeError unless `value` is an integer in [low, high] */
export function checkInteger(
  op: string,
  argument: string,
  value: unknown,
  low = Number.MIN_SAFE_INTEGER,
  high = Number.MAX_SAFE_INTEGER,
): number {
  if (Number.isSafeInteger(value) && (value as number) >= low && (value as number) <= high) return value as number;
  const range =
    high === Number.MAX_SAFE_INTEGER
      ? low === Number.MIN_SAFE_INTEGER
        ? ''
        : ` of at least ${low}`
      : ` from ${low} to ${high}`;
  throw new AttributeError({ op, argument, expected: `an integer${range}`, actual: formatValue(value) });
}

/** @throws AttributeError unless `value` is a number in [low, high] */
export function checkNumber(op: string, argument: string, value: unknown, low = -Infinity, high = Infinity): number {
  if (typeof value === 'number' && !Number.isNaN(value) && value >= low && value <= high) return value;
  const range =
    high === Infinity
      ? low === -Infinity
        ? ''
        : ` of at least ${low}`
      : low === -Infinity
        ? ` of at most ${high}`
        : ` from ${low} to ${high}`;
  throw new AttributeError({ op, argument, expected: `a number${range}`, actual: formatValue(value) });
}

/** @throws AttributeError unless `value` is one of `choices` */
export function checkOneOf<T extends string>(op: string, argument: string, value: unknown, choices: readonly T[]): T {
  if (choices.includes(value as T)) return value as T;
  throw new AttributeError({
    op,
    argument,
    expected: choices.map((choice) => JSON.stringify(choice)).join(' or '),
    actual: formatValue(value),
  });
}

/** @throws AttributeError unless `value` is a boolean */
export function checkBoolean(op: string, argument: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value;
  throw new AttributeError({ op, argument, expected: 'true or false', actual: formatValue(value) });
}

/** @throws AttributeError naming the first key of `options` that is not in `known`, as one of `argument` */
export function checkKeys(op: string, options: object, known: readonly string[], argument = 'options'): void {
  for (const key of Object.keys(options)) {
    if (!known.includes(key)) {
      const nearest = nearestName(key, known);
      throw new AttributeError({
        op,
        argument,
        expected: known.join(', ') || 'no options',
        actual: JSON.stringify(key),
        hint: nearest === undefined ? undefined : `Did you mean ${nearest}`,
      });
    }
  }
}
