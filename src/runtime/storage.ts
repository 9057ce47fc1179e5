/**
 * Memory of CPU tensors: blocks that JavaScript owns, registered with the addon once, recycled by size class.
 *
 * A block is given back by the last tensor that lets go of it. It may be handed out again at once, although kernels that
 * use it are still queued: the queue runs in order, so the next user's writes come after them. Only writes made by
 * JavaScript itself have to wait (see {@link allocateForHostWrite}).
 */
import { markAsUntransferable } from 'node:worker_threads';
import { ResourceError } from '../errors.js';
import { formatBytes } from '../util/format.js';
import { addon } from './addon.js';
import { Arena } from './arena.js';
import * as pool from './pool.js';
import { isComplete, noteFreshBytes } from './sequence.js';

/** How to compute a block that was left out because nothing had asked for it yet (pending.ts). */
export interface Recipe {
  /** Nobody will ask any more. */
  drop(): void;
}

/** One block. Tensors hold it by count; views share it. */
export class Storage {
  readonly handle: number;
  /** Usable bytes, starting at `start`. */
  readonly bytes: number;
  /** Offset of the first usable byte, so that it lies on a cache line. */
  readonly start: number;
  /** Null for memory that JavaScript cannot see (a mapped file). */
  readonly buffer: ArrayBufferLike | null;
  /** Whether the block returns to the pool; lent and mapped memory does not. */
  readonly pooled: boolean;
  references = 0;
  /** Number of the last frame that names this block. */
  lastUse = 0;
  /** Set when the frame that should have filled it failed or was skipped. */
  poisoned = false;
  /** Counts writes in place, so that a gradient rule can tell whether what it saved is still what it was. */
  version = 0;
  /** Counts the times it was handed out: tells one use of a recycled block from the next. */
  generation = 0;
  /** Named as an output: what a mapped file holds here may be another thing. */
  isWritten = false;
  /** Handed out for a kernel to fill, and not yet named as an output. */
  isFresh = false;
  /** When it was returned to the pool last, in requests. */
  returnedAt = 0;
  /** Where it goes instead of the pool. */
  arena: Arena | null = null;
  /** Set while the contents are still to be computed. */
  recipe: Recipe | null = null;
  /** Blocks whose recipes read this one; null for none. They do not live on for being named here. */
  readers: WeakRef<Storage>[] | null = null;
  /** What the collector's callback needs to know; it must not refer to this object. */
  readonly ticket: Ticket;

  constructor(handle: number, buffer: ArrayBufferLike | null, start: number, bytes: number, pooled: boolean) {
    this.handle = handle;
    this.buffer = buffer;
    this.start = start;
    this.bytes = bytes;
    this.pooled = pooled;
    this.ticket = { handle, bytes, pooled, live: false, asked: bytes };
    collected.register(this, this.ticket);
  }
}

const ALIGNMENT = 64;
/**
 * Large blocks begin at different places of a page, each so far behind the one before. The system gives all of them the same, and then what
 * a kernel reads and writes at one time falls on the same places of the first-level cache: AdamW, with four operands, loses up to a half.
 */
const STAGGER = 1536;
const STAGGERED_BYTES = 1 << 18;
const PAGE = 4096;
let staggered = 0;

interface Ticket {
  readonly handle: number;
  readonly bytes: number;
  readonly pooled: boolean;
  /** In use by tensors, and so part of the live count. */
  live: boolean;
  /** What was asked for, when it was handed out last. */
  asked: number;
}

const collected = new FinalizationRegistry<Ticket>((ticket) => {
  if (ticket.live) countOut(ticket);
  addon.release(ticket.handle);
});

const counters = { live: 0, peak: 0, window: 0, hits: 0, misses: 0 };

function newBuffer(bytes: number): ArrayBufferLike {
  try {
    // Not zeroed: kernels write every element. Beyond Buffer's limit only a zeroed ArrayBuffer is to be had.
    return bytes < 0x7fffffff ? Buffer.allocUnsafeSlow(bytes).buffer : new ArrayBuffer(bytes);
  } catch (cause) {
    throw new ResourceError({
      op: 'allocate',
      expected: `${formatBytes(bytes)} of memory`,
      actual: `a refusal while ${formatBytes(counters.live)} are in use by tensors`,
      hint: 'Dispose of tensors, use og.scope, or make the batch or the model smaller',
      cause,
    });
  }
}

function makeStorage(bytes: number): Storage {
  const shift = bytes < STAGGERED_BYTES ? 0 : (staggered++ * STAGGER) % PAGE;
  const buffer = newBuffer(bytes + shift + ALIGNMENT);
  markAsUntransferable(buffer as ArrayBuffer);
  const handle = registerBuffer(buffer);
  const start = shift + ((ALIGNMENT - addon.alignment(handle)) % ALIGNMENT);
  counters.misses++;
  noteFreshBytes(bytes);
  return new Storage(handle, buffer, start, bytes, true);
}

function registerBuffer(buffer: ArrayBufferLike | Uint8Array): number {
  const handle = addon.register(buffer);
  if (handle < 0) {
    throw new ResourceError({ op: 'allocate', expected: 'fewer than 16 million live blocks', actual: 'a full table' });
  }
  return handle;
}

function take(storage: Storage, asked = storage.bytes): Storage {
  const { ticket } = storage;
  ticket.live = true;
  ticket.asked = asked;
  storage.generation++;
  counters.live += storage.bytes;
  if (storage.pooled) pool.use(storage.bytes, asked);
  if (counters.live > counters.peak) counters.peak = counters.live;
  if (counters.live > counters.window) counters.window = counters.live;
  return storage;
}

function countOut(ticket: Ticket): void {
  ticket.live = false;
  counters.live -= ticket.bytes;
  if (ticket.pooled) pool.unuse(ticket.bytes, ticket.asked);
}

let arena: Arena | null = null;

/** From now on blocks for kernels come from a new arena, until {@link endArena}. */
export function openArena(): Arena {
  arena = new Arena();
  return arena;
}

export function endArena(): void {
  arena = null;
}

/** Its blocks stay where they are, in use. */
export function sealArena(sealed: Arena): void {
  sealed.isSealed = true;
  for (const storage of sealed.blocks) if (!storage.ticket.live) take(storage);
}

/** Its blocks are the pool's again; those that tensors hold, when they let go. */
export function closeArena(closed: Arena): void {
  for (const storage of closed.blocks) {
    storage.arena = null;
    if (storage.references > 0) continue;
    if (closed.isSealed) countOut(storage.ticket);
    pool.put(storage);
  }
  closed.blocks.clear();
}

/** A block of at least `bytes`, contents undefined, with no reference yet. For kernels to write. */
export function allocate(bytes: number): Storage {
  const size = pool.sizeClass(bytes);
  const reused = arena?.take(size) ?? pool.take(size);
  if (reused !== undefined) {
    counters.hits++;
    reused.poisoned = false;
  }
  const storage = reused ?? makeStorage(size);
  storage.isFresh = true;
  arena?.adopt(storage);
  return take(storage, size);
}

/** The same for JavaScript to write: no queued kernel still reads it. */
export function allocateForHostWrite(bytes: number): Storage {
  if (arena !== null) arena.sawHostWrite = true;
  const size = pool.sizeClass(bytes);
  const reused = pool.take(size, ({ lastUse }) => isComplete(lastUse));
  if (reused !== undefined) {
    counters.hits++;
    reused.poisoned = false;
  }
  const storage = take(reused ?? makeStorage(size), size);
  storage.isFresh = false;
  return storage;
}

/** Memory of the caller's own, used in place; it must stay attached and unresized. */
export function borrow(array: Uint8Array): Storage {
  return take(new Storage(registerBuffer(array), array.buffer, 0, array.byteLength, false));
}

/** A mapped file, as one block. Writes stay private to this process. Returns the reason when it cannot be mapped. */
export function mapFile(path: string): Storage | string {
  const mapped = addon.mapFile(path);
  if (typeof mapped === 'string') return mapped;
  return take(new Storage(mapped[0], null, 0, mapped[1], false));
}

export function retain(storage: Storage): void {
  // A mapped file may be taken up again after its last tensor has gone: it counts as in use again.
  if (storage.references++ === 0 && !storage.ticket.live) take(storage);
}

/** Lets go of a block; the last one to do so returns it to the pool. */
export function release(storage: Storage): void {
  if (--storage.references > 0) return;
  storage.recipe?.drop();
  if (storage.arena?.isSealed) return;
  countOut(storage.ticket);
  if (storage.pooled) (storage.arena ?? pool).put(storage);
}

export function storageCounters(): Readonly<typeof counters> & { readonly pooled: number } {
  return { ...counters, pooled: pool.kept.bytes };
}

export function resetPeak(): void {
  counters.peak = counters.live;
}

/** Largest number of bytes in use since the last call of this; the user's peak goes on. */
export function takeWindowPeak(): number {
  const peak = Math.max(counters.window, counters.live);
  counters.window = counters.live;
  return peak;
}
