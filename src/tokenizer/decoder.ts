/**
 * Decoders of `tokenizer.json`: from tokens back to text. A decoder is a chain of steps over a list of strings, which
 * are joined at the end.
 *
 * @module
 */
import { alphabetToBytes, byteOfFallbackToken } from './byte_level.js';
import {
  asArray,
  asObject,
  badField,
  booleanField,
  checkDepth,
  choiceField,
  countField,
  stringField,
  type JsonObject,
} from './json_fields.js';
import { replacePattern } from './normalizer.js';

/** One step: a list of strings to a list of strings. */
export type DecodeStep = (tokens: string[]) => string[];

const encoder = new TextEncoder();

/** UTF-8 to text: U+FFFD for what is no UTF-8, a leading U+FEFF kept. */
export function bytesToText(bytes: Uint8Array): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
}

/** The bytes of a byte-level token; a token outside the alphabet, such as an added one, stands for its own text. */
export function byteLevelTokenBytes(token: string): Uint8Array {
  return alphabetToBytes(token) ?? encoder.encode(token);
}

function concatBytes(parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(parts);
}

const byteLevel: DecodeStep = (tokens) => [bytesToText(concatBytes(tokens.map(byteLevelTokenBytes)))];

/** Runs of `<0xNN>` become the text they spell, or one U+FFFD per byte if they spell none. */
const byteFallback: DecodeStep = (tokens) => {
  const out: string[] = [];
  let bytes: number[] = [];
  const flush = (): void => {
    if (bytes.length === 0) return;
    const text = strictText(Uint8Array.from(bytes));
    if (text === undefined) for (const _ of bytes) out.push('\ufffd');
    else out.push(text);
    bytes = [];
  };
  for (const token of tokens) {
    const byte = byteOfFallbackToken(token);
    if (byte >= 0) bytes.push(byte);
    else {
      flush();
      out.push(token);
    }
  }
  flush();
  return out;
};

function strictText(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { ignoreBOM: true, fatal: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

/** Tidying of English punctuation as in BERT's vocabulary scripts. */
function cleanUp(text: string): string {
  return text
    .replaceAll(' .', '.')
    .replaceAll(' ?', '?')
    .replaceAll(' !', '!')
    .replaceAll(' ,', ',')
    .replaceAll(" ' ", "'")
    .replaceAll(" n't", "n't")
    .replaceAll(" 'm", "'m")
    .replaceAll(' do not', " don't")
    .replaceAll(" 's", "'s")
    .replaceAll(" 've", "'ve")
    .replaceAll(" 're", "'re");
}

function wordPiece(json: JsonObject, path: string): DecodeStep {
  const prefix = stringField(json, 'prefix', path, '##');
  const tidy = booleanField(json, 'cleanup', path, true) ? cleanUp : (text: string) => text;
  return (tokens) =>
    tokens.map((token, i) => {
      if (i === 0) return tidy(token);
      return tidy(token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`);
    });
}

function metaspace(json: JsonObject, path: string): DecodeStep {
  const mark = stringField(json, 'replacement', path, '▁');
  const fallback = booleanField(json, 'add_prefix_space', path, true) ? 'always' : 'never';
  const scheme = choiceField(json, 'prepend_scheme', path, ['always', 'first', 'never'], fallback);
  return (tokens) => tokens.map((token, i) => token.replaceAll(mark, i === 0 && scheme !== 'never' ? '' : ' '));
}

function strip(json: JsonObject, path: string): DecodeStep {
  const content = stringField(json, 'content', path);
  const start = countField(json, 'start', path, 0);
  const stop = countField(json, 'stop', path, 0);
  return (tokens) =>
    tokens.map((token) => {
      const chars = Array.from(token);
      let from = 0;
      while (from < start && chars[from] === content) from++;
      let to = chars.length;
      while (chars.length - to < stop && to > from && chars[to - 1] === content) to--;
      return chars.slice(from, to).join('');
    });
}

function ctc(json: JsonObject, path: string): DecodeStep {
  const pad = stringField(json, 'pad_token', path, '<pad>');
  const delimiter = stringField(json, 'word_delimiter_token', path, '|');
  const tidy = booleanField(json, 'cleanup', path, true);
  return (tokens) =>
    tokens
      .filter((token, i) => i === 0 || token !== tokens[i - 1])
      .map((token) =>
        tidy ? cleanUp(token.replaceAll(pad, '')).replaceAll(delimiter, ' ') : token.replaceAll(pad, ''),
      )
      .filter((token) => token !== '');
}

/**
 * Reads the `decoder` of a `tokenizer.json`. Without one, tokens are joined by spaces.
 *
 * @throws `FormatError` if it is malformed or of an unknown type.
 */
export function readDecoder(value: unknown, path: string): DecodeStep[] {
  if (value === undefined || value === null) return [(tokens) => [tokens.join(' ')]];
  return readSteps(value, path, 0);
}

function readSteps(value: unknown, path: string, depth: number): DecodeStep[] {
  checkDepth(depth, path);
  const json = asObject(value, path);
  const type = stringField(json, 'type', path);
  switch (type) {
    case 'ByteLevel':
      return [byteLevel];
    case 'ByteFallback':
      return [byteFallback];
    case 'Fuse':
      return [(tokens) => [tokens.join('')]];
    case 'WordPiece':
      return [wordPiece(json, path)];
    case 'Metaspace':
      return [metaspace(json, path)];
    case 'Strip':
      return [strip(json, path)];
    case 'CTC':
      return [ctc(json, path)];
    case 'Replace': {
      const pattern = replacePattern(json, path);
      const content = stringField(json, 'content', path);
      return [(tokens) => tokens.map((token) => token.replace(pattern, () => content))];
    }
    case 'BPEDecoder': {
      const suffix = stringField(json, 'suffix', path, '</w>');
      return [(tokens) => tokens.map((token, i) => token.replaceAll(suffix, i === tokens.length - 1 ? '' : ' '))];
    }
    case 'Sequence': {
      const parts = asArray(json['decoders'], `${path}.decoders`);
      return parts.flatMap((part, i) => readSteps(part, `${path}.decoders[${i}]`, depth + 1));
    }
    default:
      throw badField(`${path}.type`, 'a known decoder', type);
  }
}

/** Whether a decoder is byte-level, so that its tokens can be decoded one by one. */
export function isByteLevelDecoder(steps: readonly DecodeStep[]): boolean {
  return steps.length === 1 && steps[0] === byteLevel;
}
