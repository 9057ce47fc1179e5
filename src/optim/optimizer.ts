/**
 * What optimisers share: parameter groups, state per parameter, steps in place, and a state that checkpoints hold.
 *
 * @module
 */
import { AttributeError, ShapeError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { copy_, to } from '../ops/copy.js';
import { detach } from '../ops/views.js';
import { zeros } from '../tensor/create.js';
import type { DType } from '../tensor/dtype.js';
import { keep, scope } from '../tensor/scope.js';
import { sameShape } from '../tensor/shape.js';
import { Tensor } from '../tensor/tensor.js';
import { checkNumber } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';

/** Parameters with options of their own. */
export type ParameterGroup<O> = Partial<O> & { readonly params: readonly Tensor[] };

/** What an optimiser updates: parameters, or groups of them with options of their own. */
export type OptimizedParameters<O> = Iterable<Tensor> | readonly ParameterGroup<O>[];

/** What every optimiser takes. */
export interface OptimizerOptions {
  /** Learning rate. */
  lr: number;
}

/** What gradients are multiplied by: a number, or a tensor of one element that need not be known yet. */
export type GradScale = number | Tensor;

/** Options of {@link Optimizer.step}. */
export interface StepOptions {
  /**
   * Multiplies every gradient first, without changing it: loss scaling, or what `clipFactor` gives, so that clipping takes no pass
   * over the gradients of its own. Default 1.
   */
  readonly gradScale?: GradScale;
}

/** A parameter that a step updates. */
export interface Due {
  readonly param: Tensor;
  readonly grad: Tensor;
  /** Number of this step of the parameter, from 1. */
  readonly step: number;
}

/** Tensors and numbers from which an optimiser goes on exactly where it was. */
export interface OptimizerState {
  /** By `<parameter index>.<name>`. */
  readonly tensors: Record<string, Tensor>;
  /** Steps done, by parameter index. */
  readonly steps: readonly number[];
  /** Learning rate of each group. */
  readonly lrs: readonly number[];
}

interface Slot {
  step: number;
  readonly tensors: Record<string, Tensor>;
}

function checkScale(gradScale: GradScale): GradScale {
  if (!(gradScale instanceof Tensor)) return checkNumber('optimizer.step', 'gradScale', gradScale);
  gradScale.check('optimizer.step');
  if (gradScale.size !== 1) {
    throw new ShapeError({
      op: 'optimizer.step',
      argument: 'gradScale',
      expected: 'one element',
      actual: formatShape(gradScale.shape),
    });
  }
  return gradScale;
}

/** Base class. A subclass says what one step does to one parameter. */
export abstract class Optimizer<O extends OptimizerOptions> {
  /** Groups in order, options resolved. Changing `lr` here takes effect at the next step. */
  readonly groups: (O & { readonly params: readonly Tensor[] })[];
  private readonly slots = new Map<Tensor, Slot>();

  constructor(name: string, params: OptimizedParameters<O>, defaults: O) {
    const list = [...(params as Iterable<Tensor | ParameterGroup<O>>)];
    const groups = list.every((item) => item instanceof Tensor)
      ? [{ params: list } as unknown as ParameterGroup<O>]
      : list;
    const seen = new Set<Tensor>();
    this.groups = groups.map((group) => {
      if (group instanceof Tensor || !Array.isArray(group.params)) {
        throw new AttributeError({
          op: name,
          argument: 'params',
          expected: 'tensors, or groups { params, … }',
          actual: formatValue(group),
        });
      }
      for (const tensor of group.params) {
        if (!(tensor instanceof Tensor) || seen.has(tensor)) {
          const actual = tensor instanceof Tensor ? 'the same tensor twice' : formatValue(tensor);
          throw new AttributeError({ op: name, argument: 'params', expected: 'distinct tensors', actual });
        }
        seen.add(tensor);
      }
      return { ...defaults, ...group };
    });
    for (const group of this.groups) checkNumber(name, 'lr', group.lr, 0, Number.MAX_VALUE);
  }

  /** One step on one parameter, in place, outside the record. `step` counts from 1. */
  protected abstract update(param: Tensor, grad: Tensor, step: number, options: O, gradScale: GradScale): void;

  /** One step on parameters of one group: one after another, unless a subclass can take several at once. */
  protected updateAll(due: readonly Due[], options: O, gradScale: GradScale): void {
    for (const { param, grad, step } of due) this.update(param, grad, step, options, gradScale);
  }

  /** A scale as step kernels take it: a scalar tensor of the precision they compute in (or none), and a number. */
  protected kernelScale(gradScale: GradScale, param: Tensor): [factor: Tensor | null, scale: number] {
    if (typeof gradScale === 'number') return [null, gradScale];
    return [to(gradScale, param.dtype === 'float64' ? 'float64' : 'float32'), 1];
  }

  /** Shape of the state `name` of a parameter: the parameter's own, unless a subclass says otherwise. */
  protected stateShape(param: Tensor, _name: string): readonly number[] {
    return param.shape;
  }

  /** Dtype of the state `name` of a parameter: float32, float64 for float64, unless a subclass says otherwise. */
  protected stateDType(param: Tensor, _name: string): DType {
    return param.dtype === 'float64' ? 'float64' : 'float32';
  }

  /** State of a parameter, zeros at first. */
  protected state(param: Tensor, name: string): Tensor {
    const { tensors } = this.slots.get(param)!;
    const dtype = this.stateDType(param, name);
    return (tensors[name] ??= keep(zeros(this.stateShape(param, name), { dtype })));
  }

  /**
   * Updates every parameter that has a gradient. Nothing waits: the work is queued.
   *
   * @throws ShapeError if `gradScale` is a tensor of more than one element
   */
  step(options: StepOptions = {}): void {
    const gradScale = checkScale(options.gradScale ?? 1);
    scope(() =>
      noGrad(() => {
        for (const group of this.groups) {
          const due: Due[] = [];
          for (const param of group.params) {
            if (param.grad === null) continue;
            let slot = this.slots.get(param);
            if (slot === undefined) this.slots.set(param, (slot = { step: 0, tensors: {} }));
            due.push({ param, grad: param.grad, step: ++slot.step });
          }
          this.updateAll(due, group, gradScale);
          for (const { param } of due) param.storage.version++;
        }
      }),
    );
  }

  /** Frees the gradients of all parameters. */
  zeroGrad(): void {
    for (const { params } of this.groups) {
      for (const param of params) {
        param.grad?.dispose();
        param.grad = null;
      }
    }
  }

  /** Learning rate of the first group; setting it sets all groups. */
  get lr(): number {
    return this.groups[0]?.lr ?? 0;
  }

  set lr(value: number) {
    checkNumber('optimizer', 'lr', value, 0, Number.MAX_VALUE);
    for (const group of this.groups) group.lr = value;
  }

  /** All parameters, group after group. */
  parameters(): Tensor[] {
    return this.groups.flatMap((group) => [...group.params]);
  }

  /** The state by parameter index. The tensors share memory with the optimiser. */
  stateDict(): OptimizerState {
    const tensors: Record<string, Tensor> = {};
    const steps = this.parameters().map((param, i) => {
      const slot = this.slots.get(param);
      for (const [name, tensor] of Object.entries(slot?.tensors ?? {})) tensors[`${i}.${name}`] = detach(tensor);
      return slot?.step ?? 0;
    });
    return { tensors, steps, lrs: this.groups.map((group) => group.lr) };
  }

  /**
   * Goes on from a saved state. The parameters must be the same, in the same order.
   *
   * @throws StateError if the state belongs to other parameters
   * @throws ShapeError if a tensor has another shape than its parameter's state has; nothing is taken over then
   */
  loadStateDict(state: OptimizerState): void {
    const params = this.parameters();
    if (state.steps.length !== params.length || state.lrs.length !== this.groups.length) {
      throw new StateError({
        op: 'optimizer.loadStateDict',
        expected: `a state of ${params.length} parameters in ${this.groups.length} groups`,
        actual: `one of ${state.steps.length} in ${state.lrs.length}`,
      });
    }
    const parts = Object.entries(state.tensors).map(([path, value]) => this.place(params, path, value));
    for (const lr of state.lrs) checkNumber('optimizer.loadStateDict', 'lrs', lr, 0, Number.MAX_VALUE);
    scope(() =>
      noGrad(() => {
        params.forEach((param, i) => {
          const own = parts.filter((part) => part.index === i);
          const copies = own.map(({ name, value }): [string, Tensor] => [
            name,
            copy_(keep(zeros(value.shape, { dtype: value.dtype })), value),
          ]);
          for (const old of Object.values(this.slots.get(param)?.tensors ?? {})) old.dispose();
          this.slots.set(param, { step: state.steps[i]!, tensors: Object.fromEntries(copies) });
        });
      }),
    );
    this.groups.forEach((group, i) => (group.lr = state.lrs[i]!));
  }

  /** Parameter and name that a path of a saved state means. */
  private place(
    params: readonly Tensor[],
    path: string,
    value: Tensor,
  ): { index: number; name: string; value: Tensor } {
    const dot = path.indexOf('.');
    const [index, name] = [Number(path.slice(0, dot)), path.slice(dot + 1)];
    const param = dot > 0 ? params[index] : undefined;
    if (param === undefined) {
      throw new StateError({
        op: 'optimizer.loadStateDict',
        argument: 'tensors',
        expected: `names <index below ${params.length}>.<name>`,
        actual: formatValue(path),
      });
    }
    const shape = this.stateShape(param, name);
    if (!sameShape(shape, value.shape)) {
      throw new ShapeError({
        op: 'optimizer.loadStateDict',
        argument: path,
        expected: formatShape(shape),
        actual: formatShape(value.shape),
      });
    }
    return { index, name, value };
  }

  /** Frees the state. */
  dispose(): void {
    for (const slot of this.slots.values()) for (const tensor of Object.values(slot.tensors)) tensor.dispose();
    this.slots.clear();
  }
}
