/** Mixed precision: how close 16 bits stay to float32 and PyTorch, what an overflow does, what a restart keeps. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import * as finetune from '../../src/finetune/index.js';
import * as og from '../../src/index.js';
import { fingerprint, tinyModel, tinyTokens } from '../helpers/tiny_run.js';

const { optim, schedules } = og;

type Options = Partial<og.TrainerOptions<og.GPT, og.Batch>>;

function trainer(options: Options = {}, model = tinyModel()): og.Trainer<og.GPT> {
  return new og.Trainer(model, {
    train: new og.TextDataset(tinyTokens(1200), { context: 16 }),
    batchSize: 8,
    steps: 30,
    optimizer: (parameters) => new optim.AdamW(parameters, { lr: 5e-3 }),
    clipGradNorm: 1,
    ...options,
  });
}

async function steps<M extends og.nn.Module, B>(run: og.Trainer<M, B>): Promise<og.StepEvent[]> {
  const found: og.StepEvent[] = [];
  for await (const event of run.run()) if (event.type === 'step') found.push(event);
  return found;
}

/** Largest distance of the losses, as a share. */
const apart = (a: readonly og.StepEvent[], b: readonly og.StepEvent[]): number =>
  Math.max(...a.map(({ loss }, i) => Math.abs(loss / b[i]!.loss - 1)));

const folder = new URL('../fixtures/torch_curve/', import.meta.url);
const curve = JSON.parse(readFileSync(new URL('curve.json', folder), 'utf8')) as {
  config: og.GPTConfig;
  training: { lr: number; warmup: number; clipGradNorm: number; weightDecay: number; betas: [number, number]; steps: number };
  losses: number[];
}; // prettier-ignore

for (const [precision, band] of [
  ['bfloat16', 0.004],
  ['float16', 0.0004],
] as const) {
  test(`${precision}: 100 steps stay within ${band * 100} % of the float32 losses of PyTorch`, async () => {
    const stored = await og.loadSafetensors(new URL('curve.safetensors', folder).pathname);
    const initial = Object.entries(stored).filter(([name]) => name.startsWith('initial.'));
    const gpt = new og.GPT(curve.config);
    gpt.loadStateDict(Object.fromEntries(initial.map(([name, value]) => [name.slice(8), value])));
    const { lr, warmup, clipGradNorm, weightDecay, betas, steps: total } = curve.training;
    let next = 0;
    const dtypes = new Set<string>();
    const run = new og.Trainer(gpt, {
      train: {
        length: total,
        batch: () => {
          const ids = stored['ids']!.select(0, next++);
          const time = ids.shape[1]! - 1;
          return { x: ids.narrow(1, 0, time).contiguous(), y: ids.narrow(1, 1, time).contiguous() };
        },
      },
      batchSize: 1,
      steps: total,
      precision,
      optimizer: (parameters) => new optim.AdamW(parameters, { lr, weightDecay, betas }),
      schedule: schedules.cosine({ warmup }),
      clipGradNorm,
      loss: (model, { x, y }) => {
        model.parameters().forEach((parameter) => dtypes.add(parameter.dtype));
        const hidden = model.hidden(x);
        dtypes.add(hidden.dtype);
        return og.linearCrossEntropy(hidden, model.tokens.weight, y);
      },
    });
    const events = await steps(run);
    const worst = Math.max(...events.map(({ loss }, i) => Math.abs(loss / curve.losses[i]! - 1)));
    assert.ok(worst < band && worst > 1e-6, `${worst}`);
    assert.deepEqual([...dtypes], [precision]);
    assert.ok(gpt.parameters().every((parameter) => parameter.dtype === 'float32' && parameter.grad === null));
    if (precision === 'float16')
      assert.ok(events.every((event) => event.skipped === false && event.lossScale === 65536));
  });
}

test('every optimiser trains on float32 weights that the 16-bit copies follow', async () => {
  const makers: Record<string, (p: og.Tensor[], model: og.GPT) => og.optim.Optimizer<og.optim.OptimizerOptions>> = {
    SGD: (p) => new optim.SGD(p, { lr: 0.1, momentum: 0.9 }),
    Adam: (p) => new optim.Adam(p),
    AdamW: (_, model) => new optim.AdamW(optim.decayGroups(model, { weightDecay: 0.1 })),
    AdamW8bit: (p) => new optim.AdamW8bit(p, { minSize: 0, blockSize: 64 }),
    Adamax: (p) => new optim.Adamax(p),
    NAdam: (p) => new optim.NAdam(p),
    RAdam: (p) => new optim.RAdam(p),
    RMSprop: (p) => new optim.RMSprop(p, { lr: 1e-3 }),
    Adagrad: (p) => new optim.Adagrad(p),
    Adafactor: (p) => new optim.Adafactor(p),
    Lion: (p) => new optim.Lion(p),
    Muon: (_, model) => new optim.Muon(optim.muonGroups(model, { lr: 0.01, adamLr: 1e-3 })),
  };
  for (const [name, optimizer] of Object.entries(makers)) {
    const options = { optimizer, steps: 8, gradientAccumulation: 2, ema: 0.9 };
    const [wide, half] = [await steps(trainer(options)), await steps(trainer({ ...options, precision: 'bfloat16' }))];
    assert.ok(apart(half, wide) < 0.02, `${name}: ${apart(half, wide)}`);
  }
});

/** loss = w·x: the gradient is x. */
class Slope extends og.nn.Module {
  readonly w = og.nn.parameter(og.ones([1]));
  override forward(x: og.Tensor): og.Tensor {
    return og.sum(og.mul(this.w, x));
  }
}

test('gradients of several batches are added up in float32', async () => {
  for (const precision of ['bfloat16', 'float16'] as const) {
    let next = 0;
    const found: number[] = [];
    const run = new og.Trainer(new Slope(), {
      train: { length: 32, batch: () => ({ x: og.tensor([next++ === 0 ? 1 : 2 ** -12], { dtype: precision }) }) },
      batchSize: 1,
      steps: 1,
      gradientAccumulation: 32,
      precision,
      optimizer: (parameters) => new optim.SGD(parameters, { lr: 1 }),
      loss: (model, { x }) => model.forward(x),
      callbacks: [{ onGradients: ({ model }) => found.push(og.scope(() => model.w.grad!.itemSync())) }],
    });
    await steps(run);
    // next to 1, sixteen bits have no room for 2⁻¹²
    assert.deepEqual(found, [(1 + 31 * 2 ** -12) / 32]);
  }
});

test('an overflow in float16 skips the step, lowers the scale, and training goes on; the scale grows again', async () => {
  const run = trainer({ precision: 'float16', steps: 24, lossScale: { initial: 2 ** 24, growthInterval: 5 } });
  const before = await run.model.tokens.weight.toArray();
  const events = run.run();
  const first = (await events.next()).value as og.StepEvent;
  assert.deepEqual([first.skipped, first.lossScale], [true, 2 ** 24]);
  assert.deepEqual(await run.model.tokens.weight.toArray(), before);
  assert.deepEqual(run.optimizer.stateDict().steps.every((step) => step === 0), true); // prettier-ignore
  const rest: og.StepEvent[] = [];
  for await (const event of events) if (event.type === 'step') rest.push(event);
  const skipped = rest.filter((event) => event.skipped).length;
  assert.ok(skipped >= 1 && skipped < 15, String(skipped));
  rest.slice(1).forEach((event, i) => {
    const { lossScale, skipped: wasSkipped } = rest[i]!;
    assert.ok(wasSkipped ? event.lossScale === lossScale! / 2 : event.lossScale! >= lossScale!);
  });
  assert.ok(rest.some((event, i) => i > 0 && event.lossScale! > rest[i - 1]!.lossScale!));
  assert.ok(rest.every((event) => Number.isFinite(event.loss)));
  assert.ok(rest.at(-1)!.loss < first.loss - 0.1);
  assert.equal(run.optimizer.stateDict().steps[0], 24 - 1 - skipped);
});

test('the scaler follows torch.amp.GradScaler', () => {
  const scaler = new og.LossScaler({ growthInterval: 2 });
  const seen = [true, false, false, false, true, false, false].map((overflowed) => {
    scaler.update(overflowed);
    return [scaler.scale, scaler.stateDict().growthTracker];
  });
  // torch._amp_update_scale_(scale, tracker, found_inf, 2, 0.5, 2) from 65536
  assert.deepEqual(seen, [[32768, 0], [32768, 1], [65536, 0], [65536, 1], [32768, 0], [32768, 1], [65536, 0]]); // prettier-ignore
  const top = new og.LossScaler({ initial: 2 ** 127, growthInterval: 1 });
  top.update(false);
  assert.equal(top.scale, 2 ** 127);
  const last = new og.LossScaler({ initial: 2 ** -14 });
  assert.throws(() => last.update(true), og.StateError);
  for (const options of [
    { initial: 0 },
    { growthFactor: 0.5 },
    { backoffFactor: 1 },
    { growthInterval: 0 },
    { scale: 1 },
  ]) {
    assert.throws(() => new og.LossScaler(options as object), og.AttributeError);
  }
  assert.throws(() => scaler.loadStateDict({ scale: NaN, growthTracker: 0 }), og.AttributeError);
});

test('a run that was stopped and goes on has the bits of one that was not, the scale included', async () => {
  for (const precision of ['bfloat16', 'float16'] as const) {
    const dir = await mkdtemp(path.join(tmpdir(), 'omnigrad-precision-'));
    try {
      const make = (extra: Options = {}): og.Trainer<og.GPT> => {
        og.manualSeed(9);
        return trainer({ precision, steps: 14, ema: 0.9, gradientAccumulation: 2, ...(precision === 'float16' ? { lossScale: { initial: 2 ** 22, growthInterval: 4 } } : {}), ...extra }, tinyModel(0.1)); // prettier-ignore
      };
      const whole = make();
      const expected = await steps(whole);
      const checkpoint = { dir, every: 7 };
      for await (const event of make({ checkpoint }).run()) if (event.type === 'checkpoint') break;
      const second = make({ checkpoint });
      const rest = await steps(second);
      const essence = (events: og.StepEvent[]): unknown => events.map(({ loss, gradNorm, lossScale, skipped }) => [loss, gradNorm, lossScale, skipped]); // prettier-ignore
      assert.deepEqual(essence(rest), essence(expected.slice(7)));
      assert.deepEqual(await fingerprint(second), await fingerprint(whole));
      const saved = (await og.loadLatestCheckpoint(dir))!.checkpoint;
      assert.ok(Object.values(saved.model).every(({ dtype }) => dtype === 'float32'));
      assert.equal(saved.run.lossScale !== undefined, precision === 'float16');
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  }
});

test('frozen 16-bit weights stay as they are under adapters that are trained; the model works afterwards', async () => {
  const model = tinyModel();
  model.to('bfloat16');
  finetune.lora(model, { rank: 4, generator: og.generator(3) });
  const frozen = model.parameters().filter((parameter) => !parameter.requiresGrad);
  const trained = model.parameters().filter((parameter) => parameter.requiresGrad);
  assert.ok(frozen.length > 0 && trained.length > 0);
  for (const parameter of trained) assert.equal(parameter.dtype, 'float32');
  const before = await frozen[0]!.toArray();
  const valid = new og.TextDataset(tinyTokens(1200).subarray(600), { context: 16, shift: false });
  const run = trainer({ precision: 'bfloat16', steps: 20, valid, ema: 0.5 }, model);
  const events: og.TrainEvent[] = [];
  for await (const event of run.run()) events.push(event);
  const losses = events.flatMap((event) => (event.type === 'step' ? [event.loss] : []));
  assert.ok(losses.at(-1)! < losses[0]!);
  assert.deepEqual(await frozen[0]!.toArray(), before);
  assert.ok(model.parameters().includes(trained[0]!) && trained.every((parameter) => parameter.dtype === 'float32'));
  const evaluated = events.findLast((event) => event.type === 'eval')!;
  assert.deepEqual(await run.evaluate(), evaluated);
  assert.equal(model.forward(og.tensor([[1, 2]], { dtype: 'int32' })).shape[2], 32);
});

test('frozen float32 weights are rounded once, and again when they change; hooks see float32 gradients', async () => {
  const layer = new og.nn.Linear(4, 4, { generator: og.generator(1) });
  layer.weight.requiresGrad = false;
  const mixed = new og.MixedPrecision(layer, 'bfloat16');
  mixed.refresh();
  const rounded = (): og.Tensor => mixed.run(() => layer.weight);
  const first = rounded();
  const { version } = first.storage;
  mixed.refresh();
  assert.equal(rounded().storage.version, version);
  og.noGrad(() => og.copy_(layer.weight, og.ones([4, 4])));
  mixed.refresh();
  assert.equal(rounded(), first);
  assert.deepEqual(await og.sum(first).item(), 16);
  const arrived: og.Tensor[] = [];
  og.registerHook(layer.bias!, (grad) => void arrived.push(og.keep(grad.clone())));
  const loss = mixed.run(() => og.sum(layer.forward(og.ones([2, 4], { dtype: 'bfloat16' }))));
  mixed.run(() => loss.backward(og.tensor(8, { dtype: 'bfloat16' })));
  mixed.collect(8);
  assert.equal(arrived[0]!.dtype, 'float32');
  assert.deepEqual(await layer.bias!.grad!.toArray(), [2, 2, 2, 2]);
  assert.equal(layer.weight.grad, null);
  assert.throws(() => mixed.run(() => { throw new RangeError('x'); }), RangeError); // prettier-ignore
  assert.equal(layer.weight.dtype, 'float32');
  mixed.dispose();
});

test('memory stays flat, and the copies are freed at the end', async () => {
  const model = tinyModel();
  const run = trainer({ precision: 'float16', steps: 30, ema: 0.9 }, model);
  const settled: number[] = [];
  for await (const event of run.run())
    if (event.type === 'step' && event.step % 10 === 0) settled.push(og.memory().tensors);
  assert.equal(settled[1], settled[2]);
  assert.equal(og.memory().tensors, settled[2]! - model.parameters().length);
});

test('what cannot be is refused', () => {
  assert.throws(() => trainer({ precision: 'float8' as never }), og.AttributeError);
  assert.throws(() => trainer({ precision: 'bfloat16' }, tinyModel().to('bfloat16')), og.DTypeError);
  assert.throws(() => trainer({ precision: 'float16', lossScale: { initial: -1 } }), og.AttributeError);
  assert.throws(() => trainer({ lossScale: {} }), og.AttributeError);
  assert.throws(() => trainer({ profile: 3 as never }), og.AttributeError);
  assert.throws(() => trainer({ profile: { ceiling: 0 } }), og.AttributeError);
});
