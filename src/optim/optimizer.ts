/**
 * What optimisers share: parameter groups, state per parameter, steps in place, and a state that checkpoints hold.
 *
 * @module
 */
import { DTypeError, ShapeError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { neg } from '../ops/unary.js';
import { copy_, to } from '../ops/copy.js';
import { detach } from '../ops/views.js';
import { zeros } from '../tensor/create.js';
import { itemSize, type DType } from '../tensor/dtype.js';
import { keep, scope } from '../tensor/scope.js';
import { sameShape, sizeOf } from '../tensor/shape.js';
import { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import {
  checkOptions,
  resolveGroups,
  type OptimizedParameters,
  type OptimizerOptions,
  type OptionChecks,
  type ResolvedGroup,
} from './groups.js';

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
  /** Options of each group, its base rate, and the indices of its parameters. JSON-safe. */
  readonly groups?: readonly SavedGroup[];
}

/** A group as a state holds it. */
export interface SavedGroup {
  readonly params: readonly number[];
  readonly name?: string;
  readonly options: Readonly<Record<string, unknown>>;
}

/** Options of {@link Optimizer.loadStateDict}. */
export interface LoadStateOptions {
  /** Take over the options of the groups (rates, decay, …) as PyTorch does, or keep those of this optimiser. Default true. */
  readonly options?: boolean;
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

const negative = (scale: GradScale): GradScale => (typeof scale === 'number' ? -scale : neg(scale));

/** Base class. A subclass says what one step does to one parameter. */
export abstract class Optimizer<O extends OptimizerOptions> {
  /** Groups in order, options resolved. Changing an option here takes effect at the next step. */
  readonly groups: ResolvedGroup<O>[];
  private readonly name: string;
  private readonly checks: OptionChecks<O>;
  private readonly slots = new Map<Tensor, Slot>();

  /**
   * @param name - of the class, for errors
   * @param defaults - a value for every option there is
   * @param options - of all groups that do not say otherwise
   * @param checks - of options whose values the common checks do not cover
   * @throws AttributeError for a group without parameters, a parameter in two places, and options that are unknown or cannot be
   * @throws DTypeError for a parameter of integers
   */
  constructor(
    name: string,
    params: OptimizedParameters<O>,
    defaults: O,
    options: Partial<O> = {},
    checks: OptionChecks<O> = {},
  ) {
    this.name = name;
    this.checks = checks;
    this.groups = resolveGroups(name, params, { ...defaults, maximize: defaults.maximize ?? false }, options, checks);
  }

  /** One step on one parameter, in place, outside the record. `step` counts from 1. */
  protected abstract update(param: Tensor, grad: Tensor, step: number, options: O, gradScale: GradScale): void;

  /** Names of the states that a parameter has after a step with these options. */
  protected abstract stateNames(param: Tensor, options: O): readonly string[];

  /** One step on parameters of one group: one after another, unless a subclass can take several at once. */
  protected updateAll(due: readonly Due[], options: O, gradScale: GradScale): void {
    for (const { param, grad, step } of due) scope(() => this.update(param, grad, step, options, gradScale));
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
    return (tensors[name] ??= keep(zeros(this.stateShape(param, name), { dtype: this.stateDType(param, name) })));
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
          if (due.length > 0) this.updateAll(due, group, group.maximize ? negative(gradScale) : gradScale);
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

  /**
   * Sets each group's rate to its own base rate times `factor`: what a schedule gives for a step.
   *
   * @throws AttributeError unless `factor` is a number of at least 0
   */
  setRateFactor(factor: number): void {
    checkNumber(this.name, 'factor', factor, 0, Number.MAX_VALUE);
    for (const group of this.groups) group.lr = group.baseLr * factor;
  }

  /** Bytes that the state takes once every parameter has taken a step, from shapes alone. */
  stateBytes(): number {
    let bytes = 0;
    for (const group of this.groups) {
      for (const param of group.params) {
        for (const name of this.stateNames(param, group)) {
          bytes += sizeOf(this.stateShape(param, name)) * itemSize(this.stateDType(param, name));
        }
      }
    }
    return bytes;
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
    let index = 0;
    const groups = this.groups.map(({ params, name, ...options }): SavedGroup => ({
      params: params.map(() => index++),
      ...(name === undefined ? {} : { name }),
      options,
    }));
    return { tensors, steps, lrs: this.groups.map((group) => group.lr), groups };
  }

  /**
   * Goes on from a saved state. The parameters must be the same, in the same order and groups.
   *
   * @throws StateError if the state belongs to other parameters
   * @throws ShapeError, DTypeError if a tensor is not what its parameter's state is; nothing is taken over then
   */
  loadStateDict(state: OptimizerState, { options: takeOptions = true }: LoadStateOptions = {}): void {
    const op = 'optimizer.loadStateDict';
    const params = this.parameters();
    if (state.steps.length !== params.length || state.lrs.length !== this.groups.length) {
      throw new StateError({
        op,
        expected: `a state of ${params.length} parameters in ${this.groups.length} groups`,
        actual: `one of ${state.steps.length} in ${state.lrs.length}`,
      });
    }
    if (state.groups !== undefined) this.checkSaved(state.groups);
    const parts = Object.entries(state.tensors).map(([path, value]) => this.place(params, path, value));
    for (const steps of state.steps) checkInteger(op, 'steps', steps, 0);
    for (const lr of state.lrs) checkNumber(op, 'lrs', lr, 0, Number.MAX_VALUE);
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
    if (!takeOptions) return;
    this.groups.forEach((group, i) => {
      Object.assign(group, state.groups?.[i]?.options);
      group.lr = state.lrs[i]!;
    });
  }

  /** @throws StateError, AttributeError unless saved groups are this optimiser's */
  private checkSaved(groups: readonly SavedGroup[]): void {
    const op = 'optimizer.loadStateDict';
    const sizes = Array.isArray(groups) ? groups.map((group: Partial<SavedGroup> | null) => group?.params?.length) : [];
    const expected = this.groups.map(({ params }) => params.length);
    if (sizes.length !== expected.length || sizes.some((size, i) => size !== expected[i])) {
      throw new StateError({
        op,
        argument: 'groups',
        expected: `groups of ${expected.join(', ')} parameters`,
        actual: Array.isArray(groups) ? sizes.join(', ') : formatValue(groups),
      });
    }
    groups.forEach(({ options }, i) => {
      const { params: _, name: __, ...own } = this.groups[i]!;
      checkKeys(op, options ?? {}, Object.keys(own));
      checkOptions(op, (options ?? {}) as O, this.checks);
    });
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
    const dtype = this.stateDType(param, name);
    if (value.dtype !== dtype) {
      throw new DTypeError({ op: 'optimizer.loadStateDict', argument: path, expected: dtype, actual: value.dtype });
    }
    return { index, name, value };
  }

  /** Frees the state. */
  dispose(): void {
    for (const slot of this.slots.values()) for (const tensor of Object.values(slot.tensors)) tensor.dispose();
    this.slots.clear();
  }
}
