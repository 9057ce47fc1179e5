/**
 * Weights in the layout that the kernels multiply by, kept beside the weights they were made of.
 *
 * @module
 */
import { currentIsa } from '../runtime/backend.js';
import { environment } from '../runtime/environment.js';
import { setRecording } from '../tensor/tape.js';
import type { Tensor } from '../tensor/tensor.js';
import { defineOp } from './define.js';
import { transpose } from './views.js';

interface Entry<K> {
  readonly packed: Tensor;
  readonly version: number;
  readonly isa: string;
  readonly kind: K;
}

/**
 * Packed weights for as long as the weights live: made again only if a weight was written to, or another instruction set is in
 * use, whose layout differs. By tensor, not by block of memory: the pool hands blocks out again.
 *
 * @internal
 */
export class PackedWeights<K> {
  readonly #entries = new WeakMap<Tensor, Entry<K>>();
  readonly #pack: (weight: Tensor, kind: K) => Tensor;

  constructor(pack: (weight: Tensor, kind: K) => Tensor) {
    this.#pack = pack;
  }

  /** What was packed of this weight as it is now; anything else is freed. */
  find(weight: Tensor, kind: K): Tensor | null {
    const found = this.#entries.get(weight);
    if (found === undefined) return null;
    const { packed, version, isa } = found;
    const same = version === weight.storage.version && isa === currentIsa() && found.kind === kind;
    if (same && !packed.storage.poisoned) return packed;
    this.drop(weight);
    return null;
  }

  drop(weight: Tensor): void {
    const found = this.#entries.get(weight);
    if (found === undefined) return;
    this.#entries.delete(weight);
    found.packed.dispose();
  }

  make(weight: Tensor, kind: K): Tensor {
    const { version } = weight.storage;
    const before = setRecording(false);
    try {
      const made = this.#pack(weight, kind);
      const packed = made.alias(true); // of no scope, and not the caller's to free
      made.dispose();
      this.#entries.set(weight, { packed, version, isa: currentIsa(), kind });
      return packed;
    } finally {
      setRecording(before);
    }
  }
}

/** Room for any instruction set: whole panels, and alignment. As in native/cpu/matmul.cpp. */
const packOp = defineOp<null>({
  name: 'matmul_pack',
  inputs: [{ name: 'b', kind: 'float' }],
  output: ([b]) => ({ shape: [(b!.shape[1]! + 31) * b!.shape[0]! + 16], dtype: 'float32' }),
});

/** Below it there is little to gain, above it (128 MiB) much memory to lose. */
const [SMALLEST, LARGEST] = [1 << 14, 1 << 25];

/** The rule for float32 weights, which are packed when they are met again. */
class PackedFloats {
  readonly #packed = new PackedWeights<null>((weight) => packOp.call([transpose(weight)], null));
  readonly #seen = new WeakMap<Tensor, number>();

  /** The weight [out, in] as a packed b [in, out]; null at its first use. */
  get(weight: Tensor): Tensor | null {
    if (!environment.prepack || weight.size < SMALLEST || weight.size > LARGEST) return null;
    const found = this.#packed.find(weight, null);
    if (found !== null) return found;
    const { version } = weight.storage;
    if (this.#seen.get(weight) === version) return this.#packed.make(weight, null);
    this.#seen.set(weight, version);
    return null;
  }

  drop(weight: Tensor): void {
    this.#packed.drop(weight);
  }
}

/** @internal */
export const packedFloats = new PackedFloats();
