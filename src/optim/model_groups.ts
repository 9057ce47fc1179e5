/**
 * Parameter groups of a model: what decays, which layer learns how fast, what Muon takes.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { Embedding } from '../nn/embedding.js';
import { Module } from '../nn/module.js';
import { LayerNorm, RMSNorm } from '../nn/norm.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger, checkKeys, checkNumber } from '../util/assert.js';
import { formatValue } from '../util/format.js';

/** Picks parameters by their path in the model. */
export type NameMatch = RegExp | ((name: string, tensor: Tensor) => boolean);

/** Options that say which parameters decay. */
export interface DecayGroupsOptions {
  /** Decay of those that decay. */
  readonly weightDecay: number;
  /** Whether tables of embeddings decay, a table shared with the output layer included. Default true. */
  readonly decayEmbeddings?: boolean;
  /** More parameters that do not decay. */
  readonly exclude?: NameMatch;
}

/** A group as {@link decayGroups} makes it. */
export interface DecayGroup {
  readonly name: string;
  readonly params: readonly Tensor[];
  readonly weightDecay: number;
}

function checkModel(op: string, model: Module): void {
  if (model instanceof Module) return;
  throw new AttributeError({ op, argument: 'model', expected: 'a module', actual: formatValue(model) });
}

function matcher(op: string, match: NameMatch | undefined): (name: string, tensor: Tensor) => boolean {
  if (match === undefined) return () => false;
  if (typeof match === 'function') return match;
  // A fresh expression without the flags that keep a place between calls.
  if (match instanceof RegExp) {
    const pattern = new RegExp(match.source, match.flags.replace(/[gy]/g, ''));
    return (name) => pattern.test(name);
  }
  const expected = 'a regular expression, or a function of name and tensor';
  throw new AttributeError({ op, argument: 'exclude', expected, actual: formatValue(match) });
}

/** Parameters of the modules of a model that are of these classes. */
function parametersOf(model: Module, kinds: readonly (abstract new (...args: never[]) => Module)[]): Set<Tensor> {
  const found = new Set<Tensor>();
  for (const [, module] of model.namedModules()) {
    if (kinds.some((kind) => module instanceof kind)) for (const tensor of module.parameters()) found.add(tensor);
  }
  return found;
}

/** Named parameters that ask for a gradient. */
function trainable(op: string, model: Module): [string, Tensor][] {
  const list = model.namedParameters().filter(([, tensor]) => tensor.requiresGrad);
  if (list.length > 0) return list;
  throw new AttributeError({
    op,
    argument: 'model',
    expected: 'at least one parameter that asks for a gradient',
    actual: 'none',
  });
}

/** Whether a parameter decays: matrices and larger do, unless they are biases, of norms, or excluded. */
function decayRule(op: string, model: Module, options: DecayGroupsOptions): (name: string, tensor: Tensor) => boolean {
  checkNumber(op, 'weightDecay', options.weightDecay, 0, Number.MAX_VALUE);
  const embeddings = checkBoolean(op, 'decayEmbeddings', options.decayEmbeddings ?? true);
  const spared = parametersOf(model, embeddings ? [LayerNorm, RMSNorm] : [LayerNorm, RMSNorm, Embedding]);
  const excluded = matcher(op, options.exclude);
  return (name, tensor) =>
    tensor.rank >= 2 && !/(^|\.)bias$/.test(name) && !spared.has(tensor) && !excluded(name, tensor);
}

/** Non-empty groups `decay` and `noDecay` of some parameters. */
function split(
  list: readonly [string, Tensor][],
  decays: (name: string, tensor: Tensor) => boolean,
  weightDecay: number,
  prefix = '',
): DecayGroup[] {
  const tensors = (wanted: boolean): Tensor[] =>
    list.filter(([name, tensor]) => decays(name, tensor) === wanted).map(([, tensor]) => tensor);
  return [
    { name: `${prefix}decay`, params: tensors(true), weightDecay },
    { name: `${prefix}noDecay`, params: tensors(false), weightDecay: 0 },
  ].filter(({ params }) => params.length > 0);
}

/**
 * Groups `decay` and `noDecay` of a model's trainable parameters: biases, scales and shifts of norms and everything of one axis
 * do not decay.
 *
 * @example
 * ```ts
 * new og.optim.AdamW(og.optim.decayGroups(model, { weightDecay: 0.1 }), { lr: 3e-4 });
 * ```
 * @throws AttributeError for options that are unknown or cannot be, and for a model without trainable parameters
 * @source Radford et al. 2018 (GPT), §4.1: decay "on all non bias or gain weights"
 */
export function decayGroups(model: Module, options: DecayGroupsOptions): DecayGroup[] {
  checkModel('decayGroups', model);
  checkKeys('decayGroups', options, ['weightDecay', 'decayEmbeddings', 'exclude']);
  const decays = decayRule('decayGroups', model, options);
  return split(trainable('decayGroups', model), decays, options.weightDecay);
}

/** Options of {@link layerwiseRates}. */
export interface LayerwiseOptions extends Partial<DecayGroupsOptions> {
  /** Rate of what lies above the topmost layer. */
  readonly lr: number;
  /** Rate of each layer over that of the layer above it, in (0, 1]. ULMFiT 1/2.6, ELECTRA 0.8 (base), 0.9 (large). */
  readonly decay: number;
  /**
   * Depth of a parameter, from 0 (lowest). Default: tables of embeddings 0, a path with a number n (`blocks.3.…`) n + 1, everything
   * else one above the topmost layer.
   */
  readonly depthOf?: (name: string, tensor: Tensor) => number;
}

/** A group as {@link layerwiseRates} makes it. */
export interface LayerGroup {
  readonly name: string;
  readonly params: readonly Tensor[];
  readonly lr: number;
  readonly weightDecay?: number;
}

function defaultDepth(model: Module, list: readonly [string, Tensor][]): (name: string, tensor: Tensor) => number {
  const tables = parametersOf(model, [Embedding]);
  const layerOf = (name: string): number | undefined => {
    const found = /(?:^|\.)(\d+)(?:\.|$)/.exec(name);
    return found === null ? undefined : Number(found[1]);
  };
  // Frozen layers count as well: thawing one must not move the others.
  const top = Math.max(-1, ...[...list, ...model.namedParameters()].map(([name]) => layerOf(name) ?? -1)) + 2;
  return (name, tensor) => {
    const layer = layerOf(name);
    if (layer !== undefined) return layer + 1;
    return tables.has(tensor) ? 0 : top;
  };
}

/**
 * Groups by layer, each learning `decay` times as fast as the one above it: lr · decay^(top − depth). With `weightDecay`, each layer
 * is split as {@link decayGroups} splits a model.
 *
 * @example
 * ```ts
 * new og.optim.AdamW(og.optim.layerwiseRates(model, { lr: 1e-4, decay: 0.8, weightDecay: 0.01 }));
 * ```
 * @throws AttributeError for options that are unknown or cannot be, and for a model without trainable parameters
 * @source Howard and Ruder, arXiv 1801.06146, §3.2 (discriminative fine-tuning); Clark et al., arXiv 2003.10555
 */
export function layerwiseRates(model: Module, options: LayerwiseOptions): LayerGroup[] {
  const op = 'layerwiseRates';
  checkModel(op, model);
  checkKeys(op, options, ['lr', 'decay', 'depthOf', 'weightDecay', 'decayEmbeddings', 'exclude']);
  checkNumber(op, 'lr', options.lr, 0, Number.MAX_VALUE);
  if (checkNumber(op, 'decay', options.decay, 0, 1) === 0) {
    throw new AttributeError({ op, argument: 'decay', expected: 'a number in (0, 1]', actual: '0' });
  }
  const list = trainable(op, model);
  const depthOf = options.depthOf ?? defaultDepth(model, list);
  const byDepth = new Map<number, [string, Tensor][]>();
  let top = 0;
  for (const [name, tensor] of model.namedParameters()) {
    const depth = checkInteger(op, `depthOf(${JSON.stringify(name)})`, depthOf(name, tensor), 0);
    top = Math.max(top, depth);
    if (tensor.requiresGrad) byDepth.set(depth, [...(byDepth.get(depth) ?? []), [name, tensor]]);
  }
  const { weightDecay } = options;
  const decays = weightDecay === undefined ? null : decayRule(op, model, { ...options, weightDecay });
  return [...byDepth]
    .sort(([a], [b]) => a - b)
    .flatMap(([depth, named]): LayerGroup[] => {
      const lr = options.lr * options.decay ** (top - depth);
      const name = `layer${depth}`;
      if (decays === null) return [{ name, params: named.map(([, tensor]) => tensor), lr }];
      return split(named, decays, weightDecay!, `${name}.`).map((group) => ({ ...group, lr }));
    });
}

/** Options of {@link muonGroups}. */
export interface MuonGroupsOptions {
  /** Rate of the matrices. Default: Muon's. */
  readonly lr?: number;
  /** Rate of AdamW's groups. Default: Muon's. */
  readonly adamLr?: number;
  /** Decay of what decays, in both. Default: 0.1. */
  readonly weightDecay?: number;
  /** More parameters that AdamW is to take: the output layer. Default: paths that end in `output.weight`, `lmHead.weight`, `head.weight`. */
  readonly exclude?: NameMatch;
}

/** A group as {@link muonGroups} makes it. */
export interface MuonGroup extends DecayGroup {
  readonly useMuon: boolean;
  readonly lr?: number;
}

/**
 * Groups for {@link Muon}: matrices of hidden layers, and for AdamW what is no matrix, tables of embeddings and the output layer.
 *
 * @throws AttributeError for options that are unknown or cannot be, and for a model without trainable parameters
 * @source Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
 */
export function muonGroups(model: Module, options: MuonGroupsOptions = {}): MuonGroup[] {
  const op = 'muonGroups';
  checkModel(op, model);
  checkKeys(op, options, ['lr', 'adamLr', 'weightDecay', 'exclude']);
  const { lr, adamLr, weightDecay = 0.1 } = options;
  for (const [name, rate] of Object.entries({ lr, adamLr })) {
    if (rate !== undefined) checkNumber(op, name, rate, 0, Number.MAX_VALUE);
  }
  const tables = parametersOf(model, [Embedding]);
  const excluded = matcher(op, options.exclude ?? /(^|\.)(output|lmHead|head)\.weight$/);
  const decays = decayRule(op, model, { weightDecay });
  const isHidden = ([name, tensor]: [string, Tensor]): boolean =>
    tensor.rank === 2 && decays(name, tensor) && !tables.has(tensor) && !excluded(name, tensor);
  const list = trainable(op, model);
  const rateOf = (rate: number | undefined): { lr?: number } => (rate === undefined ? {} : { lr: rate });
  const others = list.filter((entry) => !isHidden(entry));
  return [
    ...split(list.filter(isHidden), decays, weightDecay, 'muon.').map((group) => ({
      ...group,
      useMuon: true,
      ...rateOf(lr),
    })),
    ...split(others, decays, weightDecay, 'adamw.').map((group) => ({ ...group, useMuon: false, ...rateOf(adamLr) })),
  ];
}
