/**
 * Blocks that the calls of one recording share among themselves (recording.ts). Nobody else gets them until it is closed, so
 * that the recorded frames may run again.
 */
import type { Storage } from './storage.js';

export class Arena {
  /** Every block that was handed out while it was open. */
  readonly blocks = new Set<Storage>();
  /** Whether its blocks count as in use although no tensor holds them. */
  isSealed = false;
  /** Whether JavaScript wrote to memory while it was open: what a frame reads there would be the same at each run. */
  sawHostWrite = false;
  readonly #free = new Map<number, Storage[]>();

  /** A block of its own that nobody uses. */
  take(size: number): Storage | undefined {
    return this.#free.get(size)?.pop();
  }

  adopt(storage: Storage): void {
    storage.arena = this;
    this.blocks.add(storage);
  }

  put(storage: Storage): void {
    const list = this.#free.get(storage.bytes);
    if (list === undefined) this.#free.set(storage.bytes, [storage]);
    else list.push(storage);
  }
}
