/**
 * Carries out plans of compression on a model in a folder.
 *
 * @module
 */
import '../methods.js';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { AttributeError, FormatError } from '../errors.js';
import {
  checkCompression,
  checkPlan,
  compress,
  compressAll,
  compressionTable,
  comparedModels,
  describeSteps,
  type CompressedModel,
  type CompressionEvent,
  type CompressionPlan,
  type CompressOptions,
} from '../compress/index.js';
import { TextDataset } from '../data/text_dataset.js';
import type { GPT } from '../models/gpt.js';
import { load } from '../models/saved_model.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import { trainOn, trainSettings } from './compress_train.js';
import { table } from './table.js';
import { encodeFiles, sizeOf, splitTokens } from './train_data.js';

/** What the command was told. */
export interface CompressCommand {
  readonly plans: readonly string[];
  readonly calibration: readonly string[];
  readonly evaluation: readonly string[];
  readonly field: string;
  readonly out: string | null;
  readonly measure: boolean;
  readonly dryRun: boolean;
  readonly signal: AbortSignal;
  readonly say: (text: string) => void;
}

const OP = 'compress';

/** Share of the calibration text that is held back where no evaluation text is given. */
const HELD_BACK = 0.2;

async function readPlan(file: string): Promise<CompressionPlan> {
  const text = await readFile(file, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    const actual = cause.code === 'ENOENT' ? 'no such file' : cause.message;
    throw new FormatError({ op: OP, argument: file, expected: 'a plan', actual, cause });
  });
  let plan: unknown;
  try {
    plan = JSON.parse(text.replace(/^\ufeff/, ''));
  } catch (cause) {
    const actual = (cause as Error).message;
    throw new FormatError({ op: OP, argument: file, expected: 'JSON', actual, cause });
  }
  const isNamed = typeof plan !== 'object' || plan === null || 'name' in plan;
  const fallback = path.basename(file).replace(/\.json$/i, '').replaceAll(/[^\w.-]+/g, '-'); // prettier-ignore
  const named = isNamed ? plan : { name: fallback, ...(plan as object) };
  const { steps } = checkPlan(named);
  for (const [i, { kind, settings }] of steps.entries()) {
    if (kind.name === 'finetune') trainSettings(`${OP}: steps[${i}].finetune`, settings);
    if (kind.name === 'distill')
      trainSettings(`${OP}: steps[${i}].distill.train`, (settings['train'] ?? {}) as typeof settings);
  }
  return named as CompressionPlan;
}

interface Data {
  readonly calibration: TextDataset | null;
  readonly evaluation: TextDataset | null;
}

async function readData(model: GPT, tokenizer: Tokenizer | null, command: CompressCommand): Promise<Data> {
  const { calibration, evaluation, field } = command;
  await sizeOf('--calibration', calibration);
  await sizeOf('--evaluation', evaluation);
  const all = [...calibration, ...evaluation];
  if (tokenizer === null && all.some((file) => !file.endsWith('.safetensors'))) {
    const [expected, hint] = ['token files for a model without a tokenizer', 'Write them with saveTokens'];
    throw new AttributeError({ op: OP, argument: '--calibration', expected, actual: 'text', hint });
  }
  const { context } = model.config;
  const read = async (files: readonly string[]): Promise<Int32Array | null> =>
    files.length === 0 ? null : encodeFiles(files, field, tokenizer!);
  const [own, given] = [await read(calibration), await read(evaluation)];
  const parts =
    own !== null && given === null ? splitTokens(own, HELD_BACK, context + 1) : { train: own, valid: given };
  const datasetOf = (argument: string, ids: Int32Array | null): TextDataset | null => {
    if (ids === null) return null;
    if (ids.length > context) return new TextDataset(ids, { context, shift: false });
    const expected = `text of at least ${context + 1} tokens`;
    throw new AttributeError({ op: OP, argument, expected, actual: `${ids.length} tokens` });
  };
  return {
    calibration: datasetOf('--calibration', parts.train),
    evaluation: datasetOf(given === null ? '--calibration' : '--evaluation', parts.valid),
  };
}

/** Tokenizers of some kinds are read, not written. */
const canSave = (tokenizer: Tokenizer | null): tokenizer is Tokenizer & NonNullable<CompressOptions['tokenizer']> =>
  typeof (tokenizer as { save?: unknown } | null)?.save === 'function';

/** Lines about what goes on. */
function teller(say: (text: string) => void): (event: CompressionEvent) => void {
  return (event) => {
    if (event.type === 'resume') {
      const layers = event.layers > 0 ? ` and ${event.layers} layers of the next` : '';
      say(`${event.plan}: goes on after ${event.step} steps${layers}.`);
    } else if (event.type === 'step') say(`${event.plan}: step ${event.step + 1} of ${event.steps}, ${event.kind}`);
    else if (event.type === 'measure') say(`Measuring: ${event.what}`);
    else if (typeof event.note['path'] === 'string') {
      const error = event.note['outputError'];
      say(`  ${event.note['path']}${typeof error === 'number' ? `, output error ${error.toExponential(1)}` : ''}`);
    }
  };
}

/** Compresses the model of a folder, prints the table, and says where everything is. */
export async function compressFolder(folder: string, command: CompressCommand): Promise<void> {
  const { say, signal, measure, dryRun } = command;
  const plans: CompressionPlan[] = [];
  for (const file of command.plans) plans.push(await readPlan(file));
  const [first] = plans as [CompressionPlan];
  const { model, tokenizer } = await load(folder);
  const { calibration, evaluation } = await readData(model, tokenizer, command);
  const training = plans.flatMap(({ steps }) => steps).find((step) => 'finetune' in step || 'distill' in step);
  if (calibration === null && training !== undefined) {
    const expected = `text for the ${Object.keys(training).join()} step`;
    throw new AttributeError({ op: OP, argument: '--calibration', expected, actual: 'none' });
  }
  const dir = command.out ?? `${folder.replace(/[\\/]+$/, '')}-${plans.length === 1 ? first.name : 'compressed'}`;
  const options: CompressOptions = {
    dir,
    measure,
    signal,
    onEvent: teller(say),
    ...(calibration === null ? {} : { calibration, train: trainOn(calibration, say) }),
    ...(evaluation === null ? {} : { evaluation }),
    ...(canSave(tokenizer) ? { tokenizer } : {}),
  };
  if (dryRun) {
    for (const plan of plans) await checkCompression(model, plan, options);
    say(JSON.stringify(plans.length === 1 ? first : plans, null, 2));
    say(`\nmodel   ${folder}\nresult  ${dir}`);
    return;
  }
  let made: readonly CompressedModel[];
  try {
    made =
      plans.length === 1
        ? [await compress(model, first, options)]
        : Object.values((await compressAll(model, plans, options)).models);
  } catch (error) {
    if (!signal.aborted) throw error;
    say('Stopped. The same command goes on.');
    return;
  }
  const rows = compressionTable(comparedModels(made.map(({ card }) => card)));
  if (rows.length > 0) {
    const titles = Object.keys(rows[0]!.cells);
    say(
      `\n${table([['', ...titles], ...rows.map(({ name, cells }) => [name, ...titles.map((title) => cells[title]!)])])}`,
    );
  }
  for (const { card } of made) say(`${card.name}: ${describeSteps(card).join('; ')}`);
  for (const { dir: place } of made) say(`Model: ${place}`);
  if (measure) say(`Report: ${path.join(dir, 'report.html')}`);
}
