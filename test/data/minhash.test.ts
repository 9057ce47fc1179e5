/** MinHash against exact Jaccard indices, and LSH against its own probabilities. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  candidateProbability,
  clean,
  jaccard,
  MinHasher,
  nearDuplicateClusters,
  NearDuplicateIndex,
  nearDuplicates,
  shingles,
} from '../../src/data/index.js';
import { hostRandom } from '../../src/data/permutation.js';

/** Words of a small vocabulary, from a seed. */
function randomWords(count: number, random: () => number): string[] {
  return Array.from({ length: count }, () => `w${Math.floor(random() * 5000).toString(36)}`);
}

/** A copy with a share of its words replaced. */
function edited(words: readonly string[], share: number, random: () => number): string[] {
  return words.map((word) => (random() < share ? `x${Math.floor(random() * 1e6)}` : word));
}

/** Jaccard index of the sets of 5-grams, by the definition, on strings. */
function exactJaccard(a: readonly string[], b: readonly string[]): number {
  const grams = (words: readonly string[]): Set<string> =>
    new Set(Array.from({ length: words.length - 4 }, (_, i) => words.slice(i, i + 5).join(' ')));
  const [x, y] = [grams(a), grams(b)];
  const common = [...x].filter((gram) => y.has(gram)).length;
  return common / (x.size + y.size - common);
}

describe('MinHash', () => {
  test('shingles have the Jaccard index of the sets of 5-grams', () => {
    const random = hostRandom(1, 1);
    for (const share of [0, 0.02, 0.1, 0.5]) {
      const a = randomWords(300, random);
      const b = edited(a, share, random);
      assert.equal(jaccard(shingles(a.join(' ')), shingles(b.join('\n'))), exactJaccard(a, b));
    }
  });

  test('case, punctuation and blanks do not count; words stay apart', () => {
    const equal = (a: string, b: string): boolean => jaccard(shingles(a), shingles(b)) === 1;
    assert.ok(equal('The cat, the mat: and THE hat!', 'the  cat the mat\nand the hat'));
    assert.ok(!equal('the cat the mat and the hat', 'thecat the mat and the hat'));
    assert.equal(shingles('?! …').length, 0);
    assert.equal(shingles('two words').length, 1);
    assert.equal(shingles('红楼梦甄士隐', { unit: 'character', size: 2 }).length, 5);
  });

  test('the estimate is unbiased, with the standard deviation of a binomial share', () => {
    const places = 128;
    for (const target of [0.2, 0.5, 0.8]) {
      // Sets of numbers with a Jaccard index that is known: c common of n + n − c.
      const n = 400;
      const common = Math.round((2 * n * target) / (1 + target));
      const truth = common / (2 * n - common);
      const a = Uint32Array.from({ length: n }, (_, i) => Math.imul(i, 2654435761) >>> 0);
      const b = Uint32Array.from({ length: n }, (_, i) => Math.imul(i < common ? i : i + n, 2654435761) >>> 0);
      const estimates = Array.from({ length: 200 }, (_, seed) => {
        const hasher = new MinHasher(places, seed);
        return MinHasher.estimate(hasher.signature(a), hasher.signature(b));
      });
      const mean = estimates.reduce((x, y) => x + y) / estimates.length;
      const deviation = Math.sqrt(estimates.reduce((x, y) => x + (y - truth) ** 2, 0) / estimates.length);
      const expected = Math.sqrt((truth * (1 - truth)) / places);
      assert.ok(Math.abs(mean - truth) < (4 * expected) / Math.sqrt(estimates.length), `${mean} for ${truth}`);
      assert.ok(deviation > 0.8 * expected && deviation < 1.25 * expected, `${deviation} for ${expected}`);
    }
  });

  test('documents become candidates with the probability of the S-curve', () => {
    const random = hostRandom(2, 2);
    const [bands, rows] = [10, 4];
    let [met, expected] = [0, 0];
    for (let i = 0; i < 400; i++) {
      const a = randomWords(60, random);
      const b = edited(a, 0.06, random);
      const index = new NearDuplicateIndex({ bands, rows, threshold: 0.01, seed: i });
      index.add(a.join(' '));
      met += index.add(b.join(' ')).length;
      expected += candidateProbability(exactJaccard(a, b), bands, rows);
    }
    assert.ok(expected > 200 && expected < 380, String(expected)); // on the slope, where it can be wrong
    assert.ok(Math.abs(met - expected) < 4 * Math.sqrt(400 * 0.25), `${met} for ${expected}`);
  });
});

describe('near-duplicates', () => {
  const random = hostRandom(3, 3);
  const originals = Array.from({ length: 300 }, () => randomWords(200, random));
  const copies = originals.slice(0, 100).map((words) => edited(words, 0.01, random));
  const documents = [...originals, ...copies].map((words, i) => ({ id: `d${i}`, text: words.join(' ') }));
  const planted = copies.filter((words, i) => exactJaccard(words, originals[i]!) >= 0.8).length;

  test('planted ones are dropped, others are not, and the report names the first', async () => {
    const run = clean(documents, [nearDuplicates()]);
    const kept = new Set<string>();
    for await (const { id } of run) kept.add(id);
    assert.ok(
      originals.every((_, i) => kept.has(`d${i}`)),
      'no original is lost',
    );
    const dropped = documents.length - kept.size;
    assert.ok(planted > 60, String(planted));
    assert.ok(dropped <= planted && dropped >= planted - 1, `${dropped} of ${planted}`);
    const { samples, documents: count } = run.report.steps[0]!.dropped['near-duplicate']!;
    assert.equal(count, dropped);
    const { id, detail } = samples[0]!;
    assert.match(detail!, new RegExp(`^[01]\\.\\d+ of d${Number(id.slice(1)) - 300}$`));
  });

  test('clusters join chains', async () => {
    const base = randomWords(400, random);
    const middle = [...base.slice(20), ...randomWords(20, random)];
    const end = [...middle.slice(20), ...randomWords(20, random)];
    assert.ok(exactJaccard(base, end) < 0.85 && exactJaccard(base, middle) > 0.85);
    const chain = [base, end, middle].map((words, i) => ({ id: 'abc'[i]!, text: words.join(' ') }));
    assert.deepEqual(await nearDuplicateClusters(chain, { threshold: 0.85 }), [['a', 'b', 'c']]);
  });

  test('the same input gives the same output; options are checked', async () => {
    const ids = async (): Promise<string[]> => {
      const kept: string[] = [];
      for await (const { id } of clean(documents, [nearDuplicates({ seed: 7 })])) kept.push(id);
      return kept;
    };
    assert.deepEqual(await ids(), await ids());
    assert.throws(() => nearDuplicates({ threshold: 2 }), { code: 'OG_ATTRIBUTE' });
    assert.throws(() => nearDuplicates({ bands: 0 }), { code: 'OG_ATTRIBUTE' });
  });
});
