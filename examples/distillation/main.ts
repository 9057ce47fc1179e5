/**
 * How much of the gap between a teacher and a student of a quarter of its parameters distillation closes, on the declaration files of
 * TypeScript: the same student, steps and batches, alone and with the teacher, over several seeds.
 *
 *     npx tsx examples/distillation/main.ts --teacher-steps 1200 --steps 300 --seeds 3
 */
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { Command } from 'commander';
import { batchLoss, Distillation, initializeFromTeacher, type DistillationBatch } from '../../src/compress/index.js';
import * as og from '../../src/index.js';
import { optim, schedules } from '../../src/index.js';
import { loadCorpus } from '../typescript_gpt/corpus.js';

const CONTEXT = 64;
const BATCH = 16;
const SHAPE = { context: CONTEXT, width: 96, heads: 4, vocabSize: 512 };
const TEACHER_LAYERS = 10;
const STUDENT_LAYERS = 2;

const options = new Command('distillation')
  .option('--teacher-steps <number>', 'steps of the teacher', '1200')
  .option('--steps <number>', 'steps of each student', '300')
  .option('--seeds <number>', 'seeds of each kind of student', '3')
  .option('--only <names>', 'kinds of students, separated by semicolons')
  .option('--out <folder>', 'where teacher and tokeniser are kept', 'runs/distillation')
  .parse()
  .opts<{ teacherSteps: string; steps: string; seeds: string; only?: string; out: string }>();

/** Kinds of students: how they begin, and what they learn from. */
const kinds: Readonly<Record<string, { fromTeacher: boolean; alpha: number; temperature: number; hidden?: number }>> = {
  alone: { fromTeacher: false, alpha: 0, temperature: 1 },
  'soft targets': { fromTeacher: false, alpha: 1, temperature: 1 },
  'begun from the teacher': { fromTeacher: true, alpha: 0, temperature: 1 },
  'begun, and soft targets': { fromTeacher: true, alpha: 0.5, temperature: 2 },
  'begun, soft targets, hidden states': { fromTeacher: true, alpha: 0.5, temperature: 2, hidden: 1 },
};

const file = (name: string): string => path.join(options.out, name);
const say = (text: string): void => void process.stdout.write(`${text}\n`);

async function lossOf(model: og.GPT, valid: og.TextDataset): Promise<number> {
  model.eval();
  const loader = new og.DataLoader(valid, { batchSize: BATCH, shuffle: false });
  const batches = Math.min(64, loader.length);
  let sum = 0;
  for (let i = 0; i < batches; i++) {
    const loss = og.scope(() => {
      const { x, y } = loader.next();
      return og.noGrad(() => model.loss(x, y));
    });
    sum += await loss.item();
    loss.dispose();
  }
  return sum / batches;
}

async function train<M extends og.nn.Module>(
  model: M,
  dataset: og.TextDataset,
  steps: number,
  seed: number,
  loss?: (model: M, batch: DistillationBatch) => og.Tensor,
): Promise<void> {
  const trainer = new og.Trainer<M, DistillationBatch>(model, {
    train: dataset,
    batchSize: BATCH,
    steps,
    seed,
    clipGradNorm: 1,
    optimizer: (parameters) => new optim.AdamW(parameters, { lr: 3e-3, betas: [0.9, 0.95], weightDecay: 0.05 }),
    schedule: schedules.cosine({ warmup: Math.min(50, steps >> 3), end: 0.05 }),
    ...(loss === undefined ? {} : { loss }),
  });
  for await (const event of trainer.run()) {
    if (event.type === 'step' && event.step % 200 === 0) say(`  step ${event.step} loss ${event.loss.toFixed(3)}`);
  }
  trainer.optimizer.dispose();
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

await mkdir(options.out, { recursive: true });
const corpus = await loadCorpus(undefined);
if (!existsSync(file('tokenizer.json'))) {
  const trained = await og.BpeTokenizer.train([corpus.train.slice(0, 500_000)], { vocabSize: SHAPE.vocabSize });
  await trained.save(file('tokenizer.json'));
}
const tokenizer = await og.BpeTokenizer.fromFile(file('tokenizer.json'));
const dataset = new og.TextDataset(tokenizer.encode(corpus.train), { context: CONTEXT });
const valid = new og.TextDataset(tokenizer.encode(corpus.valid), { context: CONTEXT, shift: false });

const steps = { teacher: Number(options.teacherSteps), student: Number(options.steps) };
const folder = file(`teacher-${steps.teacher}`);
let teacher: og.GPT;
if (existsSync(path.join(folder, 'config.json'))) {
  teacher = (await og.load(folder)).model;
} else {
  teacher = new og.GPT({ ...SHAPE, layers: TEACHER_LAYERS }, { generator: og.generator(0) });
  say(`Teacher of ${teacher.parameterCount()} parameters:`);
  await train(teacher, dataset, steps.teacher, 0);
  await og.saveModel(folder, teacher);
}
const best = await lossOf(teacher, valid);
say(
  `teacher: ${teacher.parameterCount()} parameters, loss ${best.toFixed(4)}, perplexity ${Math.exp(best).toFixed(2)}`,
);

const names = options.only?.split(';') ?? Object.keys(kinds);
const results = new Map<string, number[]>();
for (const name of ['alone', ...names.filter((other) => other !== 'alone')]) {
  const kind = kinds[name];
  if (kind === undefined) throw new Error(`--only: expected ${Object.keys(kinds).join(', ')}, got ${name}`);
  const losses: number[] = [];
  for (let seed = 1; seed <= Number(options.seeds); seed++) {
    const begun = performance.now();
    const student = new og.GPT({ ...SHAPE, layers: STUDENT_LAYERS }, { generator: og.generator(seed) });
    if (kind.fromTeacher) initializeFromTeacher(student, teacher);
    if (kind.alpha === 0) {
      await train(student, dataset, steps.student, seed);
    } else {
      const { alpha, temperature, hidden } = kind;
      const features = hidden === undefined ? {} : { hidden: { weight: hidden } };
      const module = new Distillation({ student, teacher, alpha, temperature, ...features });
      await train(module, dataset, steps.student, seed, batchLoss);
    }
    losses.push(await lossOf(student, valid));
    const seconds = ((performance.now() - begun) / 1000).toFixed(0);
    say(
      `${name}, seed ${seed}: ${student.parameterCount()} parameters, loss ${losses.at(-1)!.toFixed(4)}, ${seconds} s`,
    );
    student.dispose();
  }
  results.set(name, losses);
}
const alone = mean(results.get('alone')!);
console.table(
  Object.fromEntries(
    [...results].map(([name, losses]) => [
      name,
      {
        'losses of the seeds': losses.map((loss) => loss.toFixed(4)).join(' '),
        perplexity: Math.exp(mean(losses)).toFixed(2),
        'gap closed': `${((100 * (alone - mean(losses))) / (alone - best)).toFixed(0)} %`,
      },
    ]),
  ),
);
