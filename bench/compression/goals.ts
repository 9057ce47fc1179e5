/** What each method is to reach. */
import type { CompressionRecord, Judged } from './record.js';
import type { ModelQuality } from './quality.js';
import type { Speed } from './speed.js';

interface Goal<T> {
  readonly goal: string;
  readonly limit: number;
  readonly better: 'lower' | 'higher';
  /** NaN where it was not measured. */
  readonly value: (of: T) => number;
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** How much higher the perplexity is than the model's in float32. */
export const increaseOf = ({ forms }: ModelQuality, name: string): number =>
  (forms[name]?.perplexity ?? NaN) / forms['float32']!.perplexity - 1;
const sizeOf = ({ forms }: ModelQuality, name: string): number => (forms[name]?.bytes ?? NaN) / forms['float32']!.bytes;

const atMost = <T>(goal: string, limit: number, value: (of: T) => number): Goal<T> => ({
  goal,
  limit,
  better: 'lower',
  value,
});
const atLeast = <T>(goal: string, limit: number, value: (of: T) => number): Goal<T> => ({
  goal,
  limit,
  better: 'higher',
  value,
});

/** Share of the gap in loss between the student that learnt alone and its teacher that distillation closes. */
export function gapClosed({ forms, student }: ModelQuality): number {
  if (student === null) return NaN;
  const [teacher, alone, distilled] = [forms['float32']!, student.alone, student.distilled].map(({ perplexity }) =>
    Math.log(perplexity),
  ) as [number, number, number];
  return (alone - distilled) / (alone - teacher);
}

const ofQuality: readonly Goal<ModelQuality>[] = [
  atMost('w8a8 SmoothQuant: perplexity', 0.005, (of) => increaseOf(of, 'w8a8 SmoothQuant')),
  atMost('w8a8 SmoothQuant: size', 0.27, (of) => sizeOf(of, 'w8a8 SmoothQuant')),
  ...['', ', two-stage table'].flatMap((table) => [
    atMost<ModelQuality>(`w4a16 GPTQ${table}: perplexity`, 0.03, (of) => increaseOf(of, `w4a16 GPTQ${table}`)),
    atLeast<ModelQuality>(`w4a16 GPTQ${table}: less loss of quality than rounding to nearest`, 0.3, (of) => {
      const lost = (name: string): number => Math.log1p(increaseOf(of, `${name}${table}`));
      return 1 - lost('w4a16 GPTQ') / lost('w4a16 to nearest');
    }),
    atMost<ModelQuality>(`w4a16 GPTQ${table}: size`, 0.17, (of) => sizeOf(of, `w4a16 GPTQ${table}`)),
  ]),
  atMost('Wanda 50 %: perplexity over magnitude', 1, ({ half }) => mean(half.wanda) / mean(half.magnitude)),
  atMost('SparseGPT 50 %: perplexity over magnitude', 1, ({ half }) => mean(half.sparsegpt) / mean(half.magnitude)),
  atMost('SparseGPT 50 %: perplexity over Wanda', 1, ({ half }) => mean(half.sparsegpt) / mean(half.wanda)),
  atMost('2:4, fine-tuned: perplexity', 0.03, (of) => increaseOf(of, '2:4, fine-tuned')),
  atMost('2:4, fine-tuned: size', 0.6, (of) => sizeOf(of, '2:4, fine-tuned')),
  atMost('2:4, fine-tuned, int8 table: perplexity', 0.03, (of) => increaseOf(of, '2:4, fine-tuned, int8 table')),
  atMost('2:4, fine-tuned, int8 table: size', 0.6, (of) => sizeOf(of, '2:4, fine-tuned, int8 table')),
  atMost('2:4, fine-tuned, int8: size', 0.2, (of) => sizeOf(of, '2:4, fine-tuned, int8')),
  atLeast('student: share of the gap that distillation closes', 0.4, gapClosed),
  atMost('student: size', 0.25, ({ forms, student }) => (student?.distilled.bytes ?? NaN) / forms['float32']!.bytes),
];

const times = ({ forms }: Speed, name: string, of: 'prefill' | 'decode'): number =>
  (forms[name]?.[of] ?? NaN) / forms['float32']![of];
/** How many times faster pruned layers are than dense ones, for inputs of so many rows. */
export function layersFaster({ layers }: Speed, name: string, rows: number): number {
  const seconds = (of: string): number => layers[of]!.find((timing) => timing.rows === rows)!.seconds;
  return seconds('float32') / seconds(name);
}

const ofSpeed: readonly Goal<Speed>[] = [
  atLeast('w8a8 SmoothQuant: prefill', 1.7, (of) => times(of, 'w8a8 SmoothQuant', 'prefill')),
  atLeast('w8a8 SmoothQuant: decode', 3, (of) => times(of, 'w8a8 SmoothQuant', 'decode')),
  atLeast('w4a16: decode', 4.5, (of) => times(of, 'w4a16', 'decode')),
  atLeast('w4a16, two-stage table: decode', 4.5, (of) => times(of, 'w4a16, two-stage table', 'decode')),
  atLeast('2:4: decode', 1, (of) => times(of, '2:4', 'decode')),
  atLeast('2:4, int8: decode', 1, (of) => times(of, '2:4, int8', 'decode')),
  atLeast('90 %: layers, one row', 2, (of) => layersFaster(of, '90 %', 1)),
  atLeast('90 %: layers, 512 rows', 2, (of) => layersFaster(of, '90 %', 512)),
  atLeast('student: prefill', 3, (of) => times(of, 'student', 'prefill')),
  atLeast('student: decode', 3, (of) => times(of, 'student', 'decode')),
];

function judgeBy<T>(goals: readonly Goal<T>[], of: T, model: string | null): Judged[] {
  return goals.flatMap(({ goal, limit, better, value }) => {
    const found = value(of);
    if (Number.isNaN(found)) return [];
    const isMet = better === 'lower' ? found <= limit : found >= limit;
    return { goal, model, value: found, limit, better, isMet };
  });
}

/** The goals against what was measured. */
export function judge({ quality, speed }: Omit<CompressionRecord, 'judged'>): Judged[] {
  return [
    ...Object.entries(quality).flatMap(([name, of]) => judgeBy(ofQuality, of, name)),
    ...(speed === null ? [] : judgeBy(ofSpeed, speed, null)),
  ];
}
