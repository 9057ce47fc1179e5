/**
 * Kinds of steps that plans are made of.
 *
 * @module
 */
import type { GPT } from '../../models/gpt.js';
import type { Calibration } from '../calibration.js';
import type { LayerJournal } from '../layer_journal.js';

/** Trains a model on, in place or as another one, as a `finetune` step says. */
export type FinetuneFunction = (
  model: GPT,
  settings: Readonly<Record<string, unknown>>,
  context: {
    /** Stays until the step is done: a place for checkpoints. */
    readonly dir: string;
    readonly signal: AbortSignal | undefined;
  },
) => Promise<GPT | void>;

/** What happened to one layer, or to the model. JSON-safe. */
export type StepNote = Readonly<Record<string, unknown>>;

/** What a step works with. */
export interface StepContext {
  /** Null if the caller gave none. */
  readonly calibration: Calibration | null;
  /** Keeps finished layers. */
  readonly journal: LayerJournal;
  /** Stays until the step is done. */
  readonly dir: string;
  readonly finetune: FinetuneFunction | undefined;
  readonly signal: AbortSignal | undefined;
  /** For the card, and for whoever watches. */
  readonly note: (note: StepNote) => void;
}

/** What a step can see before any work. */
export interface Rehearsal extends Pick<StepContext, 'calibration' | 'finetune'> {
  /** Kinds of the steps before. */
  readonly earlier: readonly string[];
}

/** One kind of step. */
export interface StepKind<O = unknown> {
  /** As plans call it. */
  readonly name: string;
  /** Whether settings may have a `target`, which the plan's own one is the default of. */
  readonly takesTarget: boolean;
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
  /** Whether layers may have other shapes afterwards, so that the steps behind cannot be rehearsed before. */
  changesShapes(options: O): boolean;
  /** The model as the step makes it. The one that is given stays what it is. */
  run(model: GPT, options: O, context: StepContext): Promise<GPT>;
}

/** @internal All kinds, by name. */
export const stepKinds = new Map<string, StepKind>();

/** Makes a kind of step known to plans. */
export function registerStep<O>(kind: StepKind<O>): void {
  stepKinds.set(kind.name, kind as StepKind);
}
