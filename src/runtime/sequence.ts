/**
 * Numbers of frames: how many were submitted, and how many the executor has finished. Shared with native code through
 * `control` (native/core/queue.h lists the words).
 */
export const HEAD = 0;
export const TAIL = 16;
export const PARKED = 32;
export const WAKE_AT = 48;
export const ARMED = 64;
export const ERROR = 80;

export const control = new Int32Array(new SharedArrayBuffer(96 * 4));

/** Whether TAIL has reached a frame number. Numbers wrap at 2^32; the difference is what counts. */
export function isComplete(sequence: number): boolean {
  return ((Atomics.load(control, TAIL) - sequence) | 0) >= 0;
}

let fresh = 0;

/** Memory just taken from the system; the queue counts it against the bytes in flight. */
export function noteFreshBytes(bytes: number): void {
  fresh += bytes;
}

export function takeFreshBytes(): number {
  const bytes = fresh;
  fresh = 0;
  return bytes;
}
