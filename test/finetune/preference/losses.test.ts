/** Preference objectives: values and gradients as PyTorch computes them in float64 from the papers' formulae. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import {
  bradleyTerryLoss,
  dpo,
  dpoLoss,
  kto,
  orpo,
  orpoLoss,
  PreferenceMetrics,
  simpo,
  type DpoOptions,
  type KtoBatch,
  type KtoOptions,
  type LogitsModel,
  type OrpoOptions,
  type PreferenceBatch,
  type SimpoOptions,
} from '../../../src/finetune/index.js';
import * as og from '../../../src/index.js';
import { assertClose } from '../../helpers/allclose.js';
import { load, readSafetensors } from '../../helpers/reference.js';
import { root } from '../../helpers/source_tree.js';

interface Case {
  readonly name: string;
  readonly options: Readonly<Record<string, number>>;
  readonly loss: number;
  readonly metrics?: { readonly chosen: number; readonly rejected: number; readonly accuracy: number };
}

const folder = join(root, 'test/fixtures/preference');
const stored = readSafetensors(join(folder, 'preference.safetensors'));
const { cases } = JSON.parse(readFileSync(join(folder, 'preference.json'), 'utf8')) as { cases: Case[] };
const tensor = (name: string): og.Tensor => load(stored, name, name === 'desirable');
const tight = { rtol: 1e-10, atol: 1e-12 };
const caseOf = (name: string): Case => cases.find((entry) => entry.name === name)!;

/** Gives the stored logits of the rows it is asked for: the first id of a row is its number. */
class Table extends og.nn.Module {
  readonly logits: og.Tensor;
  constructor(name: string) {
    super();
    this.logits = og.nn.parameter(tensor(name));
  }
  forward(x: og.Tensor): og.Tensor {
    return og.indexSelect(this.logits, 0, x.select(1, 0));
  }
}

function batchOf(shift = 0): PreferenceBatch & KtoBatch {
  const [x, y] = [tensor('x'), tensor('y')];
  return {
    x,
    y,
    lengths: og.full([x.shape[0]!], x.shape[1]!, { dtype: 'int32' }),
    margin: tensor('margin'),
    desirable: tensor('desirable'),
    reference: tensor('reference_sums').sub(shift),
  };
}

function compare(name: string, loss: (model: LogitsModel, batch: PreferenceBatch & KtoBatch) => og.Tensor): void {
  const model = new Table('policy');
  const value = loss(model, batchOf(caseOf(name).options['shift'] ?? 0));
  assertClose([value.itemSync()], [caseOf(name).loss], tight, name);
  value.backward();
  assertClose(model.logits.grad!, tensor(`${name}.grad`), tight, `gradient of ${name}`);
}

const options = <T>(name: string): T => {
  const { shift: _shift, ...rest } = caseOf(name).options;
  return rest as T;
};

describe('preference losses against PyTorch', () => {
  for (const name of ['dpo', 'cdpo', 'ipo']) {
    test(`${name}, with log-probabilities computed beforehand and with a reference model`, () => {
      compare(name, dpo(options<DpoOptions>(name)));
      const reference = new Table('reference');
      compare(name, dpo({ ...options<DpoOptions>(name), reference }));
      assert.equal(reference.logits.grad, null, 'the reference gets no gradient');
    });
  }
  test('orpo', () => compare('orpo', orpo(options<OrpoOptions>('orpo'))));
  test('simpo', () => compare('simpo', simpo(options<SimpoOptions>('simpo'))));
  test('kto, with the reference point at zero and above', () => {
    compare('kto', kto(options<KtoOptions>('kto')));
    compare('kto', kto({ ...options<KtoOptions>('kto'), reference: new Table('reference') }));
    compare('kto_shifted', kto(options<KtoOptions>('kto_shifted')));
  });

  test('Bradley–Terry', () => {
    const rewards = tensor('rewards').requiresGrad_();
    const pairs = rewards.reshape([-1, 2]);
    const [chosen, rejected] = [pairs.select(1, 0), pairs.select(1, 1)];
    const loss = bradleyTerryLoss({ chosen, rejected }, { margin: tensor('margin'), centering: 0.05 });
    assertClose([loss.itemSync()], [caseOf('reward').loss], tight);
    loss.backward();
    assertClose(rewards.grad!, tensor('reward.grad'), tight);
  });

  test('metrics: rewards, margin, accuracy, apart for training and validation', async () => {
    const metrics = new PreferenceMetrics();
    const model = new Table('policy');
    const loss = dpo({ beta: 0.1, metrics });
    loss(model, batchOf());
    loss(model, batchOf());
    const { chosen, rejected, accuracy } = caseOf('dpo').metrics!;
    const report = await metrics.train.read();
    assert.equal(report.examples, 10);
    assertClose(
      [report.chosen, report.rejected, report.margin, report.accuracy],
      [chosen, rejected, chosen - rejected, accuracy],
      tight,
    );
    assert.equal((await metrics.train.read()).examples, 0);
    model.eval();
    loss(model, batchOf());
    assert.equal((await metrics.valid.read()).examples, 5);
    assert.equal((await metrics.train.read()).examples, 0);
  });

  test('a certain answer has finite odds', () => {
    const chosen = og.tensor([0, -1]).requiresGrad_();
    const loss = orpoLoss({ chosen, rejected: og.tensor([-2, 0]) }, og.tensor(0));
    loss.backward();
    assert.ok(Number.isFinite(loss.itemSync()));
    assert.ok(Array.from(chosen.grad!.dataSync() as Float32Array).every(Number.isFinite));
  });

  test('errors', () => {
    const pair = { chosen: og.zeros([2]), rejected: og.zeros([3]) };
    assert.throws(() => dpoLoss(pair, pair), /policy.rejected: expected \[2\], got \[3\]/);
    assert.throws(() => dpo({ beta: 0.1, refrence: 1 } as never), /Did you mean reference/);
    assert.throws(() => dpo({ reference: 'none' as never }), /expected a model, or "withoutAdapters"/);
    assert.throws(() => dpoLoss(pair, pair, { labelSmoothing: 0.7 }), /from 0 to 0.5/);
    const model = new Table('policy');
    assert.throws(() => dpo()(model, { ...batchOf(), reference: null }), /See precomputeReference/);
    assert.throws(() => dpo({ reference: model })(model, batchOf()), /another model/);
  });
});
