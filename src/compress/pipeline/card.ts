/**
 * Cards: what a compressed model is, how it was made, and what it is worth beside the original.
 *
 * @module
 */
import type { HardwareCost } from '../../cost/hardware.js';
import type { Machine } from '../../runtime/machine.js';
import { formatBytes } from '../../util/format.js';
import type { ModelMeasurement } from './measure.js';
import type { ResolvedPlan } from './plan.js';
import type { CompressionKey } from './state.js';
import { stepKinds, type StepNote } from './step.js';

/** @internal */
export const CARD_FORMAT = 'omnigrad-compression/1';

/** How a model was compressed, and what came of it. JSON-safe; saved with the model. */
export interface CompressionCard {
  readonly format: typeof CARD_FORMAT;
  readonly name: string;
  /** ISO date and time. */
  readonly made: string;
  /** Hashes of what the result depends on. */
  readonly key: CompressionKey;
  /** Kinds of steps with their settings, and what they told of layers. */
  readonly steps: readonly {
    readonly kind: string;
    readonly settings: Readonly<Record<string, unknown>>;
    readonly notes: readonly StepNote[];
  }[];
  /** Input tensors of the calibration and the numbers in them; null without. */
  readonly calibration: { readonly inputs: number; readonly elements: number } | null;
  /** Both measured in turns on the same machine; null if measuring was switched off. */
  readonly before: ModelMeasurement | null;
  readonly after: ModelMeasurement | null;
  readonly hardware: HardwareCost;
  readonly machine: Omit<Machine, 'host' | 'pid'>;
}

/** @internal The steps of a card. */
export function stepsOf(plan: ResolvedPlan, notesOf: (step: number) => readonly StepNote[]): CompressionCard['steps'] {
  return plan.steps.map(({ kind, settings }, i) => ({ kind: kind.name, settings, notes: notesOf(i) }));
}

/**
 * What was done to a model, a step each: `prune 2:4 sparsegpt, 50 % zeros in 24 layers`, `sparsify 2:4 int8, …`.
 */
export function describeSteps({ steps }: Pick<CompressionCard, 'steps'>): string[] {
  return steps.map(({ kind, settings, notes }) => {
    const known = stepKinds.get(kind)?.describe?.(settings, notes);
    const words = Object.entries(settings).flatMap(([key, value]) =>
      key !== 'target' && typeof value === 'string' ? [value] : [],
    );
    return known ?? [kind, ...words].join(' ');
  });
}

/** A name and what was measured. */
export interface ComparedModel {
  readonly name: string;
  /** What was done to it, as {@link describeSteps} says; nothing for an original. */
  readonly how?: readonly string[];
  readonly measured: ModelMeasurement;
}

/** A figure of a table: its title, its value, how it is shown, and which of two is better. */
export interface Figure {
  readonly title: string;
  readonly of: (measured: ModelMeasurement) => number | null;
  readonly show: (value: number) => string;
  readonly better: 'less' | 'more';
}

const plain =
  (digits: number) =>
  (value: number): string =>
    value >= 1000 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(digits)));
const dollars = (value: number): string => `$${value >= 1 ? value.toFixed(2) : value.toPrecision(2)}`;

/** The figures of {@link compressionTable}, in its order. */
export const figures: readonly Figure[] = [
  { title: 'perplexity', of: ({ perplexity }) => perplexity, show: plain(4), better: 'less' },
  { title: 'on disk', of: ({ bytes }) => bytes, show: formatBytes, better: 'less' },
  { title: 'in memory', of: ({ memory }) => memory.resident, show: formatBytes, better: 'less' },
  { title: 'prefill tokens/s', of: ({ speed }) => speed.prefill, show: plain(3), better: 'more' },
  { title: 'decode tokens/s', of: ({ speed }) => speed.decode, show: plain(3), better: 'more' },
  { title: '$/M tokens in', of: ({ cost }) => cost.input, show: dollars, better: 'less' },
  { title: '$/M tokens out', of: ({ cost }) => cost.output, show: dollars, better: 'less' },
];

/** `×0.31`, or `+1.2 %` where the two are near each other. */
export function comparedTo(value: number, base: number): string {
  const ratio = value / base;
  if (!Number.isFinite(ratio)) return '–';
  if (Math.abs(ratio - 1) < 0.1) return `${ratio >= 1 ? '+' : '−'}${Math.abs(100 * (ratio - 1)).toFixed(1)} %`;
  return `×${ratio >= 10 ? ratio.toFixed(0) : ratio.toFixed(2)}`;
}

/**
 * One row a model: the figures, each beside how it compares with the first model's.
 *
 * @returns cells by column title, as text
 */
export function compressionTable(models: readonly ComparedModel[]): { name: string; cells: Record<string, string> }[] {
  const base = models[0]?.measured;
  const metrics = [...new Set(models.flatMap(({ measured }) => Object.keys(measured.metrics)))];
  const all: readonly Pick<Figure, 'title' | 'of' | 'show'>[] = [
    ...figures,
    ...metrics.map((title) => ({
      title,
      of: (measured: ModelMeasurement) => measured.metrics[title] ?? null,
      show: plain(4),
    })),
  ];
  const shown = all.filter(({ of }) => models.some(({ measured }) => of(measured) !== null));
  return models.map(({ name, measured }, i) => {
    const cells = shown.map(({ title, of, show }): [string, string] => {
      const [value, first] = [of(measured), of(base!)];
      if (value === null) return [title, '–'];
      return [title, i === 0 || first === null ? show(value) : `${show(value)} (${comparedTo(value, first)})`];
    });
    return { name, cells: Object.fromEntries(cells) };
  });
}
