/**
 * Reading protocol buffers: the fields of one message in order.
 *
 * Source: Protocol Buffers encoding, https://protobuf.dev/programming-guides/encoding/
 *
 * @module
 */
import { FormatError } from '../errors.js';

/** A field: its number, and its value as a number or as the bytes it holds. */
export interface ProtobufField {
  readonly number: number;
  /** Integer (wire type 0), or 0 for other types. */
  readonly integer: number;
  /** Contents of wire types 1 (8 bytes), 2 (any number) and 5 (4 bytes); empty for integers. */
  readonly bytes: Uint8Array;
}

function broken(actual: string): FormatError {
  return new FormatError({ op: 'protobuf', argument: 'message', expected: 'well-formed fields', actual });
}

/**
 * Goes through the fields of a message.
 *
 * @throws `FormatError` if a field is cut off, or has an unknown wire type.
 */
export function* protobufFields(message: Uint8Array): Generator<ProtobufField> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = message[at++];
      if (byte === undefined) throw broken('a number that is cut off');
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw broken('a number of more than 64 bits');
  };
  const take = (length: number): Uint8Array => {
    if (length > message.length - at) throw broken(`${length} bytes announced where ${message.length - at} are left`);
    at += length;
    return message.subarray(at - length, at);
  };
  const none = new Uint8Array(0);
  while (at < message.length) {
    const tag = varint();
    const number = Math.floor(tag / 8);
    if (number < 1) throw broken('a field without a number');
    switch (tag % 8) {
      case 0:
        yield { number, integer: varint(), bytes: none };
        break;
      case 1:
        yield { number, integer: 0, bytes: take(8) };
        break;
      case 2:
        yield { number, integer: 0, bytes: take(varint()) };
        break;
      case 5:
        yield { number, integer: 0, bytes: take(4) };
        break;
      default:
        throw broken(`wire type ${tag % 8}`);
    }
  }
}

/** The float32 in a field of wire type 5. */
export function floatOf({ bytes }: ProtobufField): number {
  if (bytes.length !== 4) throw broken('a float that is not 4 bytes long');
  return new DataView(bytes.buffer, bytes.byteOffset, 4).getFloat32(0, true);
}

/** The text in a field of wire type 2. */
export function textOf({ bytes }: ProtobufField): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw broken('text that is not UTF-8');
  }
}
