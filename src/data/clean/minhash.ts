/**
 * Sketches of documents from which their likeness can be read: MinHash.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { checkInteger, checkKeys, checkOneOf } from '../../util/assert.js';
import { hostRandom } from '../permutation.js';
import { hashText, mix32 } from './hash.js';

/** What documents are compared by. */
export interface ShingleOptions {
  /** Words, or characters for languages without blanks between words. Default `'word'`. */
  readonly unit?: 'word' | 'character';
  /** Units in a shingle. Default 5 (Lee et al. 2022) words or characters. */
  readonly size?: number;
}

/** @internal */
export const SHINGLE_KEYS = ['unit', 'size'];

/** @internal */
export function resolveShingles(op: string, options: ShingleOptions): Required<ShingleOptions> {
  return {
    unit: checkOneOf(op, 'unit', options.unit ?? 'word', ['word', 'character']),
    size: checkInteger(op, 'size', options.size ?? 5, 1, 64),
  };
}

/** Letters, marks and digits, lower case: what is left of a text for comparison. Words stay apart. */
function fold(text: string): string {
  return text.normalize('NFKC').toLowerCase();
}

const WORD = /[\p{L}\p{M}\p{N}]+/gu;

/**
 * Hashes of the distinct shingles of a text, ascending. Case, punctuation and white space do not count. A text with fewer units than a
 * shingle has one shingle, all of it; a text without letters and digits has none.
 */
export function shingles(text: string, options: ShingleOptions = {}): Uint32Array {
  checkKeys('shingles', options, SHINGLE_KEYS);
  const { unit, size } = resolveShingles('shingles', options);
  const folded = fold(text);
  const units: number[] = [];
  if (unit === 'word') {
    WORD.lastIndex = 0;
    for (let match = WORD.exec(folded); match !== null; match = WORD.exec(folded)) units.push(hashText(match[0]));
  } else {
    for (const [run] of folded.matchAll(WORD))
      for (const character of run) units.push(mix32(character.codePointAt(0)! + 0x9e3779b9));
  }
  if (units.length === 0) return new Uint32Array(0);
  const count = Math.max(1, units.length - size + 1);
  const hashes = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    let h = 0;
    const end = Math.min(units.length, i + size);
    for (let j = i; j < end; j++) h = (Math.imul(h, 0x01000193) + units[j]!) | 0;
    hashes[i] = mix32(h);
  }
  hashes.sort();
  let kept = 1;
  for (let i = 1; i < count; i++) if (hashes[i] !== hashes[i - 1]) hashes[kept++] = hashes[i]!;
  return hashes.slice(0, kept);
}

/** |A ∩ B| / |A ∪ B| of two ascending sets without repetition; 1 for two empty ones. */
export function jaccard(a: Uint32Array, b: Uint32Array): number {
  let [i, j, common] = [0, 0, 0];
  while (i < a.length && j < b.length) {
    const [x, y] = [a[i]!, b[j]!];
    if (x === y) common++;
    if (x <= y) i++;
    if (y <= x) j++;
  }
  const union = a.length + b.length - common;
  return union === 0 ? 1 : common / union;
}

/**
 * Signatures: for each of k permutations of the 32-bit numbers, the smallest image of a set's elements. Two sets agree in one place with
 * probability equal to their Jaccard index J, so the share of places that agree estimates J without bias, with standard deviation
 * √(J(1 − J)/k).
 *
 * The permutations are x ↦ mix(a·x + b) with odd a and a fixed bijection that spreads bits: true permutations of the 32-bit numbers, drawn
 * by a seed, in a few integer operations.
 *
 * @source Broder 1997, On the resemblance and containment of documents
 */
export class MinHasher {
  readonly permutations: number;
  private readonly factors: Int32Array;
  private readonly offsets: Int32Array;

  /** @param permutations - k, places of a signature */
  constructor(permutations: number, seed = 0) {
    this.permutations = checkInteger('MinHasher', 'permutations', permutations, 1, 65536);
    const random = hostRandom(checkInteger('MinHasher', 'seed', seed, 0), 0x311a54);
    const word = (): number => Math.floor(random() * 2 ** 32) | 0;
    this.factors = Int32Array.from({ length: permutations }, () => word() | 1);
    this.offsets = Int32Array.from({ length: permutations }, word);
  }

  /** The signature of a set, `permutations` numbers. An empty set gives the largest number in each place. */
  signature(set: Uint32Array): Uint32Array {
    const { permutations, factors, offsets } = this;
    const result = new Uint32Array(permutations);
    for (let k = 0; k < permutations; k++) {
      const a = factors[k]!;
      const b = offsets[k]!;
      // Signed minima avoid the conversion to unsigned in the loop; flipping the top bit keeps the order a permutation's own.
      let least = 0x7fffffff;
      for (let i = 0; i < set.length; i++) {
        let h = (Math.imul(set[i]!, a) + b) | 0;
        h = Math.imul(h ^ (h >>> 16), 0x21f0aaad);
        h = Math.imul(h ^ (h >>> 15), 0x735a2d97);
        h ^= h >>> 15;
        if (h < least) least = h;
      }
      result[k] = least;
    }
    return result;
  }

  /** Share of places in which two signatures agree: the estimate of the Jaccard index. */
  static estimate(a: Uint32Array, b: Uint32Array): number {
    if (a.length !== b.length || a.length === 0) {
      throw new AttributeError({
        op: 'MinHasher.estimate',
        argument: 'b',
        expected: `a signature of ${a.length} places`,
        actual: `one of ${b.length}`,
      });
    }
    let equal = 0;
    for (let i = 0; i < a.length; i++) equal += Number(a[i] === b[i]);
    return equal / a.length;
  }
}

/**
 * Probability that two documents of Jaccard index J become candidates: 1 − (1 − Jʳ)ᵇ, an S-curve whose steep part lies near (1/b)^(1/r).
 *
 * @source Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, section 3.4.2; Lee et al. 2022, arXiv 2107.06499, appendix A
 */
export function candidateProbability(jaccardIndex: number, bands: number, rows: number): number {
  return 1 - (1 - jaccardIndex ** rows) ** bands;
}
