import { AttributeError, ShapeError, StateError } from '../errors.js';
import { scaledDotProductAttention } from '../ops/attention.js';
import type { AttentionOptions as SdpaOptions } from '../ops/attention_options.js';
import { copy_ } from '../ops/copy.js';
import { narrow } from '../ops/views.js';
import { empty } from '../tensor/create.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { keep } from '../tensor/scope.js';
import { needsRecord } from '../tensor/tape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { KvPool, KvSequence, PagedKv, checkPool } from './kv_pages.js';

/** Options of {@link KvCache}. */
export interface KvCacheOptions {
  /**
   * Default float32. `int8` keeps every row of a head as 8-bit integers with one scale, max│x│ / 127: about a quarter of the
   * memory of float32, and each element is off by at most half a scale.
   */
  readonly dtype?: DType;
  /** Memory comes in pages as positions are added, and {@link KvCache.fork} shares pages. Default false: one piece at once. */
  readonly paged?: boolean;
  /** Positions of a page. Default 64; giving it means `paged`. */
  readonly pageSize?: number;
  /** Where pages come from, shared with other caches; its dtype and page size count. Default: one of its own, which grows. */
  readonly pool?: KvPool;
}

const op = 'KvCache';

/** A pool with the number of caches that would free it together. */
interface Owned {
  readonly pool: KvPool;
  caches: number;
}

interface Paged {
  readonly kv: PagedKv;
  /** A pool that belongs to this cache and its forks; null: the caller's. */
  readonly owned: Owned | null;
  /** Of a joined cache: the sequences belong to others. */
  readonly borrowed: boolean;
}

/**
 * Keys and values of the positions seen so far, for one attention layer: in one piece or in pages, in a float dtype or in int8.
 *
 * Sequences of different lengths: give each a cache of one pool, fill it, and {@link KvCache.join} them for the steps that follow.
 *
 * @source pages: arXiv 2309.06180
 */
export class KvCache {
  readonly capacity: number;
  /** What keys and values are kept in. */
  readonly dtype: DType;
  #shape: readonly [batch: number, heads: number, headWidth: number];
  readonly #whole: readonly [keys: Tensor, values: Tensor] | null;
  #paged: Paged | null;
  #used = 0;
  #live = true;

  /**
   * Keys and values are `[batch, heads, capacity, headWidth]`.
   *
   * @throws AttributeError if an option is outside its domain, or heads are wider than 256 in pages or int8
   * @throws ShapeError if the pool is for other heads
   */
  constructor(batch: number, heads: number, capacity: number, headWidth: number, options: DType | KvCacheOptions = {}) {
    const given: KvCacheOptions = typeof options === 'string' ? { dtype: options } : options;
    const { pageSize, pool } = given;
    this.#shape = [checkInteger(op, 'batch', batch, 0), checkInteger(op, 'heads', heads, 0), headWidth];
    this.capacity = checkInteger(op, 'capacity', capacity, 0);
    checkInteger(op, 'headWidth', headWidth, 0);
    if (pool !== undefined && !(pool instanceof KvPool)) {
      throw new AttributeError({ op, argument: 'pool', expected: 'a KvPool', actual: formatValue(pool) });
    }
    this.dtype = pool?.dtype ?? given.dtype ?? 'float32';
    if (!isFloating(this.dtype) && this.dtype !== 'int8') {
      throw new AttributeError({ op, argument: 'dtype', expected: 'a float or int8', actual: String(this.dtype) });
    }
    const inPages = checkBoolean(op, 'paged', given.paged ?? (pageSize !== undefined || pool !== undefined));
    if (!inPages && (pageSize !== undefined || pool !== undefined)) {
      throw new AttributeError({ op, argument: 'paged', expected: 'true with pages', actual: 'false' });
    }
    if (!inPages && isFloating(this.dtype)) {
      const make = (): Tensor => keep(empty([batch, heads, capacity, headWidth], { dtype: this.dtype }));
      [this.#whole, this.#paged] = [[make(), make()], null];
    } else {
      if (pool !== undefined) checkPool(pool, heads, headWidth);
      const size = inPages ? checkInteger(op, 'pageSize', pageSize ?? 64, 1) : Math.max(capacity, 1);
      const own = pool ?? new KvPool(Math.max(batch, 1), heads, size, headWidth, this.dtype, { grows: true });
      const sequences = Array.from({ length: batch }, () => new KvSequence());
      const owned = pool === undefined ? { pool: own, caches: 1 } : null;
      [this.#whole, this.#paged] = [null, { kv: new PagedKv(own, sequences), owned, borrowed: false }];
    }
  }

  /** A cache of sequences that exist. */
  static #of(paged: Paged, capacity: number): KvCache {
    const { pool, sequences } = paged.kv;
    const cache = new KvCache(0, pool.heads, capacity, pool.headWidth, { pool });
    cache.#shape = [sequences.length, pool.heads, pool.headWidth];
    cache.#paged = paged;
    return cache;
  }

  /**
   * Caches of one pool as one batch, sequence after sequence: what is appended to it is appended to them. Their lengths may
   * differ. Disposing of it leaves them as they are.
   *
   * @throws AttributeError unless all caches have pages of the same pool
   */
  static join(caches: readonly KvCache[]): KvCache {
    const pages = caches.map((cache) => (cache instanceof KvCache ? cache.#paged : null));
    const pool = pages[0]?.kv.pool;
    if (pool === undefined || pages.some((paged) => paged?.kv.pool !== pool)) {
      const actual = pages.includes(null) || pages.length === 0 ? 'others' : 'several pools';
      throw new AttributeError({
        op: 'KvCache.join',
        argument: 'caches',
        expected: 'caches in pages of one pool',
        actual,
      });
    }
    for (const cache of caches) cache.#check();
    const kv = new PagedKv(
      pool,
      pages.flatMap((paged) => paged!.kv.sequences),
    );
    return KvCache.#of({ kv, owned: null, borrowed: true }, Math.min(...caches.map(({ capacity }) => capacity)));
  }

  /** Sequences of the batch. */
  get batch(): number {
    return this.#shape[0];
  }

  /** Positions held, of the longest sequence. */
  get length(): number {
    return this.#paged?.kv.longest ?? this.#used;
  }

  /** Positions held of each sequence; they differ in a joined cache only. */
  get lengths(): readonly number[] {
    return this.#paged?.kv.lengths ?? new Array<number>(this.batch).fill(this.#used);
  }

  /** Bytes of memory for keys, values and scales: of all pages of its pool, where that is shared. */
  get bytes(): number {
    return this.#whole === null ? this.#paged!.kv.pool.bytes : this.#whole[0].bytes + this.#whole[1].bytes;
  }

  /** @internal Whether keys and values lie in one piece, where {@link append} puts them behind each other. */
  get isWhole(): boolean {
    return this.#whole !== null;
  }

  /**
   * @internal Counts positions that frames of a recorded step will write.
   *
   * @throws StateError if they do not fit, or the cache was freed
   */
  advance(count: number): void {
    this.#check();
    this.#checkRoom(count);
    this.#used += count;
    for (const x of this.#whole ?? []) x.storage.version++;
  }

  #checkRoom(time: number): void {
    if (this.length + time <= this.capacity) return;
    throw new StateError({
      op: 'KvCache.append',
      expected: `at most ${this.capacity} positions`,
      actual: String(this.length + time),
      hint: 'Truncate the prompt or make the cache larger',
    });
  }

  #check(): void {
    if (this.#live && (this.#paged?.kv.sequences.every(({ live }) => live) ?? true)) return;
    throw new StateError({ op, expected: 'a live cache', actual: 'one whose keys and values were freed' });
  }

  /** Whether k and v may be appended. */
  #checkNew(k: Tensor, v: Tensor): void {
    this.#check();
    checkTensor('KvCache.append', 'k', k);
    const [batch, heads, headWidth] = this.#shape;
    const time = k.shape[2] ?? 0;
    const expected = [batch, heads, time, headWidth];
    for (const [argument, x] of [
      ['k', k],
      ['v', v],
    ] as const) {
      checkTensor('KvCache.append', argument, x);
      if (x.rank === 4 && x.shape.every((length, i) => length === expected[i])) continue;
      const [wanted, actual] = [formatShape(expected), formatShape(x.shape)];
      throw new ShapeError({ op: 'KvCache.append', argument, expected: wanted, actual });
    }
    this.#checkRoom(time);
    if (this.#whole !== null) return;
    for (const [argument, x] of [
      ['k', k],
      ['v', v],
    ] as const) {
      if (!isFloating(x.dtype)) {
        throw new AttributeError({
          op: 'KvCache.append',
          argument,
          expected: 'a floating-point tensor',
          actual: x.dtype,
        });
      }
    }
    if (needsRecord([k, v])) {
      const hint = 'Append inside og.noGrad, or use a cache in one piece';
      throw new StateError({
        op: 'KvCache.append',
        expected: 'constants',
        actual: 'keys that ask for a gradient',
        hint,
      });
    }
  }

  /**
   * Appends keys and values `[B, H, T, D]`; returns all that is held as floats, `[B, H, length, D]`: views of the cache, or
   * copies where it has pages or int8 (zeros behind a shorter sequence).
   *
   * @throws StateError if they do not fit, or were freed, or ask for a gradient that pages do not keep
   * @throws ShapeError if batch, heads or width differ
   */
  append(k: Tensor, v: Tensor): [Tensor, Tensor] {
    this.#checkNew(k, v);
    if (this.#whole === null) {
      this.#paged!.kv.append(k, v);
      return this.#paged!.kv.read(isFloating(this.dtype) ? this.dtype : k.dtype);
    }
    const time = k.shape[2]!;
    copy_(narrow(this.#whole[0], 2, this.#used, time), k);
    copy_(narrow(this.#whole[1], 2, this.#used, time), v);
    this.#used += time;
    return [narrow(this.#whole[0], 2, 0, this.#used), narrow(this.#whole[1], 2, 0, this.#used)];
  }

  /**
   * Appends k and v, then attention of q `[B, Hq, T, D]` to all that is held, which pages and int8 are read for where they are.
   * `options` as of `scaledDotProductAttention`; q stands at the last T positions of each sequence.
   *
   * @throws StateError as {@link KvCache.append}
   * @throws ShapeError if shapes differ
   * @throws AttributeError if an option is outside its domain; in pages there is no dropout
   */
  attend(q: Tensor, k: Tensor, v: Tensor, options: SdpaOptions = {}): Tensor {
    if (this.#whole !== null) {
      const [keys, values] = this.append(k, v);
      return scaledDotProductAttention(q, keys, values, options);
    }
    checkTensor('KvCache.attend', 'q', q);
    checkTensor('KvCache.attend', 'k', k);
    const [batch, heads, headWidth] = this.#shape;
    const own = q.rank === 4 && q.shape[0] === batch && q.shape[3] === headWidth && q.shape[2] === k.shape[2];
    if (!own || !isFloating(q.dtype) || (heads === 0 ? q.shape[1] !== 0 : q.shape[1]! % heads !== 0)) {
      const expected = `floats [${batch}, a multiple of ${heads}, ${k.shape[2] ?? 0}, ${headWidth}]`;
      throw new ShapeError({
        op: 'KvCache.attend',
        argument: 'q',
        expected,
        actual: `${q.dtype} ${formatShape(q.shape)}`,
      });
    }
    for (const [argument, fits] of [
      ['dropout', (options.dropout ?? 0) === 0],
      ['queryOffsets', (options.queryOffsets ?? options.keyOffsets ?? null) === null],
    ] as const) {
      if (fits) continue;
      throw new AttributeError({ op: 'KvCache.attend', argument, expected: 'none in pages or int8', actual: 'some' });
    }
    if (needsRecord([q])) {
      throw new StateError({
        op: 'KvCache.attend',
        expected: 'a constant',
        actual: 'queries that ask for a gradient',
        hint: 'Attend inside og.noGrad, or use a cache in one piece',
      });
    }
    this.#checkNew(k, v);
    return this.#paged!.kv.attend(q, k, v, options);
  }

  /** Forgets all positions from `length` on; pages go back to the pool. */
  truncate(length: number): void {
    this.#check();
    const kept = Math.max(0, length);
    this.#used = Math.min(this.#used, kept);
    this.#paged?.kv.truncate(kept);
  }

  /**
   * A new cache whose sequence i begins as sequence `indices[i]` of this one, for beams, samples or prompts that begin alike.
   * In pages they are shared, and a page is copied when a sequence first writes to it; a cache in one piece is copied.
   *
   * @param indices - default: all, in their order
   * @throws AttributeError if an index is outside the batch
   */
  fork(indices: readonly number[] = Array.from({ length: this.batch }, (_, i) => i)): KvCache {
    this.#check();
    if (!Array.isArray(indices)) {
      const actual = formatValue(indices);
      throw new AttributeError({ op: 'KvCache.fork', argument: 'indices', expected: 'a list of sequences', actual });
    }
    indices.forEach((index, i) => checkInteger('KvCache.fork', `indices[${i}]`, index, 0, this.batch - 1));
    if (this.#paged !== null) {
      const { kv, owned } = this.#paged;
      if (owned !== null) owned.caches++;
      return KvCache.#of({ kv: kv.fork(indices), owned, borrowed: false }, this.capacity);
    }
    const [, heads, headWidth] = this.#shape;
    const copy = new KvCache(indices.length, heads, this.capacity, headWidth, this.dtype);
    for (const [which, from] of this.#whole!.entries())
      for (const [i, index] of indices.entries()) {
        const rows = (x: Tensor, at: number): Tensor => narrow(narrow(x, 0, at, 1), 2, 0, this.#used);
        copy_(rows(copy.#whole![which]!, i), rows(from, index));
      }
    copy.#used = this.#used;
    return copy;
  }

  /** Frees keys and values, or gives their pages back. */
  dispose(): void {
    if (!this.#live) return;
    this.#live = false;
    for (const x of this.#whole ?? []) x.dispose();
    if (this.#paged === null) return;
    const { kv, owned, borrowed } = this.#paged;
    kv.dispose(!borrowed);
    if (owned !== null && --owned.caches === 0) owned.pool.dispose();
  }
}
