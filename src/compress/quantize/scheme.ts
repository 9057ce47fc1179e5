/**
 * What a quantised layer is to be: bits of weights and activations, groups, and the method that chooses the codes.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import type { Float8Format } from '../../ops/float8.js';
import type { QuantizationScheme } from '../../ops/quantization.js';
import { checkInteger, checkKeys, checkNumber, checkOneOf, checkBoolean } from '../../util/assert.js';
import { observerKinds, type ObserverKind } from './observers.js';

/**
 * Bits of weights (w) and activations (a): `w8a8` integers on both sides; `w8a16` and `w4a16` float activations; `w4a8` 4-bit
 * weights by activations rounded to int8 in blocks of 32; `nf4` the 4-bit quantiles of QLoRA with float activations; `fp8-e4m3` and
 * `fp8-e5m2` 8-bit floats with a scale an output, to store: they are made floats again to compute.
 */
export type WeightScheme = 'w8a8' | 'w8a16' | 'w4a16' | 'w4a8' | 'nf4' | 'fp8-e4m3' | 'fp8-e5m2';
/** Every {@link WeightScheme}. */
export const weightSchemes: readonly WeightScheme[] = [
  'w8a8', 'w8a16', 'w4a16', 'w4a8', 'nf4', 'fp8-e4m3', 'fp8-e5m2',
]; // prettier-ignore

/** How codes are chosen: the nearest (`rtn`), GPTQ, AWQ, or SmoothQuant (w8a8). */
export type QuantizationMethod = 'rtn' | 'gptq' | 'awq' | 'smoothquant';
/** Every {@link QuantizationMethod}. */
export const quantizationMethods: readonly QuantizationMethod[] = ['rtn', 'gptq', 'awq', 'smoothquant'];

/** How layers are quantised. */
export interface LayerQuantization {
  readonly scheme: WeightScheme;
  /** Default `rtn`. */
  readonly method?: QuantizationMethod;
  /** Inputs that share a scale; null: one scale an output. Default 32 for 4 bits (64 for nf4), null for 8. */
  readonly groupSize?: number | null;
  /** Zero points beside scales. Default false. */
  readonly affine?: boolean;
  /** Of the scales. Default float16 for groups, float32 without. */
  readonly scaleDType?: 'float32' | 'float16';
  /**
   * Range of a weight's codes: all of a row or group (`minmax`), or the part of it whose codes lose least (`mse`): least squares, for AWQ of the
   * layer's output. Default `minmax`.
   */
  readonly weightObserver?: 'minmax' | 'mse';
  /** nf4: scales as 8-bit codes as well, with a scale for each 256 of them (QLoRA, section 3). Default false. */
  readonly doubleQuant?: boolean;
  /** Scales of the activations of w8a8: found at each call and row, or calibrated, one a layer. Default `dynamic`. */
  readonly activations?: 'dynamic' | 'static';
  /** Static activations: how their range is chosen. Default `minmax`. */
  readonly observer?: ObserverKind;
  /** Observer `percentile`: percent of the numbers that lie inside. Default 99.99. */
  readonly percentile?: number;
  /** Static activations: int8 codes around zero, or uint8 codes with a zero point. Default `symmetric`. */
  readonly activationScheme?: 'symmetric' | 'affine';
  /** GPTQ: round the most sensitive inputs first. Default true. */
  readonly actOrder?: boolean;
  /** GPTQ: share of the mean diagonal that is added to the Hessian. Default 0.01. */
  readonly damping?: number;
  /** SmoothQuant: how much of the difficulty goes from activations to weights, 0 to 1. Default 0.5. */
  readonly smoothing?: number;
}

/** @internal Keys of {@link LayerQuantization}. */
export const layerQuantizationKeys = [
  'scheme', 'method', 'groupSize', 'affine', 'scaleDType', 'weightObserver', 'doubleQuant', 'activations', 'observer', 'percentile',
  'activationScheme', 'actOrder', 'damping', 'smoothing',
] as const; // prettier-ignore

/** A {@link LayerQuantization} with its defaults, and what it means for the codes. */
export interface ResolvedQuantization extends Required<LayerQuantization> {
  readonly bits: 8 | 4;
  readonly codes: QuantizationScheme;
  /** Of fp8 schemes; null: integers. */
  readonly float8: Float8Format | null;
}

/** @internal Whether a method looks at activations. */
export function needsCalibration({ method, activations }: ResolvedQuantization): boolean {
  return method !== 'rtn' || activations === 'static';
}

/** What a scheme cannot be combined with. */
function checkCombination(op: string, scheme: WeightScheme, given: LayerQuantization, own: ResolvedQuantization): void {
  const { method, groupSize, affine, activations, float8, weightObserver, doubleQuant } = own;
  const refuse = (argument: string, expected: string, actual: unknown): never => {
    throw new AttributeError({ op, argument, expected, actual: String(actual) });
  };
  if (scheme === 'w8a8' && groupSize !== null) refuse('groupSize', 'null for w8a8: one scale an output', groupSize);
  if (scheme === 'w8a8' && affine) refuse('affine', 'false for w8a8', true);
  if (scheme !== 'w8a8' && activations === 'static') refuse('activations', 'dynamic unless w8a8', 'static');
  if (scheme === 'nf4' && affine) refuse('affine', 'false for nf4', true);
  if (scheme === 'nf4' && method === 'gptq') refuse('method', 'rtn or awq for nf4', 'gptq');
  if (scheme !== 'w8a8' && method === 'smoothquant') refuse('method', 'rtn, gptq or awq unless w8a8', 'smoothquant');
  if (scheme !== 'nf4' && doubleQuant) refuse('doubleQuant', 'false unless nf4', true);
  if (float8 !== null) {
    if (method !== 'rtn') refuse('method', `rtn for ${scheme}`, method);
    if (groupSize !== null) refuse('groupSize', `null for ${scheme}: one scale an output`, groupSize);
    if (affine) refuse('affine', `false for ${scheme}`, true);
    if (weightObserver !== 'minmax') refuse('weightObserver', `minmax for ${scheme}`, weightObserver);
  }
  if (activations !== 'static') {
    for (const key of ['observer', 'percentile', 'activationScheme'] as const)
      if (given[key] !== undefined) refuse(key, "none without activations: 'static'", given[key]);
  }
  if (own.observer !== 'percentile' && given.percentile !== undefined)
    refuse('percentile', "none without observer: 'percentile'", given.percentile);
}

/** @internal @throws AttributeError naming what contradicts what */
export function resolveQuantization(op: string, given: LayerQuantization): ResolvedQuantization {
  checkKeys(op, given, layerQuantizationKeys);
  const scheme = checkOneOf(op, 'scheme', given.scheme, weightSchemes);
  const float8 = scheme === 'fp8-e4m3' ? 'e4m3fn' : scheme === 'fp8-e5m2' ? 'e5m2' : null;
  const bits = scheme === 'w8a8' || scheme === 'w8a16' || float8 !== null ? 8 : 4;
  const defaultGroup = scheme === 'nf4' ? 64 : bits === 4 ? 32 : null;
  const groupSize = given.groupSize === undefined ? defaultGroup : given.groupSize;
  if (groupSize !== null) checkInteger(op, 'groupSize', groupSize, 2);
  const affine = checkBoolean(op, 'affine', given.affine ?? false);
  const scaleDType = given.scaleDType ?? (groupSize === null ? 'float32' : 'float16');
  const resolved: ResolvedQuantization = {
    scheme,
    method: checkOneOf(op, 'method', given.method ?? 'rtn', quantizationMethods),
    groupSize,
    affine,
    activations: checkOneOf(op, 'activations', given.activations ?? 'dynamic', ['dynamic', 'static']),
    bits,
    float8,
    codes: scheme === 'nf4' ? 'nf4' : affine ? 'affine' : 'symmetric',
    scaleDType: checkOneOf(op, 'scaleDType', scaleDType, ['float32', 'float16']),
    weightObserver: checkOneOf(op, 'weightObserver', given.weightObserver ?? 'minmax', ['minmax', 'mse']),
    doubleQuant: checkBoolean(op, 'doubleQuant', given.doubleQuant ?? false),
    observer: checkOneOf(op, 'observer', given.observer ?? 'minmax', observerKinds),
    percentile: checkNumber(op, 'percentile', given.percentile ?? 99.99, 50, 100),
    activationScheme: checkOneOf(op, 'activationScheme', given.activationScheme ?? 'symmetric', [
      'symmetric',
      'affine',
    ]),
    actOrder: checkBoolean(op, 'actOrder', given.actOrder ?? true),
    damping: checkNumber(op, 'damping', given.damping ?? 0.01, 0, 1),
    smoothing: checkNumber(op, 'smoothing', given.smoothing ?? 0.5, 0, 1),
  };
  checkCombination(op, scheme, given, resolved);
  return resolved;
}

/** @internal @throws AttributeError unless groups and pairs of codes divide a layer's inputs */
export function checkGroups(
  op: string,
  path: string,
  inFeatures: number,
  { groupSize, bits }: Pick<ResolvedQuantization, 'groupSize' | 'bits'>,
): void {
  if (groupSize !== null && inFeatures % groupSize !== 0) {
    const divisors = [32, 64, 128].filter((size) => inFeatures % size === 0);
    throw new AttributeError({
      op,
      argument: 'groupSize',
      expected: `a divisor of the ${inFeatures} inputs of ${path}`,
      actual: String(groupSize),
      hint: divisors.length > 0 ? `Use ${divisors.join(' or ')}, or an override` : 'Skip the layer with an override',
    });
  }
  if (bits === 4 && inFeatures % 2 !== 0) {
    const [expected, actual] = ['an even number of inputs for 4 bits', `${path} has ${inFeatures}`];
    throw new AttributeError({ op, argument: 'scheme', expected, actual });
  }
}
