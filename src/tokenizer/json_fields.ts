/** Reading fields of a parsed `tokenizer.json`, with errors that name the path of what is wrong. */
import { FormatError } from '../errors.js';

/** A JSON object. */
export type JsonObject = { readonly [key: string]: unknown };

const SHOWN = 60;

/** A short rendering of a JSON value for an error. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  const text = JSON.stringify(value) ?? String(value);
  return text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text;
}

/** A `FormatError` about the value at `path`. */
export function badField(path: string, expected: string, value: unknown): FormatError {
  return new FormatError({ op: 'tokenizer.json', argument: path, expected, actual: show(value) });
}

/** @throws `FormatError` unless `value` is an object. */
export function asObject(value: unknown, path: string): JsonObject {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw badField(path, 'an object', value);
  return value as JsonObject;
}

/** @throws `FormatError` unless `value` is an array. */
export function asArray(value: unknown, path: string): readonly unknown[] {
  if (!Array.isArray(value)) throw badField(path, 'an array', value);
  return value as readonly unknown[];
}

/** @throws `FormatError` unless `value` is a string. */
export function asString(value: unknown, path: string): string {
  if (typeof value !== 'string') throw badField(path, 'a string', value);
  return value;
}

/** @throws `FormatError` unless `value` is a token id, an integer from 0 below 2^31. */
export function asId(value: unknown, path: string): number {
  if (!Number.isInteger(value) || (value as number) < 0 || (value as number) > 0x7fffffff) {
    throw badField(path, 'an integer from 0 below 2^31', value);
  }
  return value as number;
}

/** @throws `FormatError` unless `value` is a finite number. */
export function asNumber(value: unknown, path: string): number {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw badField(path, 'a number', value);
  return value;
}

/** A string field; absent or null gives `fallback`, without one it is required. */
export function stringField(object: JsonObject, key: string, path: string, fallback?: string): string {
  const value = object[key] ?? fallback;
  return asString(value, `${path}.${key}`);
}

/** A string field that may be absent or null. */
export function optionalString(object: JsonObject, key: string, path: string): string | undefined {
  const value = object[key];
  return value === undefined || value === null ? undefined : asString(value, `${path}.${key}`);
}

/** A boolean field; absent or null gives `fallback`. */
export function booleanField(object: JsonObject, key: string, path: string, fallback: boolean): boolean {
  const value = object[key] ?? fallback;
  if (typeof value !== 'boolean') throw badField(`${path}.${key}`, 'true or false', value);
  return value;
}

/** A count; absent or null gives `fallback`. */
export function countField(object: JsonObject, key: string, path: string, fallback: number): number {
  return asId(object[key] ?? fallback, `${path}.${key}`);
}

/** One of a few strings; absent or null gives `fallback`. */
export function choiceField<T extends string>(
  object: JsonObject,
  key: string,
  path: string,
  choices: readonly T[],
  fallback: T,
): T {
  const value = object[key] ?? fallback;
  if (!choices.includes(value as T)) throw badField(`${path}.${key}`, choices.join(' or '), value);
  return value as T;
}

/** The pattern of a Split or Replace: `{String: …}` or `{Regex: …}`. */
export function patternField(object: JsonObject, path: string): { readonly literal?: string; readonly regex?: string } {
  const pattern = asObject(object['pattern'], `${path}.pattern`);
  if (typeof pattern['String'] === 'string') return { literal: pattern['String'] };
  if (typeof pattern['Regex'] === 'string') return { regex: pattern['Regex'] };
  throw badField(`${path}.pattern`, '{"String": …} or {"Regex": …}', pattern);
}

/** Limits recursion through nested "Sequence" parts. */
export function checkDepth(depth: number, path: string): void {
  if (depth > 16) throw badField(path, 'at most 16 nested sequences', 'more');
}
