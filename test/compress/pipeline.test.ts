/** compress(model, plan, …): plans are checked as a whole, interrupted work goes on with the same bits, cards tell what was measured. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import {
  calibrationHash,
  checkPlan,
  compress,
  compressAll,
  paretoFront,
  quantize,
  type CompressionEvent,
  type CompressionPlan,
  type CompressOptions,
} from '../../src/compress/index.js';
import { calibrationBatches } from '../../src/compress/calibration.js';
import * as og from '../../src/index.js';
import { temporaryFolders } from '../helpers/folders.js';
import { bitsOf } from '../helpers/model_bits.js';
import { tinyTokens } from '../helpers/tiny_run.js';

const folder = temporaryFolders();
const dataset = new og.TextDataset(tinyTokens(), { context: 32, shift: false });
const calibration = calibrationBatches(dataset, { batches: 2, batchSize: 8 });
const evaluation = new og.TextDataset(tinyTokens(1000), { context: 32, shift: false });

const trained = await (async () => {
  const config = { vocabSize: 32, context: 32, layers: 2, heads: 2, width: 64 };
  const model = new og.GPT(config, { generator: og.generator(7) });
  const trainer = new og.Trainer(model, {
    train: dataset,
    batchSize: 16,
    steps: 60,
    optimizer: (parameters) => new og.optim.AdamW(parameters, { lr: 3e-3 }),
  });
  for await (const _ of trainer.run());
  return model.eval();
})();

const quick = { measure: false, calibration } as const;

test('a plan does what its steps do when they are called', async () => {
  const dir = await folder();
  const events: CompressionEvent[] = [];
  const plan = { steps: [{ quantize: { scheme: 'w4a16', method: 'gptq' } }], target: '/mlp/' };
  const before = await bitsOf(trained);
  const made = await compress(trained, plan, { ...quick, dir, onEvent: (event) => events.push(event) });
  const expected = await quantize(trained, { scheme: 'w4a16', method: 'gptq', target: /mlp/, calibration });
  assert.deepEqual(await bitsOf(made.model), await bitsOf(expected));
  assert.deepEqual(await bitsOf(trained), before);
  assert.equal(events.filter(({ type }) => type === 'note').length, 4);
  assert.equal(made.card.name, 'quantize-w4a16-gptq');
  assert.deepEqual(made.card.steps[0]!.settings, { scheme: 'w4a16', method: 'gptq', target: '/mlp/' });
  assert.equal(made.card.steps[0]!.notes.length, 4);
  assert.equal(made.card.key.calibration, await calibrationHash(calibration));
  assert.deepEqual(made.card.calibration, { inputs: 2, elements: 512 });
  const { model, card } = await og.load(dir);
  assert.deepEqual(card, JSON.parse(JSON.stringify(made.card)));
  assert.deepEqual((await readdir(dir)).sort(), ['config.json', 'model.safetensors']);
  for (const one of [made.model, expected, model]) one.dispose();
});

/** Stops after so many layers, as often as it takes; gives the result and how many layers were done in each attempt. */
async function inPieces(
  plan: CompressionPlan,
  options: CompressOptions,
  layers: number,
): Promise<{ bits: Record<string, string>; attempts: number[]; notes: number }> {
  const attempts: number[] = [];
  for (;;) {
    const stop = new AbortController();
    let done = 0;
    const onEvent = ({ type }: CompressionEvent): void => {
      if (type === 'note' && ++done === layers) stop.abort(new Error('pulled the plug'));
    };
    const result = await compress(trained, plan, { ...options, onEvent, signal: stop.signal }).catch(
      (error: Error) => error,
    );
    attempts.push(done);
    assert.ok(attempts.length < 20, 'goes on');
    if (result instanceof Error) {
      assert.equal(result.message, 'pulled the plug');
      continue;
    }
    return {
      bits: await bitsOf(result.model),
      attempts,
      notes: result.card.steps.reduce((sum, { notes }) => sum + notes.length, 0),
    };
  }
}

test('interrupted in the middle of blocks and between steps, it goes on and gives the same bits', async () => {
  const plans: CompressionPlan[] = [
    { steps: [{ quantize: { scheme: 'w8a8', method: 'smoothquant', activations: 'static' } }] },
    { steps: [{ quantize: { scheme: 'w4a16', method: 'awq' } }] },
    {
      steps: [
        { quantize: { scheme: 'w4a16', method: 'gptq', target: '/attention/' } },
        { quantize: { scheme: 'w8a16', target: ['up', 'down'] } },
      ],
    },
  ];
  for (const plan of plans) {
    const whole = await compress(trained, plan, { ...quick, dir: await folder() });
    const pieces = await inPieces(plan, { ...quick, dir: await folder() }, 5);
    assert.deepEqual(pieces.bits, await bitsOf(whole.model));
    assert.ok(pieces.attempts.length >= 3, `${pieces.attempts}`);
    const total = pieces.attempts.reduce((a, b) => a + b, 0);
    assert.ok(
      total <= 12 + 3 * (pieces.attempts.length - 1),
      `only layers of one input are done again: ${pieces.attempts}`,
    );
    assert.equal(pieces.notes, 12);
  }
});

test('unfinished work of something else is not taken up; a finished folder is given back, or refused', async () => {
  const dir = await folder();
  const plan = { steps: [{ quantize: { scheme: 'w8a16', method: 'gptq' } }] } as const;
  const other = { steps: [{ quantize: { scheme: 'w8a16' } }] } as const;
  const run = (what: CompressionPlan, more: object = {}): Promise<unknown> =>
    compress(trained, what, { ...quick, dir, ...more });
  const stop = new AbortController();
  let notes = 0;
  const onEvent = ({ type }: CompressionEvent): void =>
    void (type === 'note' && ++notes === 5 && stop.abort(new Error('stop')));
  await assert.rejects(run(plan, { onEvent, signal: stop.signal }), /stop/);
  assert.deepEqual((await readdir(path.join(dir, 'unfinished', 'step-0', 'layers'))).length, 3); // q k v, o, up
  await assert.rejects(run(other), /unfinished.*another plan/);
  await compress(trained, { ...plan, name: 'renamed' }, { ...quick, dir }); // names do not matter
  await assert.rejects(run(other), /another plan/);
  await assert.rejects(run(plan, { calibration: [calibration[0]!] }), /another calibration/);
  const changed = og.cloneModel(trained);
  og.noGrad(() => og.copy_(changed.blocks[0]!.mlp.up.weight, og.tensor(1)));
  await assert.rejects(compress(changed, plan, { ...quick, dir }), /another model/);
  const events: CompressionEvent[] = [];
  await run(plan, { onEvent: (event: CompressionEvent) => events.push(event) });
  assert.deepEqual(events, [], 'it was there already');
  const foreign = await folder();
  await og.saveModel(foreign, trained);
  await assert.rejects(compress(trained, plan, { ...quick, dir: foreign }), /not made here/);
});

test('finetune steps call the function that trains; without one, plans with them are refused', async () => {
  const plan = { steps: [{ finetune: { steps: 3 } }, { quantize: { scheme: 'w8a16' } }] };
  const dir = await folder();
  await assert.rejects(compress(trained, plan, { ...quick, dir }), /a function that trains, for the finetune step/);
  const before = await bitsOf(trained);
  const { card, model } = await compress(trained, plan, {
    measure: false,
    dir,
    async train(copy, settings, { dir: place }) {
      assert.deepEqual(settings, { steps: 3 });
      await writeFile(path.join(place, 'checkpoint'), '');
      assert.ok(copy instanceof og.GPT);
      og.noGrad(() => og.copy_(copy.blocks[0]!.mlp.up.bias!, og.tensor(1)));
    },
  });
  assert.deepEqual(await bitsOf(trained), before);
  assert.deepEqual(new Set((await model.blocks[0]!.mlp.up.bias!.data()) as Float32Array), new Set([1]));
  assert.equal(card.calibration, null);
});

test('plans are checked as a whole before any work, and name what was meant', async () => {
  const refuses = (plan: unknown, pattern: RegExp): void => void assert.throws(() => checkPlan(plan), pattern);
  refuses([], /an object/);
  refuses({}, /steps/);
  refuses({ steps: [] }, /steps/);
  refuses({ stepps: [] }, /Did you mean steps/);
  refuses({ steps: [{ quantise: { scheme: 'w4a16' } }] }, /steps\[0\].*Did you mean quantize/s);
  refuses({ steps: [{ quantize: { scheme: 'w4a16' }, finetune: {} }] }, /one object for each step/);
  refuses(
    { steps: [{ quantize: { scheme: 'w4a16', groupsize: 32 } }] },
    /steps\[0\]\.quantize.*Did you mean groupSize/s,
  );
  refuses({ steps: [{ quantize: { scheme: 'w4a4' } }] }, /w4a4/);
  refuses(
    { steps: [{ quantize: { scheme: 'w8a8', overrides: [{ target: 'up', groupSize: 32 }] } }] },
    /overrides\[0\]/,
  );
  refuses({ steps: [{ quantize: { scheme: 'w8a8', target: '/(/' } }] }, /regular expression/);
  refuses({ steps: [{ quantize: { scheme: 'w8a8' } }], target: 3 }, /target/);
  refuses({ steps: [{ quantize: { scheme: 'w8a8' } }], name: '../x' }, /name/);
  refuses({ steps: [{ quantize: { scheme: 'w8a8' } }], calibration: { batchs: 3 } }, /Did you mean batches/);
  refuses({ steps: [{ quantize: { scheme: 'w8a8' } }], hardware: { price: 3, wats: 3 } }, /watts/);
  const dir = path.join(await folder(), 'none');
  const run = (plan: object, options: object = {}): Promise<unknown> =>
    compress(trained, plan as CompressionPlan, { ...quick, dir, ...options });
  const first = { quantize: { scheme: 'w8a16', target: '/attention/' } };
  await assert.rejects(run({ steps: [first, { quantize: { scheme: 'w4a16', target: 'mpl' } }] }), /mlp\.up/);
  await assert.rejects(run({ steps: [{ quantize: { scheme: 'w4a16', groupSize: 48 } }] }), /64 inputs/);
  const gptq = { steps: [first, { quantize: { scheme: 'w4a16', method: 'gptq' } }] };
  await assert.rejects(run(gptq, { calibration: undefined }), /steps\[1\]/);
  await assert.rejects(run({ steps: [first] }, { evalation: 1 }), /Did you mean evaluation/);
  await assert.rejects(run({ steps: [first] }, { metrics: { x: 3 } }), /metrics\.x/);
  await assert.rejects(compressAll(trained, [{ steps: [first] }, { steps: [first] }], { dir }), /different names/);
  assert.equal(existsSync(dir), false, 'nothing was written');
});

test(
  'results are measured beside the original, in turns; the card and the page tell it',
  { timeout: 60_000 },
  async () => {
    const dir = await folder();
    const benchmark = { prompt: 8, generate: 4, runs: 2 };
    const plans: CompressionPlan[] = [
      {
        name: 'int8',
        steps: [{ quantize: { scheme: 'w8a8', method: 'smoothquant' } }],
        benchmark,
        hardware: { hourly: 1 },
      },
      { name: 'int4', steps: [{ quantize: { scheme: 'w4a16', method: 'gptq' } }] },
    ];
    const { models, baseline } = await compressAll(trained, plans, {
      dir,
      calibration: dataset,
      evaluation,
      metrics: { width: (model) => model.config.width },
      baseline: 'float32',
    });
    const { int8, int4 } = models as Record<'int8' | 'int4', (typeof models)[string]>;
    const own = await og.perplexity(trained, evaluation);
    assert.ok(Math.abs(baseline!.perplexity! - own) < 1e-6);
    for (const { card, model } of [int8, int4]) {
      assert.ok(Math.abs(card.after!.perplexity! - (await og.perplexity(model, evaluation))) < 1e-6);
      assert.ok(card.after!.perplexity! < 1.2 * own);
      assert.deepEqual(card.before, baseline);
      const { bytes, memory, speed, cost, metrics } = card.after!;
      assert.ok(bytes < baseline!.bytes);
      assert.ok(memory.resident > 20e6 && memory.peak >= memory.resident && memory.without < memory.peak);
      assert.deepEqual([speed.promptTokens, speed.newTokens, speed.runs], [8, 4, 2]);
      assert.ok(speed.prefill > 0 && speed.decode > 0 && speed.firstToken.p95 >= speed.firstToken.p50);
      // a dollar an hour, half of the time in use: 2 / 3600 dollars for each second of work
      assert.ok(Math.abs(cost.output! - (2 / 3600 / speed.decode) * 1e6) < 1e-6 * cost.output!);
      assert.deepEqual(metrics, { width: 64 });
    }
    const page = await readFile(path.join(dir, 'report.html'), 'utf8');
    assert.match(page, /Quality against size<\/h3><svg/);
    assert.match(page, /float32<\/td>.*int8<\/td>.*int4<\/td>/s);
    assert.ok(page.includes(int4.card.key.calibration!));
    assert.deepEqual(Object.keys((await og.load(path.join(dir, 'int4'))).card as object), Object.keys(int4.card));
  },
);

test('the front has what nothing else beats', () => {
  const points = [
    { x: 1, y: 9 },
    { x: 2, y: 5 },
    { x: 3, y: 6 },
    { x: 4, y: 4 },
    { x: 4, y: 4 },
    { x: 5, y: 4 },
  ];
  const of = (better: 'less' | 'more'): number[] => paretoFront(points, better).map(({ x }) => x);
  assert.deepEqual(of('less'), [1, 2, 4, 4]);
  assert.deepEqual(of('more'), [5]);
  assert.deepEqual(
    paretoFront([{ x: 1, y: 1 }, { x: 2, y: 2 }, { x: 3, y: 3 }], 'more').map(({ x }) => x),
    [1, 2, 3],
  ); // prettier-ignore
});
