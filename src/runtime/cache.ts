/** Giving memory back to the system. */
import { isContiguous, sizeOf } from '../util/layout.js';
import { sendOff } from './chain.js';
import { clear, kept, setLimit } from './pool.js';
import { submit, type View } from './queue.js';
import { BYTES, discardDoomed, discardKernel } from './ring.js';

/** Gives the memory of the pool's blocks back to the system, behind the calls that are queued: it is back when they are done. */
export function emptyCache(): void {
  sendOff();
  clear();
  discardDoomed();
}

/** Bytes the pool may keep at most. Default: no limit beside the pool's own, which follows what is in use (docs/memory.md). */
export function setPoolLimit(bytes: number): void {
  setLimit(bytes);
  if (kept.bytes > bytes) emptyCache();
}

/**
 * @internal Lets the system have the pages of a tensor that lies in a mapped file, behind the calls that are queued; who reads it later
 * reads the file again. Nothing happens to other tensors, and to those of a file that something was written to in memory.
 */
export function unloadPages({ storage, offset, shape, strides, itemBytes }: View): void {
  const isMapped = storage.buffer === null;
  if (!isMapped || storage.isWritten || !isContiguous(shape, strides)) return;
  const bytes = { shape: [sizeOf(shape) * itemBytes], strides: [1], dtypeId: BYTES, itemBytes: 1 };
  submit(discardKernel, [], [{ storage, offset: offset * itemBytes, ...bytes }], [], Infinity);
}
