/**
 * Elastic weight consolidation: what mattered to an old task moves less.
 */
import { setImmediate } from 'node:timers/promises';
import { gradientsOf, noGrad } from '../../autograd/grad.js';
import type { Dataset } from '../../data/loader.js';
import { permutationOf } from '../../data/permutation.js';
import { AttributeError, FormatError, StateError } from '../../errors.js';
import { openSafetensors, saveSafetensors } from '../../interop/safetensors.js';
import type { Module } from '../../nn/module.js';
import { add, div, mul } from '../../ops/arithmetic.js';
import { ne } from '../../ops/comparison.js';
import { clone, to } from '../../ops/copy.js';
import { crossEntropy, wideOf } from '../../ops/cross_entropy.js';
import { multinomial } from '../../ops/random_ops.js';
import { softmax } from '../../ops/softmax.js';
import { square } from '../../ops/unary.js';
import { detach, reshape } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { zeros } from '../../tensor/create.js';
import { generator as makeGenerator, type Generator } from '../../tensor/random.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber, checkOneOf } from '../../util/assert.js';
import { copyState, disposeState } from '../copies.js';
import { inEvaluation } from '../../nn/evaluation.js';
import { distanceTo, trainedOf } from './anchor.js';

/** Options of {@link Ewc.estimate}. */
export interface EwcOptions<M, B> {
  /** Weight of the penalty (λ). Default 1. */
  readonly strength?: number;
  /** Examples that the Fisher information is estimated from, drawn without repetition. Default: 200, or as many as there are. */
  readonly samples?: number;
  /**
   * Whose labels: `model` draws each target from the model's own predictions, which estimates the Fisher information itself; `data`
   * takes those of the dataset, the empirical Fisher, which is also large where the model is wrong. Default `model`.
   */
  readonly labels?: 'model' | 'data';
  /** Logits `[…, V]` of a batch. Default: `model.forward(batch.x)`. */
  readonly logits?: (model: M, batch: B) => Tensor;
  /** Class numbers `[…]` of a batch; -100 does not count. Default: `batch.y`. */
  readonly targets?: (batch: B) => Tensor;
  /** Seed of the choice of examples and of the drawn labels. Default 0. */
  readonly seed?: number;
}

/** Targets drawn from the model's predictions, where there is one to be counted. */
function drawn(logits: Tensor, targets: Tensor, generator: Generator): Tensor {
  return noGrad(() => {
    const rows = reshape(detach(logits), [-1, logits.shape.at(-1)!]);
    const own = multinomial(softmax(to(rows, wideOf(rows.dtype)), -1), 1, { replacement: true, generator });
    return where(ne(targets, -100), to(reshape(own, targets.shape), targets.dtype), targets);
  });
}

const prefixes = ['anchor.', 'fisher.'] as const;

/**
 * EWC: λ/2 · Σ F_i (θ_i − θ*_i)² with θ* the parameters after the old task and F the diagonal of its Fisher information, for `withPenalty`;
 * one for each old task. F is the mean, over single examples, of the squared gradient of an example's log-likelihood, which for a
 * sequence is the sum over its targets: with drawn labels that is an unbiased estimate. Holds two numbers for each parameter that trains.
 *
 * @source Kirkpatrick et al. 2017, arXiv 1612.00796, eq. 3; on drawn and given labels: Kunstner et al. 2019, arXiv 1905.12558
 */
export class Ewc {
  readonly strength: number;
  /** Diagonal of the Fisher information, by the parameter's path. */
  readonly fisher: Readonly<Record<string, Tensor>>;
  /** Parameters after the old task, likewise. */
  readonly anchor: Readonly<Record<string, Tensor>>;

  /** @internal */
  constructor(strength: number, fisher: Readonly<Record<string, Tensor>>, anchor: Readonly<Record<string, Tensor>>) {
    this.strength = strength;
    this.fisher = fisher;
    this.anchor = anchor;
  }

  /**
   * Takes stock after a task: call it with the model as the task left it, and the task's data. The model runs in evaluation mode, one
   * example at a time; between them the event loop turns. Parameters and gradients stay as they are.
   *
   * @throws AttributeError if an option cannot be, or batches lack what the defaults need
   * @throws StateError if nothing of the model trains
   */
  static async estimate<M extends Module, B>(
    model: M,
    dataset: Dataset<B>,
    options: EwcOptions<M, B> = {},
  ): Promise<Ewc> {
    const op = 'Ewc.estimate';
    checkKeys(op, options, ['strength', 'samples', 'labels', 'logits', 'targets', 'seed']);
    const strength = checkNumber(op, 'strength', options.strength ?? 1, 0, Number.MAX_VALUE);
    const { length } = dataset;
    const samples = checkInteger(op, 'samples', options.samples ?? Math.min(200, length), 1, length);
    const labels = checkOneOf(op, 'labels', options.labels ?? 'model', ['model', 'data']);
    const seed = checkInteger(op, 'seed', options.seed ?? 0, 0);
    const logitsOf = options.logits ?? ((own, batch) => forwardOf(own, batch));
    const targetsOf = options.targets ?? ((batch) => fieldOf(batch, 'y'));
    const trained = trainedOf(model);
    if (trained.length === 0) {
      throw new StateError({ op, argument: 'model', expected: 'parameters that train', actual: 'none' });
    }
    const order = permutationOf(length, { seed, epoch: 0 }).subarray(0, samples);
    const generator = makeGenerator(seed);
    const parameters = trained.map(([, tensor]) => tensor);
    let sums: Tensor[] = keep(parameters.map(({ shape, dtype }) => zeros(shape, { dtype: wideOf(dtype) })));
    for (const index of order) {
      const before = sums;
      const step = (): Tensor[] => {
        const batch = dataset.batch([index], 0);
        const logits = logitsOf(model, batch);
        const given = targetsOf(batch);
        const targets = labels === 'data' ? given : drawn(logits, given, generator);
        const grads = gradientsOf(crossEntropy(logits, targets, { reduction: 'sum' }), parameters);
        const added = (sum: Tensor, grad: Tensor | null | undefined): Tensor =>
          grad ? add(sum, square(to(grad, sum.dtype))) : clone(sum);
        return noGrad(() => before.map((sum, i) => added(sum, grads[i])));
      };
      sums = keep(scope(() => inEvaluation(model, step)));
      for (const tensor of before) tensor.dispose();
      await setImmediate();
    }
    const means = noGrad(() => sums.map((sum) => keep(div(sum, samples))));
    for (const tensor of sums) tensor.dispose();
    return new Ewc(strength, Object.fromEntries(trained.map(([name], i) => [name, means[i]!])), copyState(trained));
  }

  /**
   * Reads what {@link save} wrote.
   *
   * @throws FormatError if the file holds something else
   */
  static async load(path: string, options: { readonly strength?: number } = {}): Promise<Ewc> {
    const op = 'Ewc.load';
    checkKeys(op, options, ['strength']);
    const file = await openSafetensors(path, { map: false });
    const parts = prefixes.map((prefix) =>
      file.names.filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length)),
    );
    const [anchors, fishers] = parts as [string[], string[]];
    const isWhole = anchors.length > 0 && anchors.every((name) => fishers.includes(name));
    const saved = Number(file.metadata.get('strength'));
    if (!isWhole || anchors.length + fishers.length !== file.names.length || !(saved >= 0)) {
      const expected = 'pairs of anchor.… and fisher.…, and a strength';
      throw new FormatError({ op, argument: path, expected, actual: file.names.slice(0, 4).join(', ') || 'nothing' });
    }
    const read = (prefix: string, names: readonly string[]): Record<string, Tensor> => {
      const own = (name: string): Tensor => keep(scope(() => noGrad(() => clone(file.tensor(`${prefix}${name}`)))));
      return Object.fromEntries(names.map((name) => [name, own(name)]));
    };
    const strength = checkNumber(op, 'strength', options.strength ?? saved, 0, Number.MAX_VALUE);
    return new Ewc(strength, read('fisher.', anchors), read('anchor.', anchors));
  }

  /** Writes Fisher information, parameters and strength to a safetensors file, atomically. */
  async save(path: string): Promise<void> {
    const under = (prefix: string, tensors: Readonly<Record<string, Tensor>>): [string, Tensor][] =>
      Object.entries(tensors).map(([name, tensor]) => [`${prefix}${name}`, tensor]);
    const tensors = Object.fromEntries([...under('anchor.', this.anchor), ...under('fisher.', this.fisher)]);
    await saveSafetensors(path, tensors, { strength: String(this.strength) });
  }

  /** The penalty now, a scalar. @throws StateError if the model lacks a parameter that it was made of */
  value(model: Module): Tensor {
    return scope(() =>
      mul(
        distanceTo('Ewc', model, this.anchor, (name) => this.fisher[name]!),
        this.strength / 2,
      ),
    );
  }

  /** Frees what it holds. */
  dispose(): void {
    disposeState(this.anchor);
    disposeState(this.fisher);
  }
}

function fieldOf(batch: unknown, key: 'x' | 'y'): Tensor {
  const value = (batch as { readonly [K in 'x' | 'y']?: Tensor } | null)?.[key];
  if (value !== undefined) return value;
  const argument = key === 'x' ? 'logits' : 'targets';
  const expected = `a function of the batch, or batches of x and y`;
  throw new AttributeError({ op: 'Ewc.estimate', argument, expected, actual: `a batch without ${key}` });
}

function forwardOf(model: Module, batch: unknown): Tensor {
  return (model as Module & { forward(x: Tensor): Tensor }).forward(fieldOf(batch, 'x'));
}
