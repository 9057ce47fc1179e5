/**
 * Documents that are almost the same: MinHash signatures cut into bands, equal bands make candidates, candidates are verified.
 *
 * @module
 */
import { checkInteger, checkKeys, checkNumber } from '../../util/assert.js';
import { mix32 } from './hash.js';
import { jaccard, MinHasher, resolveShingles, shingles, type ShingleOptions } from './minhash.js';
import { dropDocument, keepDocument, type CleanStep, type TextDocument } from './step.js';

/** Options of {@link nearDuplicates} and {@link NearDuplicateIndex}. */
export interface NearDuplicatesOptions extends ShingleOptions {
  /** Jaccard index of shingle sets from which two documents count as the same. Default 0.8 (Lee et al. 2022). */
  readonly threshold?: number;
  /** Bands of a signature. Default 20. */
  readonly bands?: number;
  /** Places in a band; bands × rows permutations in all. Default 6. */
  readonly rows?: number;
  /** Of the permutations. Default 0. */
  readonly seed?: number;
}

const KEYS = ['unit', 'size', 'threshold', 'bands', 'rows', 'seed'];

/** A growing list of numbers in a typed array. */
class Column<T extends Uint32Array | Int32Array> {
  length = 0;
  constructor(public values: T) {}

  push(value: number): void {
    if (this.length === this.values.length) {
      const grown = new (this.values.constructor as new (length: number) => T)(this.length * 2);
      grown.set(this.values);
      this.values = grown;
    }
    this.values[this.length++] = value;
  }
}

/** Document entries by 64-bit key: open addressing over typed arrays, entries of equal keys in a chain. */
class BandTable {
  private size = 1024;
  private used = 0;
  private low = new Uint32Array(this.size);
  private high = new Uint32Array(this.size);
  /** 1 + newest entry of the key, 0 for a free slot. */
  private heads = new Int32Array(this.size);
  private readonly owners = new Column(new Int32Array(1024));
  private readonly next = new Column(new Int32Array(1024));

  private slot(low: number, high: number): number {
    let at = mix32(low ^ Math.imul(high, 0x9e3779b1)) & (this.size - 1);
    while (this.heads[at] !== 0 && (this.low[at] !== low || this.high[at] !== high)) at = (at + 1) & (this.size - 1);
    return at;
  }

  /** Calls `visit` with the documents that were added under the key. */
  each(low: number, high: number, visit: (owner: number) => void): void {
    for (let entry = this.heads[this.slot(low, high)]! - 1; entry >= 0; entry = this.next.values[entry]! - 1)
      visit(this.owners.values[entry]!);
  }

  add(low: number, high: number, owner: number): void {
    if (3 * this.used > 2 * this.size) this.grow();
    const at = this.slot(low, high);
    if (this.heads[at] === 0) {
      this.used++;
      this.low[at] = low;
      this.high[at] = high;
    }
    this.owners.push(owner);
    this.next.push(this.heads[at]!);
    this.heads[at] = this.owners.length;
  }

  private grow(): void {
    const { low, high, heads } = this;
    this.size *= 2;
    this.low = new Uint32Array(this.size);
    this.high = new Uint32Array(this.size);
    this.heads = new Int32Array(this.size);
    for (let i = 0; i < heads.length; i++) {
      if (heads[i] === 0) continue;
      const at = this.slot(low[i]!, high[i]!);
      this.low[at] = low[i]!;
      this.high[at] = high[i]!;
      this.heads[at] = heads[i]!;
    }
  }

  get bytes(): number {
    return 12 * this.size + 4 * (this.owners.values.length + this.next.values.length);
  }
}

/** A document of the index that is like the one asked about. */
export interface NearDuplicate {
  /** Position at which it was added, from 0. */
  readonly index: number;
  /** Exact Jaccard index of the two sets of shingles (of their 32-bit hashes). */
  readonly jaccard: number;
}

/**
 * Finds earlier documents with a Jaccard index of at least `threshold`, with high probability: see `candidateProbability` for what is
 * missed. What it gives is verified on the whole sets, so there are no false finds. The same input gives the same output.
 *
 * Memory for a document: 4 bytes a distinct shingle, and about 32 bytes a band (640 by default), in typed arrays.
 *
 * @source Lee et al. 2022, Deduplicating Training Data Makes Language Models Better, arXiv 2107.06499, section 4.2 and appendix A
 */
export class NearDuplicateIndex {
  readonly threshold: number;
  readonly bands: number;
  readonly rows: number;
  private readonly shingle: Required<ShingleOptions>;
  private readonly hasher: MinHasher;
  private readonly table = new BandTable();
  private readonly sets: Uint32Array[] = [];
  private shingleBytes = 0;
  /** Pairs that shared a band, and those of them that passed the threshold. */
  readonly statistics = { candidates: 0, verified: 0 };

  /** @throws AttributeError for options that cannot be */
  constructor(options: NearDuplicatesOptions = {}) {
    const op = 'nearDuplicates';
    checkKeys(op, options, KEYS);
    this.threshold = checkNumber(op, 'threshold', options.threshold ?? 0.8, 0.01, 1);
    this.bands = checkInteger(op, 'bands', options.bands ?? 20, 1, 4096);
    this.rows = checkInteger(op, 'rows', options.rows ?? 6, 1, 4096);
    this.shingle = resolveShingles(op, options);
    this.hasher = new MinHasher(this.bands * this.rows, options.seed ?? 0);
  }

  /** Documents in the index. */
  get size(): number {
    return this.sets.length;
  }

  /** Memory held, bytes. */
  get bytes(): number {
    return this.table.bytes + this.shingleBytes;
  }

  /** The two halves of each band's key. */
  private bandKeys(signature: Uint32Array): Uint32Array {
    const keys = new Uint32Array(2 * this.bands);
    for (let band = 0; band < this.bands; band++) {
      let low = band;
      let high = ~band;
      for (let row = 0; row < this.rows; row++) {
        const place = signature[band * this.rows + row]!;
        low = mix32(Math.imul(low, 0x01000193) ^ place);
        high = mix32((Math.imul(high, 0x5bd1e995) + place) | 0);
      }
      keys[2 * band] = low;
      keys[2 * band + 1] = high;
    }
    return keys;
  }

  private matches(set: Uint32Array, keys: Uint32Array, first: boolean): NearDuplicate[] {
    const tried = new Set<number>();
    const found: NearDuplicate[] = [];
    for (let band = 0; band < this.bands && !(first && found.length > 0); band++) {
      this.table.each(keys[2 * band]!, keys[2 * band + 1]!, (index) => {
        if (tried.has(index) || (first && found.length > 0)) return;
        tried.add(index);
        this.statistics.candidates++;
        const other = this.sets[index]!;
        // |A ∩ B| ≤ the smaller set, so sizes alone may rule a pair out.
        if (Math.min(set.length, other.length) < this.threshold * Math.max(set.length, other.length)) return;
        const likeness = jaccard(set, other);
        if (likeness < this.threshold) return;
        this.statistics.verified++;
        found.push({ index, jaccard: likeness });
      });
    }
    return found.sort((a, b) => a.index - b.index);
  }

  private insert(set: Uint32Array, keys: Uint32Array): void {
    const index = this.sets.length;
    this.sets.push(set);
    this.shingleBytes += set.byteLength;
    for (let band = 0; band < this.bands; band++) this.table.add(keys[2 * band]!, keys[2 * band + 1]!, index);
  }

  /** Adds a text; gives the earlier ones that are like it, in the order they were added. */
  add(text: string): NearDuplicate[] {
    const set = shingles(text, this.shingle);
    const keys = this.bandKeys(this.hasher.signature(set));
    const found = set.length === 0 ? [] : this.matches(set, keys, false);
    this.insert(set, keys);
    return found;
  }

  /** An earlier text that is like this one; if there is none, adds this one and gives null. */
  addIfNew(text: string): NearDuplicate | null {
    const set = shingles(text, this.shingle);
    const keys = this.bandKeys(this.hasher.signature(set));
    const [found] = set.length === 0 ? [] : this.matches(set, keys, true);
    if (found !== undefined) return found;
    this.insert(set, keys);
    return null;
  }
}

/**
 * Drops documents that are almost the same as an earlier one that was kept (`near-duplicate`; the report's detail names it). Works on a
 * stream in one pass, so of a chain A ~ B ~ C with A and C unlike, A and C stay; {@link nearDuplicateClusters} joins them, as Lee et al. do.
 * Documents without letters or digits pass. Memory: see {@link NearDuplicateIndex}, and the ids of the documents kept.
 *
 * @throws AttributeError for options that cannot be
 */
export function nearDuplicates(options: NearDuplicatesOptions = {}): CleanStep {
  const index = new NearDuplicateIndex(options);
  const ids: string[] = [];
  const { threshold, bands, rows } = index;
  return {
    name: 'nearDuplicates',
    options: { ...resolveShingles('nearDuplicates', options), threshold, bands, rows, seed: options.seed ?? 0 },
    process(document) {
      const found = index.addIfNew(document.text);
      if (found !== null) return dropDocument('near-duplicate', `${found.jaccard.toFixed(3)} of ${ids[found.index]}`);
      ids.push(document.id);
      return keepDocument(document);
    },
    summary: () => ({ kept: index.size, ...index.statistics, bytes: index.bytes }),
  };
}

/**
 * Clusters of documents that are joined by pairs of near-duplicates, directly or through others: connected components, as in Lee et al.
 * Only clusters of at least two, by ids in the order of the source. Keep one of each.
 */
export async function nearDuplicateClusters(
  source: AsyncIterable<TextDocument> | Iterable<TextDocument>,
  options: NearDuplicatesOptions = {},
): Promise<string[][]> {
  const index = new NearDuplicateIndex(options);
  const ids: string[] = [];
  const parents: number[] = [];
  const rootOf = (start: number): number => {
    let at = start;
    while (parents[at] !== at) at = parents[at] = parents[parents[at]!]!;
    return at;
  };
  for await (const { id, text } of source) {
    const own = ids.push(id) - 1;
    parents.push(own);
    for (const { index: other } of index.add(text)) {
      const [a, b] = [rootOf(own), rootOf(other)];
      parents[Math.max(a, b)] = Math.min(a, b);
    }
  }
  const clusters = new Map<number, string[]>();
  for (const [i, id] of ids.entries()) {
    const root = rootOf(i);
    clusters.set(root, [...(clusters.get(root) ?? []), id]);
  }
  return [...clusters.values()].filter(({ length }) => length > 1);
}
