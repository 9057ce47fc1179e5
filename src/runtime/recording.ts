/**
 * Calls that are watched once and run again: what CUDA calls a graph. A step of a model that comes again and again, each
 * time one position further, costs JavaScript the same hundred calls; their frames differ in a few numbers, and these grow evenly
 * with the position. Two recordings show which and how, a third must be what they foretell, and from then on the frames are
 * submitted as one piece with the numbers of their position. docs/adr/0020 tells why, and what may be recorded.
 *
 * A recording has its own memory: blocks handed out meanwhile go back to it and not to the pool, so that its frames may run again
 * while others use the pool.
 */
import type { Arena } from './arena.js';
import { currentIsa } from './backend.js';
import { environment } from './environment.js';
import { settleReaders } from './pending.js';
import { flush } from './queue.js';
import {
  enqueuePiece,
  FRAME_WORDS,
  frameWords,
  MAX_PIECE_FRAMES,
  MAX_PIECE_WORDS,
  VIEW_WORDS,
  watch,
  writeFrame,
  type Operands,
  type Piece,
  type View,
} from './ring.js';
import { closeArena, endArena, openArena, sealArena, type Storage } from './storage.js';

interface Call {
  readonly kernel: number;
  readonly inputs: Operands;
  readonly outputs: Operands;
  readonly attrs: readonly number[];
}

/** Calls in order, with the memory that they use among themselves, and where the result lies. */
export interface Recording {
  readonly position: number;
  readonly calls: readonly Call[];
  readonly arena: Arena;
  readonly result: View;
}

/** How a block of somebody else was when it was recorded. */
interface Known {
  readonly block: Storage;
  readonly generation: number;
  /** Of blocks that are only read. */
  readonly version: number | null;
}

/** Whether blocks of others that calls read are as they were: no weight was written to, moved, or freed. */
function areAsKnown(known: readonly Known[]): boolean {
  for (const { block, generation, version } of known) {
    if (block.generation !== generation || block.references === 0 || block.recipe !== null) return false;
    if (version === null ? block.readers !== null : block.version !== version) return false;
  }
  return true;
}

/** What {@link areAsKnown} is asked about. */
function knownOf(calls: readonly Call[], others: Iterable<Storage>): Known[] {
  const written = new Set(
    calls.flatMap(({ outputs }) => outputs.flatMap((view) => (view === null ? [] : [view.storage]))),
  );
  return Array.from(others, (block) => ({
    block,
    generation: block.generation,
    version: written.has(block) ? null : block.version,
  }));
}

/** Whether calls that are recorded would be frames of the queue, one for one. */
export function canRecord(): boolean {
  return !environment.sync && !environment.debug;
}

/**
 * Runs `body` and records its calls; its result is a view that they wrote. The caller closes the recording, or makes a
 * {@link Program} of it.
 */
export function recordCalls<T extends View>(position: number, body: () => T): { result: T; recording: Recording } {
  flush();
  const calls: Call[] = [];
  const arena = openArena();
  watch((kernel, inputs, outputs, attrs) => {
    // views are tensors, whose blocks stay the same
    calls.push({ kernel, inputs: [...inputs], outputs: [...outputs], attrs: [...attrs] });
  });
  try {
    const result = body();
    flush(result.storage);
    return { result, recording: { position, calls, arena, result } };
  } catch (error) {
    closeArena(arena);
    throw error;
  } finally {
    watch(null);
    endArena();
  }
}

/** Tells later whether what a recording's calls read of others is as it was. */
export function watchOthers({ calls, arena }: Recording): () => boolean {
  const views = calls.flatMap(({ inputs, outputs }) => [...inputs, ...outputs]);
  const others = new Set(
    views.flatMap((view) => (view === null || arena.blocks.has(view.storage) ? [] : [view.storage])),
  );
  const [known, isa] = [knownOf(calls, others), currentIsa()];
  return () => isa === currentIsa() && areAsKnown(known);
}

/** Gives a recording's memory back. */
export function closeRecording({ arena }: Recording): void {
  closeArena(arena);
}

/** What may differ from one position to the next. */
type Kind = 'fixed' | 'free';

interface Words {
  readonly words: Float64Array;
  readonly kinds: readonly Kind[];
  /** Blocks of the recording's own by the order in which frames name them. */
  readonly own: readonly Storage[];
  /** Blocks of others. */
  readonly others: readonly Storage[];
}

/** Own blocks are told by their order, so that recordings can be compared. */
const ofOwn = (index: number): number => -2 - index;

function wordsOf({ calls, arena, result }: Recording): Words {
  const total = calls.reduce((sum, { inputs, outputs, attrs }) => sum + frameWords(inputs, outputs, attrs), 0);
  const words = new Float64Array(total + 1);
  const kinds = new Array<Kind>(total + 1).fill('fixed');
  const [own, others] = [new Map<Storage, number>(), new Set<Storage>()];
  let at = 0;
  const readView = (view: View | null): void => {
    if (view !== null) {
      const { storage, shape } = view;
      if (arena.blocks.has(storage)) {
        if (!own.has(storage)) own.set(storage, own.size);
        words[at] = ofOwn(own.get(storage)!);
        words[at + 1]! -= storage.start;
      } else {
        others.add(storage);
        kinds.fill('free', at + 1, at + 2);
        kinds.fill('free', at + VIEW_WORDS, at + VIEW_WORDS + shape.length);
      }
      at += 2 * shape.length;
    }
    at += VIEW_WORDS;
  };
  for (const { kernel, inputs, outputs, attrs } of calls) {
    const end = at + writeFrame(words, at, kernel, inputs, outputs, attrs);
    at += FRAME_WORDS;
    for (const view of inputs) readView(view);
    for (const view of outputs) readView(view);
    kinds.fill('free', at, end);
    at = end;
  }
  words[total] = ofOwn(own.get(result.storage) ?? -1);
  return { words, kinds, own: [...own.keys()], others: [...others] };
}

/** A word that grows with the position: `base` at position 0. */
interface Growing {
  readonly index: number;
  readonly base: number;
  readonly slope: number;
}

/** Which words grow between two recordings, and how; null if something else differs. */
function compare(a: Words, b: Words, from: number, to: number): Growing[] | null {
  if (a.words.length !== b.words.length || a.own.length !== b.own.length || from === to) return null;
  const growing: Growing[] = [];
  for (const [index, value] of b.words.entries()) {
    const before = a.words[index]!;
    if (Object.is(before, value)) continue;
    if (b.kinds[index] !== 'free') return null;
    const slope = (value - before) / (to - from);
    growing.push({ index, slope, base: before - slope * from });
  }
  return growing;
}

const sameView = (a: View, b: View): boolean =>
  a.offset === b.offset && a.dtypeId === b.dtypeId && a.shape.join() === b.shape.join();

/** Frames that run again, at any position. */
export class Program {
  /** Lies in the program's memory: each run writes it anew. */
  readonly result: View;
  readonly #piece: Piece;
  readonly #growing: readonly Growing[];
  readonly #known: readonly Known[];
  readonly #arena: Arena;
  readonly #isa = currentIsa();

  private constructor(recording: Recording, words: Words, growing: readonly Growing[]) {
    const { calls, arena, result } = recording;
    this.result = result;
    this.#growing = growing;
    this.#arena = arena;
    const present = (views: Operands): Storage[] =>
      views.filter((view): view is View => view !== null).map(({ storage }) => storage);
    this.#known = knownOf(calls, words.others);
    const own = new Float64Array(words.words.length - 1);
    let at = 0;
    const frames = calls.map(({ kernel, inputs, outputs, attrs }) => {
      const length = writeFrame(own, at, kernel, inputs, outputs, attrs);
      at += length;
      const results = present(outputs);
      return { words: length, operands: [...results, ...present(inputs)], outputs: results.length };
    });
    this.#piece = { words: own, frames, blocks: [...words.own, ...words.others] };
    sealArena(arena);
  }

  /**
   * The program of three recordings at different positions; it takes over the memory of the last. Null if they differ in more
   * than numbers that grow evenly with the position, or JavaScript wrote to memory meanwhile.
   */
  static of(recordings: readonly [Recording, Recording, Recording]): Program | null {
    const [first, second, last] = recordings;
    const { length } = last.calls;
    if (length === 0 || length > MAX_PIECE_FRAMES || recordings.some(({ calls }) => calls.length !== length))
      return null;
    if (recordings.some(({ arena, result }) => arena.sawHostWrite || !arena.blocks.has(result.storage))) return null;
    const [a, b, c] = recordings.map(wordsOf) as [Words, Words, Words];
    if (c.words.length > MAX_PIECE_WORDS) return null;
    const growing = compare(a, b, first.position, second.position);
    if (growing === null || !sameView(first.result, last.result) || !sameView(second.result, last.result)) return null;
    const foretold = Float64Array.from(b.words);
    for (const { index, base, slope } of growing) foretold[index] = base + slope * last.position;
    const holds = c.words.length === foretold.length && c.words.every((word, i) => Object.is(word, foretold[i]));
    return holds ? new Program(last, c, growing) : null;
  }

  /** Whether what the frames read of others is as it was: no weight was written to, moved, or freed. */
  isCurrent(): boolean {
    if (this.#isa !== currentIsa()) return false;
    return areAsKnown(this.#known);
  }

  /** Runs the frames, behind everything that was submitted before. */
  run(position: number): void {
    flush();
    const { words, blocks } = this.#piece;
    // what a chain left out and would compute from the last run's results
    for (const block of blocks) if (block.readers !== null) settleReaders(block);
    for (const { index, base, slope } of this.#growing) words[index] = base + slope * position;
    enqueuePiece(this.#piece);
  }

  /** Gives the memory back. */
  dispose(): void {
    closeArena(this.#arena);
  }
}
