/** Reading TensorBoard's event files, written without a look at what writes them: for the tests of the latter. */
import assert from 'node:assert/strict';
import { protobufFields, type ProtobufField } from '../../src/tokenizer/protobuf.js';

/** CRC-32C bit by bit, as RFC 3720 describes it. */
export function slowCrc32c(bytes: Uint8Array): number {
  let register = 0xffffffffn;
  for (const byte of bytes) {
    register ^= BigInt(byte);
    for (let bit = 0; bit < 8; bit++) register = (register >> 1n) ^ (register % 2n === 1n ? 0x82f63b78n : 0n);
  }
  return Number(register ^ 0xffffffffn);
}

function unmask(stored: number): number {
  const rotated = BigInt.asUintN(32, BigInt(stored) - 0xa282ead8n);
  return Number(BigInt.asUintN(32, (rotated >> 17n) | (rotated << 15n)));
}

/** The whole records of a file; fails on a wrong checksum. */
export function recordsOf(file: Buffer): Buffer[] {
  const records: Buffer[] = [];
  for (let at = 0; at + 12 <= file.length;) {
    const length = Number(file.readBigUInt64LE(at));
    if (at + 16 + length > file.length) break;
    assert.equal(unmask(file.readUInt32LE(at + 8)), slowCrc32c(file.subarray(at, at + 8)), 'checksum of the length');
    const bytes = file.subarray(at + 12, at + 12 + length);
    assert.equal(unmask(file.readUInt32LE(at + 12 + length)), slowCrc32c(bytes), 'checksum of the record');
    records.push(bytes);
    at += 16 + length;
  }
  return records;
}

const fieldsOf = (bytes: Uint8Array): ProtobufField[] => [...protobufFields(bytes)];
const only = (fields: readonly ProtobufField[], number: number): ProtobufField | undefined =>
  fields.find((field) => field.number === number);
const double = (bytes: Uint8Array): number => Buffer.from(bytes).readDoubleLE();
const utf8 = (bytes: Uint8Array): string => Buffer.from(bytes).toString();
const packed = (bytes: Uint8Array): number[] =>
  Array.from({ length: bytes.length / 8 }, (_, i) => double(bytes.subarray(8 * i, 8 * i + 8)));

export interface DecodedHistogram {
  readonly min: number;
  readonly max: number;
  readonly count: number;
  readonly sum: number;
  readonly sumOfSquares: number;
  readonly limits: number[];
  readonly counts: number[];
}

export interface DecodedValue {
  readonly tag: string;
  readonly scalar?: number;
  readonly text?: string;
  readonly histogram?: DecodedHistogram;
  readonly plugin?: string;
}

export interface DecodedEvent {
  readonly seconds: number;
  readonly step: number;
  readonly version?: string;
  readonly isRestart: boolean;
  readonly values: DecodedValue[];
}

function decodeValue(bytes: Uint8Array): DecodedValue {
  const fields = fieldsOf(bytes);
  const scalar = only(fields, 2)?.bytes;
  const tensor = only(fields, 8)?.bytes;
  const histogram = only(fields, 5)?.bytes;
  const plugin = only(fields, 9)?.bytes;
  const numbers = histogram === undefined ? [] : fieldsOf(histogram);
  const [min, max, count, sum, sumOfSquares] = numbers.slice(0, 5).map((field) => double(field.bytes));
  return {
    tag: utf8(only(fields, 1)!.bytes),
    ...(scalar === undefined ? {} : { scalar: Buffer.from(scalar).readFloatLE() }),
    ...(tensor === undefined ? {} : { text: utf8(only(fieldsOf(tensor), 8)!.bytes) }),
    ...(histogram === undefined
      ? {}
      : {
          histogram: {
            min: min!,
            max: max!,
            count: count!,
            sum: sum!,
            sumOfSquares: sumOfSquares!,
            limits: packed(only(numbers, 6)!.bytes),
            counts: packed(only(numbers, 7)!.bytes),
          },
        }),
    ...(plugin === undefined ? {} : { plugin: utf8(only(fieldsOf(only(fieldsOf(plugin), 1)!.bytes), 1)!.bytes) }),
  };
}

/** The events of a file. */
export function eventsOf(file: Buffer): DecodedEvent[] {
  return recordsOf(file).map((record) => {
    const fields = fieldsOf(record);
    const version = only(fields, 3)?.bytes;
    const summary = only(fields, 5)?.bytes;
    const session = only(fields, 7)?.bytes;
    return {
      seconds: double(only(fields, 1)!.bytes),
      step: only(fields, 2)?.integer ?? 0,
      ...(version === undefined ? {} : { version: utf8(version) }),
      isRestart: session !== undefined && only(fieldsOf(session), 1)?.integer === 1,
      values: summary === undefined ? [] : fieldsOf(summary).map(({ bytes }) => decodeValue(bytes)),
    };
  });
}
