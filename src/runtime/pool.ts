/**
 * Blocks that nobody uses, kept for whoever asks next. How many are kept follows what is in use: without a bound, batches of ever other
 * lengths would leave blocks of every size behind. What is not kept goes back to the system at once (ring.ts, `discardLater`); the
 * collector gets the empty rest.
 */
import { discardLater, submitted } from './ring.js';
import type { Storage } from './storage.js';

/** Smaller blocks come by the thousand and make up little: they are kept without a look at the bound. */
const LARGE_BYTES = 1 << 16;
/** Blocks in use and kept take at most this share of what was in use at most, and as many bytes more. */
const SHARE = 1.25;
const SPARE_BYTES = 1 << 26;
/** Requests after which "at most" is counted afresh, and blocks go that were not taken meanwhile. A step of a large model makes some thousands. */
const PERIOD = 1 << 16;
/** At the bound, a block of up to this many times the wanted size will do. */
const LARGEST_FIT = 2;
const ALIGNMENT = 64;

/** Bytes of the size class that `bytes` falls into: at most an eighth is lost. */
export function sizeClass(bytes: number): number {
  if (bytes <= 512) return Math.max(ALIGNMENT, Math.ceil(bytes / ALIGNMENT) * ALIGNMENT);
  const step = 2 ** (Math.floor(Math.log2(bytes)) - 3);
  return Math.ceil(bytes / step) * step;
}

/** Classes by size, each in the order of return. */
const free = new Map<number, Storage[]>();
let limit = Infinity;
/** Bytes of blocks in use, as large as they are; and as large as was asked for. */
const inUse = { held: 0, asked: 0 };
/** Most bytes asked for in this period and in the one before. */
const most = { now: 0, before: 0 };
let requests = 0;

export const kept = { bytes: 0 };

function bound(): number {
  return SHARE * Math.max(most.now, most.before) + SPARE_BYTES;
}

/** A block is in use that was asked for with a size. */
export function use(held: number, asked: number): void {
  inUse.held += held;
  inUse.asked += asked;
  if (inUse.asked > most.now) most.now = inUse.asked;
}

/** It is not in use any longer. */
export function unuse(held: number, asked: number): void {
  inUse.held -= held;
  inUse.asked -= asked;
}

/** Whether frames that are yet to be written (a chain that is held back) name a block. */
const isAwaited = (storage: Storage): boolean => ((submitted() - storage.lastUse) | 0) < 0;

function drop(storage: Storage): void {
  kept.bytes -= storage.bytes;
  if (storage.bytes >= LARGE_BYTES) discardLater(storage);
}

/** The class whose first block was returned before all others, of those that may go. */
function oldest(): Storage[] | null {
  let found: Storage[] | null = null;
  for (const [size, list] of free) {
    const first = list[0];
    if (size < LARGE_BYTES || first === undefined || isAwaited(first)) continue;
    if (found === null || first.returnedAt < found[0]!.returnedAt) found = list;
  }
  return found;
}

/** Lets blocks go, the oldest first, until so many bytes more are within the bound or none is left. */
function makeRoom(bytes: number): void {
  while (kept.bytes > 0 && inUse.held + kept.bytes + bytes > bound()) {
    const list = oldest();
    if (list === null) return;
    drop(list.shift()!);
  }
}

function endPeriod(): void {
  [most.before, most.now] = [most.now, inUse.asked];
  for (const [size, list] of free) {
    const stay = list.findIndex((storage) => storage.returnedAt > requests - PERIOD || isAwaited(storage));
    for (const storage of list.splice(0, stay < 0 ? list.length : stay)) drop(storage);
    if (list.length === 0) free.delete(size);
  }
}

/**
 * A kept block for so many bytes, of a size class; undefined for none: a new one is to be made. `accept` refuses blocks.
 */
export function take(size: number, accept: (storage: Storage) => boolean = () => true): Storage | undefined {
  if (++requests % PERIOD === 0) endPeriod();
  const found = pop(size, accept);
  if (found !== undefined || size < LARGE_BYTES) return found;
  most.now = Math.max(most.now, inUse.asked + size);
  if (inUse.held + kept.bytes + size <= bound()) return undefined;
  for (let next = sizeClass(size + 1); next <= LARGEST_FIT * size; next = sizeClass(next + 1)) {
    const larger = pop(next, accept);
    if (larger !== undefined) return larger;
  }
  makeRoom(size);
  return undefined;
}

function pop(size: number, accept: (storage: Storage) => boolean): Storage | undefined {
  const list = free.get(size);
  const last = list?.at(-1);
  if (last === undefined || !accept(last)) return undefined;
  list!.pop();
  kept.bytes -= last.bytes;
  return last;
}

/** Keeps a block, or lets it go. */
export function put(storage: Storage): void {
  kept.bytes += storage.bytes;
  storage.returnedAt = requests;
  if (kept.bytes > limit && !isAwaited(storage)) {
    drop(storage);
    return;
  }
  const list = free.get(storage.bytes);
  if (list === undefined) free.set(storage.bytes, [storage]);
  else list.push(storage);
}

/** Lets all blocks go. No chain may be held back. */
export function clear(): void {
  for (const list of free.values()) for (const storage of list) drop(storage);
  free.clear();
  [most.before, most.now] = [0, inUse.asked];
}

/** Bytes kept at most. */
export function setLimit(bytes: number): void {
  limit = bytes;
}
