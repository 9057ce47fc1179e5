/**
 * The state of a run as a checkpoint: what is saved, and how it is taken up.
 *
 * @module
 */
import type { DataLoader } from '../data/loader.js';
import type { Module } from '../nn/module.js';
import type { EMA } from '../optim/ema.js';
import type { OptimizerOptions } from '../optim/groups.js';
import type { Optimizer } from '../optim/optimizer.js';
import { defaultGenerator } from '../tensor/random.js';
import type { Arithmetic } from './arithmetic.js';
import type { TrainCallback } from './callback.js';
import type { BestCheckpoints } from './best_checkpoints.js';
import { disposeCheckpoint, loadCheckpoint, type Checkpoint } from './checkpoint.js';
import type { RestoreEvent, WarningEvent } from './events.js';
import type { RunFacts } from './resume_check.js';
import { placeOf } from './resume.js';
import type { Watch } from './watch.js';

/** @internal Whatever has a state of its own. */
export interface RunParts<M extends Module> {
  readonly model: M;
  readonly optimizer: Optimizer<OptimizerOptions>;
  readonly ema: EMA | null;
  readonly loader: DataLoader<unknown>;
  readonly callbacks: readonly TrainCallback<M>[];
  readonly watch: Pick<Watch<M, unknown>, 'state' | 'restore' | 'spikes'>;
  readonly arithmetic: Pick<Arithmetic, 'state'>;
  readonly facts: RunFacts;
}

/** @internal How far the run is. */
export interface RunCounts {
  readonly step: number;
  readonly tokens: number;
  readonly evalDue: boolean;
}

/** @internal The run as it stands. The tensors share memory with it. */
export function takeSnapshot<M extends Module>(parts: RunParts<M>, counts: RunCounts, config: unknown): Checkpoint {
  const { model, optimizer, ema, loader, callbacks, watch, arithmetic, facts } = parts;
  return {
    model: model.stateDict(),
    optimizer: optimizer.stateDict(),
    ...(ema === null ? {} : { ema: ema.stateDict() }),
    run: {
      ...counts,
      loader: loader.state,
      generator: defaultGenerator().state,
      ...arithmetic.state,
      ...watch.state(),
      callbacks: Object.fromEntries(
        callbacks.flatMap((callback) =>
          callback.name === undefined || callback.stateDict === undefined
            ? []
            : [[callback.name, callback.stateDict()]],
        ),
      ),
      facts,
    },
    config,
  };
}

/** @internal Puts everything where a checkpoint had it; how far the run was. */
export function restoreParts<M extends Module>(
  parts: RunParts<M>,
  checkpoint: Checkpoint,
  isRollback: boolean,
): RunCounts {
  const { model, optimizer, ema, loader, callbacks, watch, arithmetic, facts } = parts;
  const { run } = checkpoint;
  // Options are the program's: who lowers the rate and goes on wants the new one.
  const sameKind = run.facts === undefined || run.facts.optimizer === facts.optimizer;
  if (sameKind) optimizer.loadStateDict(checkpoint.optimizer, { options: false });
  model.loadStateDict(checkpoint.model);
  if (ema !== null) {
    const averages = checkpoint.ema ?? {};
    const weights = (): Checkpoint['model'] => Object.fromEntries(Object.entries(model.parameters()));
    ema.loadStateDict(Object.keys(averages).length > 0 ? averages : weights());
  }
  arithmetic.state = run;
  watch.restore(run, isRollback);
  for (const callback of callbacks) {
    const saved = callback.name === undefined ? undefined : run.callbacks?.[callback.name];
    if (saved !== undefined) callback.loadStateDict?.(saved);
  }
  const place = placeOf(run, facts, loader.length);
  if (place !== run.loader) watch.spikes?.forgetSkips();
  loader.state = place;
  defaultGenerator().state = run.generator;
  return { step: run.step, tokens: run.tokens, evalDue: run.evalDue === true };
}

/**
 * Puts the weights of the best validation in place.
 *
 * @internal
 * @returns the event that says so, or that there are none
 */
export async function restoreBest(
  model: Module,
  ema: EMA | null,
  best: BestCheckpoints,
  step: number,
): Promise<RestoreEvent | WarningEvent> {
  const { metric } = best;
  const found = best.find();
  if (found === null) {
    const message = `no best checkpoint to restore: ${metric} was never finite, or its file is gone`;
    return { type: 'warning', step, code: 'no-best', message };
  }
  const checkpoint = await loadCheckpoint(found.path);
  model.loadStateDict(checkpoint.model);
  if (checkpoint.ema !== undefined) ema?.loadStateDict(checkpoint.ema);
  disposeCheckpoint(checkpoint);
  return { type: 'restore', step: found.step, path: found.path, metric, value: found.value };
}
