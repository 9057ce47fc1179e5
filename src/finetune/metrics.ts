/**
 * How good predicted classes are.
 */
import { noGrad } from '../autograd/grad.js';
import { DataLoader, type Dataset } from '../data/loader.js';
import { AttributeError, ShapeError } from '../errors.js';
import type { Module } from '../nn/module.js';
import { argmax } from '../ops/reduce.js';
import { data } from '../tensor/read.js';
import { keep, scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys, checkOneOf } from '../util/assert.js';
import type { LabelledBatch } from './labelled.js';
import type { LengthOptions } from './pooling.js';

/** How the F1 of classes become one: their mean, their mean weighted by frequency, or over all decisions together. */
export type F1Average = 'macro' | 'weighted' | 'micro';

/** How one class was told from the others. */
export interface ClassScore {
  /** Right among those predicted as this class; 0 if there are none. */
  readonly precision: number;
  /** Found among those of this class; 0 if there are none. */
  readonly recall: number;
  /** 2 · precision · recall / (precision + recall); 0 if both are. */
  readonly f1: number;
  /** Examples of this class. */
  readonly support: number;
}

/** What {@link classificationScores} finds. */
export interface ClassificationScores {
  /** Share of right predictions. */
  readonly accuracy: number;
  readonly macroF1: number;
  readonly weightedF1: number;
  readonly microF1: number;
  /** By class. */
  readonly classes: readonly ClassScore[];
  /** Counts: row of the true class, column of the predicted one. */
  readonly confusion: readonly (readonly number[])[];
}

/**
 * Accuracy, F1 and the confusion of predicted classes with true ones. Labels of -100 do not count.
 *
 * @param classes - number of classes. Default: one more than the largest there is
 * @throws ShapeError if there are not as many of both
 * @throws AttributeError for classes that are no integers from 0 on, or if nothing counts
 */
export function classificationScores(
  predictions: ArrayLike<number>,
  labels: ArrayLike<number>,
  classes?: number,
): ClassificationScores {
  const op = 'classificationScores';
  if (predictions.length !== labels.length) {
    const [expected, actual] = [`${labels.length} predictions`, String(predictions.length)];
    throw new ShapeError({ op, argument: 'predictions', expected, actual });
  }
  const pairs = Array.from(labels, (label, i) => [Number(label), Number(predictions[i]!)] as const).filter(
    ([label]) => label !== -100,
  );
  if (pairs.length === 0) throw new AttributeError({ op, argument: 'labels', expected: 'some', actual: 'none' });
  const count = checkInteger(op, 'classes', classes ?? Math.max(...pairs.map((pair) => Math.max(...pair))) + 1, 1);
  const confusion = Array.from({ length: count }, () => new Array<number>(count).fill(0));
  for (const pair of pairs) {
    for (const [i, value] of pair.entries()) checkInteger(op, i === 0 ? 'labels' : 'predictions', value, 0, count - 1);
    confusion[pair[0]]![pair[1]]!++;
  }
  const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
  const right = sum(confusion.map((row, i) => row[i]!));
  const scores = confusion.map((row, i): ClassScore => {
    const [support, predicted] = [sum(row), sum(confusion.map((other) => other[i]!))];
    const precision = predicted === 0 ? 0 : row[i]! / predicted;
    const recall = support === 0 ? 0 : row[i]! / support;
    return { precision, recall, f1: support + predicted === 0 ? 0 : (2 * row[i]!) / (support + predicted), support };
  });
  // A class that is neither there nor predicted says nothing.
  const met = scores.filter(({ support }, i) => support > 0 || confusion.some((row) => row[i]! > 0));
  return {
    accuracy: right / pairs.length,
    macroF1: sum(met.map(({ f1 }) => f1)) / met.length,
    weightedF1: sum(scores.map(({ f1, support }) => f1 * support)) / pairs.length,
    microF1: right / pairs.length,
    classes: scores,
    confusion,
  };
}

/** Share of right predictions; labels of -100 do not count. */
export function accuracy(predictions: ArrayLike<number>, labels: ArrayLike<number>): number {
  return classificationScores(predictions, labels).accuracy;
}

/** Harmonic mean of precision and recall over classes. Default average `macro`. */
export function f1Score(
  predictions: ArrayLike<number>,
  labels: ArrayLike<number>,
  options: { readonly average?: F1Average } = {},
): number {
  checkKeys('f1Score', options, ['average']);
  const average = checkOneOf('f1Score', 'average', options.average ?? 'macro', ['macro', 'weighted', 'micro']);
  return classificationScores(predictions, labels)[`${average}F1`];
}

/** A model of logits over classes: `SequenceClassifier` or `TokenClassifier`. */
export type Classifier = Module & { forward(ids: Tensor, options: LengthOptions): Tensor; readonly labels: number };

/**
 * Scores of a classifier on a labelled dataset (of problem `single` or `token`), in evaluation mode; the model returns to the mode it
 * was in.
 */
export async function evaluateClassifier(
  model: Classifier,
  dataset: Dataset<LabelledBatch>,
  options: { readonly batchSize?: number } = {},
): Promise<ClassificationScores> {
  checkKeys('evaluateClassifier', options, ['batchSize']);
  const batchSize = checkInteger('evaluateClassifier', 'batchSize', options.batchSize ?? 16, 1);
  const loader = new DataLoader(dataset, { batchSize, shuffle: false, dropLast: false });
  const [predictions, labels]: [number[], number[]] = [[], []];
  const wasTraining = model.training;
  model.eval();
  try {
    for (let i = 0; i < loader.length; i++) {
      const [predicted, wanted] = scope(() =>
        noGrad(() => {
          const { x, y, lengths } = loader.next();
          return [keep(argmax(model.forward(x, { lengths }), -1)), keep(y)] as const;
        }),
      );
      for (const value of await data(predicted)) predictions.push(Number(value));
      for (const value of await data(wanted)) labels.push(Number(value));
      predicted.dispose();
      wanted.dispose();
    }
  } finally {
    model.train(wasTraining);
  }
  return classificationScores(predictions, labels, model.labels);
}
