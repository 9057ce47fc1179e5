/** Against forgetting: penalties and rehearsal by their formulae, and on two tasks that pull one network apart. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { Ewc, L2Sp, mergeBatches, RehearsalDataset, withPenalty } from '../../../src/finetune/index.js';
import * as og from '../../../src/index.js';
import { nn } from '../../../src/index.js';
import { assertClose, numbersOf } from '../../helpers/allclose.js';

const folder = mkdtempSync(join(tmpdir(), 'omnigrad-continual-'));
after(() => rmSync(folder, { recursive: true, force: true }));

type Xy = { readonly x: og.Tensor; readonly y: og.Tensor };

/** Rows of features with their classes. */
class Examples implements og.Dataset<Xy> {
  readonly x: og.Tensor;
  readonly y: og.Tensor;
  constructor(x: og.Tensor, y: og.Tensor) {
    [this.x, this.y] = [x, y];
  }
  get length(): number {
    return this.x.shape[0]!;
  }
  batch(indices: readonly number[]): Xy {
    const at = og.tensor([...indices], { dtype: 'int64' });
    return { x: og.indexSelect(this.x, 0, at), y: og.indexSelect(this.y, 0, at) };
  }
}

const loss = (model: nn.Module, { x, y }: Xy): og.Tensor =>
  og.crossEntropy((model as unknown as { forward(x: og.Tensor): og.Tensor }).forward(x), y);

describe('penalties', () => {
  test('L2-SP: the distance to the start, and the size of what is new', () => {
    const model = new nn.Sequential(
      new nn.Linear(3, 2, { dtype: 'float64' }),
      new nn.Linear(2, 2, { dtype: 'float64' }),
    );
    model.freeze(/0\.bias/);
    const penalty = new L2Sp(model, { strength: 0.6, fresh: '1', freshStrength: 0.2 });
    const size = (path: RegExp): number =>
      model.namedParameters().filter(([name]) => path.test(name)).reduce(
        (sum, [, tensor]) => sum + numbersOf(tensor).reduce((total, value) => total + value * value, 0), 0,
      ); // prettier-ignore
    assertClose([penalty.value(model).itemSync()], [0.1 * size(/1\./)], { rtol: 1e-12 });
    og.noGrad(() => {
      for (const [, tensor] of model.namedParameters()) tensor.copy_(tensor.add(0.5));
    });
    const value = penalty.value(model);
    assertClose([value.itemSync()], [0.3 * 6 * 0.25 + 0.1 * size(/1\./)], { rtol: 1e-12 });
    value.backward();
    const weight = model.namedParameters().find(([name]) => /0\.weight/.test(name))![1];
    assertClose(weight.grad!, new Float64Array(6).fill(0.6 * 0.5), { rtol: 1e-12 });
    penalty.dispose();
    assert.throws(() => new L2Sp(model, { strenght: 1 } as never), /Did you mean strength/);
    const other = new L2Sp(new nn.Linear(9, 9));
    assert.throws(() => other.value(model), { code: 'OG_STATE' });
  });

  test('penalties add to the loss in training only', () => {
    const model = new nn.Linear(2, 2);
    const total = withPenalty(
      (_model: nn.Linear, batch: number) => og.tensor(batch),
      () => og.tensor(2),
      { value: () => og.tensor(0.5) },
    );
    assert.equal(total(model, 1).itemSync(), 3.5);
    model.eval();
    assert.equal(total(model, 1).itemSync(), 1);
    assert.throws(() => withPenalty(total, {} as never), /penalties\[0\]: expected a function of the model/);
  });

  const linear = (): nn.Linear => new nn.Linear(3, 4, { dtype: 'float64', generator: og.generator(3) });
  const features = og.randn([40, 3], { dtype: 'float64', generator: og.generator(4) });
  const classes = og.tensor(Int32Array.from({ length: 40 }, (_, i) => (i * 7) % 4));

  /** Mean over rows of x_j² · weight(p_k, is k the label). */
  function fisherOf(model: nn.Linear, weight: (p: number, isLabel: boolean) => number, rows = 40): Float64Array {
    const p = numbersOf(og.noGrad(() => og.softmax(model.forward(features), -1)));
    const [x, y] = [numbersOf(features), numbersOf(classes)];
    const fisher = new Float64Array(12);
    for (let i = 0; i < rows; i++) {
      for (let k = 0; k < 4; k++) {
        for (let j = 0; j < 3; j++)
          fisher[k * 3 + j]! += (weight(p[i * 4 + k]!, y[i] === k) * x[i * 3 + j]! ** 2) / rows;
      }
    }
    return fisher;
  }

  test('EWC: the empirical Fisher of a softmax regression, penalty, saving and loading', async () => {
    const model = linear();
    const data = new Examples(features, classes);
    const ewc = await Ewc.estimate(model, data, { labels: 'data', strength: 3 });
    const fisher = fisherOf(model, (p, isLabel) => (p - Number(isLabel)) ** 2);
    assertClose(ewc.fisher['weight']!, fisher, { rtol: 1e-10 });
    assert.equal(model.weight.grad, null);
    og.noGrad(() => model.weight.copy_(model.weight.add(0.1)));
    const want = 1.5 * 0.01 * fisher.reduce((a, b) => a + b);
    assertClose([ewc.value(model).itemSync()], [want], { rtol: 1e-10 });
    const path = join(folder, 'ewc.safetensors');
    await ewc.save(path);
    const again = await Ewc.load(path);
    assert.equal(again.value(model).itemSync(), ewc.value(model).itemSync());
    const stronger = await Ewc.load(path, { strength: 6 });
    assertClose([stronger.value(model).itemSync()], [2 * want], { rtol: 1e-10 });
    await og.saveSafetensors(path, { weights: og.ones([2]) });
    await assert.rejects(Ewc.load(path), { code: 'OG_FORMAT' });
    const some = await Ewc.estimate(model, data, { labels: 'data', samples: 5 });
    assert.notDeepEqual(numbersOf(some.fisher['weight']!), numbersOf(ewc.fisher['weight']!));
  });

  test('EWC: labels drawn from the model give p(1 − p) x² on average; a seed gives the same bits', async () => {
    const model = linear();
    const times = 30;
    const repeated = new Examples(og.repeat(features, [times, 1]), og.repeat(classes, [times]));
    const options = { samples: 40 * times, seed: 5 };
    const ewc = await Ewc.estimate(model, repeated, options);
    const fisher = fisherOf(model, (p) => p * (1 - p));
    const got = numbersOf(ewc.fisher['weight']!);
    for (const [i, want] of fisher.entries()) assert.ok(Math.abs(got[i]! / want - 1) < 0.25, `${got[i]} for ${want}`);
    const [a, b] = [
      await Ewc.estimate(model, repeated, { samples: 9 }),
      await Ewc.estimate(model, repeated, { samples: 9 }),
    ];
    assert.deepEqual(numbersOf(a.fisher['weight']!), numbersOf(b.fisher['weight']!));
    await assert.rejects(Ewc.estimate(model, { length: 1, batch: () => ({}) }), /a batch without x/);
    assert.equal(model.training, true, 'the mode comes back');
    await assert.rejects(Ewc.estimate(linear().freeze(), repeated), /parameters that train, got none/);
  });

  test('EWC of a language model: a sequence is an example, and targets of -100 do not count', async () => {
    const model = new og.GPT(
      { vocabSize: 8, context: 6, layers: 1, heads: 1, width: 8 },
      { generator: og.generator(1) },
    );
    const x = og.tensor([[1, 2, 3, 4]], { dtype: 'int32' });
    const y = og.tensor([[-100, 3, 4, -100]], { dtype: 'int32' });
    const ewc = await Ewc.estimate(model, { length: 1, batch: () => ({ x, y }) }, { labels: 'data' });
    og.mul(model.loss(x, y), 2).backward(); // the mean of two targets: their sum
    for (const [name, tensor] of model.namedParameters())
      assertClose(ewc.fisher[name]!, og.square(tensor.grad!), { rtol: 1e-3, atol: 1e-9 }, name);
  });
});

/** A dataset of numbers, to see what a batch is made of. */
const numbers = (length: number, offset: number): og.Dataset<{ ids: number[]; epoch: number }> => ({
  length,
  batch: (indices, epoch) => ({ ids: indices.map((i) => offset + i), epoch }),
});
const merge = (a: { ids: number[]; epoch: number }, b: { ids: number[] }): { ids: number[]; epoch: number } => ({
  ids: [...a.ids, ...b.ids],
  epoch: a.epoch,
});

describe('rehearsal', () => {
  test('an epoch holds every new example once and old ones at the ratio; old ones come in turn', () => {
    const mixed = new RehearsalDataset(numbers(12, 0), numbers(5, 100), { ratio: 0.25, merge });
    assert.deepEqual([mixed.length, mixed.rehearsed], [16, 4]);
    const old: number[] = [];
    for (let epoch = 0; epoch < 5; epoch++) {
      const ids = Array.from({ length: 16 }, (_, i) => mixed.batch([i], epoch).ids[0]!);
      const recent = ids.filter((id) => id < 100).sort((a, b) => a - b);
      assert.deepEqual(recent, [...Array(12).keys()]);
      old.push(...ids.filter((id) => id >= 100));
      for (let i = 0; i < 16; i += 4) assert.equal(ids.slice(i, i + 4).filter((id) => id >= 100).length, 1, 'evenly');
    }
    assert.equal(old.length, 20);
    for (let pass = 0; pass < 4; pass++) {
      assert.deepEqual(old.slice(5 * pass, 5 * pass + 5).sort(), [100, 101, 102, 103, 104], 'none twice in a pass');
    }
    assert.notDeepEqual(old.slice(0, 5), old.slice(5, 10));
  });

  test('a loader that is taken up again gives the same batches', () => {
    const make = (): og.DataLoader<{ ids: number[] }> =>
      new og.DataLoader(new RehearsalDataset(numbers(9, 0), numbers(4, 100), { ratio: 0.4, merge }), { batchSize: 4 });
    const all = make();
    const batches = Array.from({ length: 12 }, () => all.next().ids);
    const again = make();
    for (let i = 0; i < 5; i++) again.next();
    const resumed = make();
    resumed.state = again.state;
    assert.deepEqual(Array.from({ length: 7 }, () => resumed.next().ids), batches.slice(5)); // prettier-ignore
  });

  test('batches of tensors are merged by rows', () => {
    const batch = (rows: number, time: number, value: number): object => ({
      x: og.full([rows, time], value),
      reference: null,
    });
    const merged = mergeBatches(batch(2, 3, 1), batch(1, 3, 5)) as { x: og.Tensor; reference: null };
    assert.deepEqual(merged.x.toArraySync(), [[1, 1, 1], [1, 1, 1], [5, 5, 5]]); // prettier-ignore
    assert.equal(merged.reference, null);
    assert.throws(() => mergeBatches(batch(2, 3, 1), batch(1, 4, 5)), /Fill the rows/);
    assert.throws(() => mergeBatches(batch(2, 3, 1), { x: og.ones([1, 3]), reference: og.ones([1]) }), /reference/);
    assert.throws(() => new RehearsalDataset(numbers(1, 0), numbers(1, 0), { ratio: 1 }), /below 1/);
    assert.throws(() => new RehearsalDataset(numbers(1, 0), numbers(0, 0)), /at least one example/);
  });
});

describe('two tasks in a row', () => {
  /** Points around four centres; the two tasks use different features of the same inputs. */
  function task(seed: number): Examples {
    const generator = og.generator(seed);
    const centres = og.randn([4, 12], { generator });
    const y = og.randint(0, 4, [256], { generator });
    const x = og.add(og.indexSelect(centres, 0, y), og.randn([256, 12], { generator }).mul(0.6));
    return new Examples(x, y);
  }
  const [first, second] = [task(11), task(12)];
  class Net extends nn.Module {
    readonly up: nn.Linear;
    readonly head: nn.Linear;
    constructor() {
      super();
      const generator = og.generator(6);
      this.up = new nn.Linear(12, 24, { generator });
      this.head = new nn.Linear(24, 4, { generator });
    }
    forward(x: og.Tensor): og.Tensor {
      return this.head.forward(this.up.forward(x).tanh());
    }
  }
  const mean = (model: nn.Module, data: Examples): number =>
    og.noGrad(() => loss(model, { x: data.x, y: data.y })).itemSync();

  async function learn(model: nn.Module, train: og.Dataset<Xy>, own = loss): Promise<void> {
    const optimizer = (parameters: og.Tensor[]): og.optim.Adam => new og.optim.Adam(parameters, { lr: 1e-2 });
    const trainer = new og.Trainer<nn.Module, Xy>(model, { train, batchSize: 32, steps: 120, loss: own, optimizer });
    for await (const _ of trainer.run());
  }

  test('EWC, L2-SP and rehearsal forget less than plain training, and learn the second task', async () => {
    const start = new Net();
    await learn(start, first);
    const before = mean(start, first);
    const state = start.stateDict();
    const copy = (): Net => {
      const model = new Net();
      model.loadStateDict(state);
      return model;
    };
    const results: Record<string, { old: number; now: number }> = {};
    const run = async (
      name: string,
      train: og.Dataset<Xy>,
      penalty?: (model: nn.Module) => Promise<{ value(m: nn.Module): og.Tensor }>,
    ): Promise<void> => {
      const model = copy();
      await learn(model, train, penalty === undefined ? loss : withPenalty(loss, await penalty(model)));
      results[name] = { old: mean(model, first), now: mean(model, second) };
    };
    await run('plain', second);
    await run('ewc', second, (model) => Ewc.estimate(model, first, { strength: 5000 }));
    await run('l2sp', second, (model) => Promise.resolve(new L2Sp(model, { strength: 0.05 })));
    await run('rehearsal', new RehearsalDataset(second, first, { ratio: 0.2 }));
    const text = JSON.stringify({ before, ...results });
    if (process.env['OG_TEST_FIGURES']) console.log(text);
    assert.ok(before < 0.2 && results['plain']!.now < 0.2, text);
    for (const name of ['ewc', 'l2sp', 'rehearsal']) {
      assert.ok(results[name]!.old - before < 0.6 * (results['plain']!.old - before), `${name}: ${text}`);
      assert.ok(results[name]!.now < 0.7, `${name}: ${text}`);
    }
  });
});
