/**
 * Whether a run that goes on from a checkpoint is the run that wrote it; if not, what differs and what to do.
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { AttributeError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import type { Dataset } from '../data/loader.js';
import { dataSync } from '../tensor/read.js';
import { defaultGenerator } from '../tensor/random.js';
import { scope, tensorsIn } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { formatShape, formatValue } from '../util/format.js';
import { nearestName } from '../util/nearest.js';

/** What a run is made of, besides its model. JSON-safe. */
export interface RunFacts {
  readonly dataset: { readonly length: number; readonly fingerprint: string | null };
  readonly batchSize: number;
  readonly gradientAccumulation: number;
  readonly seed: number;
  /** Class of the optimiser. */
  readonly optimizer: string;
  readonly steps: number;
  readonly scheduleTokens: number | null;
  /** Decay of the averages, if they are kept. */
  readonly ema: number | null;
}

/** What may differ between a checkpoint and the run that takes it up: `model` is names and shapes, `dtype` that of its tensors. */
export type ResumeAspect = 'model' | 'dtype' | keyof RunFacts;

/** One thing that differs. */
export interface RunDifference {
  readonly aspect: ResumeAspect;
  /** In the checkpoint. */
  readonly saved: string;
  /** In the run that takes it up. */
  readonly now: string;
}

/** All but `model`: another model cannot be loaded. */
const aspects: readonly Exclude<ResumeAspect, 'model'>[] = [
  'dtype', 'dataset', 'batchSize', 'gradientAccumulation', 'seed', 'optimizer', 'steps', 'scheduleTokens', 'ema',
]; // prettier-ignore

/** Lengthening a run, or another end of its schedule, is common and says itself: a warning unless `strict`. */
const mild: readonly ResumeAspect[] = ['steps', 'scheduleTokens'];

/** A run that is not the one that wrote the checkpoint. `code` is `OG_STATE`. */
export class ResumeError extends StateError {
  /** The checkpoint. */
  readonly path: string;
  readonly differences: readonly RunDifference[];

  constructor(path: string, differences: readonly RunDifference[]) {
    const list = differences.map(({ aspect, saved, now }) => `${aspect}: ${now} (checkpoint: ${saved})`).join('; ');
    const names = [...new Set(differences.map(({ aspect }) => aspect))];
    const hasModel = names.includes('model');
    super({
      op: 'Trainer.run',
      argument: 'resume',
      expected: `the run that wrote ${path}`,
      actual: `another: ${list}`,
      hint: hasModel
        ? 'Build the model as it was, or train a new one in another checkpoint.dir and load what matches: model.loadStateDict(checkpoint.model, { strict: false })'
        : `Set it back, or say that it is meant: run({ allowChanges: [${names.map((name) => `'${name}'`).join(', ')}] }), or start anew in another checkpoint.dir`,
    });
    this.path = path;
    this.differences = differences;
  }
}

/** Examples whose content stands for the data set. */
const SAMPLES = 4;

/** SHA-256 of the tensors of a few examples; null if they do not come out the same twice. */
function sampleHash(dataset: Dataset<unknown>): string | null {
  const { length } = dataset;
  const indices = [
    ...new Set(Array.from({ length: SAMPLES }, (_, i) => Math.floor((i * (length - 1)) / (SAMPLES - 1)))),
  ];
  const hashOnce = (): string => {
    const hash = createHash('sha256');
    for (const index of indices) {
      scope(() =>
        noGrad(() => {
          for (const value of tensorsIn(dataset.batch([index], 0))) {
            const { buffer, byteOffset, byteLength } = dataSync(value);
            hash.update(`${value.dtype} ${formatShape(value.shape)};`);
            hash.update(new Uint8Array(buffer, byteOffset, byteLength));
          }
        }),
      );
    }
    return hash.digest('hex').slice(0, 16);
  };
  const stream = defaultGenerator().state;
  const seeded = (): string => {
    defaultGenerator().state = { seed: 0x5a3b1e, offset: 0 };
    return hashOnce();
  };
  try {
    const first = seeded();
    return seeded() === first ? first : null;
  } catch {
    return null; // a data set that cannot make a batch of one has no sample
  } finally {
    defaultGenerator().state = stream;
  }
}

/** Length and fingerprint: the data set's own, or a hash of a few examples. */
function describeDataset(dataset: Dataset<unknown>): RunFacts['dataset'] {
  const { length, fingerprint } = dataset;
  return { length, fingerprint: typeof fingerprint === 'string' ? fingerprint : sampleHash(dataset) };
}

/** Tensors of a kind that a message names. */
const SHOWN = 4;

/** @internal What a run is made of. */
export function factsOf(
  options: {
    readonly train: Dataset<unknown>;
    readonly batchSize: number;
    readonly seed?: number;
    readonly scheduleTokens?: number;
    readonly ema?: number;
  },
  run: { readonly optimizer: object; readonly accumulation: number; readonly steps: number },
): RunFacts {
  const { train, batchSize, seed = 0, scheduleTokens = null, ema = null } = options;
  return {
    dataset: describeDataset(train),
    batchSize,
    gradientAccumulation: run.accumulation,
    seed,
    optimizer: run.optimizer.constructor.name,
    steps: run.steps,
    scheduleTokens,
    ema,
  };
}

type Tensors = Readonly<Record<string, Tensor>>;

function listNames(names: readonly string[]): string {
  return names.slice(0, 6).join(', ') + (names.length > 6 ? `, … (${names.length})` : '');
}

function compareModels(saved: Tensors, now: Tensors): RunDifference[] {
  const differences: RunDifference[] = [];
  const missing = Object.keys(now).filter((name) => !Object.hasOwn(saved, name));
  const surplus = Object.keys(saved).filter((name) => !Object.hasOwn(now, name));
  if (missing.length + surplus.length > 0) {
    const only = (names: readonly string[]): string =>
      names.length > 0 ? `also ${listNames(names)}` : 'without these';
    differences.push({ aspect: 'model', saved: only(surplus), now: only(missing) });
  }
  const both = Object.keys(now).filter((name) => saved[name] !== undefined);
  const compare = (aspect: ResumeAspect, kind: (value: Tensor) => string): void => {
    const others = both.filter((name) => kind(saved[name]!) !== kind(now[name]!));
    for (const [i, name] of others.slice(0, SHOWN).entries()) {
      const more = i === SHOWN - 1 && others.length > SHOWN ? `, and ${others.length - SHOWN} more` : '';
      differences.push({ aspect, saved: `${name} ${kind(saved[name]!)}`, now: `${kind(now[name]!)}${more}` });
    }
  };
  compare('model', ({ shape }) => formatShape(shape));
  compare('dtype', ({ dtype }) => dtype);
  return differences;
}

function compareFacts(saved: RunFacts, now: RunFacts): RunDifference[] {
  const differences: RunDifference[] = [];
  const { dataset: before } = saved;
  const { dataset } = now;
  const known = before.fingerprint !== null && dataset.fingerprint !== null;
  if (before.length !== dataset.length || (known && before.fingerprint !== dataset.fingerprint)) {
    const say = ({ length, fingerprint }: RunFacts['dataset']): string =>
      `${length} examples, fingerprint ${fingerprint ?? 'unknown'}`;
    differences.push({ aspect: 'dataset', saved: say(before), now: say(dataset) });
  }
  for (const aspect of aspects) {
    if (aspect === 'dtype' || aspect === 'dataset' || saved[aspect] === undefined) continue;
    if (saved[aspect] !== now[aspect]) {
      differences.push({ aspect, saved: formatValue(saved[aspect]), now: formatValue(now[aspect]) });
    }
  }
  return differences;
}

/** @internal What differs between a checkpoint and the run that takes it up. Checkpoints that hold no facts differ in the model only. */
export function compareRuns(
  saved: { readonly model: Tensors; readonly facts: RunFacts | undefined },
  now: { readonly model: Tensors; readonly facts: RunFacts },
): RunDifference[] {
  const facts = saved.facts === undefined ? [] : compareFacts(saved.facts, now.facts);
  return [...compareModels(saved.model, now.model), ...facts];
}

/** Changes that are meant: names, or all. */
export type AllowedChanges = boolean | readonly Exclude<ResumeAspect, 'model'>[];

/** @throws AttributeError unless all are names of aspects */
export function checkAllowed(given: AllowedChanges): (aspect: ResumeAspect) => boolean {
  if (typeof given === 'boolean') return () => given;
  for (const name of Array.isArray(given) ? given : [given]) {
    if (aspects.includes(name as (typeof aspects)[number])) continue;
    const nearest = typeof name === 'string' ? nearestName(name, aspects) : undefined;
    throw new AttributeError({
      op: 'Trainer.run',
      argument: 'allowChanges',
      expected: `true, false or a list of ${aspects.join(', ')}`,
      actual: formatValue(name),
      hint: nearest === undefined ? undefined : `Did you mean ${nearest}`,
    });
  }
  const list: readonly ResumeAspect[] = given;
  return (aspect) => list.includes(aspect);
}

/**
 * Sorts differences into those to warn of and those that forbid going on. Other names or shapes in the model forbid it in any case: they
 * cannot be loaded.
 *
 * @internal
 * @returns those to warn of
 * @throws ResumeError if any forbids it
 */
export function judgeDifferences(
  path: string,
  differences: readonly RunDifference[],
  strict: boolean,
  allowed: (aspect: ResumeAspect) => boolean,
): readonly RunDifference[] {
  const refused = differences.filter(
    ({ aspect }) => aspect === 'model' || (!allowed(aspect) && (strict || !mild.includes(aspect))),
  );
  if (refused.length > 0) throw new ResumeError(path, refused);
  return differences;
}
