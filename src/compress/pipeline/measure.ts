/**
 * What a model is worth and what it costs, beside others.
 *
 * @module
 */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { AttributeError, StateError } from '../../errors.js';
import { perMillionTokens, type TokenCost } from '../../cost/tokens.js';
import type { HardwareCost } from '../../cost/hardware.js';
import type { Dataset } from '../../data/loader.js';
import { benchmarkTogether, type BenchmarkOptions, type GenerationSpeed } from '../../generate/benchmark.js';
import type { GPT } from '../../models/gpt.js';
import { perplexity, type PerplexityOptions, type ScoredText } from '../../models/perplexity.js';
import { residentMemory, type ResidentMemory } from '../../models/resident_memory.js';
import { formatValue } from '../../util/format.js';

/** A number about a model. */
export type CompressionMetric = (model: GPT) => number | Promise<number>;

/** What was measured of one model. JSON-safe. */
export interface ModelMeasurement {
  /** On the evaluation data; null without. */
  readonly perplexity: number | null;
  /** By name, as the caller's functions gave them. */
  readonly metrics: Readonly<Record<string, number>>;
  /** Bytes of the weights on disk. */
  readonly bytes: number;
  /** Of a process that loads the model and generates. */
  readonly memory: ResidentMemory;
  readonly speed: GenerationSpeed;
  /** USD a million tokens. */
  readonly cost: TokenCost;
}

/** What {@link measureModels} measures with. */
export interface MeasureOptions {
  readonly evaluation?: Dataset<ScoredText> | undefined;
  readonly perplexity?: Pick<PerplexityOptions, 'batchSize' | 'batches'> | undefined;
  readonly metrics?: Readonly<Record<string, CompressionMetric>> | undefined;
  readonly benchmark?: Pick<BenchmarkOptions, 'prompt' | 'generate' | 'runs'> | undefined;
  readonly hardware: HardwareCost;
  readonly signal?: AbortSignal | undefined;
  /** Told what is measured next. */
  readonly onMeasure?: ((what: string) => void) | undefined;
}

/** A model, and the folder where it is saved. */
export interface MeasuredModel {
  readonly model: GPT;
  readonly folder: string;
}

/** @throws AttributeError unless all are functions */
export function checkMetrics(op: string, metrics: Readonly<Record<string, CompressionMetric>>): void {
  for (const [name, metric] of Object.entries(metrics)) {
    if (typeof metric === 'function') continue;
    const expected = 'a function from the model to a number';
    throw new AttributeError({ op, argument: `metrics.${name}`, expected, actual: formatValue(metric) });
  }
}

/**
 * Measures models by all that a card tells: quality, size, memory in a process of its own, and speed, in turns with each other.
 *
 * @throws StateError if a metric is no number
 */
export async function measureModels<K extends string>(
  models: Readonly<Record<K, MeasuredModel>>,
  options: MeasureOptions,
): Promise<Record<K, ModelMeasurement>> {
  const { evaluation, metrics = {}, hardware, signal, onMeasure } = options;
  const names = Object.keys(models) as K[];
  const stop = signal === undefined ? {} : { signal };
  const found = new Map<K, Pick<ModelMeasurement, 'perplexity' | 'metrics' | 'bytes' | 'memory'>>();
  for (const name of names) {
    const { model, folder } = models[name];
    model.eval();
    signal?.throwIfAborted();
    onMeasure?.(`quality of ${name}`);
    const score =
      evaluation === undefined ? null : await perplexity(model, evaluation, { ...options.perplexity, ...stop });
    const values: Record<string, number> = {};
    for (const [key, metric] of Object.entries(metrics)) {
      const value = await metric(model);
      if (typeof value !== 'number') {
        const actual = formatValue(value);
        throw new StateError({ op: 'compress', argument: `metrics.${key}`, expected: 'a number', actual });
      }
      values[key] = value;
    }
    onMeasure?.(`memory of ${name}`);
    const prompt = options.benchmark?.prompt;
    const memory = await residentMemory(folder, { ...(prompt === undefined ? {} : { prompt }), ...stop });
    const { size: bytes } = await stat(path.join(folder, 'model.safetensors'));
    found.set(name, { perplexity: score, metrics: values, bytes, memory });
  }
  onMeasure?.(`speed of ${names.join(', ')}`);
  const entries = names.map((name) => [name, models[name].model] as const);
  const speeds = await benchmarkTogether(Object.fromEntries(entries), { ...options.benchmark, ...stop });
  return Object.fromEntries(
    names.map((name) => {
      const speed = speeds[name]!;
      return [name, { ...found.get(name)!, speed, cost: perMillionTokens(speed, hardware) }];
    }),
  ) as Record<K, ModelMeasurement>;
}
