/**
 * Weights and gradients of a model as numbers, every so many steps.
 *
 * @module
 */
import { noGrad } from '../autograd/grad.js';
import type { Module } from '../nn/module.js';
import { clone, to } from '../ops/copy.js';
import { isFloating } from '../tensor/dtype.js';
import { keep, scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import type { TrainContext } from './callback.js';

/** Numbers of one tensor, and how TensorBoard is to call them. */
export interface TaggedValues {
  readonly tag: string;
  readonly values: ArrayLike<number>;
}

async function numbersOf(source: Tensor): Promise<ArrayLike<number>> {
  const wide = scope(() => noGrad(() => keep(to(source, 'float32'))));
  try {
    return (await wide.data()) as ArrayLike<number>;
  } finally {
    if (wide !== source) wide.dispose();
  }
}

/** Copies gradients when they are complete, and reads them with the weights once the step is over. */
export class ParameterHistograms {
  private readonly gradients = new Map<string, Tensor>();
  private isDue = false;

  /** @param every steps between histograms */
  constructor(private readonly every: number) {}

  onGradients({ model, step }: TrainContext<Module>): void {
    this.isDue = (step + 1) % this.every === 0;
    if (!this.isDue) return;
    this.dispose();
    for (const [name, parameter] of model.namedParameters()) {
      const { grad } = parameter;
      if (grad !== null && grad !== undefined)
        this.gradients.set(
          name,
          noGrad(() => keep(clone(grad))),
        );
    }
  }

  /** What is to be shown of the step that was just done. */
  async read({ model }: TrainContext<Module>): Promise<TaggedValues[]> {
    if (!this.isDue) return [];
    this.isDue = false;
    const result: TaggedValues[] = [];
    for (const [name, parameter] of model.namedParameters()) {
      if (isFloating(parameter.dtype)) result.push({ tag: `weights/${name}`, values: await numbersOf(parameter) });
    }
    for (const [name, gradient] of this.gradients)
      result.push({ tag: `gradients/${name}`, values: await numbersOf(gradient) });
    this.dispose();
    return result;
  }

  dispose(): void {
    for (const gradient of this.gradients.values()) gradient.dispose();
    this.gradients.clear();
  }
}
