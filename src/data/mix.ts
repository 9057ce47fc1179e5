/**
 * Several datasets as one, in fixed proportions.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { concat } from '../ops/join.js';
import { noGrad } from '../autograd/grad.js';
import { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import type { Dataset } from './loader.js';
import { permutationOf } from './permutation.js';

/** A part of a mixture. */
export interface MixSource<B> {
  readonly dataset: Dataset<B>;
  /** Share of the examples, in proportion to the other weights. Default: the dataset's length. */
  readonly weight?: number;
}

/** Options of {@link mixDatasets}. */
export interface MixOptions<B> {
  /** Seed of the order inside each source. Default 0. */
  readonly seed?: number;
  /**
   * T of temperature sampling: shares are proportional to weight^(1/T). 1: the weights; above 1, small sources get more; Infinity: all
   * get the same. Default 1.
   */
  readonly temperature?: number;
  /** Examples in an epoch of the mixture. Default: as many as the sources have together. */
  readonly length?: number;
  /** One batch of the batches of several sources. Default: tensors, arrays, and objects of them are joined along their first axis. */
  readonly collate?: (parts: readonly B[]) => B;
}

/**
 * Which source each position draws from, so that after any n positions a source with share p has been drawn n·p times, less or more than
 * once: |count − n·p| ≤ 1 − 1/(2k − 2) for k sources.
 *
 * @source Tijdeman 1980, The chairman assignment problem, Discrete Mathematics 32, 323–330
 */
export function assignSources(shares: readonly number[], length: number): Uint16Array {
  const k = shares.length;
  const assigned = new Uint16Array(length);
  if (k === 1) return assigned;
  const slack = 1 - 1 / (2 * k - 2);
  const counts = new Float64Array(k);
  for (let n = 1; n <= length; n++) {
    let [best, deadline] = [-1, Infinity];
    let [furthest, furthestDebt] = [0, -Infinity];
    for (let i = 0; i < k; i++) {
      const share = shares[i]!;
      if (share === 0) continue;
      const debt = share * n - counts[i]!;
      if (debt > furthestDebt) [furthest, furthestDebt] = [i, debt];
      if (debt < 1 - slack) continue; // would come too early
      const until = (slack - debt) / share;
      if (until < deadline) [best, deadline] = [i, until];
    }
    const chosen = best < 0 ? furthest : best; // rounding may leave nobody eligible
    assigned[n - 1] = chosen;
    counts[chosen]!++;
  }
  return assigned;
}

function joinParts(parts: readonly unknown[]): unknown {
  const [first] = parts;
  if (parts.every((part) => part instanceof Tensor)) {
    const joined = noGrad(() => concat(parts as Tensor[], 0));
    for (const part of parts as Tensor[]) part.dispose();
    return joined;
  }
  if (parts.every((part) => Array.isArray(part))) return (parts as unknown[][]).flat();
  if (typeof first === 'object' && first !== null && Object.getPrototypeOf(first) === Object.prototype) {
    return Object.fromEntries(
      Object.keys(first).map((key) => [key, joinParts(parts.map((part) => (part as Record<string, unknown>)[key]))]),
    );
  }
  throw new AttributeError({
    op: 'mixDatasets',
    argument: 'collate',
    expected: 'a function, since the batches are not made of tensors and arrays only',
    actual: formatValue(first),
  });
}

/** Batches of several sources; see {@link mixDatasets}. */
export class MixedDataset<B> implements Dataset<B> {
  readonly length: number;
  readonly hasOwnOrder = true;
  /** Share of each source, summing to 1. */
  readonly shares: readonly number[];
  private readonly sources: readonly Dataset<B>[];
  private readonly seed: number;
  private readonly collate: (parts: readonly B[]) => B;
  private readonly assigned: Uint16Array;
  /** Of each position, how many positions before it in the epoch draw from the same source. */
  private readonly ranks: Uint32Array;
  private readonly perEpoch: Float64Array;
  private readonly orders: Map<number, Uint32Array>[];

  /** @internal */
  constructor(sources: readonly Dataset<B>[], shares: readonly number[], length: number, options: MixOptions<B>) {
    this.sources = sources;
    this.shares = shares;
    this.length = length;
    this.seed = checkInteger('mixDatasets', 'seed', options.seed ?? 0, 0);
    this.collate = options.collate ?? ((parts) => joinParts(parts) as B);
    this.assigned = assignSources(shares, length);
    this.ranks = new Uint32Array(length);
    this.perEpoch = new Float64Array(sources.length);
    for (let i = 0; i < length; i++) this.ranks[i] = this.perEpoch[this.assigned[i]!]!++;
    this.orders = sources.map(() => new Map());
  }

  private orderOf(source: number, epoch: number): Uint32Array | null {
    const { length, hasOwnOrder } = this.sources[source]!;
    if (hasOwnOrder === true) return null;
    const orders = this.orders[source]!;
    let order = orders.get(epoch);
    if (order === undefined) {
      // A batch and those prepared ahead may lie in two epochs of a source.
      for (const old of orders.keys()) if (orders.size >= 3) orders.delete(old);
      orders.set(epoch, (order = permutationOf(length, { seed: this.seed + source, epoch })));
    }
    return order;
  }

  /** Examples by source and epoch of the source. */
  private split(positions: readonly number[], epoch: number): { source: number; epoch: number; indices: number[] }[] {
    const parts = new Map<string, { source: number; epoch: number; indices: number[] }>();
    for (const position of positions) {
      const source = this.assigned[position]!;
      const { length } = this.sources[source]!;
      const drawn = epoch * this.perEpoch[source]! + this.ranks[position]!;
      const own = Math.floor(drawn / length);
      const place = drawn - own * length;
      const key = `${source} ${own}`;
      let part = parts.get(key);
      if (part === undefined) parts.set(key, (part = { source, epoch: own, indices: [] }));
      part.indices.push(this.orderOf(source, own)?.[place] ?? place);
    }
    return [...parts.values()].sort((a, b) => a.source - b.source || a.epoch - b.epoch);
  }

  /** Where each example of a batch comes from, in the order in which the batch holds them. */
  originsOf(positions: readonly number[], epoch: number): { source: number; index: number }[] {
    return this.split(positions, epoch).flatMap(({ source, indices }) => indices.map((index) => ({ source, index })));
  }

  batch(positions: readonly number[], epoch: number): B {
    const parts = this.split(positions, epoch).map((part) =>
      this.sources[part.source]!.batch(part.indices, part.epoch),
    );
    return parts.length === 1 ? parts[0]! : this.collate(parts);
  }

  async prepare(positions: readonly number[], epoch: number): Promise<void> {
    await Promise.all(
      this.split(positions, epoch).map((part) => this.sources[part.source]!.prepare?.(part.indices, part.epoch)),
    );
  }
}

/**
 * Datasets of the same kind of batch as one, in fixed proportions: after any n examples, a source with share p has given n·p of them, to
 * within one. Sources are shuffled by themselves and begin again, in another order, when they are used up. Everything follows from the seed
 * and the loader's place, so a run that goes on from a checkpoint gets the same batches. Inside a batch, examples are grouped by source.
 *
 * @throws AttributeError without sources, for weights that are negative or all 0, or for a source without examples
 * @source temperature: Arivazhagan et al. 2019, arXiv 1907.05019, section 4.1
 */
export function mixDatasets<B>(sources: readonly MixSource<B>[], options: MixOptions<B> = {}): MixedDataset<B> {
  const op = 'mixDatasets';
  checkKeys(op, options, ['seed', 'temperature', 'length', 'collate']);
  if (sources.length === 0 || sources.length > 65535) {
    const expected = '1 to 65535 sources { dataset, weight }';
    throw new AttributeError({ op, argument: 'sources', expected, actual: String(sources.length) });
  }
  const temperature = checkNumber(op, 'temperature', options.temperature ?? 1, Number.MIN_VALUE);
  const weights = sources.map(({ dataset, weight }, i) => {
    if (dataset.length === 0)
      throw new AttributeError({ op, argument: `sources[${i}]`, expected: 'at least one example', actual: 'none' });
    return checkNumber(op, `sources[${i}].weight`, weight ?? dataset.length, 0, 1e300);
  });
  const most = Math.max(...weights);
  if (most === 0) throw new AttributeError({ op, argument: 'weights', expected: 'one above 0', actual: 'none' });
  const powers = weights.map((weight) => {
    if (temperature === 1 || weight === 0) return weight;
    return (weight / most) ** (1 / temperature);
  });
  const sum = powers.reduce((a, b) => a + b);
  const together = sources.reduce((total, { dataset }) => total + dataset.length, 0);
  const length = checkInteger(op, 'length', options.length ?? together, 1, 2 ** 32 - 1);
  return new MixedDataset(
    sources.map(({ dataset }) => dataset),
    powers.map((power) => power / sum),
    length,
    options,
  );
}
