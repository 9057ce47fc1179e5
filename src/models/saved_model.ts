/**
 * A model in a folder: `config.json`, `model.safetensors` and, if there is one, `tokenizer.json`. Compressed layers are saved as they
 * are, codes and indices included, and run as they are after one call of {@link load}.
 *
 * @module
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { FormatError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { clone, to } from '../ops/copy.js';
import { keep, scope } from '../tensor/scope.js';
import { loadSafetensors, openSafetensors, saveSafetensors } from '../interop/safetensors.js';
import { formOf, restoreLayer, type LayerForm } from '../nn/layer_forms.js';
import { TransformerBlock } from '../nn/block.js';
import { Dropout } from '../nn/dropout.js';
import { Embedding } from '../nn/embedding.js';
import { Float8Linear } from '../nn/float8_linear.js';
import { skeleton } from '../nn/init.js';
import { Mlp } from '../nn/mlp.js';
import type { Module, StateDict } from '../nn/module.js';
import { LayerNorm, RMSNorm } from '../nn/norm.js';
import { place, sitesOf } from '../nn/surgery.js';
import { unloadPages } from '../runtime/cache.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { loadTokenizer } from '../tokenizer/load.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkKeys } from '../util/assert.js';
import { writeFileAtomically } from '../util/atomic_file.js';
import { formatValue } from '../util/format.js';
import { GPT, type GPTConfig } from './gpt.js';

const FORMAT = 'omnigrad-model/1';

/** Models that {@link load} can make, by the name of their class. */
const architectures: Readonly<Record<string, (config: never) => SavableModel>> = {
  GPT: (config: GPTConfig) => new GPT(config),
};

/** A model that knows the configuration it was made with. */
export type SavableModel = Module & { readonly config: object };

/** Options of {@link saveModel}. */
export interface SaveModelOptions {
  /** Saved beside the model, under `tokenizer.json`. */
  readonly tokenizer?: { save(path: string): Promise<void> };
  /** Whatever describes the model; JSON-safe. {@link load} gives it back. */
  readonly card?: unknown;
}

interface ModelFile {
  readonly format: string;
  readonly architecture: string;
  readonly config: object;
  readonly layers: Readonly<Record<string, LayerForm>>;
  /** Also in the metadata of the weights, so that files of two models do not mix. */
  readonly id: string;
  readonly card?: unknown;
}

function checkArchitecture(op: string, model: SavableModel): string {
  const architecture = model.constructor.name;
  if (Object.hasOwn(architectures, architecture)) return architecture;
  throw new StateError({
    op,
    argument: 'model',
    expected: Object.keys(architectures).join(' or '),
    actual: architecture,
    hint: 'Save the stateDict() of other modules with saveSafetensors',
  });
}

/** Modules that a configuration makes as they are. */
const ordinary: readonly unknown[] = [GPT, TransformerBlock, Mlp, Embedding, LayerNorm, RMSNorm, Dropout];

/** @throws StateError naming the first layer that could not be made again */
function formsOf(op: string, model: Module): Map<string, LayerForm> {
  const forms = new Map<string, LayerForm>();
  for (const [name, module] of model.namedModules()) {
    const form = name === '' ? null : formOf(module);
    if (form !== null) forms.set(name, form);
    else if (!ordinary.includes(module.constructor)) {
      throw new StateError({
        op,
        argument: 'model',
        expected: 'layers of known kinds',
        actual: `${name} is a ${module.constructor.name}`,
        hint: 'Merge adapters first (mergeAndUnload); make layers of your own known with nn.registerLayerKind',
      });
    }
  }
  return forms;
}

/**
 * Writes a model into a folder, which is made if it is not there. A model that was there stays whole until the new weights are
 * complete; if the process dies between the two files, {@link load} says so.
 *
 * @throws StateError if the model is of a class that {@link load} cannot make
 * @throws ResourceError if a file cannot be written
 */
export async function saveModel(folder: string, model: SavableModel, options: SaveModelOptions = {}): Promise<void> {
  const architecture = checkArchitecture('saveModel', model);
  const id = randomUUID();
  const layers = Object.fromEntries(formsOf('saveModel', model));
  const content: ModelFile = { format: FORMAT, architecture, config: model.config, layers, id };
  await mkdir(folder, { recursive: true });
  await options.tokenizer?.save(path.join(folder, 'tokenizer.json'));
  const state = model.stateDict();
  try {
    const float8 = Object.fromEntries(
      [...model.namedModules()].flatMap(([name, module]) =>
        module instanceof Float8Linear ? [[`${name}.codes`, module.format]] : [],
      ),
    );
    await saveSafetensors(path.join(folder, 'model.safetensors'), state, { omnigrad: id }, { float8 });
  } finally {
    for (const tensor of Object.values(state)) tensor.dispose();
  }
  const json = JSON.stringify(options.card === undefined ? content : { ...content, card: options.card }, null, 2);
  await writeFileAtomically(path.join(folder, 'config.json'), (write) => write(new TextEncoder().encode(`${json}\n`)));
}

async function readModelFile(file: string): Promise<ModelFile> {
  const wrong = (actual: string): FormatError =>
    new FormatError({ op: 'load', argument: file, expected: `a model of format ${FORMAT}`, actual });
  const text = await readFile(file, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    throw wrong(cause.code === 'ENOENT' ? 'no such file' : cause.message);
  });
  let value: Partial<ModelFile>;
  try {
    value = JSON.parse(text) as Partial<ModelFile>;
  } catch {
    throw wrong('something that is not JSON');
  }
  if (value?.format !== FORMAT) throw wrong(`format ${formatValue(value?.format)}`);
  if (!Object.hasOwn(architectures, String(value.architecture))) throw wrong(`a ${formatValue(value.architecture)}`);
  const isRecord = (field: unknown): boolean => typeof field === 'object' && field !== null && !Array.isArray(field);
  if (!isRecord(value.config) || !isRecord(value.layers) || typeof value.id !== 'string')
    throw wrong('incomplete fields');
  return value as ModelFile;
}

/** Those tensors whose names begin with `path.`, without that beginning. */
function partOf(state: Readonly<StateDict>, name: string): StateDict {
  const prefix = `${name}.`;
  const entries = Object.entries(state).filter(([key]) => key.startsWith(prefix));
  return Object.fromEntries(entries.map(([key, tensor]) => [key.slice(prefix.length), tensor]));
}

/** What layers copy, or view, of their state; all else they take over. */
const copied = ['bias', 'inputScale', 'inputZeroPoint', 'inputFactor'];

/** Frees the tensors of a state that a layer has in a form of its own. */
function freeCopied(layer: Module, part: Readonly<StateDict>): void {
  const own = new Set([...layer.children()].map(([, value]) => value));
  for (const name of copied) if (part[name] !== undefined && !own.has(part[name])) part[name].dispose();
}

/** The dtype that floating-point tensors of ordinary layers get: their own if they agree, else float32. */
function plainDType(state: Readonly<StateDict>): DType | null {
  const dtypes = new Set(Object.values(state).map(({ dtype }) => dtype));
  return dtypes.size <= 1 ? null : 'float32';
}

/**
 * A model of a configuration, with layers of the given forms, around the tensors of a state, which it takes over: it needs no memory of its
 * own. Also the names of those that lie in ordinary layers.
 *
 * @throws FormatError if they do not fit
 */
function assemble(
  content: Pick<ModelFile, 'architecture' | 'config' | 'layers'>,
  state: StateDict,
  file: string,
): { readonly model: GPT; readonly plain: readonly string[] } {
  const model = skeleton(() => architectures[content.architecture]!(content.config as never) as GPT);
  const restored = new Set<string>();
  const sites = sitesOf(model, (_module): _module is Module => true);
  const own = formsOf('load', model);
  const changed = Object.entries(content.layers).flatMap(([name, form]) => {
    const site = sites.get(name);
    if (site === undefined) {
      const expected = `layers of ${content.architecture}`;
      throw new FormatError({ op: 'load', argument: file, expected, actual: name });
    }
    return JSON.stringify(own.get(name)) === JSON.stringify(form) ? [] : [{ name, form, site }];
  });
  for (const { name, form, site } of changed) {
    const part = partOf(state, name);
    const layer = restoreLayer(name, form, part, site.layer);
    if (layer === site.layer) continue;
    freeCopied(layer, part);
    place('load', site, layer);
    site.layer.dispose();
    for (const key of scope(() => Object.keys(layer.stateDict()))) restored.add(`${name}.${key}`);
  }
  const rest = Object.fromEntries(Object.entries(state).filter(([name]) => !restored.has(name)));
  const names = new Set(scope(() => Object.keys(model.stateDict())));
  const missing = [...names].filter((name) => !restored.has(name) && !Object.hasOwn(rest, name));
  const unexpected = Object.keys(rest).filter((name) => !names.has(name));
  if (missing.length + unexpected.length > 0) {
    const actual = [...missing.map((name) => `no ${name}`), ...unexpected.map((name) => `an unknown ${name}`)];
    throw new FormatError({
      op: 'load',
      argument: file,
      expected: 'the tensors of the model',
      actual: actual.join(', '),
    });
  }
  const dtype = plainDType(rest);
  const cast = (value: Tensor): Tensor => (dtype !== null && isFloating(value.dtype) ? to(value, dtype) : value);
  scope(() =>
    noGrad(() => {
      const taken = Object.entries(rest).map(([name, value]) => [name, cast(value)] as const);
      model.loadStateDict(Object.fromEntries(taken), { strict: false, assign: true });
    }),
  );
  for (const tensor of Object.values(rest)) tensor.dispose();
  return { model, plain: Object.keys(rest) };
}

/** Gives ordinary parameters that lie in a mapped file memory of their own, and the file's pages back. */
function takeOut(model: GPT, names: readonly string[]): void {
  const state = model.stateDict();
  for (const name of names) {
    const tensor = state[name]; // a layer that has another in its place has no such name any more
    if (tensor === undefined || tensor.storage.pooled) continue;
    const own = noGrad(() => clone(tensor));
    unloadPages(tensor);
    model.loadStateDict({ [name]: own }, { strict: false, assign: true });
    own.dispose();
  }
  for (const tensor of Object.values(state)) tensor.dispose();
}

/**
 * A copy of a model with tensors of its own, compressed layers included; frozen parameters are frozen in the copy.
 *
 * @throws StateError if the model is of a class that {@link load} cannot make
 */
export function cloneModel<M extends SavableModel>(model: M): M {
  const architecture = checkArchitecture('cloneModel', model);
  const state = scope(() =>
    noGrad(() =>
      Object.fromEntries(Object.entries(model.stateDict()).map(([name, value]) => [name, keep(clone(value))])),
    ),
  );
  const content = { architecture, config: model.config, layers: Object.fromEntries(formsOf('cloneModel', model)) };
  const { model: copy } = assemble(content, state, 'cloneModel');
  const frozen = new Set(model.namedParameters().flatMap(([name, { requiresGrad }]) => (requiresGrad ? [] : [name])));
  copy.freeze((name) => frozen.has(name)).train(model.training);
  return copy as unknown as M;
}

/** What {@link load} gives. */
export interface LoadedModel {
  readonly model: GPT;
  /** Null if the folder has no `tokenizer.json`. */
  readonly tokenizer: Tokenizer | null;
  /** What was saved as the model's card. */
  readonly card: unknown;
}

/** Options of {@link load}. */
export interface LoadModelOptions {
  /**
   * Changes the model, or gives another, while its weights still lie in the mapped file: what is replaced is read layer by layer and never
   * takes memory as a whole. Default: none.
   */
  readonly convert?: (model: GPT) => GPT | void | Promise<GPT | void>;
}

/**
 * Loads a model that {@link saveModel} wrote, compressed or not; it is in evaluation mode. Tensors of compressed layers stay on the
 * mapped file until they are used.
 *
 * @example
 * ```ts
 * const { model, tokenizer } = await og.load('runs/int4');
 * for await (const piece of model.generate('interface ', { tokenizer: tokenizer! })) process.stdout.write(piece.text);
 *
 * // A float32 model that is in 4 bits when it arrives:
 * const convert = (model: og.GPT) => quantize(model, { scheme: 'nf4', doubleQuant: true, embeddings: 'int8', inPlace: true });
 * const { model: small } = await og.load('runs/float32', { convert });
 * ```
 * @throws FormatError if a file is missing or malformed, or the files are of two models
 * @throws AttributeError for an unknown option
 */
export async function load(folder: string, options: LoadModelOptions = {}): Promise<LoadedModel> {
  checkKeys('load', options, ['convert']);
  const file = path.join(folder, 'config.json');
  const content = await readModelFile(file);
  const weights = path.join(folder, 'model.safetensors');
  const { metadata } = await openSafetensors(weights);
  if (metadata.get('omnigrad') !== content.id) {
    const [expected, actual] = ['the weights of this configuration', 'those of another model'];
    throw new FormatError({ op: 'load', argument: weights, expected, actual, hint: 'Save the model again' });
  }
  const { model, plain } = assemble(content, await loadSafetensors(weights, { float8: 'bits' }), file);
  const loaded = await convertedBy(options.convert, model.eval());
  if (loaded === model) takeOut(model, plain);
  const tokenizerFile = path.join(folder, 'tokenizer.json');
  const hasTokenizer = await stat(tokenizerFile).then(
    () => true,
    () => false,
  );
  const tokenizer = hasTokenizer ? await loadTokenizer(tokenizerFile) : null;
  return { model: loaded.eval(), tokenizer, card: content.card };
}

/** The model that comes out of a conversion; the one that went in is freed if it is another. */
async function convertedBy(convert: LoadModelOptions['convert'], model: GPT): Promise<GPT> {
  if (convert === undefined) return model;
  try {
    const made = (await convert(model)) ?? model;
    if (made !== model) model.dispose();
    return made;
  } catch (error) {
    model.dispose();
    throw error;
  }
}
