/** What each method leaves of a trained model's quality, and of its size. */
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import {
  calibrationBatches,
  gradualPruning,
  initializeFromTeacher,
  maskedTraining,
  prune,
  quantize,
  sparsify,
  type Calibration,
  type PruneMethod,
  type QuantizeModelOptions,
} from '../../src/compress/index.js';
import * as og from '../../src/index.js';
import type { Memory } from './memory.js';
import { studentConfig } from './student.js';
import type { Trained } from './trained.js';
import { runTraining } from './training.js';

/** How much is done. */
export interface QualityPlan {
  /** Steps of fine-tuning after pruning, as a share of the model's training. */
  readonly finetune: number;
  /** Steps of a student, likewise. */
  readonly student: number;
  /** Draws of calibration data for the methods of pruning. */
  readonly seeds: number;
  /** Whether anything is trained at all: fine-tuned forms and students are left out without. */
  readonly training: boolean;
}

/** A student's steps at least. */
const LEAST_STEPS = 300;

/** One form of a model. */
export interface Form {
  readonly perplexity: number;
  /** Of the weights on disk. */
  readonly bytes: number;
}

/** Everything that was measured of one model. */
export interface ModelQuality {
  readonly parameters: number;
  /** Steps of its training. */
  readonly steps: number;
  /** Tokens that perplexities are measured on. */
  readonly tokens: number;
  /** `float32` and what was made of it. */
  readonly forms: Readonly<Record<string, Form>>;
  /** Perplexities with half of the weights, without fine-tuning, for each draw of calibration data. */
  readonly half: Readonly<Record<PruneMethod, readonly number[]>>;
  /** Null if nothing was trained. */
  readonly student: { readonly parameters: number; readonly alone: Form; readonly distilled: Form } | null;
  readonly plan: QualityPlan;
}

const FINETUNING = { lr: 1.5e-3, alpha: 0.5, temperature: 1 } as const;
const STUDENT = { lr: 3e-3, alpha: 0.5, temperature: 2 } as const;
const NINETY = 0.9;
/** Layers in 4 bits, and a token table whose logits read 4 bits. */
export const fourBits = {
  scheme: 'w4a16',
  groupSize: 32,
  scaleDType: 'float16',
  embeddings: 'int4+int4',
} as const;
/** What `calibrationBatches` draws by default: 16,384 tokens with a context of 128. */
const CALIBRATION = { batches: 16, batchSize: 8 };
/** Four times that: with less, Wanda is no better than magnitude. */
const PRUNING_CALIBRATION = { batches: 32, batchSize: 16 };

async function bytesOf(model: og.GPT): Promise<number> {
  const folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-compression-'));
  try {
    await og.saveModel(folder, model);
    return (await stat(path.join(folder, 'model.safetensors'))).size;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Measures one model by all methods. What `memory` has of an earlier run with the same settings is not measured again. */
export async function measureQuality(trained: Trained, plan: QualityPlan, memory: Memory): Promise<ModelQuality> {
  const { model, train, valid } = trained;
  const draw = (seed = 0, size = PRUNING_CALIBRATION): Calibration => calibrationBatches(train, { ...size, seed });
  const perplexityOf = (of: og.GPT): Promise<number> => og.perplexity(of, valid, { batchSize: 32 });
  const formOf = async (made: og.GPT): Promise<Form> => ({
    perplexity: await perplexityOf(made),
    bytes: await bytesOf(made),
  });
  /** Measures and frees. */
  const finished = async (made: og.GPT): Promise<Form> => {
    try {
      return await formOf(made);
    } finally {
      made.dispose();
    }
  };
  const forms: Record<string, Form> = {};
  forms['float32'] = await memory.of('float32', {}, () => formOf(model));

  const quantised = async (name: string, options: QuantizeModelOptions): Promise<void> => {
    forms[name] = await memory.of(name, { ...options, ...CALIBRATION }, async () => {
      const calibration = options.method === undefined ? [] : draw(0, CALIBRATION);
      const given = calibration.length > 0 ? { calibration } : {};
      const made = await quantize(model, { embeddings: 'int8', ...options, ...given });
      for (const input of calibration) input.dispose();
      return finished(made);
    });
  };
  await quantised('w8a8 SmoothQuant', { scheme: 'w8a8', method: 'smoothquant' });
  await quantised('w4a16 to nearest', { scheme: 'w4a16', groupSize: 32 });
  await quantised('w4a16 GPTQ', { scheme: 'w4a16', groupSize: 32, method: 'gptq' });
  await quantised('w4a16 to nearest, two-stage table', fourBits);
  await quantised('w4a16 GPTQ, two-stage table', { ...fourBits, method: 'gptq' });
  await quantised('w4a8 GPTQ', { scheme: 'w4a8', groupSize: 32, method: 'gptq' });

  const half: Record<PruneMethod, number[]> = { magnitude: [], wanda: [], sparsegpt: [] };
  for (const method of ['magnitude', 'wanda', 'sparsegpt'] as const) {
    for (let seed = 0; seed < (method === 'magnitude' ? 1 : plan.seeds); seed++) {
      const measured = await memory.of(
        `half ${method} ${seed}`,
        method === 'magnitude' ? {} : PRUNING_CALIBRATION,
        async () => {
          const calibration = draw(seed);
          const given = method === 'magnitude' ? {} : { calibration };
          const made = await prune(model, { pattern: { sparsity: 0.5 }, method, ...given });
          for (const input of calibration) input.dispose();
          return finished(made);
        },
      );
      half[method].push(measured.perplexity);
    }
  }

  const found = {
    parameters: model.parameterCount(),
    steps: trained.steps,
    tokens: valid.length * valid.context,
    forms,
    half,
    plan,
  };
  if (!plan.training) return { ...found, student: null };

  /** A pruned model on sparse kernels: all in float32; with a token table in int8; and with values in int8, too. */
  const sparse = async (
    pruned: og.GPT,
    layout: '2:4' | 'csr',
  ): Promise<Record<'float32' | 'int8Table' | 'int8', Form>> => ({
    float32: await finished(await sparsify(pruned, { layout })),
    int8Table: await finished(await sparsify(pruned, { layout, embeddings: 'int8' })),
    int8: await finished(await sparsify(pruned, { layout, values: 'int8', embeddings: 'int8' })),
  });
  const steps = Math.ceil(plan.finetune * trained.steps);
  const semi = await memory.of('2:4', { steps, ...FINETUNING, ...PRUNING_CALIBRATION, forms: 3 }, async () => {
    const calibration = draw();
    const pruned = await prune(model, { pattern: '2:4', method: 'sparsegpt', calibration });
    const before = await perplexityOf(pruned);
    const callback = maskedTraining(pruned);
    await runTraining(pruned, train, { steps, ...FINETUNING, teacher: model, callbacks: [callback] });
    callback.dispose();
    const made = await sparse(pruned, '2:4');
    pruned.dispose();
    return { ...made, before };
  });
  forms['2:4, fine-tuned'] = semi.float32;
  forms['2:4, fine-tuned, int8 table'] = semi.int8Table;
  forms['2:4, fine-tuned, int8'] = semi.int8;
  const ninety = await memory.of('90 %', { steps, ...FINETUNING, forms: 3 }, async () => {
    const pruned = og.cloneModel(model);
    const schedule = { sparsity: NINETY, initialSparsity: 0.5, begin: 1, end: Math.ceil(0.5 * steps), every: 5 };
    const callback = gradualPruning(pruned, schedule);
    await runTraining(pruned, train, { steps, ...FINETUNING, teacher: model, callbacks: [callback] });
    callback.dispose();
    const made = await sparse(pruned, 'csr');
    pruned.dispose();
    return made;
  });
  forms['90 %, fine-tuned'] = ninety.float32;
  forms['90 %, fine-tuned, int8 table'] = ninety.int8Table;
  forms['90 %, fine-tuned, int8'] = ninety.int8;

  // what fine-tuning alone does: the same steps with the same teacher, and nothing pruned
  forms['float32, trained on'] = await memory.of('float32, trained on', { steps, ...FINETUNING }, async () => {
    const longer = og.cloneModel(model);
    await runTraining(longer, train, { steps, ...FINETUNING, teacher: model });
    return finished(longer);
  });

  const studentSteps = Math.max(LEAST_STEPS, Math.ceil(plan.student * trained.steps));
  const config = studentConfig(model, model.parameterCount());
  const student = await memory.of('student', { steps: studentSteps, ...STUDENT, config }, async () => {
    const make = (): og.GPT => new og.GPT(config, { generator: og.generator(1) });
    const { lr } = STUDENT;
    const alone = make();
    await runTraining(alone, train, { steps: studentSteps, lr });
    const distilled = make();
    initializeFromTeacher(distilled, model, { widths: 'truncate' });
    await runTraining(distilled, train, { steps: studentSteps, ...STUDENT, teacher: model });
    const parameters = distilled.parameterCount();
    return { parameters, alone: await finished(alone), distilled: await finished(distilled) };
  });
  return { ...found, student };
}
