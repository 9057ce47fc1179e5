/**
 * The step from one token to the next, recorded while it is called and then run again without the calls
 * (runtime/recording.ts).
 *
 * @module
 */
import type { KvCache } from '../nn/kv_cache.js';
import { maximum } from '../ops/arithmetic.js';
import { copy_ } from '../ops/copy.js';
import { reshape } from '../ops/views.js';
import { canRecord, closeRecording, Program, recordCalls, watchOthers, type Recording } from '../runtime/recording.js';
import { waitFor } from '../runtime/queue.js';
import { zeros } from '../tensor/create.js';
import { keep, scope } from '../tensor/scope.js';
import { Tensor } from '../tensor/tensor.js';

/** Steps that may be recorded in vain before it is given up: the first one packs weights, say. */
const MOST_RECORDINGS = 8;
/** Recordings that a program is made of. */
const RECORDINGS = 3;

/** What a {@link TokenStep} is made of. */
export interface TokenStepOptions {
  /** The step: ids `[1, 1]` to a tensor, by calls that depend on nothing but the ids, the caches and the model. The caches grow by one position. */
  readonly run: (ids: Tensor) => Tensor;
  readonly caches: readonly KvCache[];
  /** Whether what `run` gives is the next id, `[1]`, or −1, which counts as 0. */
  readonly givesId?: boolean;
  /** Whether `run` would still make the same calls; null if nobody can tell: each step is called then. */
  readonly isUnchanged: (() => boolean) | null;
}

/** One token after another, for one sequence. */
export class TokenStep {
  readonly #options: TokenStepOptions;
  /** Where frames read the id. */
  readonly #ids: Tensor;
  readonly #recordings: Recording[] = [];
  #program: Program | null = null;
  /** Of each step ahead that nobody has confirmed, oldest first: whether what it read is as it was. */
  readonly #ahead: (() => boolean)[] = [];
  /** The id that frames will read, if the last step wrote it there itself. */
  #fed: Tensor | null = null;
  #tries: number;

  constructor(options: TokenStepOptions) {
    this.#options = options;
    this.#ids = keep(zeros([1, 1], { dtype: 'int32' }));
    const canRepeat = options.isUnchanged !== null && options.caches.every(({ isWhole }) => isWhole) && canRecord();
    this.#tries = canRepeat ? MOST_RECORDINGS : 0;
  }

  /** Whether steps are run again as they were recorded. */
  get isRecorded(): boolean {
    return this.#program !== null;
  }

  /**
   * Steps that may be ahead at a time. Recordings have their results in memory of their own, so all that make a program may be; runs of the
   * program share its memory.
   */
  get mostAhead(): number {
    return this.#program === null ? RECORDINGS : 1;
  }

  /**
   * Runs the step for a token that nobody has read yet: `[1]`, an id, or −1, which counts as 0. Null unless it is recorded now or was before, so that
   * it can be told later whether the result is still right: whoever takes it asks {@link confirm} first.
   */
  ahead(id: Tensor): Tensor | null {
    if (this.#program === null && this.#tries === 0) return null;
    if (id !== this.#fed) this.#feed(id);
    const position = this.#options.caches[0]!.length;
    if (this.#program === null) {
      const { result, isAsKnown } = this.#record(position);
      this.#ahead.push(isAsKnown);
      return result;
    }
    const program = this.#program;
    if (!program.isCurrent()) return null;
    this.#ahead.push(() => program.isCurrent());
    return this.#repeat(program, position);
  }

  /**
   * Whether what the oldest of {@link ahead} gave is still what `run` would give. If not, or `isWanted` is false, neither it nor those behind it
   * have happened.
   */
  confirm(isWanted: boolean): boolean {
    const { caches, isUnchanged } = this.#options;
    const holds = this.#ahead[0]!() && isUnchanged!();
    if (holds && isWanted) {
      this.#ahead.shift();
      return true;
    }
    const before = caches[0]!.length - this.#ahead.length;
    this.#ahead.length = 0;
    for (const cache of caches) cache.truncate(before);
    if (!holds) this.#giveUp();
    return false;
  }

  /** What the step gives for a token at the next position: the caller's to dispose of, before the next call. */
  next(id: number): Tensor {
    const { run, caches, isUnchanged } = this.#options;
    this.#write(id);
    const position = caches[0]!.length;
    if (this.#program !== null) {
      const result = this.#program.isCurrent() ? this.#repeat(this.#program, position) : null;
      // Looked at while the frames run: where something has changed, they are forgotten, and what they wrote is written again.
      if (result !== null && isUnchanged!()) return result;
      result?.dispose();
      for (const cache of caches) cache.truncate(position);
      this.#giveUp();
    }
    if (this.#tries === 0) return run(this.#ids);
    return this.#record(position).result;
  }

  /** Queues a copy to where frames read the id. */
  #feed(id: Tensor): void {
    const { storage } = this.#ids;
    const { version } = storage;
    scope(() => copy_(this.#ids, reshape(maximum(id, 0), [1, 1])));
    storage.version = version; // by which the program knows it: a weight that was written to has another
  }

  #record(position: number): { result: Tensor; isAsKnown: () => boolean } {
    this.#tries--;
    const { run, givesId } = this.#options;
    const { result, recording } = recordCalls(position, () => {
      const made = run(this.#ids);
      if (givesId) this.#feed(made);
      return made;
    });
    if (givesId) this.#fed = result;
    const isAsKnown = watchOthers(recording);
    this.#recordings.push(recording);
    this.#learn();
    return { result, isAsKnown };
  }

  dispose(): void {
    this.#forget();
    this.#ids.dispose();
  }

  /** The frames of the step before have read the last id by now, as a rule: its result was read back. */
  #write(id: number): void {
    const { storage } = this.#ids;
    waitFor(storage.lastUse);
    this.#fed = null;
    new Int32Array(storage.buffer!, storage.start, 1)[0] = id;
  }

  #repeat(program: Program, position: number): Tensor {
    const { caches, givesId } = this.#options;
    for (const cache of caches) cache.advance(1);
    program.run(position);
    const { storage, offset, shape, strides, dtype } = program.result as Tensor; // what run() gave when it was recorded
    const result = new Tensor(storage, offset, shape, strides, dtype);
    if (givesId) this.#fed = result;
    return result;
  }

  /** Makes a program of the last three recordings, or drops the first of them. */
  #learn(): void {
    const all = this.#recordings;
    if (all.length < RECORDINGS) {
      if (this.#tries === 0) this.#forget();
      return;
    }
    this.#program = Program.of(all as unknown as [Recording, Recording, Recording]);
    if (this.#program !== null) {
      closeRecording(all[0]!);
      closeRecording(all[1]!);
      all.length = 0;
    } else {
      closeRecording(all.shift()!);
      if (this.#tries === 0) this.#forget();
    }
  }

  /** Who changes a model while it generates may do so again. */
  #giveUp(): void {
    this.#forget();
    this.#tries = 0;
  }

  #forget(): void {
    for (const recording of this.#recordings.splice(0)) closeRecording(recording);
    this.#program?.dispose();
    this.#program = null;
  }
}
