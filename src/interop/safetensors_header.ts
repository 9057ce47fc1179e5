/**
 * The header of a safetensors file, believed only after every claim was checked against the file: sizes, offsets, shapes, names.
 * Format: https://github.com/huggingface/safetensors (u64 length, JSON, bytes).
 */
import { FormatError } from '../errors.js';
import { formatValue } from '../util/format.js';

/** Largest header accepted, as in the reference library. */
export const MAX_HEADER_BYTES = 100_000_000;
/** `{name: {shape: [n]}}` is three deep; more cannot be a header. */
const MAX_DEPTH = 4;

const bitsOf: Readonly<Record<string, number>> = {
  BOOL: 8,
  U8: 8,
  I8: 8,
  F8_E4M3: 8,
  F8_E5M2: 8,
  U16: 16,
  I16: 16,
  F16: 16,
  BF16: 16,
  U32: 32,
  I32: 32,
  F32: 32,
  U64: 64,
  I64: 64,
  F64: 64,
};

/** One tensor as the header describes it. */
export interface TensorEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** First byte, counted from the end of the header. */
  readonly begin: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  readonly metadata: ReadonlyMap<string, string>;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** Bytes before the first tensor. */
  readonly dataStart: number;
}

function malformed(file: string, expected: string, actual: string): FormatError {
  return new FormatError({ op: 'safetensors', argument: file, expected, actual });
}

/**
 * Length of the JSON header.
 *
 * @param start - the first 8 bytes of the file, or fewer if it has no more
 * @throws FormatError if the file is too short for what it claims
 */
export function headerLength(file: string, start: Uint8Array, fileBytes: number): number {
  if (start.byteLength < 8) throw malformed(file, 'an 8-byte header length', `${start.byteLength} bytes`);
  const claimed = new DataView(start.buffer, start.byteOffset, 8).getBigUint64(0, true);
  if (claimed > BigInt(MAX_HEADER_BYTES))
    throw malformed(file, `a header of at most ${MAX_HEADER_BYTES} bytes`, `${claimed}`);
  const length = Number(claimed);
  if (length < 2 || 8 + length > fileBytes)
    throw malformed(file, `a header within the ${fileBytes} bytes of the file`, `${length} bytes`);
  return length;
}

/** Refuses deep nesting before the parser sees it, and counts the keys of the outermost object. */
function scan(file: string, text: string): number {
  let depth = 0;
  let keys = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text[i]!;
    if (c === '"') {
      for (i++; i < text.length && text[i] !== '"'; i++) if (text[i] === '\\') i++;
      let next = i + 1;
      while (text[next] === ' ' || text[next] === '\n' || text[next] === '\t' || text[next] === '\r') next++;
      if (depth === 1 && text[next] === ':') keys++;
    } else if (c === '{' || c === '[') {
      if (++depth > MAX_DEPTH) throw malformed(file, 'a flat header', 'deeply nested JSON');
    } else if (c === '}' || c === ']') {
      depth--;
    }
  }
  return keys;
}

function parseObject(file: string, bytes: Uint8Array): Record<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw malformed(file, 'a header in UTF-8', 'invalid bytes');
  }
  if (text[0] !== '{') throw malformed(file, 'a header that starts with {', formatValue(text.slice(0, 1)));
  const keys = scan(file, text);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw malformed(file, 'a header in JSON', (cause as Error).message);
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed))
    throw malformed(file, 'a JSON object', formatValue(parsed));
  if (Object.keys(parsed).length !== keys) throw malformed(file, 'distinct tensor names', 'a name that appears twice');
  return parsed as Record<string, unknown>;
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

function parseEntry(file: string, name: string, value: unknown): TensorEntry {
  const where = `${file}: ${formatValue(name)}`;
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw malformed(where, 'an object', formatValue(value));
  const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>;
  if (typeof dtype !== 'string' || !Object.hasOwn(bitsOf, dtype))
    throw malformed(where, `a dtype of ${Object.keys(bitsOf).join(', ')}`, formatValue(dtype));
  if (!Array.isArray(shape) || !shape.every(isCount))
    throw malformed(where, 'a shape of non-negative integers', formatValue(shape));
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw malformed(where, 'data_offsets of two non-negative integers', formatValue(offsets));
  }
  const [begin, end] = offsets as [number, number];
  const elements = (shape as number[]).reduce((product, length) => product * length, 1);
  const bytes = (elements * bitsOf[dtype]!) / 8;
  if (!Number.isSafeInteger(bytes) || end - begin !== bytes)
    throw malformed(where, `${bytes} bytes for its shape`, `${end - begin}`);
  return { dtype, shape: shape as number[], begin, end };
}

/**
 * Reads and checks a header.
 *
 * @param bytes - the JSON part
 * @param payloadBytes - bytes of the file behind the header
 * @throws FormatError naming the tensor and what is wrong with it
 */
export function parseHeader(file: string, bytes: Uint8Array, payloadBytes: number): SafetensorsHeader {
  const object = parseObject(file, bytes);
  const metadata = new Map<string, string>();
  const tensors = new Map<string, TensorEntry>();
  for (const [name, value] of Object.entries(object)) {
    if (name === '__metadata__') {
      if (typeof value !== 'object' || value === null || Array.isArray(value))
        throw malformed(file, 'metadata as an object', formatValue(value));
      for (const [key, text] of Object.entries(value)) {
        if (typeof text !== 'string')
          throw malformed(`${file}: metadata ${formatValue(key)}`, 'a string', formatValue(text));
        metadata.set(key, text);
      }
    } else {
      tensors.set(name, parseEntry(file, name, value));
    }
  }
  // Without holes or overlaps the tensors, in order of their offsets, tile the payload exactly.
  let at = 0;
  for (const [name, entry] of [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)) {
    if (entry.begin !== at) throw malformed(`${file}: ${formatValue(name)}`, `data at offset ${at}`, `${entry.begin}`);
    at = entry.end;
  }
  if (at !== payloadBytes) throw malformed(file, `${at} bytes of data, as the header says`, `${payloadBytes}`);
  return { metadata, tensors, dataStart: 8 + bytes.byteLength };
}
