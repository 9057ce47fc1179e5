/** A growing list of token ids in one typed array. */
export class IdBuffer {
  #ids: Int32Array;
  #length = 0;

  constructor(capacity = 64) {
    this.#ids = new Int32Array(Math.max(16, capacity));
  }

  get length(): number {
    return this.#length;
  }

  push(id: number): void {
    if (this.#length === this.#ids.length) this.#grow(this.#length + 1);
    this.#ids[this.#length++] = id;
  }

  /** Appends the first `count` of `ids`. */
  pushAll(ids: Int32Array, count: number = ids.length): void {
    const needed = this.#length + count;
    if (needed > this.#ids.length) this.#grow(needed);
    const target = this.#ids;
    for (let i = 0, at = this.#length; i < count; i++, at++) target[at] = ids[i]!;
    this.#length = needed;
  }

  toArray(): number[] {
    return Array.from(this.#ids.subarray(0, this.#length));
  }

  /** The ids in an array of exactly their number. */
  toTypedArray(): Int32Array {
    return this.#ids.slice(0, this.#length);
  }

  #grow(needed: number): void {
    const larger = new Int32Array(Math.max(needed, this.#ids.length * 2));
    larger.set(this.#ids.subarray(0, this.#length));
    this.#ids = larger;
  }
}
