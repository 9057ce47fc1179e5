/**
 * Token sequences on disk: a safetensors file with one int32 tensor, read through a memory map.
 *
 * @module
 */
import { FormatError } from '../errors.js';
import { openSafetensors, saveSafetensors } from '../interop/safetensors.js';
import { tensor } from '../tensor/create.js';
import { keep, scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';

/** Writes ids, atomically. */
export async function saveTokens(path: string, ids: ArrayLike<number>): Promise<void> {
  const tokens = scope(() => keep(tensor(ids instanceof Int32Array ? ids : Int32Array.from(ids))));
  try {
    await saveSafetensors(path, { tokens });
  } finally {
    tokens.dispose();
  }
}

/**
 * Maps a file of {@link saveTokens}: `[count]` int32, whose pages are read as they are used.
 *
 * @throws FormatError if the file does not hold tokens
 */
export async function openTokens(path: string): Promise<Tensor> {
  const file = await openSafetensors(path);
  const found = file.has('tokens') ? file.info('tokens') : null;
  if (found?.dtype !== 'I32' || found.shape.length !== 1) {
    throw new FormatError({
      op: 'openTokens',
      argument: path,
      expected: 'one int32 tensor "tokens"',
      actual: file.names.join(', ') || 'nothing',
    });
  }
  return keep(file.tensor('tokens'));
}
