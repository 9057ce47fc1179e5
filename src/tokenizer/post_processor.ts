/**
 * Post-processors of `tokenizer.json`: the special tokens put around a text, and the trimming of offsets.
 *
 * @module
 */
import { BYTE_CHARS } from './byte_level.js';
import {
  asArray,
  asId,
  asObject,
  badField,
  booleanField,
  checkDepth,
  stringField,
  type JsonObject,
} from './json_fields.js';

/** What to put around the ids of one text. */
export interface PostProcessor {
  readonly before: readonly number[];
  readonly after: readonly number[];
  /** Leave white space out of offsets; `keepFirst` for the space that was put in front. */
  readonly trim: { readonly keepFirst: boolean } | undefined;
}

const NOTHING: PostProcessor = { before: [], after: [], trim: undefined };

/**
 * Reads the `post_processor` of a `tokenizer.json`.
 *
 * @throws `FormatError` if it is malformed or of an unknown type.
 */
export function readPostProcessor(value: unknown, path: string, depth = 0): PostProcessor {
  if (value === undefined || value === null) return NOTHING;
  checkDepth(depth, path);
  const json = asObject(value, path);
  const type = stringField(json, 'type', path);
  switch (type) {
    case 'ByteLevel':
      return { ...NOTHING, trim: readTrim(json, path) };
    case 'TemplateProcessing':
      return readTemplate(json, path);
    case 'BertProcessing':
    case 'RobertaProcessing': {
      const trim = type === 'RobertaProcessing' ? readTrim(json, path) : undefined;
      return { before: [pairId(json, 'cls', path)], after: [pairId(json, 'sep', path)], trim };
    }
    case 'Sequence': {
      const parts = asArray(json['processors'], `${path}.processors`);
      return parts
        .map((part, i) => readPostProcessor(part, `${path}.processors[${i}]`, depth + 1))
        .reduce(
          (all, part) => ({
            before: [...part.before, ...all.before],
            after: [...all.after, ...part.after],
            trim: all.trim ?? part.trim,
          }),
          NOTHING,
        );
    }
    default:
      throw badField(`${path}.type`, 'a known post-processor', type);
  }
}

function readTrim(json: JsonObject, path: string): PostProcessor['trim'] {
  if (!booleanField(json, 'trim_offsets', path, true)) return undefined;
  return { keepFirst: booleanField(json, 'add_prefix_space', path, true) };
}

function pairId(json: JsonObject, key: string, path: string): number {
  const pair = asArray(json[key], `${path}.${key}`);
  return asId(pair[1], `${path}.${key}[1]`);
}

function readTemplate(json: JsonObject, path: string): PostProcessor {
  const specials = asObject(json['special_tokens'] ?? {}, `${path}.special_tokens`);
  const before: number[] = [];
  const after: number[] = [];
  let seen = false;
  asArray(json['single'], `${path}.single`).forEach((raw, i) => {
    const where = `${path}.single[${i}]`;
    const piece = asObject(raw, where);
    if (piece['Sequence'] !== undefined) {
      if (seen) throw badField(where, 'one sequence', 'a second one');
      seen = true;
      return;
    }
    const name = stringField(asObject(piece['SpecialToken'], `${where}.SpecialToken`), 'id', `${where}.SpecialToken`);
    const special = Object.hasOwn(specials, name) ? specials[name] : undefined;
    const at = `${path}.special_tokens[${JSON.stringify(name)}]`;
    const ids = asArray(asObject(special, at)['ids'], `${at}.ids`).map((id, k) => asId(id, `${at}.ids[${k}]`));
    (seen ? after : before).push(...ids);
  });
  return { before, after, trim: undefined };
}

/** The offsets of `token` without the white space at its ends. */
export function trimOffsets(
  token: string,
  [start, end]: readonly [number, number],
  isFirst: boolean,
  keepFirst: boolean,
): [start: number, end: number] {
  const space = BYTE_CHARS[0x20]!;
  const isSpace = (char: string): boolean => char === space || /\p{White_Space}/u.test(char);
  const chars = Array.from(token);
  let leading = chars.findIndex((char) => !isSpace(char));
  if (leading < 0) leading = chars.length;
  const trailing = chars.length - 1 - chars.findLastIndex((char) => !isSpace(char));
  let from = start;
  let to = end;
  if (leading > 0) {
    // A single space may be the one that was put in front; more are the text's own.
    if ((isFirst || start === 0) && keepFirst && leading === 1) leading = 0;
    from = Math.min(from + leading, to);
  }
  if (trailing > 0 && to >= trailing) to = Math.max(to - trailing, from);
  return [from, to];
}
