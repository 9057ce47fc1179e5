/**
 * Checkpoints: everything a run needs to go on bit for bit, in one safetensors file that appears whole or not at all.
 *
 * @module
 */
import { mkdir, readdir, stat, statfs, unlink } from 'node:fs/promises';
import path from 'node:path';
import { AttributeError, FormatError, OmniError, ResourceError, StateError } from '../errors.js';
import { loadSafetensors, openSafetensors, saveSafetensors } from '../interop/safetensors.js';
import type { LoaderState } from '../data/loader.js';
import type { LossScaleState } from './loss_scale.js';
import type { OptimizerState, SavedGroup } from '../optim/optimizer.js';
import type { ScheduleState } from '../optim/plateau.js';
import type { GeneratorState } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys } from '../util/assert.js';
import { linkAtomically } from '../util/atomic_file.js';
import { formatBytes, formatValue } from '../util/format.js';
import type { BestCheckpointOptions, BestEntry } from './best_checkpoints.js';
import { checksums, damagedTensor } from './checksum.js';
import type { EarlyStoppingState } from './early_stopping.js';
import type { LossSpikeState } from './loss_spikes.js';
import type { RunFacts } from './resume_check.js';

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
  /** A validation of this step is still to come. */
  readonly evalDue?: boolean;
  readonly earlyStopping?: EarlyStoppingState;
  readonly lossSpikes?: LossSpikeState;
  /** Best checkpoints, the best first. */
  readonly best?: readonly BestEntry[];
  /** What the run was made of, to be compared when it is taken up again. */
  readonly facts?: RunFacts;
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
  /** Keep those of the best validations, too, beside the last ones. Default: none. */
  readonly best?: BestCheckpointOptions;
}

/** @throws AttributeError for options that are unknown or cannot be */
export function checkCheckpointOptions(options: CheckpointOptions): void {
  const op = 'checkpoint';
  if (typeof options !== 'object' || options === null) {
    const actual = formatValue(options);
    throw new AttributeError({ op, argument: 'options', expected: '{ dir, every, keep, best }', actual });
  }
  checkKeys(op, options, ['dir', 'every', 'keep', 'best']);
  if (typeof options.dir !== 'string' || options.dir === '') {
    throw new AttributeError({ op, argument: 'dir', expected: 'a folder', actual: formatValue(options.dir) });
  }
  if (options.every !== undefined) checkInteger(op, 'every', options.every, 1);
  if (options.keep !== undefined) checkInteger(op, 'keep', options.keep, 1);
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

/** Step of a checkpoint file, from its name. */
export function stepOf(file: string): number {
  return Number(/step-(\d+)\.safetensors$/.exec(file)?.[1]);
}

/** What a failed write should say besides the system's reason: how much was to be written, and how much there is. */
async function explainWrite(error: unknown, target: string, bytes: number): Promise<unknown> {
  const cause = error instanceof ResourceError ? (error.cause as NodeJS.ErrnoException | undefined) : undefined;
  if (cause === undefined) return error;
  const dir = path.dirname(target);
  const free = await statfs(dir).then(({ bavail, bsize }) => bavail * bsize, () => null); // prettier-ignore
  return new ResourceError({
    op: 'checkpoint',
    argument: target,
    expected: `${formatBytes(bytes)} to be written`,
    actual: `${cause.code ?? 'an error'}: ${cause.message}${free === null ? '' : ` (${formatBytes(free)} free in ${dir})`}`,
    hint: 'Earlier checkpoints are intact. Free some space, lower keep, or choose another dir, and run again: it goes on from the newest',
    cause,
  });
}

/** @internal Writes one checkpoint to a file, atomically. */
export async function writeCheckpoint(target: string, checkpoint: Checkpoint): Promise<void> {
  const { steps, lrs, groups } = checkpoint.optimizer;
  const tensors = Object.fromEntries([
    ...withPrefix('model.', checkpoint.model),
    ...withPrefix('optimizer.', checkpoint.optimizer.tensors),
    ...withPrefix('ema.', checkpoint.ema ?? {}),
  ]);
  const omnigrad = JSON.stringify({
    format: FORMAT,
    run: checkpoint.run,
    optimizer: { steps, lrs, groups },
    config: checkpoint.config ?? null,
    crc32: await checksums(tensors),
  });
  try {
    await saveSafetensors(target, tensors, { omnigrad });
  } catch (error) {
    const bytes = Object.values(tensors).reduce((sum, value) => sum + value.bytes, omnigrad.length);
    throw await explainWrite(error, target, bytes);
  }
}

/**
 * Writes a checkpoint, then removes those beyond `keep`.
 *
 * @param written - a file that holds it already: the checkpoint becomes another name of it
 * @returns the file's path
 * @throws ResourceError if it cannot be written; earlier checkpoints are untouched
 */
export async function saveCheckpoint(
  options: CheckpointOptions,
  checkpoint: Checkpoint,
  written?: string,
): Promise<string> {
  checkCheckpointOptions(options);
  await mkdir(options.dir, { recursive: true });
  const target = path.join(options.dir, fileName(checkpoint.run.step));
  await (written === undefined ? writeCheckpoint(target, checkpoint) : linkAtomically(written, target));
  const every = options.every ?? 200;
  const files = await listCheckpoints(options.dir);
  const regular = files.find((file) => stepOf(file) % every === 0); // roll-backs go to regular ones only
  for (const old of files.slice(options.keep ?? 3)) if (old !== regular) await unlink(old).catch(() => {});
  return target;
}

/** @internal Frees the tensors of a checkpoint that was read. */
export function disposeCheckpoint({ model, optimizer, ema }: Checkpoint): void {
  for (const tensors of [model, optimizer.tensors, ema ?? {}]) {
    for (const value of Object.values(tensors)) value.dispose();
  }
}

/** @internal Removes checkpoints of later steps: the run goes on from an earlier one by another way. */
export async function removeAfter(dir: string, step: number): Promise<void> {
  for (const file of await listCheckpoints(dir)) if (stepOf(file) > step) await unlink(file).catch(() => {});
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
};

/** @internal Removes the unfinished files that processes left behind which were killed while writing. */
export async function removeUnfinished(dir: string): Promise<void> {
  for (const name of await readdir(dir).catch(() => [] as string[])) {
    const pid = /^(?:step-\d+|best(?:-\d+)?)\.(?:safetensors|json)\.(\d+)\.\d+\.tmp$/.exec(name)?.[1];
    if (pid === undefined) continue;
    const file = path.join(dir, name);
    const time = await stat(file).then(({ mtimeMs }) => mtimeMs, () => Infinity); // prettier-ignore
    // A process of our own number that wrote before we began is another one: containers give the same numbers again.
    const isOurs = Number(pid) === process.pid && time >= performance.timeOrigin;
    if (!isOurs && (Number(pid) === process.pid || !isAlive(Number(pid)))) await unlink(file).catch(() => {});
  }
}

interface Metadata {
  readonly format: number;
  readonly run: RunState;
  readonly optimizer: { readonly steps: number[]; readonly lrs: number[]; readonly groups?: SavedGroup[] };
  readonly config: unknown;
  readonly crc32?: Readonly<Record<string, number>>;
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
  const { run, optimizer, config, crc32 } = parseMetadata(file, metadata.get('omnigrad'));
  const tensors = await loadSafetensors(file);
  const damaged = crc32 === undefined ? null : await damagedTensor(tensors, crc32);
  if (damaged !== null) {
    for (const value of Object.values(tensors)) value.dispose();
    const expected = `the bytes that were written (CRC-32)`;
    throw new FormatError({ op: 'checkpoint', argument: file, expected, actual: `others in ${damaged}` });
  }
  return {
    model: underPrefix('model.', tensors),
    optimizer: { ...optimizer, tensors: underPrefix('optimizer.', tensors) },
    ema: underPrefix('ema.', tensors),
    run,
    config,
  };
}

/** What {@link loadLatestCheckpoint} found. */
export interface LatestCheckpoint {
  readonly path: string;
  readonly checkpoint: Checkpoint;
  /** Newer files that could not be read, newest first. */
  readonly damaged: readonly { readonly path: string; readonly error: OmniError }[];
}

/**
 * The newest checkpoint of a folder that is whole, passing over damaged ones; null if there is none.
 *
 * @param accept - looks at the step of a file. Default: any
 */
export async function loadLatestCheckpoint(
  dir: string,
  accept: (step: number) => boolean = () => true,
): Promise<LatestCheckpoint | null> {
  const damaged: { path: string; error: OmniError }[] = [];
  for (const file of await listCheckpoints(dir)) {
    if (!accept(stepOf(file))) continue;
    try {
      return { path: file, checkpoint: await loadCheckpoint(file), damaged };
    } catch (error) {
      if (!(error instanceof OmniError)) throw error;
      damaged.push({ path: file, error });
    }
  }
  return null;
}

/**
 * @internal The newest regular checkpoint from before a step: those of multiples of `every`.
 *
 * @throws StateError if none is whole
 */
export async function checkpointBefore(dir: string, every: number, step: number): Promise<LatestCheckpoint> {
  const found = await loadLatestCheckpoint(dir, (at) => at % every === 0 && at < step);
  if (found !== null) return found;
  const expected = `a checkpoint in ${dir} to go back to from before step ${step}`;
  throw new StateError({ op: 'Trainer', expected, actual: 'none that is whole' });
}
