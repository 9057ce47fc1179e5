/**
 * How fast models generate, measured: time to the first token, and tokens a second.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { checkInteger, checkKeys } from '../util/assert.js';
import { median, percentile } from '../util/statistics.js';
import { generateTokens, type CausalModel } from './generate.js';

/** Options of {@link benchmark}. */
export interface BenchmarkOptions {
  /** Tokens of the prompt. Default: half the context, 512 at most. */
  readonly prompt?: number;
  /** Tokens generated after it. Default: what is left of the context, 64 at most. */
  readonly generate?: number;
  /** Timed runs, after one that warms up. Default 5. */
  readonly runs?: number;
  /** Stops between runs; the promise is rejected with its reason. */
  readonly signal?: AbortSignal;
}

/** Half of the runs took less, and 95 % of them. Seconds. */
export interface Latency {
  readonly p50: number;
  readonly p95: number;
}

/** What {@link benchmark} measures: one sequence, medians over the runs. */
export interface GenerationSpeed {
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly runs: number;
  /** Prompt tokens read a second: the prompt's tokens over the time to the first token. */
  readonly prefill: number;
  /** Tokens generated a second, after the first. */
  readonly decode: number;
  /** Time to the first token. */
  readonly firstToken: Latency;
  /** Time from one token to the next. */
  readonly nextToken: Latency;
}

/** A model that can be measured: ids of prompts are made up, so it says how many there are. */
export type MeasurableModel = CausalModel & { readonly config: { readonly vocabSize: number } };

/** Seconds to the first token, and from each token to the next. */
async function timeOf(model: MeasurableModel, prompt: readonly number[], count: number): Promise<number[]> {
  const times: number[] = [];
  let last = performance.now();
  for await (const _ of generateTokens(model, prompt, { maxNewTokens: count, temperature: 0 })) {
    const now = performance.now();
    times.push((now - last) / 1000);
    last = now;
  }
  return times;
}

/**
 * Measures several models in turns, so that what disturbs the machine meanwhile disturbs all alike. Models must fit in memory
 * together.
 *
 * @throws AttributeError if a prompt and what is generated do not fit a context
 * @throws StateError if a model's logits are not finite
 */
export async function benchmarkTogether<K extends string>(
  models: Readonly<Record<K, MeasurableModel>>,
  options: BenchmarkOptions = {},
): Promise<Record<K, GenerationSpeed>> {
  const op = 'benchmark';
  checkKeys(op, options, ['prompt', 'generate', 'runs', 'signal']);
  const names = Object.keys(models) as K[];
  const context = Math.min(...names.map((name) => models[name].config.context));
  const promptTokens = checkInteger(op, 'prompt', options.prompt ?? Math.max(1, Math.min(512, context >> 1)), 1);
  const newTokens = checkInteger(
    op,
    'generate',
    options.generate ?? Math.max(2, Math.min(64, context - promptTokens)),
    2,
  );
  const runs = checkInteger(op, 'runs', options.runs ?? 5, 1);
  if (promptTokens + newTokens > context) {
    const actual = `${promptTokens} + ${newTokens}`;
    throw new AttributeError({
      op,
      argument: 'prompt + generate',
      expected: `at most the context, ${context}`,
      actual,
    });
  }
  const times = new Map(names.map((name) => [name, [] as number[][]]));
  for (let run = 0; run <= runs; run++) {
    for (const name of names) {
      options.signal?.throwIfAborted();
      const { vocabSize } = models[name].config;
      const prompt = Array.from({ length: promptTokens }, (_, i) => (i * 37 + 1) % vocabSize);
      const seconds = await timeOf(models[name], prompt, newTokens);
      if (run > 0) times.get(name)!.push(seconds);
    }
  }
  const latency = (seconds: readonly number[]): Latency => ({
    p50: percentile(seconds, 0.5),
    p95: percentile(seconds, 0.95),
  });
  const speedOf = (all: readonly (readonly number[])[]): GenerationSpeed => {
    const first = all.map(([seconds]) => seconds!);
    const rest = all.map(([, ...seconds]) => seconds.reduce((sum, one) => sum + one, 0));
    return {
      promptTokens,
      newTokens,
      runs,
      prefill: promptTokens / median(first),
      decode: (newTokens - 1) / median(rest),
      firstToken: latency(first),
      nextToken: latency(all.flatMap(([, ...seconds]) => seconds)),
    };
  };
  return Object.fromEntries(names.map((name) => [name, speedOf(times.get(name)!)])) as Record<K, GenerationSpeed>;
}

/**
 * Measures how fast a model reads a prompt and generates, one sequence, greedily.
 *
 * @example
 * ```ts
 * const { prefill, decode, firstToken } = await og.benchmark(gpt, { prompt: 512, generate: 128 });
 * ```
 * @throws AttributeError if the prompt and what is generated do not fit the context
 */
export async function benchmark(model: MeasurableModel, options: BenchmarkOptions = {}): Promise<GenerationSpeed> {
  return (await benchmarkTogether({ model }, options)).model;
}
