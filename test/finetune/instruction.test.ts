/** Instruction tuning: packing, and losses and gradients without cross-talk. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { InstructionDataset, instructionLoss, type InstructionExample } from '../../src/finetune/index.js';
import * as og from '../../src/index.js';
import { assertClose } from '../helpers/allclose.js';

const tokenizer = await og.loadTokenizer('test/fixtures/tokenizers/bytelevel_bpe.tokenizer.json');
const words = 'alpha beta gamma delta epsilon zeta eta theta iota kappa'.split(' ');
const examples: InstructionExample[] = Array.from({ length: 9 }, (_, i) => ({
  prompt: words.slice(i % 4, (i % 4) + 1 + (i % 3)).join(' '),
  completion: words.slice(i % 5, (i % 5) + 1 + ((i * 7) % 5)).join(' '),
}));
const maxLength = 160;
const make = (position: 'learned' | 'rope', layers = 2): og.GPT =>
  new og.GPT(
    {
      vocabSize: tokenizer.vocabSize,
      context: maxLength,
      layers,
      heads: 2,
      width: 16,
      position,
      kvHeads: position === 'rope' ? 1 : 2,
    },
    { generator: og.generator(3) },
  );

describe('first fit decreasing', () => {
  test('fills rows, longest first', () => {
    assert.deepEqual(og.packFirstFit([3, 7, 5, 2, 1, 6], 8), [
      [1, 4],
      [5, 3],
      [2, 0],
    ]);
    assert.deepEqual(og.packFirstFit([], 8), []);
    assert.deepEqual(og.packFirstFit([0, 8, 8], 8), [[1, 0], [2]]);
    assert.throws(() => og.packFirstFit([9], 8), /lengths\[0\].*from 0 to 8/s);
  });

  test('agrees with the definition on random lengths, and stays within 11/9 of the bound', () => {
    const next = og.randint(1, 101, [500], { generator: og.generator(5) }).dataSync();
    const lengths = Array.from(next, Number);
    const rows = og.packFirstFit(lengths, 100);
    const expected: number[][] = [];
    const room: number[] = [];
    const order = lengths.map((_, i) => i).sort((a, b) => lengths[b]! - lengths[a]! || a - b);
    for (const item of order) {
      let row = room.findIndex((left) => left >= lengths[item]!);
      if (row < 0) row = room.push(100) - 1;
      (expected[row] ??= []).push(item);
      room[row]! -= lengths[item]!;
    }
    assert.deepEqual(rows, expected);
  });
});

describe('dataset', () => {
  test('targets are the answers, moved on by one; nothing crosses from one conversation to the next', () => {
    const dataset = new InstructionDataset(examples, { tokenizer, template: 'chatml', maxLength });
    assert.ok(dataset.length < examples.length, `${dataset.length} rows`);
    const { x, y, offsets } = dataset.batch([0, 1]);
    const [ids, targets] = [x.dataSync(), y.dataSync()];
    assert.equal(x.shape[1], offsets!.at(-1));
    for (let n = 1; n < offsets!.length; n++) {
      const end = offsets![n]! - 1;
      assert.equal(targets[end], -100);
      for (let i = offsets![n - 1]!; i < end; i++) assert.ok(targets[i] === -100 || targets[i] === ids[i + 1]);
      const said = Array.from(targets.subarray(offsets![n - 1], end), Number).filter((id) => id !== -100);
      const at = dataset.row(n <= dataset.row(0).length ? 0 : 1)[
        n <= dataset.row(0).length ? n - 1 : n - 1 - dataset.row(0).length
      ]!;
      const { completion } = examples[at] as { completion: string };
      assert.equal(tokenizer.decode(said, { skipSpecialTokens: false }), `${completion}<|im_end|>`);
    }
  });

  test('long conversations are cut, left out or refused', () => {
    const options = { tokenizer, template: 'chatml', maxLength: 60 } as const;
    const cut = new InstructionDataset(examples, options);
    const kept = new InstructionDataset(examples, { ...options, tooLong: 'drop' });
    assert.ok(kept.dropped > 0 && kept.tokens < cut.tokens);
    assert.throws(() => new InstructionDataset(examples, { ...options, tooLong: 'error' }), /at most 60 tokens/);
    assert.throws(() => new InstructionDataset([], options), /a conversation with an answer/);
    assert.throws(() => new InstructionDataset([{} as never], options), /prompt, completion/);
    assert.throws(() => new InstructionDataset(examples, { ...options, padID: 1 } as never), /padId/);
  });
});

describe('without cross-talk', () => {
  for (const position of ['learned', 'rope'] as const) {
    test(`${position}: losses of conversations and gradients are those of rows of their own`, () => {
      const options = { tokenizer, template: 'chatml', maxLength } as const;
      const packed = new InstructionDataset(examples, options);
      const padded = new InstructionDataset(examples, { ...options, packing: false, padId: 7 });
      const model = make(position);
      const rows = Array.from({ length: packed.length }, (_, i) => i);
      const batch = packed.batch(rows);
      const order = rows.flatMap((row) => packed.row(row));
      const apart = padded.batch(order);

      const perToken = og.crossEntropy(model.forward(batch.x, { offsets: batch.offsets! }), batch.y, {
        reduction: 'none',
      });
      const own = og.crossEntropy(model.forward(apart.x), apart.y, { reduction: 'none' });
      const losses = perToken.reshape([-1]).dataSync();
      const alone = own.sum(-1).dataSync();
      for (let n = 0; n < order.length; n++) {
        const parts = losses.subarray(batch.offsets![n]!, batch.offsets![n + 1]!);
        const sum = Array.from(parts, Number).reduce((total, value) => total + value, 0);
        assertClose([sum], [Number(alone[n])], { rtol: 2e-6, atol: 1e-5 }, `conversation ${n}`);
      }

      instructionLoss(model, batch).backward();
      const gradients = model.namedParameters().map(([name, { grad }]) => [name, og.keep(grad!.clone())] as const);
      model.zeroGrad();
      instructionLoss(model, apart).backward();
      const expected = new Map(model.namedParameters());
      for (const [name, grad] of gradients)
        assertClose(grad, expected.get(name)!.grad!, { rtol: 1e-4, atol: 1e-6 }, name);
    });
  }

  test('several rows of a batch may be packed, and a neighbour changes nothing', () => {
    const model = make('learned');
    const ids = og.randint(0, tokenizer.vocabSize, [2, 8], { generator: og.generator(1) });
    const offsets = [0, 3, 8, 8, 16];
    const y = model.forward(ids, { offsets });
    assert.deepEqual([...y.shape], [2, 8, tokenizer.vocabSize]);
    assertClose(y.at(0, ':3'), model.forward(ids.at('0:1', ':3')).at(0), { atol: 1e-6 });
    assertClose(y.at(0, '3:'), model.forward(ids.at('0:1', '3:')).at(0), { atol: 1e-6 });
    assertClose(y.at(1), model.forward(ids.at('1:2')).at(0), { atol: 1e-6 });
    const placed = model.forward(ids, { positions: og.tensor([5, 6, 7, 8, 9, 10, 11, 12]).to('int32') });
    assert.ok(placed.sub(model.forward(ids)).abs().amax().itemSync() > 1e-4);
  });

  test('what does not fit is refused', () => {
    const model = make('rope');
    const ids = og.zeros([1, 8], { dtype: 'int32' });
    assert.throws(() => model.forward(ids, { offsets: [0, 5] }), /from 0 to 8/);
    assert.throws(() => model.forward(ids, { offsets: [0, 5, 4, 8] }), /without falling/);
    assert.throws(() => model.forward(ids, { offsets: [0, 8], cache: model.makeCache() }), /packed/);
    assert.throws(() => model.forward(ids, { positions: og.zeros([3], { dtype: 'int32' }) }), /positions.*\[1, 8\]/s);
    const long = og.zeros([2, maxLength], { dtype: 'int32' });
    assert.throws(() => model.forward(long, { offsets: [0, 2 * maxLength] }), /at most 160 positions/);
    assert.throws(() => model.forward(ids, { ofsets: [0, 8] } as never), /offsets/);
  });
});

test('Trainer learns answers from packed rows', async () => {
  const train = new InstructionDataset(examples, { tokenizer, template: 'chatml', maxLength });
  const model = make('rope');
  const trainer = new og.Trainer(model, {
    train,
    loss: instructionLoss,
    batchSize: Math.min(2, train.length),
    steps: 40,
    optimizer: (p) => new og.optim.AdamW(p, { lr: 2e-2 }),
  });
  const losses: number[] = [];
  for await (const event of trainer.run()) if (event.type === 'step') losses.push(event.loss);
  assert.ok(losses.at(-1)! < losses[0]! / 3, `${losses[0]} → ${losses.at(-1)}`);
});
