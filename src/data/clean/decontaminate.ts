/**
 * Keeps what a model will be tested on out of what it is trained on.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { checkInteger, checkKeys, checkOneOf } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { hash53 } from './hash.js';
import { dropDocument, keepDocument, type CleanStep, type StepResult, type TextDocument } from './step.js';

/** Texts that must not be trained on: a name of the set, and its examples. */
export interface EvaluationSet {
  readonly name: string;
  /** Text of each example: question, or question with its answers. */
  readonly texts: readonly string[];
}

/** Options of {@link decontaminate}. */
export interface DecontaminateOptions {
  /** Words in an n-gram. Default 13 (Brown et al. 2020). */
  readonly ngram?: number;
  /** An example shorter than `ngram` words is compared as a whole if it has at least this many; shorter ones are passed over. Default 8. */
  readonly minWords?: number;
  /** `'drop'` the document, or `'cut'` out each collision with its surroundings, as GPT-3 did. Default `'drop'`. */
  readonly action?: 'drop' | 'cut';
  /** With `'cut'`: characters removed on either side of a collision. Default 200. */
  readonly margin?: number;
  /** With `'cut'`: pieces of fewer characters are left out. Default 200. */
  readonly minPiece?: number;
  /** With `'cut'`: documents in more pieces are dropped whole. Default 10. */
  readonly maxPieces?: number;
}

const WORD = /[\p{L}\p{M}\p{N}]+/gu;

interface Words {
  readonly words: readonly string[];
  /** Start and end of each word in the text that was cut into words. */
  readonly starts: readonly number[];
  readonly ends: readonly number[];
}

/** Lower-case words without punctuation, and where they stand. */
function wordsOf(text: string): Words {
  const [words, starts, ends]: [string[], number[], number[]] = [[], [], []];
  for (const match of text.matchAll(WORD)) {
    words.push(match[0].toLowerCase());
    starts.push(match.index);
    ends.push(match.index + match[0].length);
  }
  return { words, starts, ends };
}

interface Collision {
  readonly start: number;
  readonly end: number;
  readonly example: number;
}

/**
 * Finds documents that share an n-gram of words with an evaluation set: as `evaluation <name>` they are dropped, or the place is cut out
 * (`'cut'` gives several documents, `id#1`, `id#2`, …). Case and punctuation do not count. The summary reports, for each set, its examples,
 * those too short to look for, and those found in the training data, by number, with the documents that hold them.
 *
 * GPT-3 passed over n-grams that occur in more than ten training documents, which takes a pass of its own over the data: here such common
 * phrases count as collisions. Memory: an entry of some 50 bytes for each n-gram of the evaluation sets.
 *
 * @source Brown et al. 2020, Language Models are Few-Shot Learners, arXiv 2005.14165, appendix C
 * @throws AttributeError if a set has no texts, or for options that cannot be
 */
export function decontaminate(sets: readonly EvaluationSet[], options: DecontaminateOptions = {}): CleanStep {
  const op = 'decontaminate';
  checkKeys(op, options, ['ngram', 'minWords', 'action', 'margin', 'minPiece', 'maxPieces']);
  const ngram = checkInteger(op, 'ngram', options.ngram ?? 13, 1, 1000);
  const minWords = checkInteger(op, 'minWords', options.minWords ?? Math.min(8, ngram), 1, ngram);
  const action = checkOneOf(op, 'action', options.action ?? 'drop', ['drop', 'cut']);
  const margin = checkInteger(op, 'margin', options.margin ?? 200, 0);
  const minPiece = checkInteger(op, 'minPiece', options.minPiece ?? 200, 1);
  const maxPieces = checkInteger(op, 'maxPieces', options.maxPieces ?? 10, 1);

  /** Of each length that occurs, from n-gram to example (numbered through all sets). */
  const grams = new Map<number, Map<number, number>>();
  const examples: { set: string; number: number }[] = [];
  const reports = sets.map(({ name, texts }) => {
    if (typeof name !== 'string' || !Array.isArray(texts) || texts.length === 0) {
      const expected = 'sets { name, texts } with texts';
      throw new AttributeError({
        op,
        argument: 'sets',
        expected,
        actual: `${formatValue(name)}: ${formatValue(texts)}`,
      });
    }
    let tooShort = 0;
    for (const [number, text] of texts.entries()) {
      const { words } = wordsOf(text);
      const example = examples.push({ set: name, number }) - 1;
      const length = Math.min(ngram, words.length);
      if (length < minWords) tooShort++;
      else
        for (let i = 0; i + length <= words.length; i++) {
          let known = grams.get(length);
          if (known === undefined) grams.set(length, (known = new Map()));
          const key = hash53(words.slice(i, i + length).join(' '));
          if (!known.has(key)) known.set(key, example);
        }
    }
    return { name, examples: texts.length, tooShort };
  });
  const found = new Map<number, { documents: number; first: string }>();

  const collisionsOf = ({ id, text }: TextDocument): Collision[] => {
    const { words, starts, ends } = wordsOf(text);
    const collisions: Collision[] = [];
    const met = new Set<number>();
    for (const [length, known] of grams) {
      for (let i = 0; i + length <= words.length; i++) {
        const example = known.get(hash53(words.slice(i, i + length).join(' ')));
        if (example === undefined) continue;
        collisions.push({ start: starts[i]!, end: ends[i + length - 1]!, example });
        if (met.has(example)) continue;
        met.add(example);
        const entry = found.get(example);
        if (entry === undefined) found.set(example, { documents: 1, first: id });
        else entry.documents++;
      }
    }
    return collisions.sort((a, b) => a.start - b.start);
  };

  const cut = (document: TextDocument, collisions: readonly Collision[]): StepResult => {
    const { set, number } = examples[collisions[0]!.example]!;
    const pieces: string[] = [];
    let from = 0;
    for (const { start, end } of [...collisions, { start: Infinity, end: Infinity }]) {
      const piece = document.text.slice(from, Math.max(from, start - margin)).trim();
      if (piece.length >= minPiece) pieces.push(piece);
      from = Math.max(from, end + margin);
    }
    const detail = `example ${number}`;
    const counts = { collisions: collisions.length };
    if (pieces.length > maxPieces) return { ...dropDocument(`evaluation ${set}, in too many pieces`, detail), counts };
    if (pieces.length === 0) return { ...dropDocument(`evaluation ${set}`, detail), counts };
    return { documents: pieces.map((text, i) => ({ ...document, id: `${document.id}#${i + 1}`, text })), counts };
  };

  return {
    name: op,
    options: {
      sets: reports.map(({ name }) => name),
      ngram,
      minWords,
      action,
      ...(action === 'cut' ? { margin, minPiece, maxPieces } : {}),
    },
    process(document) {
      const collisions = collisionsOf(document);
      if (collisions.length === 0) return keepDocument(document);
      if (action === 'cut') return cut(document, collisions);
      const { set, number } = examples[collisions[0]!.example]!;
      return dropDocument(`evaluation ${set}`, `example ${number}`);
    },
    summary: () => ({
      sets: reports.map((report) => ({
        ...report,
        found: [...found]
          .filter(([example]) => examples[example]!.set === report.name)
          .map(([example, entry]) => ({ example: examples[example]!.number, ...entry }))
          .sort((a, b) => a.example - b.example),
      })),
    }),
  };
}
