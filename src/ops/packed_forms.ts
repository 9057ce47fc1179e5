/**
 * Weights as kernels want them: made once, and again only if the weight was written to or another instruction set is in
 * use, whose layout differs.
 *
 * @module
 */
import { currentIsa } from '../runtime/backend.js';
import { setRecording } from '../tensor/tape.js';
import type { Tensor } from '../tensor/tensor.js';

type Memory = Tensor['storage'];

interface Form {
  readonly packed: Tensor;
  /** What it was made of, and how often that had been written to. */
  readonly sources: readonly (Memory | null)[];
  readonly versions: readonly number[];
  readonly isa: string;
  readonly kind: string;
}

/** The packed forms of one kernel, kept for as long as their weights live. By tensor, not by block: the pool hands blocks out again. */
export class PackedForms {
  readonly #forms = new WeakMap<Tensor, Form>();

  /**
   * The form of `weight`, of which `parts` are the rest (scales, zero points); `kind` says how it was packed. Made by `make`
   * where there is none; without it, null.
   */
  get(weight: Tensor, parts: readonly (Tensor | null)[], kind: string, make: (() => Tensor) | null): Tensor | null {
    const sources = [weight, ...parts].map((part) => part?.storage ?? null);
    const versions = sources.map((source) => source?.version ?? 0);
    const isa = currentIsa();
    const found = this.#forms.get(weight);
    if (found !== undefined) {
      const same =
        found.isa === isa &&
        found.kind === kind &&
        sources.every((source, i) => source === found.sources[i] && versions[i] === found.versions[i]);
      if (same && !found.packed.storage.poisoned) return found.packed;
      this.drop(weight);
    }
    if (make === null) return null;
    const before = setRecording(false);
    try {
      const made = make();
      const packed = made.alias(true); // of no scope, and not the caller's to free
      made.dispose();
      weight.attached = [...(weight.attached ?? []).filter((form) => !form.isDisposed), packed];
      this.#forms.set(weight, { packed, sources, versions, isa, kind });
      return packed;
    } finally {
      setRecording(before);
    }
  }

  /** Frees the form of a weight. */
  drop(weight: Tensor): void {
    this.#forms.get(weight)?.packed.dispose();
    this.#forms.delete(weight);
  }
}
