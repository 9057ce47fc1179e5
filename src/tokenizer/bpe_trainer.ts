/**
 * Learning byte-level BPE merges from text.
 *
 * Algorithm: Sennrich et al. 2016 (arXiv:1508.07909) over unique words with incremental counts: a merge touches only
 * the words that contain its pair, and a queue whose entries are re-checked when they surface names the next pair.
 * Ties go to the pair of lower ids. With the same settings the vocabulary and merges equal those of Hugging Face
 * `tokenizers` (`BpeTrainer` with the byte alphabet as `initial_alphabet`).
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { BYTE_ALPHABET, BYTE_CHARS } from './byte_level.js';
import { CandidateQueue, PairCounts } from './pair_counts.js';
import type { Splitter } from './pattern.js';

/** Where training stands. */
export interface BpeTrainProgress {
  /** `count` reads and counts words, `merge` learns merges. */
  readonly phase: 'count' | 'merge';
  /** UTF-16 units read while counting; vocabulary entries so far while merging. */
  readonly done: number;
  /** Target of `done`: the vocabulary size; unknown while counting. */
  readonly total: number | undefined;
}

/** What {@link trainMerges} needs to know. */
export interface TrainMergesOptions {
  readonly vocabSize: number;
  readonly specialTokens: readonly string[];
  readonly minFrequency: number;
  readonly splitter: Splitter;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: BpeTrainProgress) => void) | undefined;
}

/** A learned vocabulary: tokens by id, and merges by rank. */
export interface LearnedMerges {
  readonly tokens: string[];
  readonly merges: [left: number, right: number, merged: number][];
}

/** Longest time the event loop is held. */
const SLICE_MS = 4;
const encoder = new TextEncoder();

/** Lets the event loop turn when its slice is used up, and stops on abort. */
class Pacer {
  #until = performance.now() + SLICE_MS;
  readonly #signal: AbortSignal | undefined;

  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal;
  }

  due(): boolean {
    return performance.now() >= this.#until;
  }

  async turn(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    this.#signal?.throwIfAborted();
    this.#until = performance.now() + SLICE_MS;
  }
}

/** Learns `vocabSize` byte-level tokens from `texts`. */
export async function trainMerges(
  texts: Iterable<string> | AsyncIterable<string>,
  options: TrainMergesOptions,
): Promise<LearnedMerges> {
  options.signal?.throwIfAborted();
  const pacer = new Pacer(options.signal);
  const words = await countWords(texts, options, pacer);
  return learn(words, options, pacer);
}

/** How often each word occurs. */
async function countWords(
  texts: Iterable<string> | AsyncIterable<string>,
  { splitter, onProgress }: TrainMergesOptions,
  pacer: Pacer,
): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  let read = 0;
  for await (const text of texts) {
    if (typeof text !== 'string') {
      throw new AttributeError({
        op: 'BpeTokenizer.train',
        argument: 'texts',
        expected: 'strings',
        actual: text === null ? 'null' : typeof text,
      });
    }
    const cursor = splitter.over(text);
    let start = 0;
    for (let steps = 1; ; steps++) {
      const end = cursor.next();
      if (end < 0) break;
      const word = text.slice(start, end);
      counts.set(word, (counts.get(word) ?? 0) + 1);
      start = end;
      if (steps % 256 === 0 && pacer.due()) {
        onProgress?.({ phase: 'count', done: read + start, total: undefined });
        await pacer.turn();
      }
    }
    read += text.length;
    if (pacer.due()) await pacer.turn();
  }
  onProgress?.({ phase: 'count', done: read, total: undefined });
  return counts;
}

/** All words end to end; `length[w]` shrinks as merges shorten word `w`. */
interface Words {
  readonly symbols: Int32Array;
  readonly start: Int32Array;
  readonly length: Int32Array;
  readonly count: Float64Array;
}

async function learn(
  counted: Map<string, number>,
  { vocabSize, specialTokens, minFrequency, signal, onProgress }: TrainMergesOptions,
  pacer: Pacer,
): Promise<LearnedMerges> {
  signal?.throwIfAborted();
  const tokens: string[] = [];
  const idOf = new Map<string, number>();
  const add = (token: string): number => {
    let id = idOf.get(token);
    if (id === undefined) {
      id = tokens.length;
      idOf.set(token, id);
      tokens.push(token);
    }
    return id;
  };
  for (const token of specialTokens) add(token);
  for (const char of BYTE_ALPHABET) add(char);

  const words = await layOut(counted, idOf, pacer);
  const pairs = new PairCounts();
  const queue = new CandidateQueue(pairs);
  await queueInitialPairs(words, pairs, queue, pacer);

  const merges: [number, number, number][] = [];
  /** Words in which a pair arose during the present merge. */
  const arose = new Map<number, number[]>();
  const change = (pair: number, by: number, word: number): void => {
    pairs.count[pair] = pairs.count[pair]! + by;
    if (by < 0) return;
    const list = arose.get(pair);
    if (list === undefined) arose.set(pair, [word]);
    else if (list[list.length - 1] !== word) list.push(word);
  };

  while (tokens.length < vocabSize) {
    const top = queue.pop();
    if (top === undefined) break;
    const current = pairs.count[top.pair]!;
    if (top.count !== current) {
      top.count = current;
      queue.push(top);
      continue;
    }
    if (top.count < 1 || top.count < minFrequency) break;
    const left = pairs.left[top.pair]!;
    const right = pairs.right[top.pair]!;
    const merged = add(tokens[left]! + tokens[right]!);
    merges.push([left, right, merged]);
    for (let i = 0; i < top.words.length; i++) {
      const word = top.words[i]!;
      mergeInWord(words, word, left, right, merged, pairs, change);
      if (i % 1024 === 1023 && pacer.due()) await pacer.turn();
    }
    for (const [pair, list] of arose) {
      const count = pairs.count[pair]!;
      if (count > 0) queue.push({ pair, count, words: list });
    }
    arose.clear();
    if (pacer.due()) {
      onProgress?.({ phase: 'merge', done: tokens.length, total: vocabSize });
      await pacer.turn();
    }
  }
  onProgress?.({ phase: 'merge', done: tokens.length, total: vocabSize });
  return { tokens, merges };
}

/** Writes every word as the ids of its bytes. */
async function layOut(counted: Map<string, number>, idOf: Map<string, number>, pacer: Pacer): Promise<Words> {
  const byteId = Int32Array.from(BYTE_CHARS, (char) => idOf.get(char)!);
  const start = new Int32Array(counted.size);
  const length = new Int32Array(counted.size);
  const count = new Float64Array(counted.size);
  let symbols = new Int32Array(1 << 16);
  let used = 0;
  let word = 0;
  for (const [text, occurrences] of counted) {
    const bytes = encoder.encode(text);
    if (used + bytes.length > symbols.length) {
      const larger = new Int32Array(Math.max(used + bytes.length, symbols.length * 2));
      larger.set(symbols);
      symbols = larger;
    }
    start[word] = used;
    length[word] = bytes.length;
    count[word] = occurrences;
    for (const byte of bytes) symbols[used++] = byteId[byte]!;
    if (++word % 256 === 0 && pacer.due()) await pacer.turn();
  }
  return { symbols, start, length, count };
}

async function queueInitialPairs(
  { symbols, start, length, count }: Words,
  pairs: PairCounts,
  queue: CandidateQueue,
  pacer: Pacer,
): Promise<void> {
  const wordsOf: number[][] = [];
  for (let word = 0; word < start.length; word++) {
    const from = start[word]!;
    const last = from + length[word]! - 1;
    for (let i = from; i < last; i++) {
      const pair = pairs.indexOf(symbols[i]!, symbols[i + 1]!);
      pairs.count[pair] = pairs.count[pair]! + count[word]!;
      const list = (wordsOf[pair] ??= []);
      if (list[list.length - 1] !== word) list.push(word);
    }
    if (word % 256 === 255 && pacer.due()) await pacer.turn();
  }
  for (let pair = 0; pair < pairs.size; pair++) {
    if (pairs.count[pair]! > 0) queue.push({ pair, count: pairs.count[pair]!, words: wordsOf[pair]! });
    if (pair % 1024 === 1023 && pacer.due()) await pacer.turn();
  }
}

/** Replaces (left, right) by `merged` all through one word and reports how the counts of its pairs change. */
function mergeInWord(
  { symbols, start, length, count }: Words,
  word: number,
  left: number,
  right: number,
  merged: number,
  pairs: PairCounts,
  change: (pair: number, by: number, word: number) => void,
): void {
  const from = start[word]!;
  const end = from + length[word]!;
  const times = count[word]!;
  let write = from;
  for (let read = from; read < end; read++) {
    const symbol = symbols[read]!;
    if (symbol !== left || read + 1 >= end || symbols[read + 1] !== right) {
      symbols[write++] = symbol;
      continue;
    }
    if (write > from) {
      const before = symbols[write - 1]!;
      change(pairs.indexOf(before, left), -times, word);
      change(pairs.indexOf(before, merged), times, word);
    }
    if (read + 2 < end) {
      const after = symbols[read + 2]!;
      change(pairs.indexOf(right, after), -times, word);
      change(pairs.indexOf(merged, after), times, word);
    }
    symbols[write++] = merged;
    read++;
  }
  length[word] = write - from;
}
