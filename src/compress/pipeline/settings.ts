/**
 * Settings of steps, as JSON has them, made into the options of functions.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import type { Target } from '../../nn/surgery.js';
import { checkBoolean, checkKeys } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';

/** The object behind the name of a step. */
export type Settings = Readonly<Record<string, unknown>>;

/** The settings without some of them. */
export function without(settings: Settings, ...names: readonly string[]): Settings {
  return Object.fromEntries(Object.entries(settings).filter(([name]) => !names.includes(name)));
}

/** What a target in JSON means. @throws AttributeError unless it is one */
export function targetOf(op: string, argument: string, value: unknown): Target {
  const isName = (one: unknown): boolean => typeof one === 'string' && one !== '';
  if (isName(value)) {
    const pattern = /^\/(.+)\/([a-z]*)$/s.exec(value as string);
    if (pattern === null) return value as string;
    try {
      return new RegExp(pattern[1]!, pattern[2]);
    } catch (cause) {
      const actual = `${formatValue(value)} (${(cause as Error).message})`;
      throw new AttributeError({ op, argument, expected: 'a regular expression', actual, cause });
    }
  }
  if (Array.isArray(value) && value.length > 0 && value.every(isName)) return value as string[];
  const expected = 'a name, names, or a pattern between slashes';
  throw new AttributeError({ op, argument, expected, actual: formatValue(value) });
}

/** The option `target`, if the settings have it. */
export function targetSetting(op: string, { target }: Settings): { target?: Target } {
  return target === undefined ? {} : { target: targetOf(op, 'target', target) };
}

/**
 * The option `overrides`: layers with settings of their own, or none.
 *
 * @param keys - settings that an override may have beside `target` and `skip`
 * @param check - throws, in the name of `op`, if an override's settings cannot be
 */
export function overridesOf(
  op: string,
  source: unknown,
  keys: readonly string[],
  check: (op: string, own: Settings) => void,
): (Settings & { readonly target: Target })[] {
  if (source === undefined) return [];
  if (!Array.isArray(source)) {
    const actual = formatValue(source);
    throw new AttributeError({ op, argument: 'overrides', expected: 'a list of objects', actual });
  }
  return (source as Settings[]).map((override, i) => {
    const at = `${op}.overrides[${i}]`;
    if (typeof override !== 'object' || override === null) {
      const actual = formatValue(override);
      throw new AttributeError({ op, argument: `overrides[${i}]`, expected: 'an object', actual });
    }
    checkKeys(at, override, ['target', 'skip', ...keys]);
    if (override['skip'] !== undefined) checkBoolean(at, 'skip', override['skip']);
    if (override['skip'] !== true) check(at, without(override, 'target', 'skip'));
    return { ...override, target: targetOf(at, 'target', override['target']) };
  });
}
