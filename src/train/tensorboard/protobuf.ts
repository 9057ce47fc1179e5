/**
 * Writing protocol buffers: as many kinds of fields as TensorBoard's messages have. Encoded by hand, since these are five kinds
 * of field in a dozen fixed messages: a library for protocol buffers weighs megabytes and wants generated code or schemas at run time.
 *
 * Source: Protocol Buffers encoding, https://protobuf.dev/programming-guides/encoding/
 *
 * @module
 */

/** The bytes of one field, or of several behind each other. */
export type Encoded = Uint8Array;

const text = new TextEncoder();

/** Several fields as one message. */
export function message(...fields: readonly Encoded[]): Encoded {
  const bytes = new Uint8Array(fields.reduce((sum, field) => sum + field.length, 0));
  let at = 0;
  for (const field of fields) {
    bytes.set(field, at);
    at += field.length;
  }
  return bytes;
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  for (; value >= 0x80; value = Math.floor(value / 0x80)) bytes.push((value % 0x80) | 0x80);
  bytes.push(value);
  return bytes;
}

const head = (number: number, wireType: number): number[] => varint(number * 8 + wireType);

/** A field of an integer from 0 to 2^53 − 1, or of a truth value. */
export function integerField(number: number, value: number | boolean): Encoded {
  return Uint8Array.from([...head(number, 0), ...varint(Number(value))]);
}

/** A field of bytes, which a nested message is, too. */
export function bytesField(number: number, bytes: Encoded): Encoded {
  return message(Uint8Array.from([...head(number, 2), ...varint(bytes.length)]), bytes);
}

/** A field of UTF-8 text. */
export function textField(number: number, value: string): Encoded {
  return bytesField(number, text.encode(value));
}

/** A field of 64 bits. */
export function doubleField(number: number, value: number): Encoded {
  return message(Uint8Array.from(head(number, 1)), doubles([value]));
}

/** A field of 32 bits. */
export function floatField(number: number, value: number): Encoded {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setFloat32(0, value, true);
  return message(Uint8Array.from(head(number, 5)), bytes);
}

/** A packed field of numbers of 64 bits. */
export function doublesField(number: number, values: readonly number[]): Encoded {
  return bytesField(number, doubles(values));
}

function doubles(values: readonly number[]): Encoded {
  const bytes = new Uint8Array(8 * values.length);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of values.entries()) view.setFloat64(8 * i, value, true);
  return bytes;
}
