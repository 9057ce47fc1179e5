/**
 * Layers that are not what a model's configuration makes (quantised, sparse, narrower after pruning), described as plain data, so that
 * a saved model can be put together again.
 *
 * @module
 */
import { FormatError } from '../errors.js';
import type { Float8Format } from '../ops/float8.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkDType } from '../tensor/dtype.js';
import { keep } from '../tensor/scope.js';
import { formatValue } from '../util/format.js';
import { MultiHeadAttention } from './attention.js';
import { Float8Linear } from './float8_linear.js';
import { Int8Linear } from './int8_linear.js';
import { Linear } from './linear.js';
import { parameter, type Module, type StateDict } from './module.js';
import { QuantizedEmbedding } from './quantized_embedding.js';
import { QuantizedLinear, type WeightFormat } from './quantized_linear.js';
import { SparseLinear } from './sparse_linear.js';

/** A layer as data: its kind, and what that kind needs beside its tensors. JSON-safe. */
export interface LayerForm {
  readonly kind: string;
  readonly [field: string]: unknown;
}

/** How one kind of layer is described, and made again. */
export interface LayerKind<L extends Module = Module> {
  /** Name in files; does not change. */
  readonly kind: string;
  /** Whether a layer is of this kind, and not of a class derived from it. */
  matches(layer: Module): layer is L;
  /** What {@link restore} needs beside the tensors. */
  describe(layer: L): Readonly<Record<string, unknown>>;
  /** The layer around the tensors of its state, which it takes over; `current` is what a new model has in its place. */
  restore(form: LayerForm, state: Readonly<StateDict>, current: Module): Module;
}

const kinds = new Map<string, LayerKind>();

/** Makes a kind of layer known to files of models. */
export function registerLayerKind<L extends Module>(kind: LayerKind<L>): void {
  kinds.set(kind.kind, kind as unknown as LayerKind);
}

/** The form of a layer, or null if its kind is not known: a model's configuration makes it. */
export function formOf(layer: Module): LayerForm | null {
  for (const kind of kinds.values()) if (kind.matches(layer)) return { kind: kind.kind, ...kind.describe(layer) };
  return null;
}

/** @throws FormatError if the kind is not known, or a tensor is missing */
export function restoreLayer(path: string, form: LayerForm, state: Readonly<StateDict>, current: Module): Module {
  const kind = kinds.get(form.kind);
  if (kind === undefined) {
    const expected = `a layer of kind ${[...kinds.keys()].join(', ')}`;
    throw new FormatError({ op: 'load', argument: path, expected, actual: formatValue(form.kind) });
  }
  return kind.restore(form, state, current);
}

/** @internal A tensor of a layer's state. @throws FormatError if it is not there */
export function statePart(state: Readonly<StateDict>, name: string): Tensor {
  const found = state[name];
  if (found !== undefined) return found;
  const actual = Object.keys(state).join(', ') || 'no tensors';
  throw new FormatError({ op: 'load', expected: `a tensor ${name}`, actual });
}

const isExactly = <L extends Module>(layer: Module, type: abstract new (...inputs: never[]) => L): layer is L =>
  Object.getPrototypeOf(layer) === type.prototype;

registerLayerKind<Linear>({
  kind: 'linear',
  matches: (layer): layer is Linear => isExactly(layer, Linear),
  describe: ({ inFeatures, outFeatures, bias, pruned }) => ({
    inFeatures,
    outFeatures,
    bias: bias !== null,
    ...(pruned === null ? {} : { pruned }),
  }),
  restore(form, state) {
    const layer = Linear.of(statePart(state, 'weight'), form['bias'] === true ? statePart(state, 'bias') : null);
    const { pruned = null } = form;
    if (pruned !== null && typeof pruned !== 'string') {
      const [expected, actual] = ['the name of a pattern, or none', formatValue(pruned)];
      throw new FormatError({ op: 'load', argument: 'pruned', expected, actual });
    }
    layer.pruned = pruned;
    return layer;
  },
});

registerLayerKind<QuantizedLinear>({
  kind: 'quantizedLinear',
  matches: (layer): layer is QuantizedLinear => isExactly(layer, QuantizedLinear),
  describe: (layer) => ({
    ...layer.format,
    packed: layer.weight.packed ?? false,
    activations: layer.activations,
    bias: layer.bias !== null,
  }),
  restore(form, state) {
    const { bits, groupSize, scheme, packed, doubleQuant } = form as unknown as Required<WeightFormat> & {
      packed: boolean;
    };
    const part = (name: string): Tensor => keep(statePart(state, name));
    const coded = doubleQuant
      ? { scaleCodes: part('scaleCodes'), scaleMax: part('scaleMax'), scaleMean: part('scaleMean') }
      : false;
    const zeroPoint = state['zeroPoint'] === undefined ? null : keep(state['zeroPoint']);
    const weight = {
      codes: statePart(state, 'codes'),
      scale: coded === false ? statePart(state, 'scale') : coded.scaleMax, // the codes of scales stand for them
      zeroPoint,
      bits,
      scheme,
      packed,
    };
    const bias = form['bias'] === true ? statePart(state, 'bias') : null;
    const axis = groupSize === null ? 0 : null;
    const activations = form['activations'] as 'float' | 'int8';
    const layer = QuantizedLinear.of({ ...weight, groupSize, axis }, bias, activations, coded);
    Object.assign(layer.format, { scaleDType: form['scaleDType'] }); // which codes of scales do not tell
    layer.bias?.requiresGrad_();
    if (state['inputFactor'] !== undefined) layer.inputFactor = keep(state['inputFactor']);
    return layer;
  },
});

registerLayerKind<Int8Linear>({
  kind: 'int8Linear',
  matches: (layer): layer is Int8Linear => isExactly(layer, Int8Linear),
  describe: ({ bias }) => ({ bias: bias !== null }),
  restore(form, state) {
    const weight = { codes: statePart(state, 'codes'), scale: statePart(state, 'scale'), zeroPoint: null } as const;
    const bias = form['bias'] === true ? statePart(state, 'bias') : null;
    const {
      inputScale = null,
      inputZeroPoint = null,
      inputFactor = null,
    } = state as Record<string, Tensor | undefined>;
    const options = { inputScale, inputZeroPoint, inputFactor };
    return new Int8Linear({ ...weight, bits: 8, axis: 0, groupSize: null }, bias, options);
  },
});

registerLayerKind<Float8Linear>({
  kind: 'float8Linear',
  matches: (layer): layer is Float8Linear => isExactly(layer, Float8Linear),
  describe: ({ format, bias }) => ({ format, bias: bias !== null }),
  restore(form, state) {
    const bias = form['bias'] === true ? parameter(statePart(state, 'bias')) : null;
    const [codes, scale] = [keep(statePart(state, 'codes')), keep(statePart(state, 'scale'))];
    return new Float8Linear({ codes, scale, format: form['format'] as Float8Format }, bias);
  },
});

registerLayerKind<QuantizedEmbedding>({
  kind: 'quantizedEmbedding',
  matches: (layer): layer is QuantizedEmbedding => isExactly(layer, QuantizedEmbedding),
  describe: ({ dtype }) => ({ dtype }),
  restore(form, state) {
    const [codes, scale] = [statePart(state, 'codes'), statePart(state, 'scale')];
    const dtype = checkDType('load', form['dtype'] ?? scale.dtype); // files of earlier versions do not say
    const { remainder: second } = state as Record<string, Tensor | undefined>;
    const remainder =
      second === undefined ? null : { codes: keep(second), scale: keep(statePart(state, 'remainderScale')) };
    return new QuantizedEmbedding(keep(codes), keep(scale), dtype, remainder);
  },
});

registerLayerKind<SparseLinear>({
  kind: 'sparseLinear',
  matches: (layer): layer is SparseLinear => isExactly(layer, SparseLinear),
  describe: ({ inFeatures, outFeatures, bias }) => ({ inFeatures, outFeatures, bias: bias !== null }),
  restore: (form, state) => SparseLinear.fromState(state, form['inFeatures'] as number),
});

registerLayerKind<MultiHeadAttention>({
  kind: 'attention',
  matches: (layer): layer is MultiHeadAttention => isExactly(layer, MultiHeadAttention),
  describe: ({ heads, kvHeads, headWidth }) => ({ heads, kvHeads, headWidth }),
  restore(form, _state, current) {
    const { heads, kvHeads, headWidth } = form;
    return Object.assign(current, { heads, kvHeads, headWidth });
  },
});
