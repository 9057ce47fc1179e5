import { setImmediate } from 'node:timers/promises';

/**
 * Lets the event loop turn: what waits there, timers included, runs before this resolves. One `setImmediate` is not enough: asked for by
 * what input or a finished kernel woke, it comes in the same turn, before the timers.
 */
export async function turn(): Promise<void> {
  await setImmediate();
  await setImmediate();
}
