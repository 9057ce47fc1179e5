// omnigrad in a process of its own, as the peers are, so that peak memory and event-loop gaps compare. Plain JavaScript on
// dist/: a TypeScript loader would count as our memory.
import { execFile } from 'node:child_process';
import { rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setImmediate, setTimeout as wait } from 'node:timers/promises';
import { promisify } from 'node:util';
import { quantize } from '../../dist/compress/index.js';
import { lora } from '../../dist/finetune/index.js';
import * as og from '../../dist/index.js';
import { serve } from './serve.mjs';

const ids = (vocab, ...shape) => og.randint(0, vocab, shape, { dtype: 'int32' });
const modelOf = ({ layers, heads, width, context, vocab }) =>
  new og.GPT({ layers, heads, width, context, vocabSize: vocab });

const training = ({ batch, ...geometry }) => stepsOf(modelOf(geometry), batch, geometry);

/** A saved model of random weights, made by a process of its own: this one's memory is measured. */
async function checkpoint(geometry) {
  const folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-bench-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const { layers, heads, width, context, vocab: vocabSize } = geometry;
  const config = JSON.stringify({ layers, heads, width, context, vocabSize });
  const program = `import * as og from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)};
og.manualSeed(0);
await og.saveModel(${JSON.stringify(folder)}, new og.GPT(${config}));
process.exit(0);`;
  await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', program]);
  return folder;
}

/** Adapters of q and v, over float32 or (`scheme`) layers and tables that are quantised as they are loaded. */
async function adapting({ batch, rank, scheme, recompute, ...geometry }) {
  const folder = await checkpoint(geometry);
  const quantization = { scheme, groupSize: 64, doubleQuant: scheme === 'nf4', embeddings: 'int8', inPlace: true };
  const convert = (model) => quantize(model, quantization);
  const { model } = await og.load(folder, scheme === undefined ? {} : { convert });
  og.emptyCache();
  lora(model.train(), { rank, target: /attention\.(q|v)$/ });
  const lossOf = (x, y) => og.nn.checkpointed(recompute ? model.blocks : [], () => model.loss(x, y));
  return stepsOf(model, batch, geometry, lossOf);
}

/** As between the parts of a step of og.Trainer: timers run as well. */
async function turn() {
  await setImmediate();
  await setImmediate();
}

function stepsOf(model, batch, geometry, lossOf = (x, y) => model.loss(x, y)) {
  const trained = model.parameters().filter((tensor) => tensor.requiresGrad);
  const optimizer = new og.optim.AdamW(trained, { lr: 1e-3 });
  const [x, y] = [ids(geometry.vocab, batch, geometry.context), ids(geometry.vocab, batch, geometry.context)];
  return {
    // As og.Trainer does it: the event loop turns between the parts of a step.
    once: async () => {
      const loss = og.scope(() => lossOf(x, y));
      await turn();
      await og.backwardInSlices(loss);
      await turn();
      const norm = og.optim.gradNorm(optimizer.parameters());
      await turn();
      og.scope(() => optimizer.step({ gradScale: og.optim.clipFactor(norm, 1) }));
      optimizer.zeroGrad();
      norm.dispose();
      await loss.item();
      loss.dispose();
    },
  };
}

/** Logits of the last position against the caches, and the likeliest token. */
async function likeliest(model, input, cache) {
  const token = og.scope(() =>
    og.noGrad(() => og.keep(og.argmax(og.reshape(model.forward(input, { cache, lastOnly: true }), [-1])))),
  );
  const id = await token.item();
  token.dispose();
  return id;
}

function prefill({ prompt, ...geometry }) {
  const model = modelOf(geometry).eval();
  const cache = model.makeCache(1);
  const input = ids(geometry.vocab, 1, prompt);
  return {
    once: async () => {
      for (const layer of cache) layer.truncate(0);
      await likeliest(model, input, cache);
    },
  };
}

async function decode({ prompt, tokens, ...geometry }) {
  const model = modelOf(geometry).eval();
  const cache = model.makeCache(1);
  const first = await likeliest(model, ids(geometry.vocab, 1, prompt), cache);
  return {
    once: async () => {
      for (const layer of cache) layer.truncate(prompt);
      let id = first;
      for (let i = 0; i < tokens; i++) {
        const input = og.tensor(Int32Array.of(id), { shape: [1, 1] });
        id = await likeliest(model, input, cache);
        input.dispose();
      }
    },
  };
}

/** Resident memory between two steps, with what is kept for the next one given back. */
async function heldBytes() {
  og.emptyCache();
  for (let i = 0; i < 5; i++) {
    globalThis.gc();
    await wait(50);
  }
  return process.memoryUsage.rss();
}

/** Runs before gaps count: in the first, memory is allocated and code compiled, which stops a process once. */
const warmUpRuns = 3;

/** Adds to the work a timer that sees how long the event loop did not turn. */
function withGap(work) {
  let [last, worst, runs, isRunning] = [0, 0, 0, false];
  const look = () => {
    const now = performance.now();
    // While another side has the cores, nobody waits for this one.
    if (isRunning && runs > warmUpRuns) worst = Math.max(worst, now - last - 1);
    last = now;
  };
  const timer = setInterval(look, 1);
  return {
    ...work,
    once: async () => {
      runs++;
      last = performance.now();
      isRunning = true;
      await work.once();
      look();
      isRunning = false;
    },
    dispose: () => clearInterval(timer),
    report: async () => ({ gap: worst, resident: await heldBytes() }),
  };
}

const works = { train: training, adapt: adapting, prefill, decode };

await serve(async (op, args, threads) => {
  if (!(op in works)) return undefined;
  og.setThreads(threads);
  og.manualSeed(0);
  return withGap(await works[op](args));
}, {});
process.exit(0);
