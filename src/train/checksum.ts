/**
 * Checksums of tensors: a file whose bytes changed on disk is told from a whole one.
 *
 * @module
 */
import { setImmediate } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { data } from '../tensor/read.js';
import type { Tensor } from '../tensor/tensor.js';

/** Bytes between two turns of the event loop: a few milliseconds of work. */
const PART = 1 << 23;

async function checksumOf(value: Tensor): Promise<number> {
  const { buffer, byteOffset, byteLength } = await data(value);
  let sum = 0;
  for (let at = 0; at < byteLength; at += PART) {
    if (at > 0) await setImmediate();
    sum = crc32(new Uint8Array(buffer, byteOffset + at, Math.min(PART, byteLength - at)), sum);
  }
  return sum;
}

/** @internal CRC-32 of each tensor's bytes. */
export async function checksums(tensors: Readonly<Record<string, Tensor>>): Promise<Record<string, number>> {
  const sums: Record<string, number> = {};
  for (const [name, value] of Object.entries(tensors)) sums[name] = await checksumOf(value);
  return sums;
}

/** @internal The first tensor whose bytes are not those of its checksum; null if all are. */
export async function damagedTensor(
  tensors: Readonly<Record<string, Tensor>>,
  sums: Readonly<Record<string, number>>,
): Promise<string | null> {
  for (const [name, value] of Object.entries(tensors)) {
    if (sums[name] !== undefined && sums[name] !== (await checksumOf(value))) return name;
  }
  return null;
}
