/**
 * A reference's log-probabilities, computed once for a whole dataset and kept in a file.
 */
import { createHash } from 'node:crypto';
import { access } from 'node:fs/promises';
import { DataLoader } from '../../data/loader.js';
import { FormatError } from '../../errors.js';
import { openSafetensors, saveSafetensors } from '../../interop/safetensors.js';
import { tensor } from '../../tensor/create.js';
import { data } from '../../tensor/read.js';
import { scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkBoolean, checkInteger, checkKeys } from '../../util/assert.js';
import { answerLogProbs, asReference, type LogitsModel } from './log_probs.js';
import { disposeState } from '../copies.js';
import { withoutAdapters } from '../lora.js';
import { existingRegistry } from '../registry.js';
import type { KtoDataset, PairedBatch, PreferenceDataset } from './dataset.js';

/** Options of {@link precomputeReference}. */
export interface PrecomputeOptions {
  /** Examples in a forward pass. Default 8. */
  readonly batchSize?: number;
  /** Switch the model's adapters off: it is the one that will train. Default false. */
  readonly withoutAdapters?: boolean;
  /** File of log-probabilities. If it is there and fits dataset and weights, it is read; else they are computed and written to it. */
  readonly cache?: string;
}

/** A digest of the weights that a reference computes with. */
async function weightsDigest(model: LogitsModel, adaptersOff: boolean): Promise<string> {
  const views = adaptersOff ? withoutAdapters(model, () => model.stateDict()) : model.stateDict();
  const hash = createHash('sha256');
  try {
    for (const [name, value] of Object.entries(views)) {
      if (adaptersOff && /(^|\.)adapters\./.test(name)) continue;
      const array = await data(value);
      hash.update(`${name} ${value.dtype} ${value.shape.join('x')}\n`);
      hash.update(new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
    }
  } finally {
    disposeState(views);
  }
  return hash.digest('hex');
}

/** What the file holds, if it belongs to this key; null if it is not there or belongs to other weights or examples. */
async function cached(path: string, key: string, count: number): Promise<Float32Array | null> {
  const isThere = await access(path).then(
    () => true,
    () => false,
  );
  if (!isThere) return null;
  const file = await openSafetensors(path);
  if (!file.has('logProbs')) {
    const actual = file.names.join(', ') || 'nothing';
    throw new FormatError({ op: 'precomputeReference', argument: path, expected: 'log-probabilities', actual });
  }
  const value = file.tensor('logProbs');
  try {
    if (file.metadata.get('key') !== key || value.size !== count || value.dtype !== 'float32') return null;
    return Float32Array.from((await data(value)) as Float32Array);
  } finally {
    value.dispose();
  }
}

/**
 * The same dataset, with the log-probabilities of its answers under a reference: the reference runs once, not at every step, and need
 * not stay in memory. Between batches the event loop turns.
 *
 * @throws FormatError if `cache` names a file of something else
 * @throws StateError if `withoutAdapters` is set and the model has none
 */
export async function precomputeReference<D extends PreferenceDataset | KtoDataset>(
  model: LogitsModel,
  dataset: D,
  options: PrecomputeOptions = {},
): Promise<D> {
  const op = 'precomputeReference';
  checkKeys(op, options, ['batchSize', 'withoutAdapters', 'cache']);
  const batchSize = Math.min(checkInteger(op, 'batchSize', options.batchSize ?? 8, 1), dataset.length);
  const adaptersOff = checkBoolean(op, 'withoutAdapters', options.withoutAdapters ?? false);
  if (adaptersOff) existingRegistry(op, model);
  const count = 2 * dataset.length;
  const key = options.cache === undefined ? '' : `${dataset.fingerprint} ${await weightsDigest(model, adaptersOff)}`;
  const found = options.cache === undefined ? null : await cached(options.cache, key, count);
  if (found !== null) return dataset.withReference(found) as D;
  const logProbs = new Float32Array(count);
  const loader = new DataLoader<PairedBatch>(dataset, { batchSize, shuffle: false, dropLast: false });
  let at = 0;
  for (let i = 0; i < loader.length; i++) {
    const body = (): Tensor =>
      scope(() => {
        const { x, y } = loader.next();
        return asReference(model, () => answerLogProbs(model.forward(x), y).sum);
      });
    const part = adaptersOff ? withoutAdapters(model, body) : body();
    const values = (await data(part).finally(() => part.dispose())) as ArrayLike<number>;
    logProbs.set(values, at);
    at += values.length;
  }
  if (options.cache !== undefined) {
    const value = tensor(logProbs);
    await saveSafetensors(options.cache, { logProbs: value }, { key }).finally(() => value.dispose());
  }
  return dataset.withReference(logProbs) as D;
}
