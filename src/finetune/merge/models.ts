/**
 * Models in, one model out.
 */
import { AttributeError, StateError } from '../../errors.js';
import { GPT } from '../../models/gpt.js';
import { Module, type StateDict } from '../../nn/module.js';
import { generator } from '../../tensor/random.js';
import { checkOneOf } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { disposeState } from '../copies.js';
import { graftStates, stackStates } from './layers.js';
import { slerpStates } from './slerp.js';
import { averageStates, taskArithmetic, type TaskArithmeticOptions } from './states.js';
import { dareStates, tiesStates, type DareOptions, type TiesOptions } from './ties.js';

/** What every method of {@link mergeModels} takes. */
export interface MergeIntoOptions<M extends Module> {
  /** Takes the merged weights, and is returned. Default: a new model of the first one's configuration, for a `GPT`; others need it. */
  readonly into?: M;
}

/** Options of {@link mergeModels}, by method. */
export type MergeModelsOptions<M extends Module = Module> = MergeIntoOptions<M> &
  (
    | { readonly method: 'average'; readonly weights?: readonly number[] }
    | { readonly method: 'slerp'; readonly t?: number | ((name: string) => number) }
    | ({ readonly method: 'taskArithmetic'; readonly base: M } & TaskArithmeticOptions)
    | ({ readonly method: 'ties'; readonly base: M } & TiesOptions)
    | ({ readonly method: 'dare'; readonly base: M } & DareOptions)
  );

const methods = ['average', 'slerp', 'taskArithmetic', 'ties', 'dare'] as const;

/** @internal A model of the same kind, with no weights of its own worth keeping. */
function shellOf<M extends Module>(op: string, model: M, changes: { readonly layers?: number } = {}): M {
  if (Object.getPrototypeOf(model) !== GPT.prototype) {
    const hint = 'Pass { into }: a model of the same architecture';
    const actual = `a ${model.constructor.name}`;
    throw new AttributeError({ op, argument: 'into', expected: 'a model to take the weights, or GPTs', actual, hint });
  }
  const gpt = model as unknown as GPT;
  const made = new GPT({ ...gpt.config, ...changes }, { generator: generator(0) });
  return made.to(gpt.tokens.weight.dtype) as unknown as M;
}

/** Loads a state that was made for it, and frees it. */
function loaded<M extends Module>(op: string, model: M, state: StateDict): M {
  try {
    model.loadStateDict(state);
    return model;
  } catch (cause) {
    if (!(cause instanceof StateError)) throw cause;
    const { expected, actual } = cause;
    const hint = 'Make adapters part of the weights first (mergeAndUnload), or pass { into }';
    throw new StateError({ op, argument: 'models', expected, actual, hint, cause });
  } finally {
    disposeState(state);
  }
}

/**
 * Merges models of one architecture: `average` (a soup), `slerp` of two, or around their common `base`: `taskArithmetic`, `ties`, `dare`. The
 * models stay as they are, unless one is `into`. Names and shapes must agree; sums are in float32 (float64 for float64) and the result
 * has the dtypes of `into`, by default the first model's.
 *
 * @throws AttributeError if an option cannot be
 * @throws StateError or ShapeError if the models differ; `into` is as it was then
 * @example
 * ```ts
 * const both = await mergeModels([code, maths], { method: 'ties', base, weights: [1, 1], density: 0.2 });
 * ```
 */
export async function mergeModels<M extends Module>(models: readonly M[], options: MergeModelsOptions<M>): Promise<M> {
  const op = 'mergeModels';
  const list: unknown = models;
  if (!Array.isArray(list) || list.length === 0 || !list.every((model) => model instanceof Module)) {
    const actual = formatValue(models?.length);
    throw new AttributeError({ op, argument: 'models', expected: 'at least one model', actual });
  }
  const { into, ...given } = options;
  const method = checkOneOf(op, 'method', given.method, methods);
  const { base } = given as { readonly base?: Module };
  const needsBase = method !== 'average' && method !== 'slerp';
  if (needsBase !== base instanceof Module) {
    const expected = needsBase ? `the model that all were tuned from, for ${method}` : `none for ${method}`;
    throw new AttributeError({ op, argument: 'base', expected, actual: needsBase ? formatValue(base) : 'one' });
  }
  if (method === 'slerp' && models.length !== 2) {
    throw new AttributeError({
      op,
      argument: 'models',
      expected: 'two models for slerp',
      actual: String(models.length),
    });
  }
  const target = into ?? shellOf(op, models[0]!);
  const states = models.map((model) => model.stateDict());
  const start = base?.stateDict();
  try {
    return loaded(op, target, await mergedState(states, start, given as MergeModelsOptions));
  } finally {
    for (const state of [...states, start ?? {}]) disposeState(state); // views
  }
}

async function mergedState(
  states: StateDict[],
  base: StateDict | undefined,
  options: MergeModelsOptions,
): Promise<StateDict> {
  if (options.method === 'average') return averageStates(states, options.weights);
  if (options.method === 'slerp') return slerpStates(states[0]!, states[1]!, options.t ?? 0.5);
  const { method, base: _base, ...rest } = options;
  if (method === 'ties') return tiesStates(base!, states, rest);
  if (method === 'dare') return dareStates(base!, states, rest);
  return taskArithmetic(base!, states, rest);
}

/**
 * Puts layers of `donor` into `model`, in place, and returns it. See {@link graftStates}.
 *
 * @throws StateError or ShapeError if they do not fit; nothing is changed then
 */
export function graftLayers<M extends Module>(
  model: M,
  donor: Module,
  map: Readonly<Record<string, string>> | readonly string[],
): M {
  const [own, theirs] = [model.stateDict(), donor.stateDict()];
  try {
    return loaded('graftLayers', model, graftStates(own, theirs, map));
  } finally {
    disposeState(own); // views
    disposeState(theirs);
  }
}

/** Some layers of a GPT. */
export interface ModelSlice {
  readonly model: GPT;
  /** From the first to before the last, counted from 0. */
  readonly layers: readonly [start: number, end: number];
}

/**
 * A new GPT out of slices of layers: depth up-scaling, or a pruned model. See {@link stackStates}. It should be trained on before use.
 *
 * @throws AttributeError if a slice reaches beyond its layers
 * @throws StateError or ShapeError if the models do not fit together
 */
export function stackLayers(slices: readonly ModelSlice[]): GPT {
  const op = 'stackLayers';
  const parts = (slices ?? []).map(({ model, layers }) => ({ state: model.stateDict(), layers }));
  try {
    const state = stackStates(parts);
    const layers = parts.reduce((count, { layers: [start, end] }) => count + end - start, 0);
    return loaded(op, shellOf(op, slices[0]!.model, { layers }), state);
  } finally {
    for (const { state } of parts) disposeState(state); // views
  }
}
