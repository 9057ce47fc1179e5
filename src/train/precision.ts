/**
 * Mixed precision: forward and backward on 16-bit copies of the weights, everything else on the float32 ones.
 *
 * @module
 */
import { DTypeError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { runHooks } from '../autograd/hooks.js';
import { isParameter, parameter, type Module } from '../nn/module.js';
import { add, mul } from '../ops/arithmetic.js';
import { copy_, to } from '../ops/copy.js';
import { keep, scope } from '../tensor/scope.js';
import { Tensor } from '../tensor/tensor.js';

/** Dtype of the copies. */
export type HalfPrecision = 'float16' | 'bfloat16';

/** Arithmetic of a run. */
export type Precision = 'float32' | HalfPrecision;

/** @internal Every {@link Precision}. */
export const precisions: readonly Precision[] = ['float32', 'bfloat16', 'float16'];

interface Copy {
  readonly tensor: Tensor;
  /** Of the master's memory, when the copy was made. */
  version: number;
}

/** A place that holds a parameter. */
interface Slot {
  readonly holder: Record<PropertyKey, unknown>;
  readonly key: PropertyKey;
  readonly master: Tensor;
  readonly copy: Tensor;
}

/**
 * 16-bit copies of a model's float32 (or float64) parameters. The model holds its own parameters, the master weights, at all times
 * but inside {@link run}, where the copies stand in their places; {@link collect} brings the copies' gradients over, in the masters'
 * precision. So optimisers, averages, clipping and `stateDict` need not know: they see the masters. Buffers, and parameters that have
 * 16 bits already (frozen ones), stay as they are.
 *
 * @example
 * ```ts
 * const mixed = new og.MixedPrecision(model, 'bfloat16');
 * mixed.refresh();
 * const loss = mixed.run(() => model.loss(x, y));
 * mixed.run(() => loss.backward());
 * mixed.collect();
 * optimizer.step(); // on the float32 weights
 * ```
 * @source Micikevicius et al., arXiv 1710.03740, §3.1
 */
export class MixedPrecision {
  private readonly copies = new Map<Tensor, Copy>();

  /** @throws DTypeError if a parameter that is to be trained has 16 bits itself */
  constructor(
    private readonly model: Module,
    readonly dtype: HalfPrecision,
  ) {
    for (const [name, tensor] of model.namedParameters()) {
      if (!tensor.requiresGrad || this.hasMaster(tensor)) continue;
      throw new DTypeError({
        op: 'MixedPrecision',
        argument: name,
        expected: 'float32: the master weights',
        actual: tensor.dtype,
        hint: "model.to('float32') first; the 16-bit copies are made of it",
      });
    }
  }

  private hasMaster({ dtype }: Tensor): boolean {
    return dtype === 'float32' || dtype === 'float64';
  }

  /** Rounds the weights as they are now to 16 bits. Before each step, and after whatever else changed them. */
  refresh(): void {
    const masters = new Set(this.model.parameters().filter((tensor) => this.hasMaster(tensor)));
    for (const [master, { tensor }] of this.copies) {
      if (masters.has(master)) continue;
      tensor.dispose();
      this.copies.delete(master);
    }
    noGrad(() =>
      masters.forEach((master) => {
        const { version } = master.storage;
        const known = this.copies.get(master);
        if (known === undefined) {
          this.copies.set(master, { tensor: parameter(to(master, this.dtype)), version });
        } else if (master.requiresGrad || known.version !== version) {
          copy_(known.tensor, master);
          known.version = version;
        }
      }),
    );
  }

  /** Runs `body`, which must be synchronous, while the model holds the copies. */
  run<T>(body: () => T): T {
    const slots = this.slots();
    for (const { holder, key, master, copy } of slots) {
      copy.requiresGrad = master.requiresGrad;
      holder[key] = copy;
    }
    try {
      return body();
    } finally {
      for (const { holder, key, master, copy } of slots) if (holder[key] === copy) holder[key] = master;
    }
  }

  /** Every place in the model that holds a parameter of which there is a copy. */
  private slots(): Slot[] {
    const found: Slot[] = [];
    const look = (holder: object): void => {
      for (const [key, value] of Object.entries(holder) as [string, unknown][]) {
        const copy = value instanceof Tensor && isParameter(value) ? this.copies.get(value) : undefined;
        if (copy === undefined) continue;
        found.push({
          holder: holder as Record<PropertyKey, unknown>,
          key,
          master: value as Tensor,
          copy: copy.tensor,
        });
      }
    };
    for (const [, module] of this.model.namedModules()) {
      look(module);
      for (const value of Object.values(module) as unknown[]) if (Array.isArray(value)) look(value);
    }
    return found;
  }

  /**
   * Adds the copies' gradients, divided by `scale`, to the masters', and frees them. Sums over several batches are those of the
   * masters' precision then. Hooks of the masters see what arrives.
   */
  collect(scale = 1): void {
    noGrad(() => {
      for (const [master, { tensor }] of this.copies) {
        const { grad } = tensor;
        if (grad === null) continue;
        scope(() => {
          const wide = to(grad, master.dtype);
          const arrived = runHooks(master, scale === 1 ? wide : mul(wide, 1 / scale));
          const before = master.grad;
          master.grad = keep(before === null ? arrived : add(before, arrived));
          before?.dispose();
        });
        grad.dispose();
        tensor.grad = null;
      }
    });
  }

  /** Bytes of the copies. */
  get bytes(): number {
    return [...this.copies.values()].reduce((total, { tensor }) => total + tensor.storage.bytes, 0);
  }

  /** Frees the copies; {@link refresh} makes them again. */
  dispose(): void {
    for (const { tensor } of this.copies.values()) tensor.dispose();
    this.copies.clear();
  }
}
