/** Mixtures: proportions, order, resuming; and loaders that prepare ahead. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import fc from 'fast-check';
import { mixDatasets } from '../../src/data/index.js';
import { assignSources } from '../../src/data/mix.js';
import { DataLoader, TextDataset, type Dataset } from '../../src/index.js';

/** Examples that are their own names. */
function named(name: string, length: number): Dataset<string[]> {
  return { length, batch: (indices) => indices.map((index) => `${name}${index}`) };
}

describe('mixtures', () => {
  test('after any n examples every source is within one of its share', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0.001, max: 1, noNaN: true }), { minLength: 1, maxLength: 8 }),
        (weights) => {
          const sum = weights.reduce((a, b) => a + b);
          const shares = weights.map((weight) => weight / sum);
          const counts = shares.map(() => 0);
          const bound = shares.length === 1 ? 0 : 1 - 1 / (2 * shares.length - 2);
          for (const [i, source] of assignSources(shares, 500).entries()) {
            counts[source]!++;
            for (const [j, share] of shares.entries())
              assert.ok(Math.abs(counts[j]! - (i + 1) * share) <= bound + 1e-9, `${j} after ${i + 1}`);
          }
        },
      ),
      { seed: 1, numRuns: 60 },
    );
  });

  test('every example of a source comes once before any comes twice, in an order of the seed', () => {
    const make = (seed: number): string[] => {
      const mixed = mixDatasets([{ dataset: named('a', 10), weight: 3 }, { dataset: named('b', 100), weight: 1 }], { seed, length: 40 }); // prettier-ignore
      const loader = new DataLoader(mixed, { batchSize: 4, seed: 99 });
      return Array.from({ length: 20 }, () => loader.next()).flat();
    };
    const drawn = make(1);
    const ofA = drawn.filter((name) => name.startsWith('a'));
    assert.equal(ofA.length, 60);
    for (let round = 0; round < 6; round++)
      assert.equal(new Set(ofA.slice(10 * round, 10 * round + 10)).size, 10, `round ${round}`);
    assert.notDeepEqual(ofA.slice(0, 10), ofA.slice(10, 20));
    const ofB = drawn.filter((name) => name.startsWith('b'));
    assert.equal(new Set(ofB).size, 20);
    assert.deepEqual(make(1), drawn);
    assert.notDeepEqual(make(2), drawn);
  });

  test('goes on from the state of a loader', () => {
    const make = (): DataLoader<string[]> =>
      new DataLoader(mixDatasets([{ dataset: named('a', 7) }, { dataset: named('b', 12) }], { seed: 3 }), { batchSize: 5 }); // prettier-ignore
    const whole = make();
    const batches = Array.from({ length: 30 }, () => whole.next());
    const first = make();
    for (let i = 0; i < 11; i++) first.next();
    const second = make();
    second.state = JSON.parse(JSON.stringify(first.state)) as typeof first.state;
    assert.deepEqual(Array.from({ length: 19 }, () => second.next()), batches.slice(11)); // prettier-ignore
  });

  test('temperature, default weights, faults', () => {
    const sources = [{ dataset: named('a', 900) }, { dataset: named('b', 100) }];
    assert.deepEqual(mixDatasets(sources).shares, [0.9, 0.1]);
    const [a, b] = mixDatasets(sources, { temperature: 2 }).shares;
    assert.ok(Math.abs(a! / b! - 3) < 1e-12);
    assert.deepEqual(mixDatasets(sources, { temperature: Infinity }).shares, [0.5, 0.5]);
    assert.throws(() => mixDatasets([]), { code: 'OG_ATTRIBUTE' });
    assert.throws(() => mixDatasets([{ dataset: named('a', 5), weight: -1 }]), { code: 'OG_ATTRIBUTE' });
    assert.throws(() => mixDatasets([{ dataset: named('a', 5), weight: 0 }]), { code: 'OG_ATTRIBUTE' });
    assert.throws(() => mixDatasets([{ dataset: named('a', 0) }]), { code: 'OG_ATTRIBUTE' });
  });

  test('batches of tensors are joined', () => {
    const text = (first: number): TextDataset => new TextDataset(Array.from({ length: 101 }, (_, i) => first + i), { context: 10, shift: false }); // prettier-ignore
    const mixed = mixDatasets([{ dataset: text(0) }, { dataset: text(1000) }]);
    const positions = [0, 1, 2, 3];
    const { x, y } = mixed.batch(positions, 0);
    assert.deepEqual(x.shape, [4, 10]);
    const firsts = (x.toArraySync() as number[][]).map((row) => row[0]!);
    assert.deepEqual(firsts, mixed.originsOf(positions, 0).map(({ source, index }) => 1000 * source + 10 * index)); // prettier-ignore
    assert.deepEqual((y.toArraySync() as number[][]).map((row) => row[0]! - 1), firsts); // prettier-ignore
  });
});

describe('preparing ahead', () => {
  test('the loader prepares the next batches once each, while the first is used, over the end of an epoch', async () => {
    const events: string[] = [];
    const dataset: Dataset<number[]> = {
      length: 6,
      async prepare(indices, epoch) {
        events.push(`prepare ${epoch} ${indices.join()}`);
        await setTimeout(20);
      },
      batch(indices, epoch) {
        events.push(`batch ${epoch} ${indices.join()}`);
        return [...indices];
      },
    };
    const loader = new DataLoader(dataset, { batchSize: 3, shuffle: false, prefetch: 2 });
    await loader.ready();
    loader.next();
    assert.deepEqual(events, ['prepare 0 0,1,2', 'prepare 0 3,4,5', 'prepare 1 0,1,2', 'batch 0 0,1,2']);
    const { waited } = loader.times;
    assert.ok(waited >= 15, String(waited));
    await setTimeout(30); // a step
    await loader.ready();
    loader.next();
    assert.ok(loader.times.waited - waited < 5, 'what was prepared ahead is not waited for');
    assert.equal(events.filter((event) => event === 'prepare 1 0,1,2').length, 1);
  });

  test('a preparation that fails surfaces with its batch', async () => {
    let count = 0;
    const dataset: Dataset<number> = {
      length: 4,
      prepare: async () => {
        if (++count === 2) throw new Error('bad example');
      },
      batch: () => 0,
    };
    const loader = new DataLoader(dataset, { batchSize: 1, shuffle: false });
    await loader.ready();
    loader.next();
    await assert.rejects(loader.ready(), /bad example/);
  });
});
