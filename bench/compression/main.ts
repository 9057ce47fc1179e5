/**
 * npm run bench -- compression: what each method of making models smaller costs and brings. Quality on trained models, speed at the geometry
 * of GPT-2.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { positive, whole } from '../../examples/shared/cli.js';
import * as og from '../../src/index.js';
import { originOf } from '../origin.js';
import { judge } from './goals.js';
import { Memory } from './memory.js';
import { measureQuality } from './quality.js';
import { readRecord, type CompressionRecord, type Judged } from './record.js';
import { measureSpeed } from './speed.js';
import { openTrained, trainModel } from './trained.js';

const PARTS = ['quality', 'speed'] as const;
type Part = (typeof PARTS)[number];

interface Options {
  readonly parts: readonly Part[];
  readonly out: string;
  readonly start: string;
  readonly text?: string;
  readonly steps: number;
  readonly finetune: number;
  readonly student: number;
  readonly seeds: number;
  readonly training: boolean;
  readonly runs: number;
  readonly threads?: number;
  readonly json?: string;
  readonly only?: string;
}

function parseParts(text: string): Part[] {
  const wanted = text.split(',');
  if (wanted.every((part): part is Part => PARTS.includes(part as Part))) return wanted as Part[];
  throw new InvalidArgumentError(`expected ${PARTS.join(' or ')}, or both.`);
}

const formatJudged = ({ goal, model, value, limit, better, isMet }: Judged): string => {
  const sign = better === 'lower' ? 'at most' : 'at least';
  return `  ${isMet ? 'met   ' : 'MISSED'} ${goal}${model === null ? '' : ` (${model})`}: ${value.toFixed(4)}, ${sign} ${limit}`;
};

async function main(options: Options): Promise<void> {
  const { parts, out, start, steps, text, finetune, student, seeds, training, runs, threads, json, only } = options;
  if (threads !== undefined) og.setThreads(threads);
  const origin = originOf(og.backend());
  console.log(`${origin.cpu}, ${origin.isa}, ${origin.threads} threads, Node ${origin.node}, ${origin.commit}`);
  let { quality, speed } = json === undefined ? { quality: {}, speed: null } : readRecord(json);
  const write = async (): Promise<Judged[]> => {
    const record: CompressionRecord = { quality, speed, judged: judge({ quality, speed }) };
    const lines = `${JSON.stringify(record, null, 1)}\n`;
    if (json !== undefined) await og.writeFileAtomically(json, (to) => to(Buffer.from(lines)));
    return [...record.judged];
  };
  if (parts.includes('quality')) {
    const folder = path.join(out, 'model');
    if (only !== 'npm start') await trainModel(folder, steps, text);
    const models = {
      ...(existsSync(path.join(start, 'model')) ? { 'npm start': start } : {}),
      'trained for long': folder,
    };
    for (const [name, at] of Object.entries(models)) {
      if (only !== undefined && name !== only) continue;
      console.log(`\nquality of ${name}, ${at}`);
      const memory = await Memory.open(path.join(at, 'compression.json'));
      const found = await measureQuality(await openTrained(at), { finetune, student, seeds, training }, memory);
      quality = { ...quality, [name]: { ...found, origin } };
      await write();
    }
  }
  if (parts.includes('speed')) {
    console.log('\nspeed');
    speed = { ...(await measureSpeed(runs)), origin };
    console.log(JSON.stringify(speed, null, 1));
  }
  console.log('\ngoals:');
  for (const judged of await write()) console.log(formatJudged(judged));
  if (json !== undefined) console.log(`\nwritten: ${json}`);
}

const program = new Command('npm run bench -- compression')
  .description('Measures quality, size and speed of compressed models (docs/guides/compress.md).')
  .option('--parts <names>', 'quality, speed, or both with a comma', parseParts, [...PARTS])
  .option('--json <file>', 'write what was found; parts that are not measured stay as the file has them')
  .option('--out <folder>', 'where the model that is trained for the comparison is kept', 'runs/compression')
  .option('--start <folder>', 'folder of npm start, whose model is measured as well if it is there', 'runs/typescript')
  .option('--text <file>', 'train on this text instead of the TypeScript declaration files')
  .option('--steps <n>', 'steps of training', whole(1), 3000)
  .option(
    '--finetune <share>',
    'steps of fine-tuning after pruning, as a share of those of the training',
    positive,
    0.25,
  )
  .option('--student <share>', 'steps of a student, likewise; 300 at least', positive, 0.2)
  .option('--seeds <n>', 'draws of calibration data for pruning', whole(1), 3)
  .option('--no-training', 'leave out fine-tuned forms and students')
  .option('--only <name>', 'of the models, this one alone: npm start, or trained for long')
  .option('--runs <n>', 'timed runs of each form', whole(1), 5)
  .option('--threads <n>', 'threads; default: the cores the process may use', whole(1));
await main(program.parse().opts<Options>());
