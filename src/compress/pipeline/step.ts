/**
 * Kinds of steps that plans are made of.
 *
 * @module
 */
import type { GPT } from '../../models/gpt.js';
import type { Calibration } from '../calibration.js';
import type { Distillation } from '../distill/distillation.js';
import type { LayerJournal } from '../layer_journal.js';
import type { MaskCallback } from '../prune/training_masks.js';

/**
 * Trains what a `finetune` step gives it (the model), or a `distill` step (a {@link Distillation}, which holds the student): both have
 * `loss(x, y)`, and go into a `Trainer` as they are. It trains in place, or returns another model.
 *
 * @example
 * ```ts
 * const train: TrainFunction = async (model, { steps }, { dir, signal, callbacks }) => {
 *   const trainer = new og.Trainer(model, { train: data, batchSize: 8, steps, optimizer, callbacks, checkpoint: { dir } });
 *   for await (const _ of trainer.run({ signal }));
 * };
 * ```
 */
export type TrainFunction = (
  model: GPT | Distillation<GPT>,
  settings: Readonly<Record<string, unknown>>,
  context: {
    readonly step: 'finetune' | 'distill';
    /** Stays until the step is done: a place for checkpoints. */
    readonly dir: string;
    /** For `Trainer.run`. */
    readonly signal: AbortSignal;
    /** For the `callbacks` of the Trainer: under them the zeros of pruned layers hold. */
    readonly callbacks: readonly MaskCallback[];
  },
) => Promise<GPT | void>;

/** What happened to one layer, or to the model. JSON-safe. */
export type StepNote = Readonly<Record<string, unknown>>;

/** What a step works with. */
export interface StepContext {
  /** The model that the plan began with. It stays what it is. */
  readonly original: GPT;
  /** Null if the caller gave none. */
  readonly calibration: Calibration | null;
  /** Keeps finished layers. */
  readonly journal: LayerJournal;
  /** Stays until the step is done. */
  readonly dir: string;
  readonly train: TrainFunction | undefined;
  readonly signal: AbortSignal | undefined;
  /** For the card, and for whoever watches. */
  readonly note: (note: StepNote) => void;
}

/** What a step can see before any work. */
export interface Rehearsal extends Pick<StepContext, 'original' | 'calibration' | 'train'> {
  /** Kinds of the steps before. */
  readonly earlier: readonly string[];
}

/** One kind of step. */
export interface StepKind<O = unknown> {
  /** As plans call it. */
  readonly name: string;
  /** Whether settings may have a `target`, which the plan's own one is the default of. */
  takesTarget(settings: Readonly<Record<string, unknown>>): boolean;
  /**
   * Settings as options.
   *
   * @throws AttributeError, in the name of `op`, for the first setting that cannot be
   */
  parse(op: string, settings: Readonly<Record<string, unknown>>): O;
  /** Whether the step cannot do without calibration data. */
  needsCalibration(options: O): boolean;
  /**
   * Throws if the step could not be done with this model and this context; changes nothing.
   *
   * @throws AttributeError or StateError saying why
   */
  rehearse(model: GPT, options: O, context: Rehearsal): void;
  /**
   * A model whose layers have the shapes and kinds that the step leaves, made quickly; the steps behind are rehearsed with it. Null: it
   * cannot be told before. Default: the step leaves layers as they are.
   */
  standIn?(model: GPT, options: O): Promise<GPT | null>;
  /** What the step did, in few words, from its settings and what it noted. Default: its name, and the settings that are words. */
  describe?(settings: Readonly<Record<string, unknown>>, notes: readonly StepNote[]): string;
  /** The model as the step makes it. The one that is given stays what it is. */
  run(model: GPT, options: O, context: StepContext): Promise<GPT>;
}

/** @internal All kinds, by name. */
export const stepKinds = new Map<string, StepKind>();

/** Makes a kind of step known to plans. */
export function registerStep<O>(kind: StepKind<O>): void {
  stepKinds.set(kind.name, kind as StepKind);
}
