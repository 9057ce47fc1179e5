/**
 * Linear layers with adapters of low rank beside them.
 */
import { AttributeError, DTypeError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { kaimingUniform_, normal_, zeros_ } from '../nn/init.js';
import { Linear } from '../nn/linear.js';
import { Module, parameter } from '../nn/module.js';
import type { QuantizedLinear } from '../nn/quantized_linear.js';
import { add, div, mul, sub } from '../ops/arithmetic.js';
import { clone, to } from '../ops/copy.js';
import { dropout } from '../ops/dropout.js';
import { linear } from '../ops/linear.js';
import { matmul } from '../ops/matmul.js';
import { dequantize } from '../ops/quantization.js';
import { sum } from '../ops/reduce.js';
import { clamp, sqrt, square } from '../ops/unary.js';
import { detach, unsqueeze } from '../ops/views.js';
import { empty } from '../tensor/create.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { generator as makeGenerator, type Generator as RandomStream } from '../tensor/random.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';

/**
 * `lora`: scale alpha/rank. `rslora`: alpha/√rank, so that a higher rank does not shrink the update. `dora`: the length of each
 * row of the weight is a parameter of its own. `rsdora`: both.
 */
export type LoraVariant = 'lora' | 'rslora' | 'dora' | 'rsdora';
/** @internal */
export const loraVariants: readonly LoraVariant[] = ['lora', 'rslora', 'dora', 'rsdora'];

/**
 * `default`: A as a Linear's weight, B zero. `gaussian`: A normal with std 1/rank, B zero. `random`: both as a Linear's weight, so
 * that the adapter changes the model at once (for tests).
 */
export type LoraInit = 'default' | 'gaussian' | 'random';
/** @internal */
export const loraInits: readonly LoraInit[] = ['default', 'gaussian', 'random'];

/** What an adapter of one layer is like. */
export interface AdapterSettings {
  readonly rank: number;
  readonly alpha: number;
  readonly variant: LoraVariant;
  /** Probability of dropping an input of the adapter in training. */
  readonly dropout: number;
  readonly generator?: RandomStream | undefined;
}

/** Layers that can carry an adapter. */
export type LoraBase = Linear | QuantizedLinear;

/** Below it a row counts as one of zeros: its length cannot be divided by. */
const TINY = 1e-30;

/** @internal The weight of a layer as a matrix, without a record. */
export function weightOf(base: LoraBase, dtype: DType): Tensor {
  return noGrad(() => (base instanceof Linear ? to(detach(base.weight), dtype) : to(dequantize(base.weight), dtype)));
}

/** @internal Length of each row of a matrix. */
export function rowNorms(weight: Tensor): Tensor {
  return scope(() => noGrad(() => sqrt(sum(square(weight), 1))));
}

/**
 * The adapter of one layer: ΔW = scaling · B·A. With a magnitude m (DoRA) the weight is m · (W + ΔW) / ‖W + ΔW‖, row by row, and the
 * norm is a constant to the gradient (§4.3 of the paper).
 *
 * Shapes: `loraA` `[rank, in]`, `loraB` `[out, rank]`, `magnitude` `[out]`.
 */
export class LoraAdapter extends Module {
  readonly rank: number;
  readonly alpha: number;
  readonly scaling: number;
  readonly variant: LoraVariant;
  readonly dropout: number;
  readonly #generator: RandomStream | undefined;
  loraA: Tensor;
  loraB: Tensor;
  magnitude: Tensor | null;

  /** @internal Takes over the tensors. */
  constructor(
    settings: AdapterSettings,
    tensors: { readonly loraA: Tensor; readonly loraB: Tensor; readonly magnitude: Tensor | null },
  ) {
    super();
    const { rank, alpha, variant } = settings;
    this.rank = rank;
    this.alpha = alpha;
    this.variant = variant;
    this.scaling = variant === 'rslora' || variant === 'rsdora' ? alpha / Math.sqrt(rank) : alpha / rank;
    this.dropout = settings.dropout;
    this.#generator = settings.generator;
    this.loraA = parameter(tensors.loraA);
    this.loraB = parameter(tensors.loraB);
    this.magnitude = tensors.magnitude === null ? null : parameter(tensors.magnitude);
  }

  /** @internal A new adapter for a layer. */
  static make(base: LoraBase, settings: AdapterSettings, init: LoraInit, dtype: DType): LoraAdapter {
    const { rank, generator, variant } = settings;
    const loraA = empty([rank, base.inFeatures], { dtype });
    const loraB = empty([base.outFeatures, rank], { dtype });
    if (init === 'gaussian') normal_(loraA, 0, 1 / rank, generator);
    else kaimingUniform_(loraA, undefined, generator);
    if (init === 'random') kaimingUniform_(loraB, undefined, generator);
    else zeros_(loraB);
    const adapter = new LoraAdapter(settings, { loraA, loraB, magnitude: null });
    if (variant === 'dora' || variant === 'rsdora') adapter.magnitude = parameter(adapter.norms(base));
    return adapter;
  }

  /** scaling · B·A·x, without a magnitude, which needs the layer: `[…, in]` → `[…, out]`. */
  forward(x: Tensor): Tensor {
    return scope(() => linear(this.inner(x, 1), this.loraB));
  }

  private dropped(x: Tensor): Tensor {
    if (!this.training || this.dropout === 0) return x;
    return dropout(x, this.dropout, {
      training: true,
      ...(this.#generator === undefined ? {} : { generator: this.#generator }),
    });
  }

  private inner(x: Tensor, factor: number): Tensor {
    return mul(linear(to(x, this.loraA.dtype), this.loraA), this.scaling * factor);
  }

  /** ‖W + ΔW‖, row by row. */
  private norms(base: LoraBase): Tensor {
    return scope(() =>
      noGrad(() => {
        const [a, b] = [detach(this.loraA), detach(this.loraB)];
        return rowNorms(add(weightOf(base, a.dtype), mul(matmul(b, a), this.scaling)));
      }),
    );
  }

  /** What the layer's result becomes; `plain` is the base layer's. */
  addTo(y: Tensor, plain: Tensor, x: Tensor, base: LoraBase, factor: number): Tensor {
    const input = this.dropped(x);
    if (this.magnitude === null) {
      const inner = this.inner(input, factor);
      if (y.dtype === this.loraB.dtype) return linear(inner, this.loraB, null, { residual: y });
      return add(y, to(linear(inner, this.loraB), y.dtype));
    }
    const ratio = div(this.magnitude, clamp(this.norms(base), TINY));
    let own: Tensor; // W·x without the bias
    if (input !== x) own = linear(to(input, this.loraA.dtype), weightOf(base, this.loraA.dtype));
    else own = base.bias === null ? plain : sub(plain, base.bias);
    const change = add(mul(sub(ratio, 1), own), mul(ratio, linear(this.inner(input, 1), this.loraB)));
    return add(y, to(factor === 1 ? change : mul(change, factor), y.dtype));
  }

  /** @internal What the adapter adds to the weight, times `factor`. */
  weightChange(base: LoraBase, factor: number): Tensor {
    return scope(() =>
      noGrad(() => {
        const [a, b] = [detach(this.loraA), detach(this.loraB)];
        const change = mul(matmul(b, a), this.scaling);
        if (this.magnitude === null) return mul(change, factor);
        const weight = weightOf(base, a.dtype);
        const changed = add(weight, change);
        const ratio = div(detach(this.magnitude), clamp(rowNorms(changed), TINY));
        return mul(sub(mul(unsqueeze(ratio, 1), changed), weight), factor);
      }),
    );
  }
}

interface Merged {
  /** What `base` was, or the weight it had. */
  readonly layer: LoraBase;
  readonly weight: Tensor | null;
}

/**
 * A linear layer with adapters: y = W·x + b + Σ weight · scaling · B·A·x over the active ones. The base layer stays what it was,
 * quantised if it was. State: `base.…`, and `adapters.<name>.loraA`, `.loraB`, `.magnitude`.
 *
 * Shapes: x `[…, in]` → `[…, out]`.
 *
 * @source Hu et al. 2021, arXiv 2106.09685, eq. 3; rank-stabilised: Kalajdzievski 2023, arXiv 2312.03732; magnitudes: Liu et al.
 * 2024, arXiv 2402.09353, eq. 5 and 11; quantised base: Dettmers et al. 2023, arXiv 2305.14314
 */
export class LoraLinear extends Module {
  readonly inFeatures: number;
  readonly outFeatures: number;
  base: LoraBase;
  readonly #adapters = new Map<string, LoraAdapter>();
  #active: (readonly [adapter: LoraAdapter, factor: number])[] = [];
  #merged: Merged | null = null;

  /** @internal Made by `lora`. */
  constructor(base: LoraBase) {
    super();
    this.base = base;
    this.inFeatures = base.inFeatures;
    this.outFeatures = base.outFeatures;
    this.training = base.training;
  }

  override *children(): Generator<[name: string, part: Module | Tensor]> {
    yield ['base', this.base];
    for (const [name, adapter] of this.#adapters) yield [`adapters.${name}`, adapter];
  }

  /** Adapters of this layer by name. */
  get adapters(): ReadonlyMap<string, LoraAdapter> {
    return this.#adapters;
  }

  /** Whether the base holds the active adapters now. */
  get isMerged(): boolean {
    return this.#merged !== null;
  }

  /** The base's bias. */
  get bias(): Tensor | null {
    return this.base.bias;
  }

  /** @internal */
  attach(name: string, adapter: LoraAdapter): void {
    adapter.training = this.training;
    this.#adapters.set(name, adapter);
  }

  /** @internal Removes and frees an adapter. */
  detachAdapter(name: string): void {
    const adapter = this.#adapters.get(name);
    if (adapter === undefined) return;
    this.#adapters.delete(name);
    this.#active = this.#active.filter(([active]) => active !== adapter);
    adapter.dispose();
  }

  /** @internal */
  activate(factors: ReadonlyMap<string, number>): void {
    this.#active = [...factors].flatMap(([name, factor]) => {
      const adapter = this.#adapters.get(name);
      return adapter === undefined || factor === 0 ? [] : [[adapter, factor] as const];
    });
  }

  /** `[…, in]` → `[…, out]`. */
  forward(x: Tensor): Tensor {
    if (this.#merged !== null || this.#active.length === 0) return this.base.forward(x);
    return scope(() => {
      const plain = this.base.forward(x);
      let y = plain;
      for (const [adapter, factor] of this.#active) y = adapter.addTo(y, plain, x, this.base, factor);
      return y;
    });
  }

  /** @internal Puts the active adapters into the weight; what it was is kept. */
  merge(dequantizing: boolean, path: string): void {
    if (this.#merged !== null || this.#active.length === 0) return;
    const { base } = this;
    if (!(base instanceof Linear)) {
      if (!dequantizing) {
        throw new StateError({
          op: 'mergeAdapters',
          argument: path,
          expected: 'a layer that is not quantised',
          actual: `${base.format.bits}-bit codes, which cannot hold the sum`,
          hint: 'Pass { dequantize: true } to make it a float32 layer, or keep the adapter beside it',
        });
      }
    }
    const dtype = base instanceof Linear ? base.weight.dtype : 'float32';
    const weight = parameter(
      scope(() =>
        noGrad(() => {
          const changes = this.#active.map(([adapter, factor]) => adapter.weightChange(base, factor));
          const start = weightOf(base, changes[0]!.dtype);
          return clone(
            to(
              changes.reduce((sum, change) => add(sum, change), start),
              dtype,
            ),
          );
        }),
      ),
    );
    weight.requiresGrad = false;
    if (base instanceof Linear) {
      this.#merged = { layer: base, weight: base.weight };
      base.weight = weight;
    } else {
      this.#merged = { layer: base, weight: null };
      this.base = linearOf(weight, base.bias);
    }
    this.base.training = this.training;
  }

  /** @internal The very weight that was there before. */
  unmerge(): void {
    if (this.#merged === null) return;
    const { layer, weight } = this.#merged;
    (this.base as Linear).weight.dispose();
    if (weight !== null) (layer as Linear).weight = weight;
    this.base = layer;
    this.#merged = null;
  }

  /** @internal Forgets what the weight was; returns it, to be freed if nothing else holds it. */
  forget(): Tensor[] {
    if (this.#merged === null) return [];
    const { layer, weight } = this.#merged;
    this.#merged = null;
    if (weight !== null) return [weight];
    return (layer as QuantizedLinear).weightTensors;
  }
}

/** A Linear around a weight and a bias, without drawing from the shared stream of random numbers. */
function linearOf(weight: Tensor, bias: Tensor | null): Linear {
  const [outFeatures, inFeatures] = weight.shape as [number, number];
  const layer = new Linear(inFeatures, outFeatures, { bias: false, generator: makeGenerator(0) });
  layer.weight.dispose();
  layer.weight = weight;
  layer.bias = bias;
  return layer;
}

/** @internal Element type of a layer's adapters: float64 beside float64, else float32. @throws DTypeError for others */
export function adapterDType(op: string, base: LoraBase, wanted: DType | undefined): DType {
  if (wanted !== undefined && !isFloating(wanted)) {
    throw new DTypeError({ op, argument: 'dtype', expected: 'a floating-point dtype', actual: wanted });
  }
  return wanted ?? (base instanceof Linear && base.weight.dtype === 'float64' ? 'float64' : 'float32');
}

/** @internal @throws AttributeError unless it can be part of a path */
export function checkAdapterName(op: string, name: unknown): string {
  if (typeof name === 'string' && /^[\w-]+$/.test(name)) return name;
  const expected = 'a name of letters, digits, _ and -';
  throw new AttributeError({ op, argument: 'name', expected, actual: JSON.stringify(name) ?? String(name) });
}
