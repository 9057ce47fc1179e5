/**
 * Adapters out of folders that PEFT wrote.
 */
import { join } from 'node:path';
import { FormatError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { openSafetensors, type SafetensorsFile } from '../interop/safetensors.js';
import { isParameter, parameter, type Module } from '../nn/module.js';
import { clone, contiguous, to } from '../ops/copy.js';
import { narrow, transpose } from '../ops/views.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { keep, scope } from '../tensor/scope.js';
import { Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkKeys } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { place } from '../nn/surgery.js';
import { sitesOf, type Site } from './layers.js';
import { addRecord, attach, setActiveAdapters } from './lora.js';
import { adapterDType, checkAdapterName, LoraAdapter, LoraLinear, type LoraBase } from './lora_linear.js';
import { patternValue, readPeftConfig, type PeftConfig } from './peft_config.js';
import { fromTheirs, type NamedModule } from './peft_names.js';
import { registryOf, type SavedTensor } from './registry.js';

/** Options of {@link loadAdapter}. */
export interface LoadAdapterOptions {
  /** Default `default`. */
  readonly name?: string;
  /** Go on training it: the rest of the model is frozen. Default false: it is for use, and nothing asks for gradients. */
  readonly trainable?: boolean;
  /** Make it the active adapter. Default true. */
  readonly active?: boolean;
}

const PREFIX = 'base_model.model.';
const kinds = {
  'lora_A.weight': 'a',
  'lora_B.weight': 'b',
  lora_magnitude_vector: 'm',
  'lora_magnitude_vector.weight': 'm',
} as const;
type Kind = 'a' | 'b' | 'm';

/** What a file holds: the tensors of each adapted layer, and those of modules that were trained whole. */
interface Contents {
  readonly layers: Map<string, Partial<Record<Kind, string>>>;
  readonly whole: Map<string, string>;
}

function sortKeys(file: SafetensorsFile, { modulesToSave }: PeftConfig): Contents {
  const contents: Contents = { layers: new Map(), whole: new Map() };
  for (const key of file.names) {
    const name = key.startsWith(PREFIX) ? key.slice(PREFIX.length) : key;
    const end = Object.keys(kinds).find((suffix) => name.endsWith(`.${suffix}`)) as keyof typeof kinds | undefined;
    if (key.startsWith(PREFIX) && end !== undefined) {
      const layer = name.slice(0, -end.length - 1);
      const parts = contents.layers.get(layer) ?? {};
      parts[kinds[end]] = key;
      contents.layers.set(layer, parts);
      continue;
    }
    const plain = name.replace(/\.modules_to_save(?=\.)/, '');
    const isWhole = modulesToSave.some((module) => `.${plain}`.includes(`.${module}.`));
    if (!key.startsWith(PREFIX) || !isWhole || /\.lora_/.test(plain)) {
      const expected = `${PREFIX}….lora_A.weight, .lora_B.weight, .lora_magnitude_vector, or a module of modules_to_save`;
      throw new FormatError({ op: 'loadAdapter', argument: file.path, expected, actual: JSON.stringify(key) });
    }
    contents.whole.set(plain, key);
  }
  if (contents.layers.size + contents.whole.size > 0) return contents;
  throw new FormatError({ op: 'loadAdapter', argument: file.path, expected: 'tensors of an adapter', actual: 'none' });
}

/** Reads one tensor, in memory of its own. */
function read(file: SafetensorsFile, key: string, shape: readonly number[] | null, dtype: DType): Tensor {
  const found = file.info(key).shape;
  if (
    shape !== null &&
    (shape.length !== found.length || shape.some((length, i) => length !== -1 && length !== found[i]))
  ) {
    throw new FormatError({
      op: 'loadAdapter',
      argument: `${file.path}: ${key}`,
      expected: formatShape(shape).replace('-1', 'rank'),
      actual: formatShape(found),
      hint: 'The adapter belongs to a model of another size',
    });
  }
  return noGrad(() =>
    scope(() => {
      const value = file.tensor(key);
      if (!isFloating(value.dtype)) {
        const argument = `${file.path}: ${key}`;
        throw new FormatError({ op: 'loadAdapter', argument, expected: 'floating-point numbers', actual: value.dtype });
      }
      return clone(to(value, dtype));
    }),
  );
}

interface Plan {
  readonly site: Site;
  readonly adapter: LoraAdapter;
}

/** Adapters of the layers that one entry of the file means: one, or one for each part of a fused matrix, which share A. */
function plansOf(
  file: SafetensorsFile,
  config: PeftConfig,
  { theirs, ours }: NamedModule,
  parts: Partial<Record<Kind, string>>,
  sites: ReadonlyMap<string, Site>,
): Plan[] {
  const op = 'loadAdapter';
  const fail = (expected: string, actual: string, hint?: string): never => {
    throw new FormatError({ op, argument: `${file.path}: ${theirs}`, expected, actual, hint });
  };
  const hasMagnitude = config.variant === 'dora' || config.variant === 'rsdora';
  if (parts.a === undefined || parts.b === undefined) return fail('lora_A and lora_B', 'one of them');
  if (hasMagnitude !== (parts.m !== undefined)) {
    fail(
      hasMagnitude ? 'a magnitude vector, as use_dora says' : 'no magnitude vector without use_dora',
      'the opposite',
    );
  }
  const found = ours.map((path) => {
    const names = [...new Set([...sites.keys()].map((name) => name.replace(/\.\d+(?=\.|$)/g, '.*')))].join(', ');
    return sites.get(path) ?? fail(`one of the linear layers ${names}`, `${path}, which the model lacks`);
  });
  const bases = found.map(({ layer }): LoraBase => (layer instanceof LoraLinear ? layer.base : layer));
  const dtype = adapterDType(op, bases[0]!, undefined);
  const loraA = read(file, parts.a, [-1, bases[0]!.inFeatures], dtype);
  const rank = loraA.shape[0]!;
  const declared = patternValue(file.path, config.rankPattern, theirs) ?? config.rank;
  if (rank !== declared) fail(`rank ${declared} as the configuration says`, String(rank));
  const rows = bases.reduce((sum, { outFeatures }) => sum + outFeatures, 0);
  const loraB = read(file, parts.b, [rows, rank], dtype);
  const magnitude = parts.m === undefined ? null : read(file, parts.m, [rows], dtype);
  const alpha = patternValue(file.path, config.alphaPattern, theirs) ?? config.alpha;
  const settings = { rank, alpha, variant: config.variant, dropout: config.dropout };
  if (found.length === 1) return [{ site: found[0]!, adapter: new LoraAdapter(settings, { loraA, loraB, magnitude }) }];
  let at = 0;
  return found.map((site, i) => {
    const { outFeatures } = bases[i]!;
    const cut = (x: Tensor): Tensor => noGrad(() => scope(() => clone(narrow(x, 0, at, outFeatures))));
    const own = { loraA, loraB: cut(loraB), magnitude: magnitude === null ? null : cut(magnitude) };
    at += outFeatures;
    return { site, adapter: new LoraAdapter(settings, own) };
  });
}

/** Copies of whole modules, with the file's values. */
function savedOf(file: SafetensorsFile, model: Module, whole: ReadonlyMap<string, string>): SavedTensor[] {
  const owners = new Map([...model.namedModules()]);
  return [...whole].map(([name, key]): SavedTensor => {
    const dot = name.lastIndexOf('.');
    const property = name.slice(dot + 1);
    const { ours, isTransposed } = fromTheirs(name.slice(0, dot), (path) => owners.has(path));
    const module = ours.length === 1 ? owners.get(ours[0]!) : undefined;
    const original = module === undefined ? undefined : (module as unknown as Record<string, unknown>)[property];
    if (module === undefined || !(original instanceof Tensor) || !isParameter(original)) {
      const argument = `${file.path}: ${key}`;
      const actual = `${ours.join(', ')}.${property}, which the model lacks as one parameter`;
      throw new FormatError({ op: 'loadAdapter', argument, expected: 'a parameter of the model', actual });
    }
    const isTurned = isTransposed && original.rank === 2;
    const value = read(file, key, isTurned ? [...original.shape].reverse() : original.shape, original.dtype);
    const copy = isTurned ? keep(noGrad(() => scope(() => contiguous(transpose(value))))) : value;
    const own = registryOf(model).originalOf(original);
    return { path: `${ours[0]!}.${property}`, module, key: property, original: own, copy: parameter(copy) };
  });
}

/**
 * Puts an adapter that PEFT saved on a model: reads `adapter_config.json` and `adapter_model.safetensors` of a folder. LoRA, rsLoRA and
 * DoRA, ranks and alphas by pattern, and modules that were trained whole. Names of Hugging Face's GPT-2 and Llama become ours; GPT-2's
 * fused `c_attn` becomes adapters of q, k and v that share their A, which computes and trains as the fused one does. Returns the model.
 *
 * @throws FormatError if the files are malformed, use what is not supported, or belong to another model; nothing is changed then
 * @throws StateError if there is an adapter of that name
 */
export async function loadAdapter<M extends Module>(
  model: M,
  folder: string,
  options: LoadAdapterOptions = {},
): Promise<M> {
  const op = 'loadAdapter';
  checkKeys(op, options, ['name', 'trainable', 'active']);
  const name = checkAdapterName(op, options.name ?? 'default');
  const trainable = checkBoolean(op, 'trainable', options.trainable ?? false);
  const active = checkBoolean(op, 'active', options.active ?? true);
  const config = await readPeftConfig(join(folder, 'adapter_config.json'));
  const file = await openSafetensors(join(folder, 'adapter_model.safetensors'));
  const registry = registryOf(model);
  registry.requireApart(op);
  if (registry.adapters.has(name)) {
    throw new StateError({ op, argument: 'name', expected: 'a new name', actual: JSON.stringify(name) });
  }
  const contents = sortKeys(file, config);
  const sites = sitesOf(model);
  const plans = [...contents.layers].flatMap(([theirs, parts]) =>
    plansOf(
      file,
      config,
      fromTheirs(theirs, (path) => sites.has(path)),
      parts,
      sites,
    ),
  );
  const saved = savedOf(file, model, contents.whole);
  for (const { site } of plans) place(op, site, site.layer); // refuses before anything is changed
  for (const { site, adapter } of plans) attach(op, site, name, adapter);
  const modulesToSave = [...new Set(saved.map(({ path }) => path.slice(0, path.lastIndexOf('.'))))];
  const { rank, alpha, variant, dropout } = config;
  addRecord(model, { name, rank, alpha, variant, dropout, modulesToSave, saved });
  if (trainable) model.freeze();
  if (active) setActiveAdapters(model, name, { trainable });
  return model;
}
