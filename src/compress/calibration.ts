/**
 * Calibration data: what a model sees while its activations are measured.
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { AttributeError, DTypeError } from '../errors.js';
import { DataLoader, type Dataset } from '../data/loader.js';
import { data } from '../tensor/read.js';
import { keep } from '../tensor/scope.js';
import { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys } from '../util/assert.js';
import { formatValue } from '../util/format.js';

/** Options of {@link calibrationBatches}. */
export interface CalibrationOptions {
  /** Batches taken. Default 16. */
  readonly batches?: number;
  /** Examples in each. Default 8. */
  readonly batchSize?: number;
  /** Seed of the choice. Default 0. */
  readonly seed?: number;
}

/** Inputs of `model.forward`, one tensor a call: for a language model ids `[B, T]`. */
export type Calibration = readonly Tensor[];

/**
 * Inputs from a dataset, chosen at random without repetition: the `x` of its batches.
 *
 * @throws AttributeError if the dataset has fewer examples than that
 */
export function calibrationBatches(
  dataset: Dataset<{ readonly x: Tensor }>,
  options: CalibrationOptions = {},
): Calibration {
  const op = 'calibrationBatches';
  checkKeys(op, options, ['batches', 'batchSize', 'seed']);
  const batches = checkInteger(op, 'batches', options.batches ?? 16, 1);
  const batchSize = checkInteger(op, 'batchSize', options.batchSize ?? 8, 1);
  if (dataset.length < batches * batchSize) {
    throw new AttributeError({
      op,
      argument: 'dataset',
      expected: `at least ${batches} × ${batchSize} examples`,
      actual: String(dataset.length),
      hint: 'Take fewer or smaller batches, or more data',
    });
  }
  const loader = new DataLoader(dataset, { batchSize, seed: options.seed ?? 0 });
  return Array.from({ length: batches }, () => {
    const { x, ...others } = loader.next();
    for (const other of Object.values(others)) if (other instanceof Tensor) other.dispose();
    return keep(x);
  });
}

/** @internal @throws AttributeError unless there is at least one input, DTypeError unless all are tensors with elements */
export function checkCalibration(op: string, calibration: unknown): Calibration {
  if (!Array.isArray(calibration) || calibration.length === 0) {
    throw new AttributeError({
      op,
      argument: 'calibration',
      expected: 'at least one input tensor',
      actual: Array.isArray(calibration) ? 'an empty list' : formatValue(calibration),
      hint: 'Make inputs of a dataset with calibrationBatches',
    });
  }
  for (const [i, input] of calibration.entries()) {
    if (input instanceof Tensor && input.size > 0) continue;
    const actual = input instanceof Tensor ? 'an empty tensor' : formatValue(input);
    throw new DTypeError({ op, argument: `calibration[${i}]`, expected: 'a tensor with elements', actual });
  }
  return calibration as Calibration;
}

/** SHA-256 over shapes, dtypes and values, in hexadecimal: says in a model's card what it was calibrated with. */
export async function calibrationHash(calibration: Calibration): Promise<string> {
  const hash = createHash('sha256');
  for (const input of calibration) {
    hash.update(`${input.dtype} ${input.shape.join('x')};`);
    const { buffer, byteOffset, byteLength } = (await data(input)) as Uint8Array;
    hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  }
  return hash.digest('hex');
}
