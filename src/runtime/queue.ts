/**
 * Where calls of kernels go. Element-wise calls on large operands are held back to become chains (chain.ts); everything else
 * sends the open chain off and follows it into the queue (ring.ts). Nothing above this floor sees the difference.
 */
import { environment } from './environment.js';
import { holdBack, isHolding, sendOff } from './chain.js';
import { settle, settleReaders } from './pending.js';
import { enqueue, submitted as framesSubmitted, waitFor as waitForFrame, whenDone as whenFrameDone } from './ring.js';
import type { Operands } from './ring.js';
import type { Storage } from './storage.js';

export type { View } from './ring.js';

/** With `OG_SYNC` each call is done when it returns; with `OG_DEBUG` its errors name it. */
const mayChain = !environment.sync && !environment.debug;

/**
 * Runs a kernel: at once when it is tiny and the queue is empty, else in its turn.
 *
 * @param work - declared cost in elements, which decides that
 */
export function submit(
  kernel: number,
  inputs: Operands,
  outputs: Operands,
  attrs: readonly number[],
  work: number,
): void {
  for (let i = 0; i < inputs.length; i++) {
    const storage = inputs[i]?.storage;
    if (storage !== undefined && storage.recipe !== null) settle(storage);
  }
  if (mayChain) {
    if (holdBack(kernel, inputs, outputs, attrs, work)) return;
    if (isHolding()) {
      sendOff(inputs);
      if (holdBack(kernel, inputs, outputs, attrs, work)) return;
    }
  }
  // Only now: the chain that was just sent off may have left out what reads a block that this call writes.
  for (let i = 0; i < outputs.length; i++) {
    const storage = outputs[i]?.storage;
    if (storage === undefined) continue;
    if (storage.recipe !== null) settle(storage);
    if (storage.readers !== null) settleReaders(storage);
  }
  enqueue(kernel, inputs, outputs, attrs, work);
}

/** Sends off what is held back and, with a block, computes its contents if they were left out. */
export function flush(storage?: Storage): void {
  sendOff();
  if (storage !== undefined) settle(storage);
}

/** Number of frames submitted so far: wait for it to wait for everything. */
export function submitted(): number {
  sendOff();
  return framesSubmitted();
}

/** Blocks until a frame number is reached (default: all that was submitted). Throws what went wrong on the way. */
export function waitFor(sequence = submitted()): void {
  waitForFrame(sequence);
}

/** Resolves when a frame number is reached, without blocking the event loop; rejects with what went wrong. */
export function whenDone(sequence = submitted()): Promise<void> {
  return whenFrameDone(sequence);
}
