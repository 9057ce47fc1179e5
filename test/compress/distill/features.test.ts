/** Hidden states and attention maps against PyTorch, layer maps, projections in a run. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { attentionTerms, hiddenTerms } from '../../../src/compress/distill/features.js';
import { pairsOf } from '../../../src/compress/distill/layer_map.js';
import { batchLoss, Distillation, type DistillationBatch } from '../../../src/compress/index.js';
import * as og from '../../../src/index.js';
import { nn, optim } from '../../../src/index.js';
import { assertClose } from '../../helpers/allclose.js';
import { tinyTokens } from '../../helpers/tiny_run.js';

const folder = new URL('../../fixtures/compress/', import.meta.url);
const { features } = JSON.parse(await readFile(new URL('distill.json', folder), 'utf8')) as {
  readonly features: Readonly<Record<'mse' | 'cosine' | 'scores' | 'probabilities', number>>;
};
const fixture = await og.loadSafetensors(new URL('distill.safetensors', folder).pathname);
const at = (name: string): og.Tensor => fixture[name]!;
const tight = { rtol: 1e-10, atol: 1e-12 };
const pairs = [['', '']] as const;
const models = [new nn.Linear(3, 3), new nn.Linear(6, 6)] as const;
const config = { vocabSize: 32, context: 16, layers: 2, heads: 2, width: 8 };
const gpt = (options: Partial<og.GPTConfig>, seed: number): og.GPT =>
  new og.GPT({ ...config, ...options }, { generator: og.generator(seed) });

describe('losses', () => {
  test('hidden states through a projection, and by their cosine', () => {
    const { terms, projections } = hiddenTerms('test', ...models, { layers: pairs, widths: [3, 6] });
    projections[0]!.to('float64');
    projections[0]!.loadStateDict({ weight: at('projection') });
    const hidden = og.clone(at('hidden')).requiresGrad_();
    const loss = terms[0]!.loss(hidden, at('theirs'), null);
    assertClose([loss.itemSync()], [features.mse], tight);
    loss.backward();
    assertClose(hidden.grad!, at('hidden.grad'), tight);
    assertClose(projections[0]!.weight.grad!, at('projection.grad'), tight);

    const cosine = hiddenTerms('test', ...models, { layers: pairs, widths: [6, 6], loss: 'cosine', weight: 2 });
    assert.equal(cosine.projections.length, 0);
    const flipped = og.clone(og.flip(at('theirs'), 0)).requiresGrad_();
    const value = cosine.terms[0]!.loss(flipped, at('theirs'), null);
    assertClose([value.itemSync()], [2 * features.cosine], tight);
    value.backward();
    assertClose(flipped.grad!, og.mul(at('cosine.grad'), 2), tight);
  });

  test('attention maps: scores and weights of what each query sees', () => {
    const block = (): nn.Module => new nn.TransformerBlock(6, 3, { causal: true });
    for (const of of ['scores', 'probabilities'] as const) {
      const [term] = attentionTerms('test', block(), block(), { layers: pairs, of });
      const scores = og.clone(at('scores')).requiresGrad_();
      const loss = term!.loss(scores, at('theirScores'), null);
      assertClose([loss.itemSync()], [features[of]], tight, of);
      loss.backward();
      assertClose(scores.grad!, at(`${of}.grad`), tight, of);
    }
  });

  test('positions that fill a row up do not count', () => {
    const { terms } = hiddenTerms('test', ...models, { layers: pairs, widths: [6, 6] });
    const counts = og.tensor([[1, 1, 1, 1], [1, 0, 0, 0]], { dtype: 'float64' }); // prettier-ignore
    const [a, b] = [og.flip(at('theirs'), 0), at('theirs')];
    const squares = og.mean(og.square(og.sub(a, b)), -1).toArraySync() as number[][];
    const expected = (squares[0]!.reduce((x, y) => x + y) + squares[1]![0]!) / 5;
    assertClose([terms[0]!.loss(a, b, counts).itemSync()], [expected], tight);
  });

  test('scores are those that attention is made of', () => {
    const generator = og.generator(5);
    const x = og.randn([2, 5, 12], { generator });
    for (const options of [{}, { kvHeads: 1 }, { window: 2 }, { softCap: 2 }, { alibi: true }]) {
      const layer = new nn.MultiHeadAttention(12, 2, { causal: true, generator, ...options });
      const rotary = og.ropeTables(5, 6);
      const weights = og.softmax(layer.scores(x, { rotary }));
      const v = og.transpose(og.reshape(layer.v.forward(x), [2, 5, layer.kvHeads, 6]), 1, 2);
      const whole = layer.kvHeads === 1 ? og.concat([v, v], 1) : v;
      const mixed = og.matmul(weights, whole);
      const y = layer.o.forward(og.reshape(og.transpose(mixed, 1, 2), [2, 5, 12]));
      assertClose(y, layer.forward(x, { rotary }), { rtol: 1e-4, atol: 1e-5 });
    }
    const layer = new nn.MultiHeadAttention(12, 2);
    assert.throws(() => layer.scores(x, { cache: new og.KvCache(2, 2, 5, 6) }), /expected none for the scores/);
  });
});

describe('layer maps', () => {
  const [student, teacher] = [gpt({ layers: 2 }, 1), gpt({ layers: 6 }, 2)];
  const numbers = (layers: 'uniform' | 'last', ofAttention: boolean): unknown =>
    pairsOf('test', 'x', student, teacher, layers, ofAttention).map(([a, b]) => [a.name, b.name]);

  test('uniform and last', () => {
    assert.deepEqual(numbers('uniform', false), [[0, 0], [1, 3], [2, 6]]); // prettier-ignore
    assert.deepEqual(numbers('uniform', true), [[1, 3], [2, 6]]); // prettier-ignore
    assert.deepEqual(numbers('last', false), [[2, 6]]);
  });

  test('what is read: what goes into the first block, blocks, and modules by path', () => {
    const ids = og.tensor([[1, 2, 3]], { dtype: 'int32' });
    const layers = [[0, 0], [1, 'blocks.0'], ['norm', 'norm']] as const; // prettier-ignore
    const twin = og.cloneModel(student);
    const module = new Distillation({ student, teacher: twin, alpha: 1, hidden: { layers, weight: 3 } });
    assertClose([module.loss(ids, ids).itemSync()], [0], { atol: 1e-6 });
    og.noGrad(() => twin.norm.weight!.copy_(og.mul(twin.norm.weight!, 2)));
    const difference = og.noGrad(() => og.mean(og.square(student.hidden(ids))).itemSync() as number);
    const cosine = new Distillation({ student, teacher: twin, alpha: 0, hidden: { layers, weight: 3 } });
    const task = student.loss(ids, ids).itemSync() as number;
    assertClose([cosine.loss(ids, ids).itemSync()], [task + difference], { rtol: 1e-4 });
    assert.ok(!Object.hasOwn(student.blocks[0]!, 'forward'), 'no hook stays');
  });

  test('rows that are filled up give the loss of the rows alone', () => {
    const module = new Distillation({
      student, teacher, alpha: 1, hidden: { weight: 5 }, attention: { of: 'probabilities', weight: 7 },
    }); // prettier-ignore
    const short = og.tensor([[1, 2, 3]], { dtype: 'int32' });
    const x = og.tensor([[1, 2, 3, 9, 9]], { dtype: 'int32' });
    const y = og.tensor([[1, 2, 3, -100, -100]], { dtype: 'int32' });
    const lengths = og.tensor([3], { dtype: 'int32' });
    const alone = module.loss(short, short).itemSync() as number;
    assertClose([batchLoss(module, { x, y, lengths }).itemSync()], [alone], { rtol: 1e-4 });
    assert.ok(Math.abs((batchLoss(module, { x, y }).itemSync() as number) - alone) > 1e-4);
    assert.throws(() => batchLoss(module, { x, y, lengths: og.tensor([3, 3], { dtype: 'int32' }) }), /batch\.lengths/);
  });

  test('out of range, unknown, or of other heads', () => {
    const make = (options: object): Distillation<og.GPT> => new Distillation({ student, teacher, ...options });
    assert.throws(
      () => make({ hidden: { layers: [[1, 7]] } }),
      /hidden\.layers\[0\]\[1\] \(teacher\): expected a block from 0 to 6/,
    );
    assert.throws(() => make({ attention: { layers: [[0, 1]] } }), /\(student\): expected a block from 1 to 2/);
    assert.throws(() => make({ hidden: { layers: [['blokcs.0', 1]] } }), /expected the path of a module/);
    assert.throws(() => make({ hidden: { layers: [] } }), /expected "uniform", "last", or pairs/);
    assert.throws(() => make({ attention: { layers: [['norm', 1]] } }), /MultiHeadAttention/);
    assert.throws(
      () => make({ teacher: gpt({ heads: 4 }, 3), attention: {} }),
      /expected 4 heads, as the teacher has, got 2/,
    );
    assert.throws(
      () => make({ teacher: gpt({ width: 16 }, 3), hidden: { project: false } }),
      /width 8 to the teacher's 16/,
    );
    assert.throws(() => new Distillation({ student, hidden: {} }), /expected a teacher to read it from/);
  });
});

test('projections train with the student, are in checkpoints, and do not stay', async () => {
  const [student, teacher] = [gpt({ layers: 1 }, 1), gpt({ width: 16 }, 2)];
  const generator = og.generator(3);
  const module = new Distillation({
    student,
    teacher,
    hidden: { generator, weight: 10 },
    attention: { of: 'probabilities' },
  });
  const names = Object.keys(module.stateDict()).filter((name) => name.startsWith('projections'));
  assert.deepEqual(names, ['projections.0.weight', 'projections.1.weight']);
  const before = og.clone(module.projections[0]!.weight.detach());
  const trainer = new og.Trainer<Distillation<og.GPT>, DistillationBatch>(module, {
    train: new og.TextDataset(tinyTokens(), { context: 16 }),
    batchSize: 4,
    steps: 20,
    loss: batchLoss,
    optimizer: (parameters) => new optim.AdamW(parameters, { lr: 1e-2 }),
  });
  const losses: number[] = [];
  for await (const event of trainer.run()) if (event.type === 'step') losses.push(event.loss);
  assert.ok(losses.at(-1)! < losses[0]!);
  assert.notDeepEqual(module.projections[0]!.weight.dataSync(), before.dataSync());
  assert.deepEqual(Object.keys(student.stateDict()), Object.keys(gpt({ layers: 1 }, 1).stateDict()));
});
