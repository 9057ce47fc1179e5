import type { Tensor } from '../tensor/tensor.js';

/** A long sequence of ids that need not be one tensor. */
export interface TokenSequence {
  /** Ids in all. */
  readonly size: number;
  /** Fills an int32 tensor `[count]` with the ids from `start` on. */
  copyTo(target: Tensor, start: number): void;
  /** Has the ids from `start` on read in the background, for a `copyTo` that will follow. */
  prefetch?(start: number, count: number): Promise<void>;
}
