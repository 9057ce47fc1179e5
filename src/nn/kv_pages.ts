import { AttributeError, ShapeError, StateError } from '../errors.js';
import { checkMask } from '../ops/attention.js';
import { readOptions, slopesOf, spansOf, type AttentionOptions } from '../ops/attention_options.js';
import { copy_ } from '../ops/copy.js';
import { makeOutput } from '../ops/define.js';
import { broadcastView } from '../ops/elementwise.js';
import { narrow } from '../ops/views.js';
import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import { tensor, zeros } from '../tensor/create.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { keep } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger } from '../util/assert.js';
import { formatShape } from '../util/format.js';

const appendKernel = kernelId('kv_append', 4, 4, 0);
const readKernel = kernelId('kv_read', 6, 2, 0);
const attendKernel = kernelId('attention_paged', 10, 2, 4);

/**
 * Memory for keys and values in pages of equal size, which caches take as they grow and give back: sequences of any lengths
 * share it without gaps, and sequences that begin alike share pages (PagedAttention). With dtype int8 every row of a head has a
 * scale of its own, max│x│ / 127.
 *
 * @source arXiv 2309.06180
 */
export class KvPool {
  readonly heads: number;
  readonly pageSize: number;
  readonly headWidth: number;
  readonly dtype: DType;
  readonly #grows: boolean;
  readonly #free: number[] = [];
  /** How many sequences hold each page. */
  readonly #holders: number[] = [];
  #keys: Tensor;
  #values: Tensor;
  #scales: readonly [Tensor, Tensor] | null;

  /**
   * `grows`: when no page is free, the memory is made twice as large, by copying; otherwise that is an error. Default false.
   *
   * @throws AttributeError if a size is no positive integer, or the dtype neither a float nor int8
   */
  constructor(
    pages: number,
    heads: number,
    pageSize: number,
    headWidth: number,
    dtype: DType = 'float32',
    options: { readonly grows?: boolean } = {},
  ) {
    checkInteger('KvPool', 'pages', pages, 1);
    this.heads = checkInteger('KvPool', 'heads', heads, 1);
    this.pageSize = checkInteger('KvPool', 'pageSize', pageSize, 1);
    this.headWidth = checkInteger('KvPool', 'headWidth', headWidth, 1, 256);
    this.#grows = checkBoolean('KvPool', 'grows', options.grows ?? false);
    if (!isFloating(dtype) && dtype !== 'int8') {
      throw new AttributeError({ op: 'KvPool', argument: 'dtype', expected: 'a float or int8', actual: dtype });
    }
    this.dtype = dtype;
    [this.#keys, this.#values, this.#scales] = this.#make(pages);
    this.#addPages(0, pages);
  }

  #make(pages: number): [Tensor, Tensor, [Tensor, Tensor] | null] {
    const shape = [pages, this.heads, this.pageSize, this.headWidth];
    const rows = (): Tensor => keep(zeros(shape, { dtype: this.dtype }));
    const scale = (): Tensor => keep(zeros(shape.slice(0, 3), { dtype: 'float32' }));
    return [rows(), rows(), this.dtype === 'int8' ? [scale(), scale()] : null];
  }

  #addPages(from: number, to: number): void {
    for (let page = to - 1; page >= from; page--) this.#free.push(page);
    while (this.#holders.length < to) this.#holders.push(0);
  }

  #grow(atLeast: number): void {
    const before = this.tensors();
    const pages = this.pages;
    const wanted = Math.max(2 * pages, atLeast);
    [this.#keys, this.#values, this.#scales] = this.#make(wanted);
    for (const [i, x] of this.tensors().entries()) {
      if (x === null) continue;
      copy_(narrow(x, 0, 0, pages), before[i]!);
      before[i]!.dispose();
    }
    this.#addPages(pages, wanted);
  }

  /** @internal Keys, values, and scales of both (null unless int8). */
  tensors(): [Tensor, Tensor, Tensor | null, Tensor | null] {
    this.#keys.check('KvPool');
    return [this.#keys, this.#values, this.#scales?.[0] ?? null, this.#scales?.[1] ?? null];
  }

  /** Pages in all. */
  get pages(): number {
    return this.#holders.length;
  }

  /** Pages that no cache holds. */
  get free(): number {
    return this.#free.length;
  }

  /** Bytes of keys, values and scales. */
  get bytes(): number {
    return [this.#keys, this.#values, ...(this.#scales ?? [])].reduce((sum, x) => sum + x.bytes, 0);
  }

  /**
   * @internal Pages that nobody holds; held once from now on.
   * @throws StateError if there are not enough; none is taken then
   */
  take(count: number): number[] {
    this.#keys.check('KvPool');
    if (count > this.free && this.#grows) this.#grow(this.pages + count - this.free);
    if (count > this.free) {
      throw new StateError({
        op: 'KvPool.take',
        expected: `at most ${this.free} more pages`,
        actual: String(count),
        hint: 'Dispose of caches or make the pool larger',
      });
    }
    const pages = this.#free.splice(this.free - count, count).reverse();
    for (const page of pages) this.#holders[page] = 1;
    return pages;
  }

  /** @internal One more sequence holds these pages. */
  share(pages: readonly number[]): void {
    for (const page of pages) this.#holders[page]!++;
  }

  /** @internal One sequence less holds these pages. */
  release(pages: readonly number[]): void {
    for (const page of [...pages].reverse()) if (--this.#holders[page]! === 0) this.#free.push(page);
  }

  /** @internal Whether a page is held by more than one sequence, so that it must not be written. */
  isShared(page: number): boolean {
    return this.#holders[page]! > 1;
  }

  /** @internal What page `from` holds goes to page `to`. */
  copyPage(from: number, to: number): void {
    for (const x of this.tensors()) if (x !== null) copy_(narrow(x, 0, to, 1), narrow(x, 0, from, 1));
  }

  /** Frees the memory of all pages; caches that hold some can no longer be used. */
  dispose(): void {
    for (const x of [this.#keys, this.#values, ...(this.#scales ?? [])]) x.dispose();
  }
}

/** @internal One sequence: the pages that hold its places, in order. */
export class KvSequence {
  readonly pages: number[] = [];
  length = 0;
  /** Grows with every change of `pages`. */
  revision = 0;
  live = true;
}

/** @internal Sequences of one pool as a batch. */
export class PagedKv {
  readonly pool: KvPool;
  readonly sequences: readonly KvSequence[];
  #table: { readonly revision: number; readonly tensor: Tensor } | null = null;
  #sizes: { readonly lengths: readonly number[]; readonly tensor: Tensor } | null = null;

  constructor(pool: KvPool, sequences: readonly KvSequence[]) {
    this.pool = pool;
    this.sequences = sequences;
  }

  get lengths(): number[] {
    return this.sequences.map(({ length }) => length);
  }

  get longest(): number {
    return Math.max(0, ...this.lengths);
  }

  /** [B, M]: pages of each sequence; what lies behind its last one is not looked at. */
  #tableNow(): Tensor {
    const revision = this.sequences.reduce((sum, sequence) => sum + sequence.revision, 0);
    if (this.#table?.revision === revision) return this.#table.tensor;
    this.#table?.tensor.dispose();
    const most = Math.max(1, ...this.sequences.map(({ pages }) => pages.length));
    const list = new Int32Array(this.sequences.length * most);
    for (const [b, { pages }] of this.sequences.entries()) list.set(pages, b * most);
    this.#table = { revision, tensor: keep(tensor(list, { shape: [this.sequences.length, most] })) };
    return this.#table.tensor;
  }

  #lengthsNow(): Tensor {
    const { lengths } = this;
    if (this.#sizes?.lengths.every((length, b) => length === lengths[b]) === true) return this.#sizes.tensor;
    this.#sizes?.tensor.dispose();
    this.#sizes = { lengths, tensor: keep(tensor(Int32Array.from(lengths))) };
    return this.#sizes.tensor;
  }

  /** Room for `time` more places of every sequence, in pages of its own. */
  #reserve(time: number): void {
    const { pool, sequences } = this;
    const { pageSize } = pool;
    const copied = sequences.map(({ pages, length }) => length % pageSize !== 0 && pool.isShared(pages.at(-1)!));
    const added = sequences.map(({ pages, length }) => Math.ceil((length + time) / pageSize) - pages.length);
    const fresh = pool.take(added.reduce((sum, count, b) => sum + count + Number(copied[b]), 0));
    for (const [b, sequence] of sequences.entries()) {
      if (copied[b]!) {
        const [from, to] = [sequence.pages.pop()!, fresh.shift()!];
        pool.copyPage(from, to);
        pool.release([from]);
        sequence.pages.push(to);
      }
      sequence.pages.push(...fresh.splice(0, added[b]));
      if (copied[b]! || added[b]! > 0) sequence.revision++;
    }
  }

  append(k: Tensor, v: Tensor): void {
    const time = k.shape[2]!;
    if (time === 0 || this.sequences.length === 0) return;
    this.#reserve(time);
    const outputs = this.pool.tensors();
    submit(appendKernel, [k, v, this.#lengthsNow(), this.#tableNow()], outputs, [], k.size + v.size);
    for (const x of outputs) if (x !== null) x.storage.version++;
    for (const sequence of this.sequences) sequence.length += time;
  }

  /** All that is held, as floats: [B, H, longest, D] twice, zeros behind a shorter sequence. */
  read(dtype: DType): [Tensor, Tensor] {
    const { heads, headWidth } = this.pool;
    const shape = [this.sequences.length, heads, this.longest, headWidth];
    const results: [Tensor, Tensor] = [makeOutput(shape, dtype), makeOutput(shape, dtype)];
    if (results[0].size === 0) return results;
    submit(
      readKernel,
      [...this.pool.tensors(), this.#lengthsNow(), this.#tableNow()],
      results,
      [],
      2 * results[0].size,
    );
    return results;
  }

  /** Appends, then attention of queries at the last places of each sequence, from the pages as they are. */
  attend(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor {
    const [batch, heads, time, width] = q.shape as readonly [number, number, number, number];
    const lengths = this.lengths.map((length) => length + time);
    const longest = Math.max(0, ...lengths);
    const { scale, causal, window, softCap } = readOptions(options, width);
    const scores = [batch, heads, time, longest];
    const mask = options.mask ?? null;
    checkMask(mask, scores);
    const spans = spansOf(options, q, lengths);
    const slopes = slopesOf(options.alibi, heads, q.dtype);
    this.append(k, v); // everything has been checked
    const y = makeOutput([batch, heads, time, width], q.dtype, [time * heads * width, width, heads * width, 1]);
    const lse = makeOutput([batch, heads, time], q.dtype === 'float64' ? 'float64' : 'float32');
    const [keys, values, keyScales, valueScales] = this.pool.tensors();
    submit(
      attendKernel,
      [
        ...[q, keys, values, mask === null ? null : broadcastView(mask, scores), slopes, keyScales, valueScales],
        ...[spans, this.#lengthsNow(), this.#tableNow()],
      ],
      [y, lse],
      [scale, Number(causal), window, softCap],
      (q.size * longest) / 2,
    );
    lse.dispose();
    return y;
  }

  truncate(length: number): void {
    for (const sequence of this.sequences) {
      if (length >= sequence.length) continue;
      sequence.length = length;
      this.pool.release(sequence.pages.splice(Math.ceil(length / this.pool.pageSize)));
      sequence.revision++;
    }
  }

  /** Sequences that begin as those of these numbers do: they hold the same pages until they are written. */
  fork(indices: readonly number[]): PagedKv {
    const sequences = indices.map((index) => {
      const [from, to] = [this.sequences[index]!, new KvSequence()];
      to.pages.push(...from.pages);
      to.length = from.length;
      this.pool.share(to.pages);
      return to;
    });
    return new PagedKv(this.pool, sequences);
  }

  /** Frees what this batch has, and with `sequences` gives their pages back. */
  dispose(sequences: boolean): void {
    this.#table?.tensor.dispose();
    this.#sizes?.tensor.dispose();
    for (const sequence of sequences ? this.sequences : []) {
      this.pool.release(sequence.pages.splice(0));
      sequence.live = false;
    }
  }
}

/** @internal @throws ShapeError unless the pool's heads are as wide and as many */
export function checkPool(pool: KvPool, heads: number, headWidth: number): void {
  if (pool.heads === heads && pool.headWidth === headWidth) return;
  throw new ShapeError({
    op: 'KvCache',
    argument: 'pool',
    expected: `${heads} heads of width ${headWidth}`,
    actual: formatShape([pool.heads, pool.headWidth]),
  });
}
