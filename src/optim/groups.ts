/**
 * Parameter groups: what an optimiser is given, checked and with its options filled in.
 *
 * @module
 */
import { AttributeError, DTypeError } from '../errors.js';
import { isFloating } from '../tensor/dtype.js';
import { Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkKeys, checkNumber } from '../util/assert.js';
import { formatValue } from '../util/format.js';

/** What every optimiser takes. */
export interface OptimizerOptions {
  /** Learning rate. */
  lr: number;
  /** Go up the gradient instead of down. Default false. */
  maximize?: boolean;
}

/** Parameters with options of their own; what a group does not say, the optimiser's options do. */
export type ParameterGroup<O> = Partial<O> & {
  readonly params: Iterable<Tensor>;
  /** For people: shown in errors, kept in the state. */
  readonly name?: string;
};

/** What an optimiser updates: parameters, or groups of them with options of their own. */
export type OptimizedParameters<O> = Iterable<Tensor> | readonly ParameterGroup<O>[];

/** A group with every option filled in. */
export type ResolvedGroup<O> = O & {
  readonly params: readonly Tensor[];
  readonly name?: string;
  /** The rate that schedules multiply: `lr` at construction, until a state is loaded or someone sets it. */
  baseLr: number;
};

/** Throws unless an option may have this value. */
export type OptionCheck = (op: string, argument: string, value: unknown) => void;

const atLeastZero: OptionCheck = (op, argument, value) => checkNumber(op, argument, value, 0, Number.MAX_VALUE);
const flag: OptionCheck = (op, argument, value) => checkBoolean(op, argument, value);

const decayRates: OptionCheck = (op, argument, value) => {
  const isPair = Array.isArray(value) && value.length === 2;
  if (isPair && value.every((beta) => typeof beta === 'number' && beta >= 0 && beta < 1)) return;
  throw new AttributeError({ op, argument, expected: 'two numbers in [0, 1)', actual: formatValue(value) });
};

/** What options of these names may be, in whichever optimiser they stand. */
const commonChecks: Readonly<Record<string, OptionCheck>> = {
  lr: atLeastZero,
  baseLr: atLeastZero,
  weightDecay: atLeastZero,
  eps: atLeastZero,
  momentum: atLeastZero,
  dampening: (op, argument, value) => checkNumber(op, argument, value, -Number.MAX_VALUE, Number.MAX_VALUE),
  alpha: atLeastZero,
  lrDecay: atLeastZero,
  momentumDecay: atLeastZero,
  initialAccumulatorValue: atLeastZero,
  clipThreshold: atLeastZero,
  betas: decayRates,
  nesterov: flag,
  amsgrad: flag,
  centered: flag,
  maximize: flag,
};

/** Checks of options that mean something else in one optimiser. */
export type OptionChecks<O> = Partial<Readonly<Record<keyof O, OptionCheck>>>;

/** @throws AttributeError naming the first option of a group that cannot be */
export function checkOptions<O extends object>(op: string, options: O, own: OptionChecks<O>): void {
  const checks = { ...commonChecks, ...own } as Readonly<Record<string, OptionCheck>>;
  for (const [name, value] of Object.entries(options)) checks[name]?.(op, name, value);
}

function listOf(op: string, value: unknown): readonly unknown[] {
  const isIterable = typeof value === 'object' && value !== null && Symbol.iterator in value;
  if (isIterable && !(value instanceof Tensor)) return [...(value as Iterable<unknown>)];
  const expected = 'tensors, or groups { params, … }';
  throw new AttributeError({ op, argument: 'params', expected, actual: formatValue(value) });
}

/** Adds a tensor to those seen, or refuses it. */
function checkParameter(op: string, tensor: unknown, seen: Map<Tensor, number>, group: number): Tensor {
  const wrong = (actual: string): AttributeError =>
    new AttributeError({ op, argument: 'params', expected: 'distinct tensors', actual });
  if (!(tensor instanceof Tensor)) throw wrong(formatValue(tensor));
  tensor.check(op);
  if (!isFloating(tensor.dtype)) {
    throw new DTypeError({ op, argument: 'params', expected: 'floating-point tensors', actual: tensor.dtype });
  }
  const before = seen.get(tensor);
  if (before !== undefined) {
    throw wrong(`the same tensor twice${before === group ? '' : `, in groups ${before} and ${group}`}`);
  }
  seen.set(tensor, group);
  return tensor;
}

/**
 * Groups in order, with every option filled in.
 *
 * @throws AttributeError for a group without parameters, a parameter in two places, and options that are unknown or cannot be
 * @throws DTypeError for a parameter of integers
 */
export function resolveGroups<O extends OptimizerOptions>(
  op: string,
  params: OptimizedParameters<O>,
  defaults: O,
  options: Partial<O>,
  checks: OptionChecks<O>,
): ResolvedGroup<O>[] {
  const known = Object.keys(defaults);
  checkKeys(op, options, known);
  const list = listOf(op, params);
  const single = list.every((item) => item instanceof Tensor);
  const groups = single ? [{ params: list } as unknown as ParameterGroup<O>] : (list as readonly ParameterGroup<O>[]);
  const seen = new Map<Tensor, number>();
  return groups.map((group, i) => {
    if (typeof group !== 'object' || group === null || group instanceof Tensor || !('params' in group)) {
      throw new AttributeError({
        op,
        argument: 'params',
        expected: 'tensors, or groups { params, … }',
        actual: formatValue(group),
        hint: group instanceof Tensor ? 'Put single tensors into a group' : undefined,
      });
    }
    const { params: own, name, ...overrides } = group;
    checkKeys(op, overrides, known);
    const tensors = listOf(op, own).map((tensor) => checkParameter(op, tensor, seen, i));
    if (tensors.length === 0) {
      throw new AttributeError({
        op,
        argument: 'params',
        expected: 'at least one tensor',
        actual: single ? 'none' : `none in group ${name === undefined ? i : formatValue(name)}`,
        hint: 'Parameters of a frozen module are left out by the Trainer',
      });
    }
    const resolved = { ...defaults, ...options, ...overrides } as O;
    checkOptions(op, resolved, checks);
    return { ...resolved, params: tensors, ...(name === undefined ? {} : { name }), baseLr: resolved.lr };
  });
}
