/**
 * What `omnigrad train` is told: a JSON file, checked before any work, with its defaults filled in.
 *
 * @module
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { AttributeError, FormatError } from '../errors.js';
import { precisions, type Precision } from '../train/precision.js';
import { checkBoolean, checkInteger, checkKeys, checkNumber, checkOneOf } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { checkBest, resolveSafeguards, safeguardKeys, type Safeguards } from './train_safeguards.js';
import { checkOptimizer, checkSchedule } from './train_parts.js';

/** What a file holds. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** An object of the file. */
export type JsonObject = Readonly<Record<string, Json>>;

/** Text to learn from, in files. */
export interface DataConfig {
  /** Text files, JSON Lines files (`.jsonl`), or one token file of `saveTokens` (`.safetensors`). */
  readonly train: readonly string[];
  /** Likewise, for validation. */
  readonly valid: readonly string[];
  /** Share of the training text held back where `valid` names no file. */
  readonly validShare: number;
  /** Field of the lines of JSON Lines files. */
  readonly field: string;
}

/** Samples on the way. */
export interface SampleConfig {
  readonly every: number;
  readonly prompts: readonly string[];
  readonly maxNewTokens: number;
  readonly temperature: number;
}

/** The whole configuration, defaults filled in. */
export interface TrainConfig extends Safeguards {
  readonly name: string;
  readonly out: string;
  readonly data: DataConfig;
  /** `bytes`, a file or folder to load, or the size of a vocabulary to learn. */
  readonly tokenizer: string | { readonly vocabSize: number };
  /** A geometry for `GPT`, or the folder of a saved model to go on from. */
  readonly model: string | JsonObject;
  readonly optimizer: JsonObject & { readonly type: string };
  readonly schedule: JsonObject & { readonly type: string };
  readonly batchSize: number;
  readonly gradientAccumulation: number;
  /** One of the two; the other is null. */
  readonly steps: number | null;
  readonly epochs: number | null;
  readonly clipGradNorm: number | null;
  readonly ema: number | null;
  readonly precision: Precision;
  readonly evaluate: { readonly every: number; readonly batches: number };
  readonly checkpoint: { readonly every: number; readonly keep: number; readonly best: JsonObject | null };
  readonly log: {
    readonly every: number;
    readonly tensorboard: boolean;
    readonly histograms: number | null;
    readonly samples: SampleConfig | null;
  };
  readonly seed: number;
  /** Minutes after which the run stops, with a checkpoint. Null: never. */
  readonly timeLimit: number | null;
}

const OP = 'train';

const keys = {
  '': [
    'name', 'out', 'data', 'tokenizer', 'model', 'optimizer', 'schedule', 'batchSize', 'gradientAccumulation', 'steps', 'epochs',
    'clipGradNorm', 'ema', 'precision', 'evaluate', 'checkpoint', 'log', 'seed', 'timeLimit', ...safeguardKeys,
  ],
  data: ['train', 'valid', 'validShare', 'field'],
  evaluate: ['every', 'batches'],
  checkpoint: ['every', 'keep', 'best'],
  log: ['every', 'tensorboard', 'histograms', 'samples'],
  'log.samples': ['every', 'prompts', 'maxNewTokens', 'temperature'],
} as const; // prettier-ignore

function refuse(argument: string, expected: string, value: unknown, hint?: string): AttributeError {
  const actual = value === undefined ? 'none' : formatValue(value);
  return new AttributeError({ op: OP, argument, expected, actual, hint });
}

function objectOf(argument: string, value: unknown): JsonObject {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as JsonObject;
  throw refuse(argument, 'an object', value);
}

function textOf(argument: string, value: unknown, what = 'a text'): string {
  if (typeof value === 'string' && value !== '') return value;
  throw refuse(argument, what, value);
}

function filesOf(argument: string, value: unknown): string[] {
  const list = Array.isArray(value) ? (value as unknown[]) : [value];
  return list.map((entry) => textOf(argument, entry, 'the path of a file, or a list of them'));
}

/** Reads one object: its keys are checked, and each field is asked for once, with a default. */
class Fields {
  constructor(
    private readonly place: keyof typeof keys,
    private readonly source: JsonObject,
  ) {
    checkKeys(OP, source, keys[place], place === '' ? 'config' : place);
  }

  get(name: string): Json | undefined {
    return this.source[name];
  }

  private at(name: string): string {
    return this.place === '' ? name : `${this.place}.${name}`;
  }

  integer(name: string, fallback: number, low = 1): number {
    return checkInteger(OP, this.at(name), this.source[name] ?? fallback, low);
  }

  optionalInteger(name: string): number | null {
    const value = this.source[name] ?? null;
    return value === null ? null : checkInteger(OP, this.at(name), value, 1);
  }

  number(name: string, fallback: number, low: number, high = Infinity): number {
    return checkNumber(OP, this.at(name), this.source[name] ?? fallback, low, high);
  }

  optionalNumber(name: string, low: number, high = Infinity): number | null {
    const value = this.source[name] ?? null;
    return value === null ? null : checkNumber(OP, this.at(name), value, low, high);
  }

  text(name: string, fallback: string): string {
    return textOf(this.at(name), this.source[name] ?? fallback);
  }

  flag(name: string, fallback: boolean): boolean {
    return checkBoolean(OP, this.at(name), this.source[name] ?? fallback);
  }

  part<K extends keyof typeof keys>(name: string, place: K): Fields {
    return new Fields(place, objectOf(this.at(name), this.source[name] ?? {}));
  }
}

function dataOf(source: Json | undefined): DataConfig {
  if (source === undefined) throw refuse('data', '{ "train": "my.txt" }', undefined);
  const isShort = typeof source === 'string' || Array.isArray(source);
  const data = new Fields('data', isShort ? { train: source } : objectOf('data', source));
  const train = filesOf('data.train', data.get('train'));
  if (train.length === 0) throw refuse('data.train', 'at least one file', train);
  const valid = data.get('valid') === undefined ? [] : filesOf('data.valid', data.get('valid'));
  const validShare = data.number('validShare', valid.length > 0 ? 0 : 0.05, 0, 0.5);
  return { train, valid, validShare, field: data.text('field', 'text') };
}

function tokenizerOf(source: Json): TrainConfig['tokenizer'] {
  if (typeof source === 'string') return textOf('tokenizer', source);
  const object = objectOf('tokenizer', source);
  checkKeys(OP, object, ['vocabSize'], 'tokenizer');
  return { vocabSize: checkInteger(OP, 'tokenizer.vocabSize', object['vocabSize'], 257, 2 ** 22) };
}

function samplesOf(log: Fields): SampleConfig | null {
  if ((log.get('samples') ?? null) === null) return null;
  const samples = log.part('samples', 'log.samples');
  const prompts = samples.get('prompts');
  if (!Array.isArray(prompts) || prompts.length === 0)
    throw refuse('log.samples.prompts', 'a list of texts to go on from', prompts);
  return {
    every: samples.integer('every', 500),
    prompts: prompts.map((prompt: unknown) => textOf('log.samples.prompts', prompt)),
    maxNewTokens: samples.integer('maxNewTokens', 100),
    temperature: samples.number('temperature', 0.8, 0),
  };
}

/** A part that is chosen by its type: a name alone, or an object with `type` and options. */
function typed(argument: string, source: Json, fallback: string): JsonObject & { readonly type: string } {
  if (typeof source === 'string') return { type: source };
  const { type, ...options } = objectOf(argument, source);
  return { type: textOf(`${argument}.type`, type ?? fallback), ...options };
}

/**
 * Checks a configuration and fills in its defaults.
 *
 * @param fallbackName the run's name, if the configuration gives none
 * @throws AttributeError naming the first entry that cannot be, and the nearest one that can
 */
export function resolveConfig(source: unknown, fallbackName: string): TrainConfig {
  const all = new Fields('', objectOf('config', source));
  const name = all.text('name', fallbackName);
  const model = all.get('model');
  if (typeof model !== 'string') objectOf('model', model);
  const steps = all.optionalInteger('steps');
  const given = all.optionalNumber('epochs', 0);
  if (given === 0) throw refuse('epochs', 'a number above 0', given);
  if (steps !== null && given !== null) throw refuse('epochs', 'none beside steps', given, 'Leave out one of the two');
  const epochs = steps === null ? (given ?? 1) : null;
  const [evaluate, checkpoint, log] = [all.part('evaluate', 'evaluate'), all.part('checkpoint', 'checkpoint'), all.part('log', 'log')]; // prettier-ignore
  const optimizer = typed('optimizer', all.get('optimizer') ?? { type: 'adamw', lr: 1e-3 }, 'adamw');
  const schedule = typed('schedule', all.get('schedule') ?? 'constant', 'constant');
  checkOptimizer(optimizer);
  checkSchedule(schedule);
  const ema = all.optionalNumber('ema', 0, 1);
  const precision = checkOneOf(OP, 'precision', all.text('precision', 'float32'), precisions);
  return {
    name,
    out: all.text('out', path.join('runs', name)),
    data: dataOf(all.get('data')),
    tokenizer: tokenizerOf(all.get('tokenizer') ?? (typeof model === 'string' ? model : 'bytes')),
    model: model as string | JsonObject,
    optimizer,
    schedule,
    batchSize: all.integer('batchSize', 16),
    gradientAccumulation: all.integer('gradientAccumulation', 1),
    steps,
    epochs,
    clipGradNorm: all.get('clipGradNorm') === undefined ? 1 : all.optionalNumber('clipGradNorm', 0),
    ema,
    precision,
    ...resolveSafeguards((name) => all.get(name) ?? null, precision),
    evaluate: { every: evaluate.integer('every', 200), batches: evaluate.integer('batches', 50) },
    checkpoint: {
      every: checkpoint.integer('every', 200),
      keep: checkpoint.integer('keep', 3),
      best: checkBest(checkpoint.get('best') ?? null),
    },
    log: {
      every: log.integer('every', 1),
      tensorboard: log.flag('tensorboard', true),
      histograms: log.optionalInteger('histograms'),
      samples: samplesOf(log),
    },
    seed: all.integer('seed', 0, 0),
    timeLimit: all.optionalNumber('timeLimit', 0),
  };
}

/** `optimizer.lr=1e-3`: the value as JSON, or as a text where it is none. */
function applySetting(config: Record<string, unknown>, assignment: string): void {
  const at = assignment.indexOf('=');
  if (at < 1) throw refuse('--set', 'key=value, such as optimizer.lr=1e-3', assignment);
  const names = assignment.slice(0, at).split('.');
  const text = assignment.slice(at + 1);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = text;
  }
  let place = config;
  for (const [i, name] of names.slice(0, -1).entries()) {
    const next = Object.hasOwn(place, name) ? place[name] : undefined;
    if (next !== undefined && (typeof next !== 'object' || next === null || Array.isArray(next)))
      throw refuse('--set', `an object at ${names.slice(0, i + 1).join('.')}, to set an entry of it`, next);
    place = (place[name] = { ...(next as object | undefined) }) as Record<string, unknown>;
  }
  place[names.at(-1)!] = value;
}

/**
 * Reads a configuration file, with some entries set otherwise.
 *
 * @throws FormatError if the file is not JSON
 * @throws AttributeError naming the first entry that cannot be
 */
export async function readConfig(file: string, settings: readonly string[]): Promise<TrainConfig> {
  const text = await readFile(file, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    const actual = cause.code === 'ENOENT' ? 'no such file' : cause.message;
    throw new FormatError({ op: OP, argument: file, expected: 'a configuration', actual, cause });
  });
  let config: Record<string, unknown>;
  try {
    config = { ...objectOf('config', JSON.parse(text.replace(/^\ufeff/, ''))) };
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new FormatError({ op: OP, argument: file, expected: 'JSON', actual: cause.message, cause });
  }
  for (const assignment of settings) applySetting(config, assignment);
  return resolveConfig(config, path.basename(file).replace(/\.json$/i, '') || 'run');
}
