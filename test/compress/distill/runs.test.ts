/** Distillation in runs: caches on disk, texts of the teacher, batches of the student, resuming, students made of teachers, errors. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import {
  batchLoss,
  distill,
  Distillation,
  generateCorpus,
  initializeFromTeacher,
  OnPolicyDataset,
  quantize,
  studentOf,
  TeacherCache,
  topKOf,
  type DistillationBatch,
} from '../../../src/compress/index.js';
import * as og from '../../../src/index.js';
import { optim } from '../../../src/index.js';
import { assertClose, numbersOf } from '../../helpers/allclose.js';
import { tinyTokens } from '../../helpers/tiny_run.js';

const root = mkdtempSync(join(tmpdir(), 'omnigrad-distill-'));
after(() => rmSync(root, { recursive: true, force: true }));
const config = { vocabSize: 32, context: 16, layers: 2, heads: 2, width: 16 };
const gpt = (options: Partial<og.GPTConfig>, seed: number): og.GPT =>
  new og.GPT({ ...config, ...options }, { generator: og.generator(seed) });
const texts = new og.TextDataset(tinyTokens(400), { context: 16 });
const teacher = gpt({}, 1);
type Run = og.Trainer<Distillation<og.GPT>, DistillationBatch>;

function trainer(module: Distillation<og.GPT>, train: og.Dataset<DistillationBatch>, dir?: string, steps = 6): Run {
  return new og.Trainer<Distillation<og.GPT>, DistillationBatch>(module, {
    train,
    loss: batchLoss,
    batchSize: 4,
    steps,
    optimizer: (parameters) => new optim.AdamW(parameters, { lr: 1e-2 }),
    ...(dir === undefined ? {} : { checkpoint: { dir, every: 1 } }),
  });
}

async function finish(run: Run, stopAt = Infinity): Promise<number[]> {
  const losses: number[] = [];
  const abort = new AbortController();
  for await (const event of run.run({ signal: abort.signal })) {
    if (event.type !== 'step') continue;
    losses.push(event.loss);
    if (event.step === stopAt) abort.abort();
  }
  return losses;
}

const bits = (model: og.GPT): unknown =>
  Object.entries(model.stateDict()).map(([name, value]) => [name, value.dataSync()]);

describe('a teacher on disk', () => {
  const folder = join(root, 'cache');
  const options = { folder, k: 5, temperature: 2, batchSize: 3, shardSize: 10 };

  test('round trip: the batches carry what the teacher thinks, as float16', async () => {
    const cache = await TeacherCache.build(teacher, texts, options);
    const { x, teacher: kept } = cache.batch([21, 3], 4);
    assert.deepEqual(
      numbersOf(x),
      numbersOf(texts.batch([21, 3], 0).x),
      'examples as in the epochs that were computed',
    );
    const expected = topKOf(teacher.forward(x), 5, 2);
    assert.deepEqual([kept!.indices.dtype, kept!.logProbs.dtype], ['int32', 'float16']);
    assert.deepEqual(numbersOf(kept!.indices), numbersOf(expected.indices));
    assertClose(kept!.logProbs, expected.logProbs, { rtol: 1e-3, atol: 1e-3 });
    assertClose(kept!.rest, expected.rest, { rtol: 1e-4, atol: 1e-5 });
    const live = new Distillation({ student: gpt({}, 2), teacher, alpha: 1 });
    const all = await TeacherCache.build(teacher, texts, { ...options, folder: join(root, 'all'), k: 99 });
    assert.equal(all.k, 32);
    const batch = all.batch([0, 1, 2], 0);
    assertClose([live.lossOf(batch).itemSync()], [live.loss(batch.x, batch.y).itemSync()], { rtol: 2e-3 });
  });

  test('what is there is not computed again; a missing file is', async () => {
    const files = readdirSync(folder).filter((name) => name.startsWith('shard'));
    assert.equal(files.length, Math.ceil(texts.length / 10));
    const [first, second] = files.map((name) => join(folder, name)) as [string, string];
    const before = statSync(first).mtimeMs;
    rmSync(second);
    let calls = 0;
    const remove = teacher.registerForwardHook(() => void calls++);
    const progress: number[] = [];
    await TeacherCache.build(teacher, texts, { ...options, onProgress: (done) => progress.push(done) });
    remove();
    assert.equal(calls, 1 + 4, 'one to see the classes, and ten examples in batches of three');
    assert.equal(statSync(first).mtimeMs, before);
    assert.equal(progress.at(-1), texts.length);
  });

  test('of another teacher, other data or other options: an error, and nothing is lost', async () => {
    await assert.rejects(TeacherCache.build(gpt({}, 9), texts, options), { code: 'OG_FORMAT' });
    await assert.rejects(TeacherCache.build(teacher, texts, { ...options, k: 4 }), /expected k 4, got 5/);
    const other = new og.TextDataset(tinyTokens(400).reverse(), { context: 16 });
    await assert.rejects(TeacherCache.build(teacher, other, options), /results of the same data/);
    const broken = join(root, 'broken');
    await TeacherCache.build(teacher, texts, { ...options, folder: broken });
    writeFileSync(join(broken, 'shard-00000.safetensors'), 'nonsense');
    await assert.rejects(TeacherCache.build(teacher, texts, { ...options, folder: broken }), { code: 'OG_FORMAT' });
    await TeacherCache.build(teacher, texts, options);
  });

  test('epochs that differ are computed one by one; a quantised teacher will do', async () => {
    const small = await quantize(teacher, { scheme: 'w8a8' });
    const cache = await TeacherCache.build(small, texts, { ...options, folder: join(root, 'epochs'), epochs: 2 });
    for (const epoch of [0, 1, 3]) {
      const { x, teacher: kept } = cache.batch([7], epoch);
      assert.deepEqual(numbersOf(x), numbersOf(texts.batch([7], epoch % 2).x));
      small.eval();
      assert.deepEqual(numbersOf(kept!.indices), numbersOf(topKOf(small.forward(x), 5, 2).indices));
    }
    assert.notDeepEqual(numbersOf(cache.batch([7], 0).x), numbersOf(cache.batch([7], 1).x));
  });

  test('a student learns from it without the teacher; another temperature is an error', async () => {
    const cache = await TeacherCache.build(teacher, texts, options);
    const losses = await finish(
      trainer(new Distillation({ student: gpt({ layers: 1 }, 2), alpha: 1 }), cache, undefined, 30),
    );
    assert.ok(losses.at(-1)! < losses[0]!);
    const warm = new Distillation({ student: gpt({ layers: 1 }, 2), temperature: 4 });
    assert.throws(() => warm.lossOf(cache.batch([0], 0)), /predictions at temperature 4/);
    assert.throws(
      () => warm.loss(texts.batch([0], 0).x, texts.batch([0], 0).y),
      /a teacher, or batches with its predictions/,
    );
  });
});

describe('batches of the student', () => {
  const ids = og.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]], { dtype: 'int32' }); // prettier-ignore
  const next = og.tensor([[-100, 3, 4, 5, 6, 7], [-100, -100, -100, 11, 12, -100]], { dtype: 'int32' }); // prettier-ignore
  const rows: og.Dataset<{ x: og.Tensor; y: og.Tensor }> = { length: 2, batch: () => ({ x: ids, y: next }) };

  test('prompts stay, the student goes on as in generation, and only what it wrote counts', async () => {
    const student = gpt({}, 3);
    const { x, y, onPolicy } = new OnPolicyDataset(rows, student, { share: 1, temperature: 0 }).batch([0, 1], 0);
    assert.equal(onPolicy, true);
    const [written, targets] = [x.toArraySync() as number[][], y.toArraySync() as number[][]];
    for (const [row, prompt] of [
      [1, 2],
      [7, 8, 9, 10],
    ].entries()) {
      // prettier-ignore
      const answer: number[] = [];
      for await (const { id } of student.generate(prompt, { temperature: 0, maxNewTokens: 7 - prompt.length }))
        answer.push(id);
      assert.deepEqual(written[row], [...prompt, ...answer].slice(0, 6));
      assert.deepEqual(targets[row], [...new Array<number>(prompt.length - 1).fill(-100), ...answer]);
    }
    assert.equal(student.training, true);
    const stop = targets[0]![2]!;
    const stopped = new OnPolicyDataset(rows, student, { share: 1, temperature: 0, stopIds: [stop] }).batch([0, 1], 0);
    const first = (stopped.y.toArraySync() as number[][])[0]!;
    const end = targets[0]!.indexOf(stop, 1);
    assert.deepEqual(
      first,
      targets[0]!.map((id, i) => (i <= end ? id : -100)),
    );
  });

  test('draws follow from seed, epoch and examples; the share is kept', () => {
    const student = gpt({}, 3);
    const make = (seed: number, share: number): OnPolicyDataset<og.TextBatch> =>
      new OnPolicyDataset(texts, student, { share, seed, promptLength: 4 });
    const at = (set: OnPolicyDataset<og.TextBatch>, index: number, epoch = 0): number[] => [
      ...numbersOf(set.batch([index, index + 1], epoch).x),
    ];
    og.manualSeed(1);
    const first = at(make(5, 1), 2);
    og.manualSeed(2);
    assert.deepEqual(at(make(5, 1), 2), first);
    assert.notDeepEqual(at(make(6, 1), 2), first);
    assert.notDeepEqual(at(make(5, 1), 2, 1), first);
    assert.deepEqual(first.slice(0, 4), [...numbersOf(texts.batch([2], 0).x)].slice(0, 4));
    const count = (share: number): number =>
      Array.from({ length: 200 }, (_, epoch) => make(1, share).batch([epoch % 20], epoch).onPolicy === true).filter(
        Boolean,
      ).length;
    assert.equal(count(0), 0);
    const some = count(0.3);
    assert.ok(some > 40 && some < 80, `${some} of 200`);
  });

  test('a run that is taken up again ends with the same bits', async () => {
    const make = (): { student: og.GPT; module: Distillation<og.GPT>; train: og.Dataset<DistillationBatch> } => {
      const student = gpt({ layers: 1, dropout: 0 }, 4);
      const hidden = { generator: og.generator(8), project: true };
      const module = new Distillation({ student, teacher, divergence: 'reverse', temperature: 1, hidden });
      return { student, module, train: new OnPolicyDataset(texts, student, { share: 0.6, promptLength: 4 }) };
    };
    const whole = make();
    const losses = await finish(trainer(whole.module, whole.train));
    const dir = join(root, 'resume');
    const begun = make();
    await finish(trainer(begun.module, begun.train, dir), 3);
    const again = make();
    const rest = await finish(trainer(again.module, again.train, dir));
    assert.deepEqual(rest, losses.slice(3));
    assert.deepEqual(bits(again.student), bits(whole.student));
    assert.deepEqual(numbersOf(again.module.projections[0]!.weight), numbersOf(whole.module.projections[0]!.weight));
  });
});

describe('texts of the teacher', () => {
  const prompts = [[1, 2, 3], [4, 5], [6, 7, 8, 9], [10], [11, 12]]; // prettier-ignore
  const options = { maxNewTokens: 6, batchSize: 2, shardSize: 3 };

  test('what it would write alone, for prompts of all lengths; targets are its words', async () => {
    const corpus = await generateCorpus(teacher, prompts, { ...options, folder: join(root, 'corpus') });
    assert.equal(corpus.length, 5);
    for (const [i, prompt] of prompts.entries()) {
      const ids = [...prompt];
      for await (const { id } of teacher.generate(prompt, { temperature: 0, maxNewTokens: 6 })) ids.push(id);
      assert.deepEqual([...corpus.rows[i]!.ids], ids);
    }
    const { x, y, lengths } = corpus.batch([0, 3]);
    assert.deepEqual([x.shape, numbersOf(lengths)], [[2, 8], Float64Array.of(8, 6)]);
    const [first, second] = y.toArraySync() as number[][];
    assert.deepEqual(first, [-100, -100, ...corpus.rows[0]!.ids.slice(3)]);
    assert.deepEqual(second, [...corpus.rows[3]!.ids.slice(1), -100, -100]);
    const student = gpt({ layers: 1 }, 2);
    const run = new og.Trainer(student, {
      train: corpus,
      batchSize: 2,
      steps: 3,
      optimizer: (p) => new optim.AdamW(p, { lr: 1e-2 }),
    });
    for await (const event of run.run()) if (event.type === 'step') assert.ok(event.loss > 0);
  });

  test('drawn texts are the same after an interruption; stops end them', async () => {
    const drawn = { ...options, temperature: 1, seed: 3 };
    const whole = await generateCorpus(teacher, prompts, { ...drawn, folder: join(root, 'whole') });
    const folder = join(root, 'parts');
    const abort = new AbortController();
    const stopped = generateCorpus(teacher, prompts, {
      ...drawn,
      folder,
      signal: abort.signal,
      onProgress: () => abort.abort(),
    });
    await assert.rejects(stopped, { name: 'AbortError' });
    assert.equal(readdirSync(folder).filter((name) => name.startsWith('shard')).length, 1);
    assert.deepEqual((await generateCorpus(teacher, prompts, { ...drawn, folder })).rows, whole.rows);
    const stop = whole.rows[0]!.ids[4]!;
    const ended = await generateCorpus(teacher, prompts, { ...drawn, folder: join(root, 'ended'), stopIds: [stop] });
    assert.deepEqual(ended.rows[0]!.ids, whole.rows[0]!.ids.slice(0, whole.rows[0]!.ids.indexOf(stop, 3) + 1));
    await assert.rejects(generateCorpus(teacher, [[1]], { ...drawn, folder }), { code: 'OG_FORMAT' });
    await assert.rejects(
      generateCorpus(teacher, [[]], { ...options, folder }),
      /prompts\[0\]: expected at least one id/,
    );
    await assert.rejects(generateCorpus(teacher, [[1]], { folder, maxNewTokens: 17 }), /at most 17 tokens/);
  });
});

describe('students made of teachers', () => {
  test('every second layer, with what stands around', () => {
    const [deep, ids] = [gpt({ layers: 4 }, 5), og.tensor([[1, 2, 3]], { dtype: 'int32' })];
    const student = studentOf(deep, 2);
    const [mine, theirs] = [student.stateDict(), deep.stateDict()];
    for (const [name, value] of Object.entries(mine)) {
      const source = name.replace(/^blocks\.(\d)/, (_, i: string) => `blocks.${2 * Number(i)}`);
      assert.deepEqual(numbersOf(value), numbersOf(theirs[source]!), name);
    }
    assert.notEqual(student.tokens.weight.storage, deep.tokens.weight.storage);
    assert.deepEqual(initializeFromTeacher(gpt({ layers: 3 }, 1), deep, { layers: 'last' }), [1, 2, 3]);
    assert.deepEqual(numbersOf(studentOf(deep, [0, 1, 2, 3]).forward(ids)), numbersOf(deep.forward(ids)));
  });

  test('narrower ones take the leading part, head by head, if that is asked for', () => {
    const student = gpt({ width: 8, layers: 1 }, 2); // two heads of 4, for the teacher's two heads of 8
    assert.throws(() => initializeFromTeacher(student, teacher), /truncate/);
    initializeFromTeacher(student, teacher, { widths: 'truncate' });
    const [q, whole] = [student.blocks[0]!.attention.q.weight, teacher.blocks[0]!.attention.q.weight].map(
      (x) => x.toArraySync() as number[][],
    ) as [number[][], number[][]];
    assert.deepEqual(q.map((row) => row[3]), [0, 1, 2, 3, 8, 9, 10, 11].map((row) => whole[row]![3])); // prettier-ignore
    const before = bits(student);
    assert.throws(() => initializeFromTeacher(student, gpt({ width: 4 }, 1), { widths: 'truncate' }), {
      code: 'OG_SHAPE',
    });
    assert.deepEqual(bits(student), before);
    assert.throws(() => initializeFromTeacher(gpt({ layers: 3 }, 1), teacher), /at most 2 blocks/);
    assert.throws(() => initializeFromTeacher(gpt({ layers: 1 }, 1), teacher, { layers: [2] }), /layers\[0\]/);
  });
});

describe('distill', () => {
  const optimizer = (parameters: og.Tensor[]): optim.AdamW => new optim.AdamW(parameters, { lr: 1e-2 });

  test('one call, with the loop handed in; with a cache, and on policy', async () => {
    for (const extra of [{}, { cache: { folder: join(root, 'call'), k: 4 } }, { onPolicy: { share: 1 } }]) {
      const losses: number[] = [];
      const small = gpt({ layers: 1 }, 6);
      const student = await distill({
        teacher, student: small, data: texts, temperature: 2, alpha: 1, ...extra,
        train: (module, parts) => new og.Trainer(module, { ...parts, batchSize: 4, steps: 12, optimizer }).run(),
        onEvent: (event) => void (event.type === 'step' && losses.push(event.loss)),
      }); // prettier-ignore
      assert.equal(student, small);
      assert.equal(student.training, false);
      assert.equal(losses.length, 12);
      assert.ok(losses.slice(-3).every((loss) => loss < losses[0]!));
    }
  });

  test('what does not go together is said before any work', async () => {
    const train = (): Promise<void> => assert.fail('not reached');
    const base = { teacher, student: gpt({ layers: 1 }, 6), data: texts, train };
    const both = { cache: { folder: join(root, 'none') }, onPolicy: {} };
    await assert.rejects(distill({ ...base, ...both }), /what the student writes is not known beforehand/);
    await assert.rejects(
      distill({ ...base, student: gpt({ vocabSize: 33 }, 1) }),
      /a vocabulary of 33, as the student has, got 32/,
    );
    await assert.rejects(distill({ ...base, student: teacher }), /og\.cloneModel/);
    await assert.rejects(distill({ ...base, tempreature: 1 } as never), /Did you mean temperature/);
    await assert.rejects(distill({ ...base, beta: 1, divergence: 'jensenShannon' }), /beta/);
    await assert.rejects(distill({ ...base, train: undefined } as never), /a function that runs a Trainer/);
    const make = (texts: string[]): Promise<og.BpeTokenizer> => og.BpeTokenizer.train(texts, { vocabSize: 260 });
    const [a, b] = [await make(['abababab abab']), await make(['cdcdcdcd cdcd'])];
    const tokenizers = { student: a, teacher: b };
    await assert.rejects(
      distill({ ...base, tokenizers }),
      /tokenizers: expected .* for id \d+, as in the student's tokenizer/,
    );
  });
});
