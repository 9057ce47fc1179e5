/**
 * The CPU's in-order queue, as seen from JavaScript. `enqueue` writes one frame into a ring that native code reads;
 * the executor thread runs it. Nothing here waits but {@link waitFor} (blocking) and {@link whenDone} (not blocking).
 * docs/adr/0007 tells why. Callers go through queue.ts, which makes chains of element-wise calls.
 */
import { totalmem } from 'node:os';
import { AttributeError, BackendError, ResourceError, type ErrorFields, type OmniError } from '../errors.js';
import { addon } from './addon.js';
import { environment } from './environment.js';
import { kernelId } from './kernels.js';
import type { NativeFailure } from './native.js';
import { ARMED, control, ERROR, HEAD, isComplete, PARKED, TAIL, takeFreshBytes, WAKE_AT } from './sequence.js';
import type { Storage } from './storage.js';

/** One operand as a frame names it. Tensors have this shape. */
export interface View {
  readonly storage: Storage;
  /** In elements. */
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  readonly dtypeId: number;
  readonly itemBytes: number;
}

/** Operands of one call, in the kernel's order; null for an absent one. */
export type Operands = readonly (View | null)[];

const RING_WORDS = 1 << 19;
const USABLE_WORDS = (RING_WORDS / 4) * 3;
const STAGING = USABLE_WORDS;
const MAX_FRAMES = 4096;
const MASK = MAX_FRAMES - 1;
/** Freshly allocated bytes that may be in flight; a loop that never awaits is slowed here instead of filling memory. */
const MAX_FRESH_BYTES = Math.min(2 ** 30, totalmem() / 8);
/** Declared work (elements or an equivalent) below which a thread hand-over costs more than the kernel. */
const INLINE_WORK = 4096;

const ring = new Float64Array(new SharedArrayBuffer(RING_WORDS * 8));
/** Operands of frames in flight, so that the collector leaves them alone; outputs first. */
const keep: (Storage[] | null)[] = new Array<Storage[] | null>(MAX_FRAMES).fill(null);
const outputsKept = new Int32Array(MAX_FRAMES);
const wordsKept = new Int32Array(MAX_FRAMES);
const freshKept = new Float64Array(MAX_FRAMES);
const stacks: (Error | null)[] = new Array<Error | null>(MAX_FRAMES).fill(null);

export const discardKernel = kernelId('discard', 0, 1, 0);
/** Number of uint8 in native/include/omnigrad/abi.h. */
export const BYTES = 5;
/** Blocks whose memory goes back to the system after the next frame. */
let doomed: Storage[] = [];

let head = 0;
let drained = 0;
let write = 0;
let wordsInFlight = 0;
let freshInFlight = 0;

/** Number of frames submitted so far: wait for it to wait for everything. */
export function submitted(): number {
  return head;
}

addon.attach(ring, control, onReached);
process.on('exit', () => addon.shutdown());

function writeView(to: Float64Array, at: number, view: View | null): number {
  if (view === null) {
    to[at] = -1;
    to[at + 1] = 0;
    to[at + 2] = 0;
    to[at + 3] = 0;
    return at + VIEW_WORDS;
  }
  const { shape, strides, storage } = view;
  const rank = shape.length;
  to[at] = storage.handle;
  to[at + 1] = storage.start + view.offset * view.itemBytes;
  to[at + 2] = view.dtypeId;
  to[at + 3] = rank;
  at += VIEW_WORDS;
  for (let i = 0; i < rank; i++) {
    to[at + i] = shape[i]!;
    to[at + rank + i] = strides[i]!;
  }
  return at + 2 * rank;
}

/** Words in front of a frame's views, and of a view in front of its shape and strides. */
export const [FRAME_WORDS, VIEW_WORDS] = [5, 4];

/** Writes a call as native/core/frame.h reads it: inputs, outputs, attributes. Returns its length. */
export function writeFrame(
  to: Float64Array,
  at: number,
  kernel: number,
  inputs: Operands,
  outputs: Operands,
  attrs: readonly number[],
): number {
  const begin = at;
  to[at] = kernel;
  to[at + 2] = inputs.length;
  to[at + 3] = outputs.length;
  to[at + 4] = attrs.length;
  at += FRAME_WORDS;
  for (let i = 0; i < inputs.length; i++) at = writeView(to, at, inputs[i]!);
  for (let i = 0; i < outputs.length; i++) at = writeView(to, at, outputs[i]!);
  for (let i = 0; i < attrs.length; i++) to[at++] = attrs[i]!;
  to[begin + 1] = at - begin;
  return at - begin;
}

export function frameWords(inputs: Operands, outputs: Operands, attrs: readonly number[]): number {
  let words = FRAME_WORDS + VIEW_WORDS * (inputs.length + outputs.length) + attrs.length;
  for (const view of inputs) if (view !== null) words += 2 * view.shape.length;
  for (const view of outputs) if (view !== null) words += 2 * view.shape.length;
  return words;
}

/** Forgets frames that are done. While an error waits to be taken, the record of what it spoilt stays. */
function drain(): void {
  const tail = Atomics.load(control, TAIL); // first: what fails is noted before it counts as done
  if (Atomics.load(control, ERROR) !== 0) return;
  while (drained !== tail) {
    const i = drained & MASK;
    keep[i] = null;
    stacks[i] = null;
    wordsInFlight -= wordsKept[i]!;
    freshInFlight -= freshKept[i]!;
    drained = (drained + 1) | 0;
  }
}

function noteOutput(kernel: number, storage: Storage): void {
  storage.isFresh = false;
  if (kernel !== discardKernel) storage.isWritten = true;
}

function makeRoom(words: number, fresh: number, frames = 1): void {
  while (
    ((head - drained) | 0) + frames > MAX_FRAMES ||
    wordsInFlight + words > USABLE_WORDS ||
    (freshInFlight + fresh > MAX_FRESH_BYTES && head !== drained)
  ) {
    addon.waitFor((drained + Math.max(1, ((head - drained) | 0) >> 1)) | 0);
    throwPending();
    drain();
  }
}

/** Sees each call. */
export type Watcher = (kernel: number, inputs: Operands, outputs: Operands, attrs: readonly number[]) => void;
let watcher: Watcher | null = null;

/** Shows all calls that follow to a function, or with null to none. Blocks that go back to the system are no calls. */
export function watch(next: Watcher | null): void {
  watcher = next;
}

/**
 * Runs a kernel: at once when it is tiny and the queue is empty, else in its turn.
 *
 * @param work - declared cost in elements, which decides that
 */
export function enqueue(
  kernel: number,
  inputs: Operands,
  outputs: Operands,
  attrs: readonly number[],
  work: number,
): void {
  if (watcher !== null && kernel !== discardKernel) watcher(kernel, inputs, outputs, attrs);
  const isInline = work <= INLINE_WORK || environment.sync;
  if (isInline && drained !== head) drain();
  if (isInline && drained === head) {
    writeFrame(ring, STAGING, kernel, inputs, outputs, attrs);
    const status = addon.runInline(STAGING);
    for (const view of outputs) if (view !== null) noteOutput(kernel, view.storage);
    if (status !== undefined) throw toError({ ...addon.takeError(true)!, code: status, kernel: kernelName(kernel) });
    if (environment.sync) discardDoomed();
    return;
  }
  const words = frameWords(inputs, outputs, attrs);
  const padding = write + words > USABLE_WORDS ? USABLE_WORDS - write : 0;
  const fresh = takeFreshBytes();
  if (
    ((head - drained) & 31) === 0 ||
    wordsInFlight + words + padding > USABLE_WORDS ||
    freshInFlight + fresh > MAX_FRESH_BYTES
  ) {
    drain();
    makeRoom(words + padding, fresh);
  }
  if (padding > 0) {
    ring[write] = -1;
    write = 0;
  }
  writeFrame(ring, write, kernel, inputs, outputs, attrs);
  write += words;
  if (write === USABLE_WORDS) write = 0;
  const i = head & MASK;
  const operands: Storage[] = [];
  const next = (head + 1) | 0;
  for (const view of outputs) {
    if (view === null) continue;
    operands.push(view.storage);
    view.storage.lastUse = next;
    noteOutput(kernel, view.storage);
  }
  outputsKept[i] = operands.length;
  for (const view of inputs) {
    if (view === null) continue;
    operands.push(view.storage);
    view.storage.lastUse = next;
  }
  keep[i] = operands;
  wordsKept[i] = words + padding;
  freshKept[i] = fresh;
  wordsInFlight += words + padding;
  freshInFlight += fresh;
  if (environment.debug) stacks[i] = new Error(`enqueued here (${kernelName(kernel)})`);
  publish(next);
}

function publish(next: number): void {
  head = next;
  Atomics.store(control, HEAD, head);
  if (Atomics.load(control, PARKED) === 1 && Atomics.compareExchange(control, PARKED, 1, 0) === 1) addon.wake();
  if (doomed.length > 0) discardDoomed();
}

/** Frames that are written already (recording.ts), to be submitted as one. */
export interface Piece {
  readonly words: Float64Array;
  /** Of each frame: its length, its operands with the outputs first, and how many these are. */
  readonly frames: readonly { readonly words: number; readonly operands: Storage[]; readonly outputs: number }[];
  /** Each block that a frame names, once. */
  readonly blocks: readonly Storage[];
}

/** Most words and frames of a {@link Piece}. */
export const [MAX_PIECE_WORDS, MAX_PIECE_FRAMES] = [USABLE_WORDS >> 2, MAX_FRAMES >> 1];

/** Runs the frames of a piece in their turn. */
export function enqueuePiece({ words, frames, blocks }: Piece): void {
  const padding = write + words.length > USABLE_WORDS ? USABLE_WORDS - write : 0;
  const fresh = takeFreshBytes();
  drain();
  makeRoom(words.length + padding, fresh, frames.length);
  if (padding > 0) {
    ring[write] = -1;
    write = 0;
  }
  ring.set(words, write);
  write += words.length;
  if (write === USABLE_WORDS) write = 0;
  let at = head;
  for (const frame of frames) {
    const i = at & MASK;
    keep[i] = frame.operands;
    outputsKept[i] = frame.outputs;
    wordsKept[i] = frame.words;
    freshKept[i] = 0;
    at = (at + 1) | 0;
  }
  wordsKept[head & MASK]! += padding;
  freshKept[head & MASK] = fresh;
  wordsInFlight += words.length + padding;
  freshInFlight += fresh;
  for (const block of blocks) block.lastUse = at;
  publish(at);
}

/**
 * Gives the memory of a block back to the system, in its turn: behind the frames that name it so far. Nobody may name it afterwards. It is
 * done with the next frame, since no chain is held back then, whose blocks expect to be named by that frame.
 */
export function discardLater(storage: Storage): void {
  doomed.push(storage);
}

/** Does what {@link discardLater} was asked for. No chain may be held back. */
export function discardDoomed(): void {
  const list = doomed;
  doomed = [];
  for (const storage of list) {
    const view = { storage, offset: 0, shape: [storage.bytes], strides: [1], dtypeId: BYTES, itemBytes: 1 };
    enqueue(discardKernel, [], [view], [], Infinity);
  }
}

let names: readonly string[] | undefined;
function kernelName(id: number): string {
  names ??= addon.kernels().map((kernel) => kernel.name);
  return names[id] ?? `kernel ${id}`;
}

/** og_status codes of native/include/omnigrad/abi.h. */
const OUT_OF_MEMORY = 3;
const INDEX = 5;

function toError(failure: NativeFailure, cause?: unknown): OmniError {
  const fields: ErrorFields = {
    op: failure.kernel || 'queue',
    expected: 'the kernel to succeed',
    actual: failure.message,
    cause,
  };
  if (failure.code === OUT_OF_MEMORY) return new ResourceError({ ...fields, expected: 'enough memory' });
  if (failure.code === INDEX)
    return new AttributeError({ ...fields, argument: 'index', expected: 'indices within the axis' });
  return new BackendError(fields);
}

const failures: { readonly first: number; readonly end: number }[] = [];

/** Whether the frame of this number failed, or was skipped after a failure. */
export function wasSpoilt(sequence: number): boolean {
  return failures.some(({ first, end }) => ((sequence - first) | 0) >= 0 && ((sequence - end) | 0) < 0);
}

let held: { readonly error: unknown } | null = null;

/** Keeps an error that came up where nobody could catch it, for the next call that waits. */
export function holdError(error: unknown): void {
  held ??= { error };
}

/** Throws the first failure since the last call, after marking what it spoilt; does nothing if there is none. */
export function throwPending(): void {
  if (held !== null) {
    const { error } = held;
    held = null;
    throw error;
  }
  if (Atomics.load(control, ERROR) === 0) return;
  addon.waitFor(head); // everything behind the failed frame is skipped, so this is short
  const failure = addon.takeError(false);
  if (failure === undefined) return;
  failures.push({ first: failure.sequence, end: head });
  const cause = stacks[failure.sequence & MASK] ?? undefined;
  for (let sequence = failure.sequence; sequence !== head; sequence = (sequence + 1) | 0) {
    const i = sequence & MASK;
    for (const storage of (keep[i] ?? []).slice(0, outputsKept[i])) storage.poisoned = true;
  }
  drain();
  throw toError(failure, cause);
}

/** Blocks until a frame number is reached (default: all that was submitted). Throws what went wrong on the way. */
export function waitFor(sequence = head): void {
  if (!isComplete(sequence)) addon.waitFor(sequence);
  throwPending();
  drain();
}

const waiters: { sequence: number; resolve: () => void }[] = [];

function arm(): void {
  const { sequence } = waiters[0]!;
  Atomics.store(control, WAKE_AT, sequence);
  Atomics.store(control, ARMED, 1);
  // The executor may have passed the mark between our look and the store; then nobody else will call.
  if (isComplete(sequence) && Atomics.compareExchange(control, ARMED, 1, 0) === 1) setImmediate(onReached);
}

function onReached(): void {
  while (waiters.length > 0 && isComplete(waiters[0]!.sequence)) waiters.shift()!.resolve();
  drain();
  if (waiters.length > 0) arm();
  else addon.holdOpen(false);
}

/** How long a waiter polls before it asks to be called: most gaps between small kernels are shorter. */
const POLL_NANOSECONDS = 20_000n;
/** Frames to go from which on polling is vain. */
const POLL_FRAMES = 32;

/** Resolves when a frame number is reached, without blocking the event loop; rejects with what went wrong. */
export async function whenDone(sequence = head): Promise<void> {
  if (!isComplete(sequence)) {
    if (((sequence - Atomics.load(control, TAIL)) | 0) < POLL_FRAMES) {
      const until = process.hrtime.bigint() + POLL_NANOSECONDS;
      while (!isComplete(sequence) && process.hrtime.bigint() < until);
    }
    if (!isComplete(sequence)) {
      await new Promise<void>((resolve) => {
        // Numbers grow, so waiters are already in order
        if (waiters.push({ sequence, resolve }) === 1) {
          addon.holdOpen(true);
          arm();
        }
      });
    }
  }
  throwPending();
  drain();
}
