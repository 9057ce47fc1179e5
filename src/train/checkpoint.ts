/**
 * Checkpoints: everything a run needs to go on bit for bit, in one safetensors file that appears whole or not at all.
 *
 * @module
 */
import { mkdir, readdir, unlink } from 'node:fs/promises';
import path from 'node:path';
import { FormatError, OmniError } from '../errors.js';
import { loadSafetensors, openSafetensors, saveSafetensors } from '../interop/safetensors.js';
import type { LoaderState } from '../data/loader.js';
import type { LossScaleState } from './loss_scale.js';
import type { OptimizerState, SavedGroup } from '../optim/optimizer.js';
import type { ScheduleState } from '../optim/plateau.js';
import type { GeneratorState } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';

/** Version of what the metadata hold. */
const FORMAT = 1;

/** The part of a run's state that is not tensors. */
export interface RunState {
  readonly step: number;
  readonly tokens: number;
  readonly loader: LoaderState;
  /** Of the shared stream of random numbers. */
  readonly generator: GeneratorState;
  /** Of a schedule that observes the loss. */
  readonly schedule?: ScheduleState;
  /** Of the scale of the loss, in float16. */
  readonly lossScale?: LossScaleState;
  /** Of callbacks, by their names. */
  readonly callbacks?: Readonly<Record<string, unknown>>;
}

/** A checkpoint in memory. */
export interface Checkpoint {
  readonly model: Record<string, Tensor>;
  readonly optimizer: OptimizerState;
  /** Moving averages, if the run keeps them. */
  readonly ema?: Record<string, Tensor>;
  readonly run: RunState;
  /** Whatever describes the model; `omnigrad` itself does not read it. */
  readonly config?: unknown;
}

/** Where checkpoints go, how often, and how many are kept. */
export interface CheckpointOptions {
  /** Folder of the checkpoints; made if it is not there. */
  readonly dir: string;
  /** Steps between checkpoints. Default 200. */
  readonly every?: number;
  /** Checkpoints kept. Default 3. */
  readonly keep?: number;
}

const fileName = (step: number): string => `step-${String(step).padStart(8, '0')}.safetensors`;

function withPrefix(prefix: string, tensors: Readonly<Record<string, Tensor>>): [string, Tensor][] {
  return Object.entries(tensors).map(([name, value]) => [`${prefix}${name}`, value]);
}

function underPrefix(prefix: string, tensors: Readonly<Record<string, Tensor>>): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(tensors).flatMap(([name, value]) =>
      name.startsWith(prefix) ? [[name.slice(prefix.length), value]] : [],
    ),
  );
}

/** Checkpoint files of a folder, newest first. */
export async function listCheckpoints(dir: string): Promise<string[]> {
  const names = await readdir(dir).catch(() => [] as string[]);
  return names
    .filter((name) => /^step-\d+\.safetensors$/.test(name))
    .sort()
    .reverse()
    .map((name) => path.join(dir, name));
}

/**
 * Writes a checkpoint, then removes those beyond `keep`.
 *
 * @returns the file's path
 * @throws ResourceError if it cannot be written; earlier checkpoints are untouched
 */
export async function saveCheckpoint(options: CheckpointOptions, checkpoint: Checkpoint): Promise<string> {
  const keep = checkInteger('checkpoint', 'keep', options.keep ?? 3, 1);
  await mkdir(options.dir, { recursive: true });
  const { steps, lrs, groups } = checkpoint.optimizer;
  const tensors = Object.fromEntries([
    ...withPrefix('model.', checkpoint.model),
    ...withPrefix('optimizer.', checkpoint.optimizer.tensors),
    ...withPrefix('ema.', checkpoint.ema ?? {}),
  ]);
  const target = path.join(options.dir, fileName(checkpoint.run.step));
  await saveSafetensors(target, tensors, {
    omnigrad: JSON.stringify({
      format: FORMAT,
      run: checkpoint.run,
      optimizer: { steps, lrs, groups },
      config: checkpoint.config ?? null,
    }),
  });
  for (const old of (await listCheckpoints(options.dir)).slice(keep)) await unlink(old).catch(() => {});
  return target;
}

interface Metadata {
  readonly format: number;
  readonly run: RunState;
  readonly optimizer: { readonly steps: number[]; readonly lrs: number[]; readonly groups?: SavedGroup[] };
  readonly config: unknown;
}

function parseMetadata(file: string, text: string | undefined): Metadata {
  const wrong = (actual: string): FormatError =>
    new FormatError({ op: 'checkpoint', argument: file, expected: `a checkpoint of format ${FORMAT}`, actual });
  if (text === undefined) throw wrong('a file without its metadata');
  let value: Partial<Metadata>;
  try {
    value = JSON.parse(text) as Partial<Metadata>;
  } catch {
    throw wrong('metadata that is not JSON');
  }
  const numbers = (list: unknown): boolean => Array.isArray(list) && list.every((x) => typeof x === 'number');
  if (value?.format !== FORMAT) throw wrong(`format ${String(value?.format)}`);
  if (typeof value.run?.step !== 'number' || !numbers(value.optimizer?.steps) || !numbers(value.optimizer?.lrs)) {
    throw wrong('incomplete metadata');
  }
  return value as Metadata;
}

/**
 * Reads one checkpoint.
 *
 * @throws FormatError if the file is not a whole checkpoint
 */
export async function loadCheckpoint(file: string): Promise<Checkpoint> {
  const { metadata } = await openSafetensors(file);
  const { run, optimizer, config } = parseMetadata(file, metadata.get('omnigrad'));
  const tensors = await loadSafetensors(file);
  return {
    model: underPrefix('model.', tensors),
    optimizer: { ...optimizer, tensors: underPrefix('optimizer.', tensors) },
    ema: underPrefix('ema.', tensors),
    run,
    config,
  };
}

/** The newest checkpoint of a folder that is whole, passing over damaged ones; null if there is none. */
export async function loadLatestCheckpoint(
  dir: string,
): Promise<{ readonly path: string; readonly checkpoint: Checkpoint } | null> {
  for (const file of await listCheckpoints(dir)) {
    try {
      return { path: file, checkpoint: await loadCheckpoint(file) };
    } catch (error) {
      if (!(error instanceof OmniError)) throw error;
    }
  }
  return null;
}
