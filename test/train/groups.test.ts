/** The Trainer with groups, schedules by token, and schedules that observe: runs that were interrupted end with the same bits. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import * as og from '../../src/index.js';
import { fingerprint, tinyModel, tinyTokens } from '../helpers/tiny_run.js';

const { optim, schedules } = og;
const folders: string[] = [];

async function folder(): Promise<string> {
  const made = await mkdtemp(path.join(tmpdir(), 'omnigrad-groups-'));
  folders.push(made);
  return made;
}

after(async () => {
  for (const made of folders) await rm(made, { recursive: true, force: true });
});

type Overrides = Partial<og.TrainerOptions<og.GPT>>;

function trainer(dir: string | null, overrides: Overrides = {}): og.Trainer<og.GPT> {
  const tokens = tinyTokens(1500);
  return new og.Trainer(tinyModel(), {
    train: new og.TextDataset(tokens.subarray(0, 1200), { context: 16 }),
    valid: new og.TextDataset(tokens.subarray(1200), { context: 16, shift: false }),
    batchSize: 4,
    steps: 24,
    evalEvery: 3,
    evalBatches: 2,
    optimizer: (_, model) => new optim.AdamW(optim.layerwiseRates(model, { lr: 0.01, decay: 0.5, weightDecay: 0.1 })),
    // A metric that must fall by half each time to count: the rate is reduced again and again.
    schedule: schedules.chain(
      schedules.linear({ warmup: 4 }),
      schedules.reduceOnPlateau({ patience: 1, factor: 0.5, threshold: 0.5 }),
    ),
    ...(dir === null ? {} : { checkpoint: { dir, every: 100 } }),
    ...overrides,
  });
}

async function ratesOf(trained: og.Trainer<og.GPT>, stopAfter = Infinity): Promise<number[]> {
  const rates: number[] = [];
  const abort = new AbortController();
  for await (const event of trained.run({ signal: abort.signal })) {
    if (event.type !== 'step') continue;
    rates.push(event.lr);
    if (event.step === stopAfter) abort.abort();
  }
  return rates;
}

test('groups under a schedule that observes the loss: stopped and gone on, the same rates and bits', async () => {
  const whole = trainer(null);
  const expected = await ratesOf(whole);
  const factors = whole.optimizer.groups.map((group) => group.lr / group.baseLr);
  factors.forEach((factor) => assert.ok(Math.abs(factor / factors[0]! - 1) < 1e-14));
  const steady = await ratesOf(trainer(null, { schedule: schedules.linear({ warmup: 4 }) }));
  assert.ok(steady.at(-1)! > expected.at(-1)! * 1.9, 'the loss was observed');
  const dir = await folder();
  const rates = [...(await ratesOf(trainer(dir), 10)), ...(await ratesOf(trainer(dir), 17))];
  const last = trainer(dir);
  rates.push(...(await ratesOf(last)));
  assert.deepEqual(rates, expected);
  assert.deepEqual(await fingerprint(last), await fingerprint(whole));
});

test('who goes on with another rate gets it', async () => {
  const dir = await folder();
  await ratesOf(trainer(dir, { schedule: schedules.constant() }), 5);
  const lower = trainer(dir, {
    schedule: schedules.constant(),
    optimizer: (_, model) => new optim.AdamW(optim.layerwiseRates(model, { lr: 0.002, decay: 0.5, weightDecay: 0.1 })),
  });
  const rates = await ratesOf(lower);
  assert.equal(rates.length, 19);
  assert.ok(rates.every((rate) => rate === 0.002 * 0.5 ** 3));
});

test('a schedule that counts tokens', async () => {
  const tokens = 4 * 16 * 20;
  const counting = trainer(null, {
    schedule: schedules.linear({ warmup: 4 * 16 * 4 }),
    scheduleTokens: tokens,
    optimizer: (params) => new optim.SGD(params, { lr: 1 }),
  });
  const want = Array.from({ length: 24 }, (_, step) => (step < 4 ? step / 4 : Math.max(0, 1 - (step - 4) / 16)));
  assert.deepEqual(await ratesOf(counting), want);
  assert.throws(() => trainer(null, { scheduleTokens: 0 }), og.AttributeError);
});

test('a schedule that observes needs something to observe', () => {
  const options = {
    train: new og.TextDataset(tinyTokens(200), { context: 16 }),
    batchSize: 2,
    optimizer: (params: og.Tensor[]) => new optim.SGD(params),
    schedule: schedules.reduceOnPlateau(),
  };
  assert.throws(() => new og.Trainer(tinyModel(), options), /valid: expected a validation set/);
});
