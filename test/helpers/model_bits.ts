/** The tensors of models, compared bit for bit. */
import { createHash } from 'node:crypto';
import type { nn } from '../../src/index.js';

/** All tensors of a model, as hashes of their bytes. */
export async function bitsOf(model: nn.Module): Promise<Record<string, string>> {
  const entries = Object.entries(model.stateDict()).map(async ([name, value]) => {
    const { buffer, byteOffset, byteLength } = await value.data();
    const bytes = new Uint8Array(buffer, byteOffset, byteLength);
    value.dispose();
    return [name, `${value.dtype} ${createHash('sha256').update(bytes).digest('hex')}`] as const;
  });
  return Object.fromEntries(await Promise.all(entries));
}
