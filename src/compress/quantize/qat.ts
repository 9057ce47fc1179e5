/**
 * Training that is aware of quantisation (QAT).
 *
 * @module
 */
import { AttributeError, StateError } from '../../errors.js';
import { cloneModel, type SavableModel } from '../../models/saved_model.js';
import { Linear } from '../../nn/linear.js';
import type { Module } from '../../nn/module.js';
import { chooseSites, place, sitesOf, type Target } from '../../nn/surgery.js';
import { checkBoolean, checkInteger, checkKeys, checkNumber, checkOneOf } from '../../util/assert.js';
import { QatLinear, type QatSettings } from './qat_layer.js';
import { checkGroups, resolveQuantization } from './scheme.js';

/** Options of {@link prepareQat}. */
export interface QatOptions {
  /** What the layers are to become; of 8-bit floats there is none. */
  readonly scheme: QatSettings['scheme'];
  /** Inputs that share a scale; null: one scale an output. Default 32 for 4 bits (64 for nf4), null for 8. */
  readonly groupSize?: number | null;
  /** Zero points beside scales. Default false. */
  readonly affine?: boolean;
  /** Of the scales. Default float16 for groups, float32 without. */
  readonly scaleDType?: 'float32' | 'float16';
  /** w8a8: one scale for all inputs of a layer, found while training, or one a row at each call. Default `static`. */
  readonly activations?: 'static' | 'dynamic';
  /** Static inputs: int8 codes around zero, or uint8 codes with a zero point. Default `symmetric`. */
  readonly activationScheme?: 'symmetric' | 'affine';
  /**
   * Train the scales of weights, and of static inputs, as well (LSQ). Give them a weight decay of 0: `decayGroups` does. Default false: scales follow
   * the range of the weights, and a moving average of that of the inputs.
   */
  readonly learnedSteps?: boolean;
  /** Share of a new batch in that average. Default 0.01. */
  readonly momentum?: number;
  /** Passes in training after which the range of static inputs stays as it is. Default 1000. */
  readonly observerSteps?: number;
  /** Which layers. Default: all linear layers but the output layer. */
  readonly target?: Target;
  /** Change the model itself instead of a copy. Default false. */
  readonly inPlace?: boolean;
}

/** Options of {@link convertQat}. */
export interface ConvertQatOptions {
  /** Change the model itself instead of a copy. Default false. */
  readonly inPlace?: boolean;
}

const isLinear = (module: Module): module is Linear => Object.getPrototypeOf(module) === Linear.prototype;
const isQat = (module: Module): module is QatLinear => module instanceof QatLinear;

/** @throws AttributeError naming what contradicts what */
function resolve(op: string, options: QatOptions): QatSettings {
  const {
    activations,
    activationScheme,
    learnedSteps,
    momentum,
    observerSteps,
    target: _1,
    inPlace: _2,
    ...own
  } = options;
  checkKeys(op, options, [
    'scheme', 'groupSize', 'affine', 'scaleDType', 'activations', 'activationScheme', 'learnedSteps', 'momentum', 'observerSteps',
    'target', 'inPlace',
  ]); // prettier-ignore
  const scheme = checkOneOf(op, 'scheme', own.scheme, ['w8a8', 'w8a16', 'w4a16', 'w4a8', 'nf4']);
  const { codes, bits, groupSize, scaleDType, affine } = resolveQuantization(op, own);
  const learned = checkBoolean(op, 'learnedSteps', learnedSteps ?? false);
  const coding = checkOneOf(op, 'activationScheme', activationScheme ?? 'symmetric', ['symmetric', 'affine']);
  const inputs = checkOneOf(op, 'activations', activations ?? (scheme === 'w8a8' ? 'static' : 'dynamic'), [
    'static',
    'dynamic',
  ]);
  const refuse = (argument: string, expected: string, actual: string): never => {
    throw new AttributeError({ op, argument, expected, actual });
  };
  if (scheme !== 'w8a8' && inputs === 'static') refuse('activations', 'dynamic unless w8a8', 'static');
  if (inputs !== 'static' && coding === 'affine')
    refuse('activationScheme', 'symmetric unless inputs are static', 'affine');
  if (learned && (affine || scheme === 'nf4' || coding === 'affine'))
    refuse('learnedSteps', 'false unless all codes are symmetric', 'true');
  return {
    scheme,
    grid: { scheme: codes, bits, groupSize, scaleDType, weightObserver: 'minmax' },
    activations: scheme === 'w8a8' || scheme === 'w4a8' ? inputs : 'float',
    activationScheme: coding,
    learnedSteps: learned,
    momentum: checkNumber(op, 'momentum', momentum ?? 0.01, 0, 1),
    observerSteps: checkInteger(op, 'observerSteps', observerSteps ?? 1000, 1),
  };
}

/**
 * A copy of a model (or the model itself, `inPlace`) whose linear layers compute as if they were quantised and let gradients through to
 * their float weights. Train it with `Trainer` as any model, with a small rate, then call {@link convertQat}. It can be saved and loaded meanwhile.
 *
 * @example
 * ```ts
 * const aware = prepareQat(gpt, { scheme: 'w4a8', learnedSteps: true });
 * for await (const event of new og.Trainer(aware, { train, steps: 500, optimizer }).run());
 * const int4 = convertQat(aware);
 * ```
 * @throws AttributeError if options contradict each other, name no layer, or groups do not divide a layer's inputs
 * @throws StateError if the model has no linear layers that are not quantised yet
 * @source Jacob et al. 2018, arXiv 1712.05877; `learnedSteps`: Esser et al. 2020, arXiv 1902.08153
 */
export function prepareQat<M extends Module>(model: M, options: QatOptions): M {
  const op = 'prepareQat';
  const settings = resolve(op, options);
  const inPlace = checkBoolean(op, 'inPlace', options.inPlace ?? false);
  const { target = 'all-linear' } = options;
  const chosen = (of: Module): ReturnType<typeof chooseSites<Linear>> => {
    const sites = [...sitesOf(of, isLinear).values()];
    if (sites.length > 0) return chooseSites(op, sites, target);
    throw new StateError({ op, argument: 'model', expected: 'a model with linear layers', actual: 'one without any' });
  };
  for (const { path, layer } of chosen(model)) checkGroups(op, path, layer.inFeatures, settings.grid);
  const result = inPlace ? model : (cloneModel(model as unknown as SavableModel) as unknown as M);
  for (const site of chosen(result)) {
    const layer = new QatLinear(site.layer, settings);
    layer.train(site.layer.training);
    place(op, site, layer);
  }
  return result;
}

/**
 * A copy of a model from {@link prepareQat} (or the model itself, `inPlace`) with the quantised layers that it was trained for, of
 * the very codes that training saw: `nn.Int8Linear` for w8a8, else `nn.QuantizedLinear`. In evaluation mode.
 *
 * @throws StateError if the model has no such layers, or static inputs were never seen
 */
export function convertQat<M extends Module>(model: M, options: ConvertQatOptions = {}): M {
  const op = 'convertQat';
  checkKeys(op, options, ['inPlace']);
  const inPlace = checkBoolean(op, 'inPlace', options.inPlace ?? false);
  const sites = sitesOf(model, isQat);
  if (sites.size === 0) {
    const [expected, actual] = ['a model from prepareQat', 'one without its layers'];
    throw new StateError({ op, argument: 'model', expected, actual });
  }
  const made = new Map([...sites].map(([path, { layer }]) => [path, layer.convert(op, path)]));
  const result = inPlace ? model : (cloneModel(model as unknown as SavableModel) as unknown as M);
  for (const site of sitesOf(result, isQat).values()) {
    place(op, site, made.get(site.path)!);
    site.layer.dispose();
  }
  return result.eval();
}
