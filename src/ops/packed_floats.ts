/**
 * float32 and bfloat16 weights in the layout that the kernels multiply by, kept beside the weights they were made of.
 *
 * @module
 */
import { environment } from '../runtime/environment.js';
import type { Tensor } from '../tensor/tensor.js';
import { defineOp } from './define.js';
import { PackedForms } from './packed_forms.js';
import { transpose } from './views.js';

/** Room for any instruction set: whole panels of words of one float32 or two bfloat16, and alignment. As in native/cpu/matmul.cpp. */
const packOp = defineOp<null>({
  name: 'matmul_pack',
  inputs: [{ name: 'b', kind: 'float' }],
  output: ([b]) => {
    const steps = Math.ceil(b!.shape[0]! / (b!.dtype === 'bfloat16' ? 2 : 1));
    return { shape: [(b!.shape[1]! + 63) * steps + 16], dtype: 'float32' };
  },
});

/** Below it there is little to gain, above it (128 MiB of float32; twice that where a call gains much) much memory to lose. */
const [SMALLEST, LARGEST] = [1 << 14, 1 << 25];

/** The rule for such weights, which are packed when they are met again, or at once where packing changes the order of sums. */
class PackedFloats {
  readonly #forms = new PackedForms();
  readonly #seen = new WeakMap<Tensor, number>();

  /** The weight [out, in] as a packed b [in, out]; null at its first use, unless it is wanted `atOnce`. */
  get(weight: Tensor, atOnce: boolean): Tensor | null {
    if (!environment.prepack || weight.size < SMALLEST || weight.size > LARGEST * (atOnce ? 2 : 1)) return null;
    const { version } = weight.storage;
    const isKnown = atOnce || this.#seen.get(weight) === version;
    this.#seen.set(weight, version);
    return this.#forms.get(weight, [], '', isKnown ? () => packOp.call([transpose(weight)], null) : null);
  }

  drop(weight: Tensor): void {
    this.#forms.drop(weight);
  }
}

/** @internal */
export const packedFloats = new PackedFloats();
