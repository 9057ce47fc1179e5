/**
 * Teaches a small GPT to answer questions: a pre-trained model, conversations in ChatML, a loss on the answers alone, several conversations
 * to a row. Shows answers before and after.
 *
 *     npx tsx examples/instruct/main.ts [--data conversations.jsonl] [--model runs/pretrain/model]
 */
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { Command } from 'commander';
import * as og from '../../src/index.js';
import { InstructionDataset, instructionLoss, type InstructionOptions } from '../../src/finetune/index.js';
import {
  positive,
  printTable,
  runExample,
  say,
  UsageError,
  whole,
  withGeometry,
  type Geometry,
} from '../shared/cli.js';
import { write } from '../shared/measure.js';
import {
  declarationFiles,
  encodePieces,
  learnTokenizer,
  readDocuments,
  readLines,
  splitDocuments,
} from '../shared/text.js';
import { baseModel, costCells, runToEnd, trainOnText } from '../shared/train.js';
import { asConversation, makeQuestions, splitQuestions, withoutAnswers, type Conversation } from './questions.js';

const SEED = 1337;
const BATCH = 16;

interface Options extends Geometry {
  data?: string;
  text?: string;
  model?: string;
  out: string;
  pretrain: number;
  epochs: number;
  rows: number;
  lr: number;
  ask: number;
  packing: boolean;
  fresh?: boolean;
}

const options = withGeometry(
  new Command('npx tsx examples/instruct/main.ts')
    .option(
      '--data <file>',
      'JSON Lines of { messages: [{ role, content }, …] } (default: made of the comments in TypeScript’s declaration files)',
    )
    .option(
      '--text <path>',
      'text or folder to pre-train on (default: the declaration files, without the answers that are held back)',
    )
    .option('--model <folder>', 'a saved model to begin with instead, with its tokenizer')
    .option('--out <folder>', 'where everything goes', 'runs/instruct'),
  { vocab: { least: 259, usual: 2048 }, width: 192, context: { least: 16, usual: 128, of: 'row' } },
)
  .option('--pretrain <steps>', 'steps of pre-training', whole(1), 400)
  .option('--epochs <number>', 'of instruction tuning', whole(1), 2)
  .option('--rows <number>', 'packed rows of a step', whole(1), 8)
  .option('--lr <number>', 'highest learning rate of the tuning', positive, 1e-3)
  .option('--ask <number>', 'held-back questions that are answered before and after', whole(1), 40)
  .option('--no-packing', 'a row for each conversation')
  .option('--fresh', 'forget the pre-trained model of an earlier run')
  .parse()
  .opts<Options>();
const file = (...names: string[]): string => path.join(options.out, ...names);

interface Data {
  readonly source: string;
  readonly train: readonly Conversation[];
  readonly held: readonly Conversation[];
  /** Text to pre-train on. */
  readonly documents: readonly string[];
}

function isConversation(value: unknown): value is Conversation {
  const { messages } = value as Partial<Conversation>;
  if (!Array.isArray(messages) || messages.length < 2) return false;
  const isMessage = ({ role, content }: Record<string, unknown>): boolean =>
    typeof content === 'string' && ['system', 'user', 'assistant'].includes(String(role));
  return (
    messages.every((one) => isMessage(Object(one) as Record<string, unknown>)) && messages.at(-1)!.role === 'assistant'
  );
}

async function readData(): Promise<Data> {
  const files = await declarationFiles();
  const own = options.text === undefined ? null : await readDocuments('--text', options.text);
  if (options.data === undefined) {
    const { train, held } = splitQuestions(makeQuestions(files));
    return {
      source: 'comments of TypeScript’s declaration files',
      train: train.map(asConversation),
      held: held.map(asConversation),
      documents: own ?? withoutAnswers(files, held),
    };
  }
  const all = (await readLines(options.data)).map(({ place, value }) => {
    if (isConversation(value)) return value;
    const expected = '{ "messages": [{ "role": "user", "content": "…" }, { "role": "assistant", "content": "…" }] }';
    throw new UsageError(`${place}: expected ${expected}, ending with the assistant's turn`);
  });
  if (all.length < 10)
    throw new UsageError(`--data ${options.data}: expected at least 10 conversations, got ${all.length}`);
  const isHeld = (i: number): boolean => i % 10 === 9;
  return {
    source: options.data,
    train: all.filter((_, i) => !isHeld(i)),
    held: all.filter((_, i) => isHeld(i)),
    documents: own ?? [...files.values()],
  };
}

async function makeBase(
  documents: readonly string[],
): Promise<{ model: og.GPT; tokenizer: og.BpeTokenizer; seconds: number }> {
  const text = splitDocuments('--text', documents);
  const tokenizer = await learnTokenizer(
    text.train.map((piece) => piece.text),
    options.vocab,
  );
  const [train, valid] = [encodePieces(tokenizer, text.train), encodePieces(tokenizer, text.valid)];
  const { context, layers, heads, width, pretrain: steps } = options;
  // rotary positions: what the first tokens of long documents teach holds for short conversations, too
  const shape = { vocabSize: tokenizer.vocabSize, context, layers, heads, width, position: 'rope' as const };
  const model = new og.GPT(shape, { generator: og.generator(SEED) });
  say(
    `Pre-training: ${(model.parameterCount() / 1e6).toFixed(2)} million parameters, ${steps} steps on ${(train.ids.length / 1e6).toFixed(2)} million tokens.`,
  );
  const { seconds } = await trainOnText(model, train, valid, {
    steps,
    batchSize: BATCH,
    lr: 2e-3,
    seed: SEED,
    dir: file('pretraining'),
  });
  return { model, tokenizer, seconds };
}

const wordsOf = (text: string): string[] => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];

/** F1 of the words of an answer against those of the right one, as in SQuAD's evaluation (Rajpurkar et al. 2016, arXiv 1606.05250). */
function wordF1(answer: string, right: string): number {
  const [given, wanted] = [wordsOf(answer), wordsOf(right)];
  const left = new Map<string, number>();
  for (const word of wanted) left.set(word, (left.get(word) ?? 0) + 1);
  let common = 0;
  for (const word of given) {
    const count = left.get(word) ?? 0;
    if (count > 0) common++;
    left.set(word, count - 1);
  }
  return given.length + wanted.length === 0 ? 0 : (2 * common) / (given.length + wanted.length);
}

interface Examined {
  readonly loss: number;
  readonly ended: number;
  readonly f1: number;
  readonly answers: readonly { readonly question: string; readonly answer: string; readonly right: string }[];
}

/** How a model does on conversations that it was not trained on. */
async function examine(
  model: og.GPT,
  tokenizer: og.Tokenizer,
  held: InstructionDataset,
  conversations: readonly Conversation[],
): Promise<Examined> {
  model.eval();
  let [nats, counted] = [0, 0];
  for (let i = 0; i < held.length; i++) {
    const [loss, targets] = og.scope(() =>
      og.noGrad(() => {
        const batch = held.batch([i]);
        return [og.keep(instructionLoss(model, batch)), og.keep(batch.y)] as const;
      }),
    );
    const count = (await targets.data()).filter((id) => Number(id) !== -100).length;
    nats += (await loss.item()) * count;
    counted += count;
    loss.dispose();
    targets.dispose();
  }
  const answers: { question: string; answer: string; right: string }[] = [];
  let [ended, f1] = [0, 0];
  const every = Math.max(1, Math.floor(conversations.length / options.ask));
  const asked = conversations.filter((_, i) => i % every === 0).slice(0, options.ask);
  for (const { messages } of asked) {
    const [before, right] = [messages.slice(0, -1), messages.at(-1)!.content];
    const prompt = og.applyChatTemplate(before, { template: 'chatml', addGenerationPrompt: true });
    if (tokenizer.encode(prompt).length >= model.config.context) continue;
    const said = await write(model, tokenizer, prompt, { temperature: 0, stop: ['<|im_end|>'] });
    answers.push({ question: before.at(-1)!.content, answer: said.text.trim(), right });
    if (said.ended) ended++;
    f1 += wordF1(said.text, right);
  }
  const count = Math.max(1, answers.length);
  return { loss: nats / counted, ended: ended / count, f1: f1 / count, answers };
}

const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;

async function main(): Promise<void> {
  const data = await readData();
  say(`Conversations: ${data.train.length}, and ${data.held.length} held back; ${data.source}.`);
  if (options.fresh) await rm(options.out, { recursive: true, force: true });
  await mkdir(options.out, { recursive: true });
  const { vocab, layers, heads, width, context, pretrain, text = null, packing, epochs, lr, rows } = options;
  const settings = { vocab, layers, heads, width, context, pretrain, text, characters: data.documents.join('').length };
  const base =
    options.model === undefined
      ? await baseModel(file('base'), settings, () => makeBase(data.documents))
      : { ...(await og.load(options.model)), seconds: 0 };
  const { model, tokenizer } = base;
  if (!(tokenizer instanceof og.BpeTokenizer)) {
    throw new UsageError(`--model ${options.model}: expected a byte-pair tokenizer beside the model`);
  }
  const isKnown = ['<|im_start|>', '<|im_end|>'].every((token) => tokenizer.tokenToId(token) !== undefined);
  if (!isKnown)
    throw new UsageError(
      '--model: expected <|im_start|> and <|im_end|> in its vocabulary; examples/pretrain makes such a model',
    );

  const rowOptions: InstructionOptions = { tokenizer, template: 'chatml', maxLength: model.config.context, packing };
  const train = new InstructionDataset(data.train, rowOptions);
  const held = new InstructionDataset(data.held, rowOptions);
  const share = train.tokens / (train.length * train.maxLength);
  const form = packing ? `packed into ${train.length} rows, ${percent(share)} full` : `in ${train.length} rows`;
  say(`${train.tokens} tokens ${form}; ${percent(train.counted / train.tokens)} of them count, being answers.`);

  const before = await examine(model, tokenizer, held, data.held);
  const batchSize = Math.min(rows, train.length);
  const steps = epochs * Math.max(1, Math.floor(train.length / batchSize));
  await rm(file('tuning'), { recursive: true, force: true });
  const logger = new og.RunLogger<og.GPT>({
    dir: file('tuning'),
    config: { model: model.config, steps, batchSize, lr, packing, template: 'chatml' },
    card: { conversations: data.source, trained: data.train.length, held: data.held.length },
    tensorboard: false,
  });
  const trainer = new og.Trainer(model, {
    train,
    valid: held,
    loss: instructionLoss,
    batchSize,
    steps,
    seed: SEED,
    optimizer: (parameters) => new og.optim.AdamW(parameters, { lr, betas: [0.9, 0.95], weightDecay: 0.01 }),
    schedule: og.schedules.cosine({ warmup: Math.min(20, steps >> 3), end: 0.1 }),
    clipGradNorm: 1,
    evalEvery: Math.max(1, Math.ceil(steps / 6)),
    evalBatches: 8,
    callbacks: [new og.TrainingProgress<og.GPT>(), logger],
  });
  const cost = await runToEnd(trainer);
  const after = await examine(model, tokenizer, held, data.held);

  const cells = ({ loss, ended, f1 }: Examined): Record<string, string> => ({
    'loss of answers': loss.toFixed(3),
    perplexity: Math.exp(loss).toFixed(2),
    'ends its turn': percent(ended),
    'word F1': f1.toFixed(3),
  });
  const rowsOfTable: og.ReportRow[] = [
    {
      name: 'pre-trained',
      cells: { ...cells(before), ...(base.seconds > 0 ? { seconds: base.seconds.toFixed(1) } : {}) },
    },
    { name: 'tuned', cells: { ...cells(after), ...costCells(cost) } },
  ];
  say(`\nOn conversations that were held back (${after.answers.length} questions answered, without sampling):`);
  printTable(rowsOfTable);
  logger.addResults({ rows: rowsOfTable });
  for (const [i, { question, answer, right }] of after.answers.entries()) {
    const shown = `before: ${before.answers[i]!.answer}\n\nafter: ${answer}\n\nright: ${right}`;
    if (i < 12) logger.addSample({ title: question, text: shown });
    if (i < 3)
      say(
        `${question}\n  before: ${JSON.stringify(before.answers[i]!.answer.slice(0, 160))}\n  after:  ${answer}\n  right:  ${right}\n`,
      );
  }
  await og.saveModel(file('model'), model, {
    tokenizer,
    card: { base: settings, conversations: data.source, epochs, lr },
  });
  await og.writeRunReport(file('report.html'), [await og.readRun(file('tuning'))], { title: 'Instruction tuning' });
  say(`Model: ${file('model')}\nReport: ${file('report.html')}`);
}

await runExample(main);
