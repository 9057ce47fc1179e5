/** How fast the forms of a model with the geometry of GPT-2 (124 million parameters) are, on weights that are random. */
import { calibrationBatches, prune, quantize, sparsify, type QuantizeModelOptions } from '../../src/compress/index.js';
import * as og from '../../src/index.js';
import { measure } from '../harness.js';
import { fourBits } from './quality.js';
import { studentConfig } from './student.js';

const GPT2: og.GPTConfig = { vocabSize: 50257, context: 1024, layers: 12, heads: 12, width: 768 };
const PREFILL = { prompt: 512, generate: 2 };
const DECODE = { prompt: 128, generate: 64 };
/** Rows of the layers' inputs: a token, and a prompt. */
const ROWS = [1, 512];

/** Tokens a second of one form. */
export interface FormSpeed {
  readonly prefill: number;
  readonly decode: number;
}

export interface Speed {
  readonly runs: number;
  /** By name; `float32` is what the others are compared with. */
  readonly forms: Readonly<Record<string, FormSpeed>>;
  /** All linear layers of the blocks, one after the other: seconds by the number of rows, of every form with layers of its own but the student. */
  readonly layers: Readonly<Record<string, readonly { readonly rows: number; readonly seconds: number }[]>>;
}

async function makeForms(config: og.GPTConfig): Promise<Record<string, og.GPT>> {
  const model = new og.GPT(config, { generator: og.generator(1) });
  const ids = og.randint(0, config.vocabSize, [4000], { generator: og.generator(2), dtype: 'int32' });
  const calibration = calibrationBatches(new og.TextDataset(ids, { context: 64 }), { batches: 1, batchSize: 1 });
  const forms: Record<string, og.GPT> = { float32: model };
  const made = async (name: string, make: () => Promise<og.GPT> | og.GPT): Promise<void> => {
    const begun = performance.now();
    forms[name] = await make();
    console.log(`made ${name} in ${((performance.now() - begun) / 1000).toFixed(1)} s`);
  };
  const quantised = (options: QuantizeModelOptions) => () => quantize(model, { embeddings: 'int8', ...options });
  await made('w8a8 SmoothQuant', quantised({ scheme: 'w8a8', method: 'smoothquant', calibration }));
  await made('w4a16', quantised({ scheme: 'w4a16', groupSize: 32 })); // codes of GPTQ take as long as any
  await made('w4a16, two-stage table', quantised(fourBits));
  await made('w4a8', quantised({ scheme: 'w4a8', groupSize: 32 }));
  const pruned = { '2:4': { pattern: '2:4' }, csr: { pattern: { sparsity: 0.9 } } } as const;
  for (const layout of ['2:4', 'csr'] as const) {
    const name = layout === 'csr' ? '90 %' : layout;
    const zeros = await prune(model, pruned[layout]);
    await made(name, () => sparsify(zeros, { layout }));
    await made(`${name}, int8 table`, () => sparsify(zeros, { layout, embeddings: 'int8' }));
    await made(`${name}, int8`, () => sparsify(zeros, { layout, values: 'int8', embeddings: 'int8' }));
    zeros.dispose();
  }
  await made('student', () => new og.GPT(studentConfig(model, model.parameterCount()), { generator: og.generator(3) }));
  return forms;
}

/** The linear layers of the blocks, as something to time. */
function layersOf(model: og.GPT, rows: number): (count: number) => Promise<number> {
  const { Linear, Int8Linear, QuantizedLinear, SparseLinear } = og.nn;
  const layers = [...model.namedModules()].flatMap(([, module]) =>
    module instanceof Linear ||
    module instanceof Int8Linear ||
    module instanceof QuantizedLinear ||
    module instanceof SparseLinear
      ? [module]
      : [],
  );
  const inputs = new Map<number, og.Tensor>();
  for (const { inFeatures } of layers)
    if (!inputs.has(inFeatures)) inputs.set(inFeatures, og.randn([rows, inFeatures], { generator: og.generator(4) }));
  return async (count) => {
    const begun = performance.now();
    for (let i = 0; i < count; i++) {
      for (const layer of layers) og.scope(() => og.noGrad(() => void layer.forward(inputs.get(layer.inFeatures)!)));
      await og.synchronize();
    }
    return (performance.now() - begun) / 1000;
  };
}

/** All forms in turns, medians. */
export async function measureSpeed(runs: number, config = GPT2): Promise<Speed> {
  const forms = await makeForms(config);
  const names = Object.keys(forms);
  console.log(`prompts of ${PREFILL.prompt} tokens`);
  const prefill = await og.benchmarkTogether(forms, { ...PREFILL, runs });
  console.log(`${DECODE.generate} tokens after ${DECODE.prompt}`);
  const decode = await og.benchmarkTogether(forms, { ...DECODE, runs });
  const layers: Record<string, { rows: number; seconds: number }[]> = {};
  const timed = names.filter((name) => name !== 'student' && !name.endsWith('int8 table')); // whose layers are those of others
  for (const rows of ROWS) {
    const subjects = timed.map((name) => ({ run: layersOf(forms[name]!, rows) }));
    const found = await measure(subjects, { rounds: runs, minSeconds: 0.02, warmUpSeconds: 0.02 });
    for (const [i, { median: seconds }] of found.entries()) (layers[timed[i]!] ??= []).push({ rows, seconds });
  }
  for (const form of Object.values(forms)) form.dispose();
  return {
    runs,
    forms: Object.fromEntries(
      names.map((name) => [name, { prefill: prefill[name]!.prefill, decode: decode[name]!.decode }]),
    ),
    layers,
  };
}
