/** Configurations of `omnigrad train`: what is filled in, and how a wrong entry is named. Tokens of files. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import * as og from '../../src/index.js';
import { readConfig, resolveConfig } from '../../src/cli/train_config.js';
import { prepareTokenizer, prepareTokens, splitTokens } from '../../src/cli/train_data.js';

const model = { layers: 1, heads: 1, width: 8, context: 8 };
const least = { data: 'a.txt', model };
let folder = '';
before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-config-'));
});
after(() => rm(folder, { recursive: true, force: true }));

test('defaults are filled in', () => {
  const config = resolveConfig(least, 'tiny');
  assert.equal(config.name, 'tiny');
  assert.equal(config.out, path.join('runs', 'tiny'));
  assert.deepEqual(config.data, { train: ['a.txt'], valid: [], validShare: 0.05, field: 'text' });
  assert.deepEqual(config.optimizer, { type: 'adamw', lr: 1e-3 });
  assert.deepEqual([config.tokenizer, config.steps, config.epochs, config.clipGradNorm], ['bytes', null, 1, 1]);
  assert.deepEqual(resolveConfig(config, 'x'), config, 'what comes out may go in');
  const whole = resolveConfig(
    { ...least, steps: 3, log: { samples: { prompts: ['a'] } }, schedule: { type: 'wsd', decay: 2 } },
    'x',
  );
  assert.deepEqual(resolveConfig(JSON.parse(JSON.stringify(whole)), 'y'), whole);
  assert.equal(resolveConfig({ ...least, clipGradNorm: null }, 'x').clipGradNorm, null);
  assert.equal(resolveConfig({ ...least, schedule: 'linear' }, 'x').schedule.type, 'linear');
  assert.equal(resolveConfig({ data: { train: ['a'], valid: 'b' }, model: 'folder' }, 'x').tokenizer, 'folder');
});

test('safeguards: true stands for the defaults, null and false for none', () => {
  const given = {
    earlyStopping: { patience: 2 },
    lossSpikes: true,
    precision: 'float16',
    lossScale: { initial: 1024 },
    activationCheckpointing: { share: 0.5 },
    profile: true,
    checkpoint: { best: { keep: 2 } },
  };
  const config = resolveConfig({ ...least, ...given }, 'x');
  assert.deepEqual(
    [config.earlyStopping, config.lossSpikes, config.lossScale, config.activationCheckpointing, config.profile],
    [{ patience: 2 }, {}, { initial: 1024 }, { share: 0.5 }, true],
  );
  assert.deepEqual(config.checkpoint, { every: 200, keep: 3, best: { keep: 2 } });
  assert.deepEqual(resolveConfig(JSON.parse(JSON.stringify(config)), 'y'), config);
  const none = resolveConfig({ ...least, earlyStopping: false, lossSpikes: null }, 'x');
  assert.deepEqual(
    [none.earlyStopping, none.lossSpikes, none.activationCheckpointing, none.profile, none.checkpoint.best],
    [null, null, false, false, null],
  );
});

test('a wrong entry is named with its place, and with what it may have meant', () => {
  const cases: [object, RegExp][] = [
    [{ batchsize: 3 }, /\[train\] config: expected .*, got "batchsize"\. Did you mean batchSize\./],
    [{ optimizer: { type: 'adamww' } }, /optimizer\.type: .* got "adamww"\. Did you mean adamw\./],
    [{ optimizer: { type: 'adamw', weigthDecay: 1 } }, /Did you mean weightDecay/],
    [{ optimizer: { type: 'adamw', lr: -1 } }, /lr: expected a number/],
    [{ optimizer: { type: 'adamw', decayAll: 1 } }, /optimizer\.decayAll: expected true or false, got 1/],
    [{ schedule: { type: 'cosin' } }, /Did you mean cosine/],
    [{ schedule: { type: 'cosine', warmpu: 1 } }, /Did you mean warmup/],
    [{ evaluate: { evry: 2 } }, /\[train\] evaluate: expected every, batches, got "evry"\. Did you mean every/],
    [{ log: { samples: { every: 2 } } }, /log\.samples\.prompts: expected a list of texts/],
    [{ log: { samples: { prompt: ['a'] } } }, /Did you mean prompts/],
    [{ checkpoint: { keep: 0 } }, /checkpoint\.keep: expected an integer of at least 1, got 0/],
    [{ steps: 3, epochs: 2 }, /epochs: expected none beside steps, got 2/],
    [{ tokenizer: { vocabSize: 100 } }, /tokenizer\.vocabSize: expected an integer from 257/],
    [{ data: { train: [] } }, /data\.train: expected at least one file, got \[\]/],
    [{ data: { train: 3 } }, /data\.train: expected the path of a file/],
    [{ data: undefined }, /data: expected \{ "train": "my\.txt" \}, got none/],
    [{ model: undefined }, /model: expected an object, got none/],
    [{ ema: 2 }, /ema: expected a number from 0 to 1, got 2/],
    [{ precision: 'float8' }, /precision: expected .*bfloat16.*, got "float8"/],
    [{ earlyStoping: {} }, /Did you mean earlyStopping/],
    [{ earlyStopping: { patiense: 3 } }, /Did you mean patience/],
    [{ earlyStopping: 3 }, /earlyStopping: expected an object, or true for its defaults, got 3/],
    [{ lossSpikes: { window: 1 } }, /window: expected an integer of at least 3, got 1/],
    [{ lossScale: { initial: 8 } }, /lossScale: expected none without precision float16/],
    [{ precision: 'float16', lossScale: { initial: 0 } }, /initial: expected a number/],
    [{ activationCheckpointing: {} }, /activationCheckpointing: expected one of budget and share, got neither/],
    [{ activationCheckpointing: 'all' }, /activationCheckpointing: expected true, \{ budget: bytes \} or \{ share \}/],
    [{ profile: 3 }, /profile: expected/],
    [{ checkpoint: { best: { kep: 2 } } }, /Did you mean keep/],
  ];
  for (const [change, expected] of cases)
    assert.throws(() => resolveConfig({ ...least, ...change }, 'x'), expected, JSON.stringify(change));
  for (const type of ['sgd', 'muon', 'lion', 'adafactor'])
    assert.equal(resolveConfig({ ...least, optimizer: { type, lr: 0.01 } }, 'x').optimizer.type, type);
  assert.equal(resolveConfig({ ...least, optimizer: { type: 'muon', adamLr: 1e-3 } }, 'x').optimizer['adamLr'], 1e-3);
});

test('settings of the command line go over the file', async () => {
  const file = path.join(folder, 'small.json');
  await writeFile(file, JSON.stringify(least));
  const config = await readConfig(file, [
    'optimizer.lr=1e-2',
    'name=big',
    'data.valid=["x","y"]',
    'data.train=b.txt',
  ]).catch((error: Error) => error);
  assert.match(String(config), /--set: expected an object at data, to set an entry of it, got "a\.txt"/);
  const right = await readConfig(file, ['optimizer.lr=1e-2', 'name=big', 'checkpoint.keep=7', 'seed=3']);
  assert.deepEqual(
    [right.optimizer['lr'], right.name, right.checkpoint, right.seed],
    [0.01, 'big', { every: 200, keep: 7, best: null }, 3],
  );
  await assert.rejects(readConfig(file, ['steps']), /--set: expected key=value/);
  await assert.rejects(readConfig(path.join(folder, 'none.json'), []), /expected a configuration, got no such file/);
  await writeFile(file, '{"data": ');
  await assert.rejects(readConfig(file, []), /expected JSON, got .*JSON/);
});

test('text and JSON Lines become tokens, with an end behind each document; they are made once', async () => {
  const at = (name: string): string => path.join(folder, name);
  const long = 'one line\n'.repeat(2000);
  await writeFile(at('a.txt'), long);
  await writeFile(at('b.jsonl'), '{"text":"grün"}\n\n{"text":"x"}\n');
  const make = (valid: string, field = 'text') =>
    resolveConfig({ data: { train: [at('a.txt')], valid: [at(valid)], field }, model, out: at('run') }, 'x');
  const config = make('b.jsonl');
  const tokenizer = await prepareTokenizer(config, assert.fail);
  const { train, valid } = await prepareTokens(config, tokenizer, 4);
  const end = tokenizer.tokenToId('<|endoftext|>')!;
  const ids = (await train.data()) as Int32Array;
  assert.equal(ids.length, long.length + 1);
  assert.equal(ids.at(-1), end);
  assert.equal(tokenizer.decode(ids.subarray(0, -1)), long);
  assert.deepEqual(
    [...((await valid!.data()) as Int32Array)],
    [...tokenizer.encode('grün'), end, ...tokenizer.encode('x'), end],
  );
  await assert.rejects(prepareTokens(make('b.jsonl', 'body'), tokenizer, 4), /b\.jsonl:1: expected a JSON object with a text under "body"/); // prettier-ignore
  await assert.rejects(prepareTokens(config, tokenizer, 40), /data\.valid: expected text of at least 41 tokens/);
});

test('what is held back is spread over the text', () => {
  const ids = Int32Array.from({ length: 1000 }, (_, i) => i);
  const { train, valid } = splitTokens(ids, 0.1, 10);
  assert.equal(valid.length, 100);
  assert.deepEqual([...train, ...valid].sort((a, b) => a - b), [...ids]); // prettier-ignore
  assert.equal(splitTokens(ids, 0, 10).train.length, 1000);
  const many = splitTokens(new Int32Array(200_000), 0.05, 10);
  assert.ok(Math.abs(many.valid.length / 200_000 - 0.05) < 0.03);
});

test('groups of an optimizer decay matrices alone, unless told otherwise', async () => {
  const { makeOptimizer } = await import('../../src/cli/train_parts.js');
  const gpt = new og.GPT({ ...model, vocabSize: 16 });
  const decays = (options: object): number[] =>
    makeOptimizer({ type: 'adamw', lr: 1e-3, ...options }, gpt).groups.map((group) => (group as { weightDecay?: number }).weightDecay!); // prettier-ignore
  assert.deepEqual(decays({ weightDecay: 0.1 }).sort(), [0, 0.1]);
  assert.deepEqual(decays({ weightDecay: 0.1, decayAll: true }), [0.1]);
  assert.ok(makeOptimizer({ type: 'muon', lr: 0.02, adamLr: 1e-3, weightDecay: 0 }, gpt) instanceof og.optim.Muon);
});
