/** Losses, under every way of making one number of them. */
import * as og from '../../../src/index.js';
import { fold, get, lines, make, map, sizeOf, type InputRule, type Nd, type Row, type Shape } from '../row.js';
import { mean, sum } from './reductions.js';

const reductions = ['none', 'mean', 'sum'] as const;
const reduced = (losses: Nd): Nd[] => [losses, fold(losses, mean), fold(losses, sum)];

/** Shapes for `count` operands that are alike. */
const alike = (count: number): Row['shapes'] =>
  ([[3, 4], [0, 4], [1], [2, 17], [33]] as Shape[]).map((shape) => new Array<Shape>(count).fill(shape));
const large = (count: number): readonly Shape[] => new Array<Shape>(count).fill([259, 131]);

type Options = { reduction: og.Reduction };

/** A loss of pairs of elements. */
function pairwise(
  name: string,
  call: (a: og.Tensor, b: og.Tensor, options: Options) => og.Tensor,
  f: (a: number, b: number) => number,
  extra: Partial<Row> = {},
): Row {
  return {
    name,
    call: (a, b) => reductions.map((reduction) => call(a!, b!, { reduction })),
    oracle: (a, b) => reduced(map(f, a!, b!)),
    shapes: alike(2),
    large: large(2),
    ulps: 16,
    misfits: [[[3, 4], [4]]],
    refused: [(a, b) => call(a!, b!, { reduction: 'average' as never })],
    ...extra,
  };
}

const huber = (d: number, delta: number): number =>
  Math.abs(d) < delta ? (d * d) / 2 : delta * (Math.abs(d) - delta / 2);
const softplus = (x: number): number => Math.log1p(Math.exp(x));
const positive: InputRule = { value: (u) => 0.5 + 0.4 * u };

const elementwise: Row[] = [
  pairwise('mseLoss', og.mseLoss, (a, b) => (a - b) ** 2),
  pairwise('l1Loss', og.l1Loss, (a, b) => Math.abs(a - b)),
  pairwise(
    'huberLoss',
    (a, b, options) => og.huberLoss(a, b, { ...options, delta: 0.7 }),
    (a, b) => huber(a - b, 0.7),
    { refused: [(a, b) => og.huberLoss(a!, b!, { delta: 0 })] },
  ),
  pairwise(
    'smoothL1Loss',
    (a, b, options) => og.smoothL1Loss(a, b, { ...options, beta: 0.7 }),
    (a, b) => huber(a - b, 0.7) / 0.7,
    { refused: [(a, b) => og.smoothL1Loss(a!, b!, { beta: -1 })] },
  ),
  pairwise(
    'smoothL1Loss without a parabola',
    (a, b, options) => og.smoothL1Loss(a, b, { ...options, beta: 0 }),
    (a, b) => Math.abs(a - b),
    { op: 'smoothL1Loss' },
  ),
  {
    name: 'bceWithLogits',
    call: (x, y, weight, posWeight) =>
      reductions.map((reduction) => og.bceWithLogits(x!, y!, { reduction, weight: weight!, posWeight: posWeight! })),
    oracle: (x, y, weight, posWeight) =>
      reduced(map((a, t, w, p) => w * (p * t * softplus(-a) + (1 - t) * softplus(a)), x!, y!, weight!, posWeight!)),
    inputs: [{}, positive, positive, positive],
    shapes: [
      [[3, 4], [3, 4], [3, 1], [4]],
      [[0, 4], [0, 4], [4], [4]],
      [[1], [1], [1], [1]],
      [[2, 17], [2, 17], [17], [1]],
    ],
    large: [[259, 131], [259, 131], [131], [131]],
    ulps: 32,
    misfits: [[[3, 4], [4], [4], [4]]],
    refused: [(x, y) => og.bceWithLogits(x!, y!, { reduction: 'all' as never })],
  },
];

const klReductions = [...reductions, 'batchmean'] as const;
const batchmean = (losses: Nd): Nd => fold(losses, (values) => sum(values) / losses.shape[0]!);

function divergence(name: string, logTarget: boolean, f: (input: number, target: number) => number): Row {
  return {
    name,
    op: 'klDiv',
    call: (input, target) => klReductions.map((reduction) => og.klDiv(input!, target!, { reduction, logTarget })),
    oracle: (input, target) => {
      const losses = map(f, input!, target!);
      return [...reduced(losses), batchmean(losses)];
    },
    inputs: [{}, logTarget ? {} : positive],
    shapes: alike(2),
    large: large(2),
    ulps: 32,
    magnitude: 4,
    misfits: [
      [[3, 4], [4]],
      [[], []],
    ],
    refused: [(input, target) => og.klDiv(input!, target!, { reduction: 'batch' as never })],
  };
}

/** Negative logarithms of the softmax along the last axis. */
const surprise = (x: Nd): Nd =>
  lines(x, -1, (values) => {
    const top = Math.max(...values);
    const total = Math.log(sum(values.map((value) => Math.exp(value - top)))) + top;
    return values.map((value) => total - value);
  });

const ignoreIndex = 1;
/** Classes 0, 1, 2, 0, …, of which 1 does not count. */
const classes: InputRule = { dtype: 'int64', value: (_, i) => i % 3 };
const fixed: InputRule = { ...positive, constant: true };
const wide = (dtype: og.DType): og.DType => (dtype === 'float64' ? 'float64' : 'float32');

/** Losses of rows of logits against class numbers, and their mean over the targets that count. */
function hard(logits: Nd, target: Nd, weight: Nd | undefined, smoothing: number): Nd[] {
  const losses = surprise(logits);
  const count = logits.shape.at(-1)!;
  const weightOf = (c: number): number => weight?.data[c] ?? 1;
  const rows = make(target.shape, (index) => {
    const own = get(target, index);
    if (own === ignoreIndex) return 0;
    const spread = Array.from({ length: count }, (_, c) => weightOf(c) * get(losses, [...index, c]));
    return (1 - smoothing) * weightOf(own) * get(losses, [...index, own]) + (smoothing / count) * sum(spread);
  });
  const total = fold(rows, sum);
  const counted = sum(Array.from(target.data, (own) => (own === ignoreIndex ? 0 : weightOf(own))));
  return [rows, map((x) => x / counted, total), total];
}

const entropies: Row[] = [
  {
    name: 'crossEntropy',
    call: (logits, target, weight) =>
      reductions.map((reduction) =>
        og.crossEntropy(logits!, target!, { reduction, ignoreIndex, labelSmoothing: 0.2, weight: weight ?? null }),
      ),
    oracle: (logits, target, weight) => hard(logits!, target!, weight, 0.2),
    inputs: [{}, classes, fixed],
    shapes: [
      [[4, 5], [4], [5]],
      [[2, 3, 4], [2, 3], [4]],
      [[0, 4], [0], [4]],
      [[1, 1], [1], [1]],
      [[5, 17], [5]],
      [[7, 33], [7], [33]],
    ],
    large: [[259, 131], [259], [131]],
    result: wide,
    ulps: 32,
    kernels: ['cross_entropy', 'cross_entropy_backward'],
    misfits: [
      [[4, 5], [3], [5]],
      [[4, 5], [4], [4]],
    ],
    refused: [
      (logits, target) => og.crossEntropy(logits!, target!, { labelSmoothing: 2 }),
      (logits, target) => og.crossEntropy(logits!, og.add(target!, 5)),
      (logits, target) => og.crossEntropy(logits!, target!, { ignoreIndex: 0.5 }),
    ],
  },
  {
    name: 'crossEntropy of classes on axis 1',
    op: 'crossEntropy',
    call: (logits, target) => og.crossEntropy(logits!, target!, { axis: 1, ignoreIndex }),
    oracle: (logits, target) => {
      const [n, c, length] = logits!.shape as [number, number, number];
      const last = make([n, length, c], ([i, j, k]) => get(logits!, [i!, k!, j!]));
      return hard(last, target!, undefined, 0)[1]!;
    },
    inputs: [{}, classes],
    shapes: [
      [
        [2, 4, 3],
        [2, 3],
      ],
      [
        [0, 4, 3],
        [0, 3],
      ],
      [
        [1, 1, 1],
        [1, 1],
      ],
      [
        [2, 17, 5],
        [2, 5],
      ],
    ],
    result: wide,
    ulps: 32,
  },
  {
    name: 'crossEntropy of probabilities',
    op: 'crossEntropy',
    call: (logits, target, weight) =>
      reductions.map((reduction) =>
        og.crossEntropy(logits!, target!, { reduction, labelSmoothing: 0.1, weight: weight! }),
      ),
    oracle: (logits, target, weight) => {
      const count = logits!.shape.at(-1)!;
      const smooth = map((t, w) => w * (0.9 * t + 0.1 / count), target!, weight!);
      return reduced(
        fold(
          map((loss, t) => loss * t, surprise(logits!), smooth),
          sum,
          [-1],
        ),
      );
    },
    inputs: [{}, positive, fixed],
    shapes: [
      [[4, 5], [4, 5], [5]],
      [[0, 4], [0, 4], [4]],
      [[1, 1], [1, 1], [1]],
      [[5, 17], [5, 17], [17]],
    ],
    large: [[259, 131], [259, 131], [131]],
    result: wide,
    ulps: 32,
    magnitude: 8,
    misfits: [[[4, 5], [4, 4], [5]]],
  },
  {
    name: 'distillationLoss',
    call: (student, teacher, target) =>
      [target!, null].map((own) =>
        og.distillationLoss(student!, teacher!, own, { temperature: 3, alpha: 0.3, ignoreIndex }),
      ),
    oracle: (student, teacher, target) => {
      const soften = (x: Nd): Nd => surprise(map((value) => value / 3, x));
      const parts = map((s, t) => Math.exp(-t) * (s - t), soften(student!), soften(teacher!));
      const fromTeacher = (0.3 * 9 * sum([...parts.data])) / sizeOf(target!.shape);
      const fromTarget = hard(student!, target!, undefined, 0)[1]!;
      return [map((value) => fromTeacher + 0.7 * value, fromTarget), make([], () => fromTeacher)];
    },
    inputs: [{}, { constant: true }, classes],
    shapes: [
      [[4, 5], [4, 5], [4]],
      [[0, 4], [0, 4], [0]],
      [[1, 1], [1, 1], [1]],
      [
        [2, 3, 17],
        [2, 3, 17],
        [2, 3],
      ],
    ],
    large: [[259, 131], [259, 131], [259]],
    result: wide,
    ulps: 32,
    magnitude: 4,
    misfits: [[[4, 5], [4, 4], [4]]],
    refused: [
      (a, b, target) => og.distillationLoss(a!, b!, target!, { alpha: 2 }),
      (a, b, target) => og.distillationLoss(a!, b!, target!, { temperature: 0 }),
    ],
  },
];

const dot = (a: readonly number[], b: readonly number[]): number => sum(a.map((value, i) => value * b[i]!));
const length = (a: readonly number[]): number => Math.sqrt(dot(a, a));
const row = (x: Nd, i: number): number[] => {
  const width = x.shape.at(-1)!;
  return [...x.data.slice(i * width, (i + 1) * width)];
};
const rowsOf = (x: Nd): number => sizeOf(x.shape.slice(0, -1));
/** f of rows that belong together, without the last axis. */
const byRow = (f: (i: number) => number, like: Nd): Nd => ({
  shape: like.shape.slice(0, -1),
  data: Float64Array.from({ length: rowsOf(like) }, (_, i) => f(i)),
});

const embeddings: Row[] = [
  {
    name: 'cosineSimilarity',
    call: (a, b) => og.cosineSimilarity(a!, b!),
    oracle: (a, b) => {
      const at = (i: number): number => (rowsOf(b!) === 1 ? 0 : i);
      return byRow((i) => {
        const [x, y] = [row(a!, i), row(b!, at(i))];
        return dot(x, y) / (length(x) * length(y));
      }, a!);
    },
    shapes: [
      [
        [3, 5],
        [3, 5],
      ],
      [[3, 5], [5]],
      [
        [0, 4],
        [0, 4],
      ],
      [[1], [1]],
      [
        [2, 33],
        [2, 33],
      ],
    ],
    large: large(2),
    ulps: 16,
    misfits: [
      [
        [3, 5],
        [3, 4],
      ],
    ],
    refused: [(a, b) => og.cosineSimilarity(a!, b!, { eps: -1 })],
  },
  {
    name: 'clipContrastive',
    call: (images, texts, scale) => og.clipContrastive(images!, texts!, scale!),
    oracle: (images, texts, scale) => {
      const count = images!.shape[0]!;
      const alike = make([count, count], ([i, j]) => {
        const [x, y] = [row(images!, i!), row(texts!, j!)];
        return (Math.exp(scale!.data[0]!) * dot(x, y)) / (length(x) * length(y));
      });
      const turned = make([count, count], ([i, j]) => get(alike, [j!, i!]));
      const find = (x: Nd): number => {
        const losses = surprise(x);
        return mean(Array.from({ length: count }, (_, i) => get(losses, [i, i])));
      };
      return make([], () => (find(alike) + find(turned)) / 2);
    },
    shapes: [
      [[3, 5], [3, 5], []],
      [[0, 4], [0, 4], []],
      [[1, 1], [1, 1], []],
      [[4, 17], [4, 17], []],
    ],
    large: [[131, 67], [131, 67], []],
    result: wide,
    precision: (floats) => floats, // similarities are in the dtype of the embeddings
    ulps: 32,
    magnitude: 8,
    misfits: [
      [[3, 5], [3, 4], []],
      [[3], [3], []],
    ],
  },
  {
    name: 'tripletMarginLoss',
    call: (anchor, near, far) =>
      reductions.map((reduction) => og.tripletMarginLoss(anchor!, near!, far!, { reduction, margin: 0.8 })),
    oracle: (anchor, near, far) => {
      const distance = (x: Nd, i: number): number =>
        length(row(anchor!, i).map((value, k) => value - row(x, i)[k]! + 1e-6));
      return reduced(byRow((i) => Math.max(distance(near!, i) - distance(far!, i) + 0.8, 0), anchor!));
    },
    shapes: alike(3),
    large: large(3),
    ulps: 32,
    misfits: [
      [
        [3, 4],
        [3, 4],
        [3, 3],
      ],
    ],
    refused: [(a, b, c) => og.tripletMarginLoss(a!, b!, c!, { reduction: 'all' as never })],
  },
];

export const lossRows: readonly Row[] = [
  ...elementwise,
  divergence('klDiv', false, (input, target) => target * (Math.log(target) - input)),
  divergence('klDiv of logarithms', true, (input, target) => Math.exp(target) * (target - input)),
  ...entropies,
  ...embeddings,
];
