/** Tokens whose steps are recorded and run again: the same bits as steps that are called, for as long as the model is the same. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as og from '../../src/index.js';
import { quantize, sparsify, prune } from '../../src/compress/index.js';
import { TokenStep } from '../../src/generate/token_step.js';
import type { GPTConfig } from '../../src/models/gpt.js';
import type { KvCache } from '../../src/nn/kv_cache.js';

const small: GPTConfig = { vocabSize: 67, context: 40, layers: 2, heads: 4, width: 64 };

function makeModel(config: Partial<GPTConfig> = {}): og.GPT {
  return new og.GPT({ ...small, ...config }, { generator: og.generator(5) }).eval();
}

const idAt = (i: number): number => (i * 29 + 7) % small.vocabSize;

function forwardOf(model: og.GPT, caches: readonly KvCache[]): (ids: og.Tensor) => og.Tensor {
  return (ids) => og.reshape(model.forward(ids, { cache: caches, lastOnly: true }), [-1]);
}

interface Run {
  /** Logits of each position. */
  readonly logits: og.TensorData[];
  /** Positions whose step was run again. */
  readonly recorded: number[];
}

/** Runs a step ahead for another token, and takes it back. */
function discardStep(step: TokenStep, id: number): void {
  og.scope(() =>
    og.noGrad(() => {
      const made = step.ahead(og.tensor([id], { dtype: 'int64' }));
      if (made !== null) assert.equal(step.confirm(false), false);
    }),
  );
}

/** Reads tokens one at a time; `before` may do something to the model, and `isWatched` is whether steps may be recorded. */
async function readTokens(
  model: og.GPT,
  isWatched: boolean,
  options: {
    count?: number;
    before?: (position: number) => void;
    cache?: og.nn.KvCacheOptions;
    discards?: boolean;
  } = {},
): Promise<Run> {
  const caches = model.makeCache(1, options.cache ?? {});
  const isUnchanged = isWatched ? model.watch() : null;
  const step = new TokenStep({ run: forwardOf(model, caches), caches, isUnchanged });
  const run: Run = { logits: [], recorded: [] };
  try {
    for (let i = 0; i < (options.count ?? model.config.context); i++) {
      options.before?.(i);
      if (isWatched && options.discards === true) discardStep(step, idAt(i + 1));
      const wasRecorded = step.isRecorded;
      const logits = og.scope(() => og.noGrad(() => og.keep(step.next(idAt(i)))));
      run.logits.push(await logits.data());
      logits.dispose();
      if (wasRecorded && step.isRecorded) run.recorded.push(i);
    }
  } finally {
    step.dispose();
    for (const cache of caches) cache.dispose();
  }
  return run;
}

/** Both ways give the same bits at each position. Returns the run that may have been recorded. */
async function compare(model: og.GPT, options: Parameters<typeof readTokens>[2] = {}): Promise<Run> {
  const called = await readTokens(model, false, options);
  const recorded = await readTokens(model, true, options);
  const bytesOf = ({ buffer, byteOffset, byteLength }: og.TensorData): Buffer =>
    Buffer.from(buffer, byteOffset, byteLength);
  for (const [i, logits] of recorded.logits.entries()) {
    assert.ok(bytesOf(logits).equals(bytesOf(called.logits[i]!)), `position ${i}`);
  }
  assert.equal(called.recorded.length, 0);
  return recorded;
}

/** From which position on steps must have been recorded: three recordings, and some that packed weights before. */
const LATEST = 6;

describe('a recorded step', () => {
  const configs: Record<string, Partial<GPTConfig>> = {
    'GPT-2': {},
    Llama: { norm: 'rmsNorm', position: 'rope', activation: 'swiglu', bias: false, tieEmbeddings: false },
    'grouped queries': { position: 'rope', kvHeads: 2 },
    'one layer, tanh': { layers: 1, activation: 'geluTanh' },
    'dropout that is off': { dropout: 0.3 },
    'wide enough for chains': { width: 256, heads: 2, vocabSize: 40000, layers: 1, context: 16 },
  };
  for (const [name, config] of Object.entries(configs)) {
    test(`gives the bits of one that is called, at every position: ${name}`, async () => {
      const model = makeModel(config);
      const { recorded, logits } = await compare(model);
      assert.ok(recorded[0]! <= LATEST && recorded.length >= logits.length - LATEST, `recorded ${recorded.join()}`);
      model.dispose();
    });
  }

  for (const layers of [1, 3]) {
    test(`comes after one that was taken back, with ${layers} layers`, async () => {
      const model = makeModel({ layers });
      const { recorded } = await compare(model, { discards: true });
      assert.ok(recorded.length > small.context - 4, recorded.join());
      model.dispose();
    });
  }

  test('in bfloat16', async () => {
    const model = makeModel().to('bfloat16');
    assert.ok((await compare(model)).recorded.length >= small.context - LATEST);
    model.dispose();
  });

  const forms: Record<string, (model: og.GPT) => Promise<og.GPT>> = {
    w8a8: (model) => quantize(model, { scheme: 'w8a8', embeddings: 'int8' }),
    w8a16: (model) => quantize(model, { scheme: 'w8a16' }),
    w4a16: (model) => quantize(model, { scheme: 'w4a16', groupSize: 32 }),
    w4a8: (model) => quantize(model, { scheme: 'w4a8', groupSize: 32 }),
    nf4: (model) => quantize(model, { scheme: 'nf4', groupSize: 32, doubleQuant: true }),
    fp8: (model) => quantize(model, { scheme: 'fp8-e4m3' }),
    'half of the weights': async (model) =>
      sparsify(await prune(model, { method: 'magnitude', pattern: { sparsity: 0.5 } }), { layout: 'csr' }),
    '2:4 in int8': async (model) =>
      sparsify(await prune(model, { method: 'magnitude', pattern: '2:4' }), { layout: '2:4', values: 'int8' }),
  };
  for (const [name, make] of Object.entries(forms)) {
    test(`of a compressed model: ${name}`, async () => {
      const plain = makeModel();
      const model = await make(plain);
      const { recorded } = await compare(model);
      assert.ok(recorded.length >= small.context - LATEST, `recorded ${recorded.join()}`);
      for (const each of new Set([plain, model])) each.dispose();
    });
  }

  test('does not take from others what they have yet to compute', async () => {
    const model = makeModel({ vocabSize: 40000, layers: 1 });
    const caches = model.makeCache();
    const step = new TokenStep({ run: forwardOf(model, caches), caches, isUnchanged: model.watch() });
    const next = (i: number): og.Tensor => og.noGrad(() => og.scope(() => og.keep(step.next(idAt(i)))));
    for (let i = 0; i < LATEST; i++) next(i).dispose();
    assert.ok(step.isRecorded);
    const logits = next(LATEST);
    const twice = og.mul(logits, 2); // read by the chain alone for now, and left out
    const more = og.exp(og.add(twice, logits));
    const want = Float32Array.from((await logits.data()) as Float32Array, (x) => 2 * x);
    await more.data();
    assert.notEqual(twice.storage.recipe, null);
    logits.dispose();
    next(LATEST + 1).dispose();
    const bytes = async (x: og.Tensor): Promise<Buffer> => Buffer.from(((await x.data()) as Float32Array).buffer);
    assert.ok((await bytes(twice)).equals(Buffer.from(want.buffer)));
    step.dispose();
    for (const each of [twice, more, ...caches]) each.dispose();
    model.dispose();
  });

  test('gives its memory back', async () => {
    const model = makeModel();
    await readTokens(model, true); // packed forms are made once
    const before = og.memory();
    await readTokens(model, true);
    const after = og.memory();
    assert.equal(after.tensors, before.tensors);
    assert.equal(after.bytes, before.bytes);
    model.dispose();
  });
});

describe('a step is called again', () => {
  test('when a weight was written to', async () => {
    const model = makeModel();
    const { weight } = model.blocks[1]!.mlp.up;
    const start = og.clone(og.detach(weight));
    const before = (position: number): void => {
      if (position === 0) og.noGrad(() => og.copy_(weight, start));
      if (position === 20) og.noGrad(() => og.copy_(weight, og.mul(start, 3)));
    };
    const { recorded } = await compare(model, { before });
    assert.ok(recorded.includes(19) && !recorded.includes(20));
    model.dispose();
  });

  test('when a part was exchanged, or a mode', async () => {
    const model = makeModel();
    const block = model.blocks[0]! as { mlp: og.nn.Mlp };
    const [first, second] = [block.mlp, new og.nn.Mlp(64, 128, { generator: og.generator(9) })];
    const isLast = (position: number): boolean => position === small.context - 1; // all is as it was
    const before = (position: number): void => void (block.mlp = position < 12 || isLast(position) ? first : second);
    const { recorded } = await compare(model, { before });
    assert.ok(recorded.includes(11) && !recorded.includes(12));
    const flipped = (position: number): void => void (model.blocks[1]!.training = position > 14 && !isLast(position));
    assert.ok(!(await compare(model, { before: flipped })).recorded.includes(15));
    model.dispose();
  });

  test('when a hook was set: it sees every call', async () => {
    const model = makeModel();
    let seen = 0;
    let remove: (() => void) | null = null;
    const before = (position: number): void => {
      if (position === 10) remove = model.blocks[0]!.registerForwardHook(() => void seen++);
    };
    await readTokens(model, true, { before });
    remove!();
    assert.equal(seen, small.context - 10);
    model.registerForwardHook(() => void seen++);
    assert.equal(model.watch(), null);
    model.dispose();
  });

  test('when a class is not known', () => {
    class Own extends og.GPT {}
    const model = new Own(small).eval();
    assert.equal(model.watch(), null);
    model.dispose();
  });

  test('for caches in pages or in int8', async () => {
    const model = makeModel();
    for (const cache of [{ paged: true }, { dtype: 'int8' as const }])
      assert.equal((await compare(model, { cache })).recorded.length, 0);
    model.dispose();
  });

  test('when what it reads was written by JavaScript, or differs without order', async () => {
    const model = makeModel();
    for (const extra of [(): og.Tensor => og.tensor([1]), (): og.Tensor => og.full([1], Math.random())]) {
      const caches = model.makeCache();
      const forward = forwardOf(model, caches);
      const run = (ids: og.Tensor): og.Tensor => og.add(forward(ids), og.mul(extra(), 0));
      const step = new TokenStep({ run, caches, isUnchanged: () => true });
      for (let i = 0; i < 12; i++) {
        og.scope(() => og.noGrad(() => void step.next(idAt(i))));
        await og.synchronize();
        assert.equal(step.isRecorded, false);
      }
      step.dispose();
      for (const cache of caches) cache.dispose();
    }
    model.dispose();
  });
});
