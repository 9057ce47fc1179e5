/**
 * The byte-level alphabet of GPT-2: every byte has one printable character, so that any byte string is a word over
 * 256 characters and a vocabulary of them can be written in JSON. Printable Latin-1 stands for itself, the other 68
 * bytes for U+0100 onwards in byte order (space is Ġ, newline is Ċ).
 *
 * Source: Radford et al. 2019, `bytes_to_unicode` as published with the GPT-2 vocabulary.
 *
 * @module
 */

const codes = new Uint16Array(256);
let spare = 0x100;
for (let byte = 0; byte < 256; byte++) {
  const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
  codes[byte] = printable ? byte : spare++;
}
const bytes = new Int16Array(spare).fill(-1);
codes.forEach((code, byte) => (bytes[code] = byte));

/** Character of each byte value. */
export const BYTE_CHARS: readonly string[] = Array.from(codes, (code) => String.fromCharCode(code));

/** The alphabet in code-point order, the order in which trained vocabularies list it. */
export const BYTE_ALPHABET: readonly string[] = Array.from(codes)
  .sort((a, b) => a - b)
  .map((code) => String.fromCharCode(code));

const encoder = new TextEncoder();

/** Writes UTF-8 `data` in the byte-level alphabet. */
export function bytesToAlphabet(data: Uint8Array): string {
  let out = '';
  for (const byte of data) out += BYTE_CHARS[byte]!;
  return out;
}

/** Writes the UTF-8 bytes of `text` in the byte-level alphabet. */
export function textToAlphabet(text: string): string {
  return bytesToAlphabet(encoder.encode(text));
}

/** The bytes `token` spells, or `undefined` if it has a character outside the alphabet. */
export function alphabetToBytes(token: string): Uint8Array | undefined {
  const out = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const code = token.charCodeAt(i);
    const byte = code < bytes.length ? bytes[code]! : -1;
    if (byte < 0) return undefined;
    out[i] = byte;
  }
  return out;
}

/** Reads a byte-fallback token such as `<0x0A>`: its byte, or -1. */
export function byteOfFallbackToken(token: string): number {
  return /^<0x[0-9A-F]{2}>$/.test(token) ? Number.parseInt(token.slice(3, 5), 16) : -1;
}

/** Spells a byte as byte-fallback vocabularies do: `<0x0A>`. */
export function fallbackToken(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
}
