/**
 * float32 weights in the layout that the kernels multiply by, kept beside the weights they were made of.
 *
 * @module
 */
import { environment } from '../runtime/environment.js';
import type { Tensor } from '../tensor/tensor.js';
import { defineOp } from './define.js';
import { PackedForms } from './packed_forms.js';
import { transpose } from './views.js';

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
  readonly #forms = new PackedForms();
  readonly #seen = new WeakMap<Tensor, number>();

  /** The weight [out, in] as a packed b [in, out]; null at its first use. */
  get(weight: Tensor): Tensor | null {
    if (!environment.prepack || weight.size < SMALLEST || weight.size > LARGEST) return null;
    const { version } = weight.storage;
    const isKnown = this.#seen.get(weight) === version;
    this.#seen.set(weight, version);
    return this.#forms.get(weight, [], '', isKnown ? () => packOp.call([transpose(weight)], null) : null);
  }

  drop(weight: Tensor): void {
    this.#forms.drop(weight);
  }
}

/** @internal */
export const packedFloats = new PackedFloats();
