/**
 * adapter_config.json of PEFT, read with every field accounted for.
 */
import { readFile, stat } from 'node:fs/promises';
import { FormatError } from '../errors.js';
import { formatValue } from '../util/format.js';
import type { LoraVariant } from './lora_linear.js';

/** What an adapter's configuration says that matters here. */
export interface PeftConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly dropout: number;
  readonly variant: LoraVariant;
  readonly rankPattern: Readonly<Record<string, number>>;
  readonly alphaPattern: Readonly<Record<string, number>>;
  readonly modulesToSave: readonly string[];
}

/** Fields that are read, or that say nothing about what the adapter computes. */
const known = new Set([
  'peft_type', 'r', 'lora_alpha', 'lora_dropout', 'use_rslora', 'use_dora', 'rank_pattern', 'alpha_pattern', 'modules_to_save',
  'bias', 'init_lora_weights', 'target_modules', 'fan_in_fan_out', 'base_model_name_or_path', 'auto_mapping', 'exclude_modules',
  'inference_mode', 'layers_pattern', 'layers_to_transform', 'megatron_core', 'peft_version', 'qalora_group_size', 'revision',
  'runtime_config', 'task_type', 'loftq_config', 'eva_config',
]); // prettier-ignore

/** Starts that change the base model, too: without that, the adapter means something else. */
const changesBase = /^(pissa|olora|corda|loftq|lora_ga)/;

const MAX_BYTES = 4 << 20;

const isEmpty = (value: unknown): boolean =>
  value === null || value === false || (typeof value === 'object' && Object.keys(value).length === 0);

/**
 * @internal Reads and checks a configuration.
 *
 * @throws FormatError naming the file and the first field that cannot be, or that is not supported
 */
export async function readPeftConfig(file: string): Promise<PeftConfig> {
  const fail = (field: string, expected: string, actual: unknown, hint?: string): never => {
    throw new FormatError({
      op: 'loadAdapter',
      argument: `${file}: ${field}`,
      expected,
      actual: formatValue(actual),
      hint,
    });
  };
  const { size } = await stat(file);
  if (size > MAX_BYTES) fail('size', `at most ${MAX_BYTES} bytes`, size);
  let json: unknown;
  try {
    json = JSON.parse(await readFile(file, 'utf8'));
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new FormatError({ op: 'loadAdapter', argument: file, expected: 'JSON', actual: cause.message, cause });
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) fail('JSON', 'an object', json);
  const fields = new Map(Object.entries(json as object));
  const get = (name: string): unknown => fields.get(name) ?? null;

  if (get('peft_type') !== 'LORA') fail('peft_type', '"LORA"', get('peft_type'));
  for (const [name, value] of fields) {
    if (!known.has(name) && !isEmpty(value)) {
      fail(
        name,
        'no such field, or an empty one: it is not supported',
        value,
        'Merge the adapter with PEFT and load the model',
      );
    }
  }
  const bias = get('bias') ?? 'none';
  if (bias !== 'none') fail('bias', '"none": biases that train are not supported', bias);
  const init = get('init_lora_weights');
  if (typeof init === 'string' && changesBase.test(init)) {
    const hint = 'Save it from PEFT with path_initial_model_for_weight_conversion';
    fail('init_lora_weights', 'a start that leaves the base model as it is', init, hint);
  }
  const number = (name: string, value: unknown, low: number, high: number, whole = false): number => {
    if (typeof value === 'number' && value >= low && value <= high && (!whole || Number.isInteger(value))) return value;
    return fail(name, `${whole ? 'an integer' : 'a number'} from ${low} to ${high}`, value);
  };
  const flag = (name: string): boolean => {
    const value = get(name) ?? false;
    return typeof value === 'boolean' ? value : fail(name, 'true or false', value);
  };
  const patterns = (name: string, whole: boolean): Record<string, number> => {
    const value = get(name) ?? {};
    if (typeof value !== 'object' || Array.isArray(value)) return fail(name, 'numbers by pattern', value);
    return Object.fromEntries(
      Object.entries(value).map(([key, entry]) => [key, number(`${name}.${key}`, entry, whole ? 1 : 0, 1e9, whole)]),
    );
  };
  const modules = get('modules_to_save') ?? [];
  if (!Array.isArray(modules) || !modules.every((name) => typeof name === 'string')) {
    fail('modules_to_save', 'a list of names', modules);
  }
  const [rslora, dora] = [flag('use_rslora'), flag('use_dora')];
  return {
    rank: number('r', get('r'), 1, 1e6, true),
    alpha: number('lora_alpha', get('lora_alpha'), 0, 1e9),
    dropout: number('lora_dropout', get('lora_dropout') ?? 0, 0, 1),
    variant: rslora ? (dora ? 'rsdora' : 'rslora') : dora ? 'dora' : 'lora',
    rankPattern: patterns('rank_pattern', true),
    alphaPattern: patterns('alpha_pattern', false),
    modulesToSave: modules as string[],
  };
}

/**
 * The expression for a pattern, if its matching takes time that is bounded by the length of the name: no repeated groups, and few
 * repetitions. Folders come from strangers.
 */
function expressionOf(key: string): RegExp | null {
  const bare = key.replace(/\\./g, 'x').replace(/\(\?:/g, '(');
  const repetitions = bare.match(/[*+?{]/g)?.length ?? 0;
  if (key.length > 256 || repetitions > 4 || /\)[*+?{]/.test(bare)) return null;
  try {
    return new RegExp(`^(.*\\.)?(${key})$`);
  } catch {
    return null;
  }
}

/**
 * @internal The value that PEFT takes for a module: that of the first key which is its name, or the end of it after a dot, or a
 * pattern of those.
 *
 * @throws FormatError if a key is no pattern
 */
export function patternValue(file: string, patterns: Readonly<Record<string, number>>, name: string): number | null {
  for (const [key, value] of Object.entries(patterns)) {
    const expression = expressionOf(key);
    if (expression === null) {
      const expected = 'patterns of at most four repetitions, none of a group';
      throw new FormatError({ op: 'loadAdapter', argument: file, expected, actual: formatValue(key) });
    }
    if (expression.test(name)) return value;
  }
  return null;
}
