/**
 * What of a model trains: freezing by name, reports, training the head only, and rates that fall with depth.
 */
import { AttributeError } from '../errors.js';
import type { Module } from '../nn/module.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { matcher, type Target } from '../nn/surgery.js';

/** Parameters that a target means, by path. @throws AttributeError if there is none, with the names there are */
function chosen(op: string, model: Module, target: Target | undefined): [string, Tensor][] {
  const all = model.namedParameters();
  if (target === undefined) return all;
  const matches = matcher(op, 'target', target);
  // A name means the parameters of that module, too.
  const isNamed = typeof target === 'string' || Array.isArray(target);
  const prefixes = (path: string): string[] => path.split('.').map((_, i, parts) => parts.slice(0, i + 1).join('.'));
  const found = all.filter(([path]) => (isNamed ? prefixes(path).some(matches) : matches(path)));
  if (found.length > 0) return found;
  const names = [...new Set(all.map(([path]) => path.replace(/\.\d+(?=\.|$)/g, '.*')))];
  throw new AttributeError({
    op,
    argument: 'target',
    expected: `a match among the parameters ${names.join(', ') || '(there are none)'}`,
    actual: `${formatValue(target instanceof RegExp ? String(target) : target)}, which matches none`,
  });
}

/**
 * Stops gradients to the parameters that are meant: by a pattern over their paths, by names of parameters or modules (whole paths or
 * their ends), or by a function. Default: all. Returns the model.
 *
 * @throws AttributeError if nothing matches, with the names there are
 */
export function freeze<M extends Module>(model: M, target?: Target): M {
  for (const [, tensor] of chosen('freeze', model, target)) tensor.requiresGrad = false;
  return model;
}

/** The opposite of {@link freeze}. */
export function unfreeze<M extends Module>(model: M, target?: Target): M {
  for (const [, tensor] of chosen('unfreeze', model, target)) tensor.requiresGrad = true;
  return model;
}

/** Options of {@link headOnly}. */
export interface HeadOnlyOptions {
  /** The output layer. Default: what is called head, lm_head, score or classifier. */
  readonly head?: Target;
}

/**
 * Trains the output layer and nothing else. Returns the model.
 *
 * @throws AttributeError if there is no such layer: one that is tied to the token table has no parameters of its own
 */
export function headOnly<M extends Module>(model: M, options: HeadOnlyOptions = {}): M {
  checkKeys('headOnly', options, ['head']);
  const found = chosen('headOnly', model, options.head ?? ['head', 'lm_head', 'score', 'classifier']);
  model.freeze();
  for (const [, tensor] of found) tensor.requiresGrad = true;
  return model;
}

/** What {@link trainableParameters} finds. */
export interface TrainableReport {
  /** Elements that train. */
  readonly count: number;
  /** Elements of all parameters, and of quantised weights. */
  readonly total: number;
  /** count / total, from 0 to 1. */
  readonly share: number;
  /** Memory of what trains, in bytes. */
  readonly bytes: number;
  /** Memory of everything, in bytes. */
  readonly totalBytes: number;
  /** Paths of what trains. */
  readonly names: readonly string[];
}

/** How much of a model trains. */
export function trainableParameters(model: Module): TrainableReport {
  const parameters = model.namedParameters();
  const trained = parameters.filter(([, tensor]) => tensor.requiresGrad);
  const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);
  const buffers = model.namedBuffers();
  const count = sum(trained.map(([, tensor]) => tensor.size));
  const quantized = [...model.namedModules()].flatMap(([, module]) => {
    const { codes, inFeatures, outFeatures } = module as Partial<{
      codes: Tensor;
      inFeatures: number;
      outFeatures: number;
    }>;
    return codes === undefined ? [] : [(inFeatures ?? 0) * (outFeatures ?? 0)];
  });
  const total = sum(parameters.map(([, tensor]) => tensor.size)) + sum(quantized);
  return {
    count,
    total,
    share: total === 0 ? 0 : count / total,
    bytes: sum(trained.map(([, tensor]) => tensor.bytes)),
    totalBytes: sum([...parameters, ...buffers].map(([, tensor]) => tensor.bytes)),
    names: trained.map(([name]) => name),
  };
}

/** Parameters of one depth of a model. */
interface Depth {
  readonly depth: number;
  readonly params: Tensor[];
}

/** Where a numbered layer stands in the path of a parameter. */
const numbered = /(?:^|\.)(?:blocks|layers|h)\.(\d+)(?=\.)/;

/** What trains, by depth: before the numbered layers 0, in layer i i + 1, behind them the number of layers + 1. */
function depthsOf(model: Module): Depth[] {
  const all = model.namedParameters();
  const indices = all
    .map(([path]) => numbered.exec(path)?.[1])
    .map((index) => (index === undefined ? null : Number(index)));
  const layers = Math.max(-1, ...indices.map((index) => index ?? -1)) + 1;
  if (layers === 0) {
    const expected = 'numbered layers (blocks.0, layers.0, h.0)';
    const actual = 'a model without';
    throw new AttributeError({ op: 'unfreezeLast', argument: 'model', expected, actual });
  }
  const first = indices.findIndex((index) => index !== null);
  const depths = Array.from({ length: layers + 2 }, (_, depth): Depth => ({ depth, params: [] }));
  for (const [i, [, tensor]] of all.entries()) {
    const index = indices[i]!;
    if (tensor.requiresGrad) depths[index !== null ? index + 1 : i < first ? 0 : layers + 1]!.params.push(tensor);
  }
  return depths;
}

/**
 * Gradual unfreezing: trains what stands behind the numbered layers and the last `layers` of them, and freezes the rest. Call it with
 * 0, 1, 2, … as training goes on; with more than there are, the embeddings train too. Returns the model.
 *
 * @source Howard and Ruder 2018, arXiv 1801.06146, §3.3
 */
export function unfreezeLast<M extends Module>(model: M, layers: number): M {
  checkInteger('unfreezeLast', 'layers', layers, 0);
  model.unfreeze();
  const depths = depthsOf(model);
  for (const { depth, params } of depths) {
    if (depth < depths.length - 1 - layers) for (const tensor of params) tensor.requiresGrad = false;
  }
  return model;
}
