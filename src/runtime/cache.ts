/** What users say about the pool (pool.ts). */
import { sendOff } from './chain.js';
import { clear, kept, setLimit } from './pool.js';
import { discardDoomed } from './ring.js';

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
