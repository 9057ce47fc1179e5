/**
 * Going on from a checkpoint: which one, whether it is this run's, and where in the data.
 *
 * @module
 */
import { StateError } from '../errors.js';
import type { LoaderState } from '../data/loader.js';
import type { Tensor } from '../tensor/tensor.js';
import {
  listCheckpoints,
  loadLatestCheckpoint,
  removeUnfinished,
  type Checkpoint,
  type RunState,
} from './checkpoint.js';
import type { WarningEvent } from './events.js';
import { checkAllowed, compareRuns, judgeDifferences, type RunFacts } from './resume_check.js';
import { checkResume } from './signals.js';
import type { RunOptions } from './trainer_options.js';

/** @internal A checkpoint to go on from, and what to say about it. */
export interface Resumption {
  readonly path: string;
  readonly checkpoint: Checkpoint;
  readonly warnings: readonly WarningEvent[];
}

/**
 * The checkpoint that a run goes on from; null to start anew. Files that a killed process left unfinished are removed.
 *
 * @internal
 * @throws StateError if it is to start anew in a folder that holds checkpoints, or if all are damaged
 * @throws ResumeError if the newest is of another run
 */
export async function resumeFrom(
  dir: string,
  options: RunOptions,
  model: Readonly<Record<string, Tensor>>,
  facts: RunFacts,
): Promise<Resumption | null> {
  const resume = checkResume(options.resume);
  const allowed = checkAllowed(options.allowChanges ?? false);
  await removeUnfinished(dir);
  const files = await listCheckpoints(dir);
  if (files.length === 0) return null;
  if (resume === false) {
    throw new StateError({
      op: 'Trainer.run',
      argument: 'resume',
      expected: 'a folder without checkpoints to start anew in',
      actual: `${files.length} in ${dir}, up to ${files[0]!}`,
      hint: 'Choose another checkpoint.dir, move those away, or let it resume',
    });
  }
  const found = await loadLatestCheckpoint(dir);
  if (found === null) {
    throw new StateError({
      op: 'Trainer.run',
      argument: 'resume',
      expected: `a whole checkpoint in ${dir}`,
      actual: `${files.length} that are all damaged`,
      hint: 'Move them away to start anew',
    });
  }
  const { path, checkpoint, damaged } = found;
  const { step } = checkpoint.run;
  const differences = compareRuns({ model: checkpoint.model, facts: checkpoint.run.facts }, { model, facts });
  const changed = judgeDifferences(path, differences, resume === 'strict', allowed);
  return {
    path,
    checkpoint,
    warnings: [
      ...damaged.map((file): WarningEvent => {
        const message = `passed over a damaged checkpoint: ${file.error.message}`;
        return { type: 'warning', step, code: 'damaged-checkpoint', message, path: file.path };
      }),
      ...changed.map(({ aspect, saved, now }): WarningEvent => {
        const message = `goes on with another ${aspect}: ${now} (checkpoint: ${saved})`;
        return { type: 'warning', step, code: 'changed-run', message, path };
      }),
    ],
  };
}

/**
 * Where the loader goes on. If batches have become larger or smaller, at the example where it stood; if the data have become fewer,
 * within the epoch.
 *
 * @internal
 * @param length - batches of an epoch
 * @returns the saved place itself if batches mean what they meant
 */
export function placeOf({ loader, facts: saved }: RunState, now: RunFacts, length: number): LoaderState {
  if (saved === undefined) return loader;
  const same =
    saved.batchSize === now.batchSize &&
    saved.seed === now.seed &&
    saved.dataset.length === now.dataset.length &&
    (saved.dataset.fingerprint ?? now.dataset.fingerprint) === (now.dataset.fingerprint ?? saved.dataset.fingerprint);
  if (same) return loader;
  return { epoch: loader.epoch, batch: Math.min(length, Math.floor((loader.batch * saved.batchSize) / now.batchSize)) };
}
