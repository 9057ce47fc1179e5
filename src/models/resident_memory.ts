/**
 * How much memory a saved model takes: measured in a process of its own, which loads it and generates.
 *
 * @module
 */
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { ResourceError } from '../errors.js';
import { backend } from '../runtime/backend.js';
import { childEnvironment } from '../runtime/environment.js';
import { libraryEntry } from '../runtime/load.js';
import { checkInteger, checkKeys } from '../util/assert.js';
import { median } from '../util/statistics.js';

/** Options of {@link residentMemory}. */
export interface ResidentMemoryOptions {
  /** Tokens of the prompt that is read. Default: half the context, 512 at most. */
  readonly prompt?: number;
  /** Tokens generated. Default 16. */
  readonly generate?: number;
  /** Processes, one after another; the median counts. Default 1. */
  readonly runs?: number;
  /** Ends the process; the promise is rejected. */
  readonly signal?: AbortSignal;
}

/** Bytes that the system holds in memory for a process. */
export interface ResidentMemory {
  /** After loading the model and generating, once the garbage is collected. */
  readonly resident: number;
  /** The same process before: Node and this library without a model. */
  readonly without: number;
  /** The most at any time. */
  readonly peak: number;
}

/** Generates with the caches of a real use; reads the process's size before and after. */
const program = `
const [entry, folder, prompt, generate] = process.argv.slice(1);
const og = await import(entry);
const { setTimeout: wait } = await import('node:timers/promises');
const settled = async () => {
  for (let i = 0; i < 3; i++) {
    globalThis.gc();
    await wait(10);
  }
  return process.memoryUsage.rss();
};
og.zeros([4]).add(1).dispose();
const without = await settled();
const { model } = await og.load(folder);
const { context, vocabSize } = model.config;
const length = Number(prompt) || Math.max(1, Math.min(512, context >> 1));
const ids = Array.from({ length }, (_, i) => (i * 37 + 1) % vocabSize);
for (let i = 0; i < 2; i++)
  for await (const _ of model.generate(ids, { maxNewTokens: Number(generate), temperature: 0 }));
const resident = await settled();
process.stdout.write(JSON.stringify({ resident, without, peak: process.resourceUsage().maxRSS * 1024 }));
process.exit();
`;

/** Those options of this process that say how modules are found. */
function loaderOptions(given: readonly string[]): string[] {
  const names = ['--import', '--require', '-r', '--loader', '--experimental-loader', '--conditions', '-C'];
  return given.flatMap((option, i) => {
    if (names.includes(option)) return [option, given[i + 1]!];
    return names.some((name) => option.startsWith(`${name}=`)) ? [option] : [];
  });
}

/**
 * Loads a model that `saveModel` wrote in a process of its own, generates, and says how large the process is then. Mapped files
 * count as far as they were read.
 *
 * @throws ResourceError if the process fails
 */
export async function residentMemory(folder: string, options: ResidentMemoryOptions = {}): Promise<ResidentMemory> {
  const op = 'residentMemory';
  checkKeys(op, options, ['prompt', 'generate', 'runs', 'signal']);
  const prompt = options.prompt === undefined ? 0 : checkInteger(op, 'prompt', options.prompt, 1);
  const generate = checkInteger(op, 'generate', options.generate ?? 16, 1);
  const runs = checkInteger(op, 'runs', options.runs ?? 1, 1);
  const measured: ResidentMemory[] = [];
  for (let i = 0; i < runs; i++) {
    const own = ['--expose-gc', ...loaderOptions(process.execArgv), '--input-type=module', '--eval', program];
    const env = childEnvironment({ OG_THREADS: String(backend().threads) });
    const inputs = [libraryEntry(), path.resolve(folder), String(prompt), String(generate)];
    const { signal } = options;
    const { stdout } = await promisify(execFile)(process.execPath, [...own, ...inputs], { env, signal }).catch(
      (cause: Error & { stderr?: string }) => {
        signal?.throwIfAborted();
        const actual = cause.stderr?.trim().split('\n').slice(0, 12).join('\n') || cause.message;
        const expected = 'a process that loads the model';
        throw new ResourceError({ op, argument: folder, expected, actual, cause });
      },
    );
    measured.push(JSON.parse(stdout) as ResidentMemory);
  }
  const middle = (key: keyof ResidentMemory): number => Math.round(median(measured.map((one) => one[key])));
  return { resident: middle('resident'), without: middle('without'), peak: middle('peak') };
}
