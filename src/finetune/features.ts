/**
 * Feature transfer: what a frozen model makes of a dataset, computed once, and a head trained on that.
 */
import { noGrad } from '../autograd/grad.js';
import { DataLoader, type Dataset } from '../data/loader.js';
import { AttributeError, FormatError } from '../errors.js';
import { openSafetensors, saveSafetensors } from '../interop/safetensors.js';
import type { Module } from '../nn/module.js';
import { clone } from '../ops/copy.js';
import { indexSelect } from '../ops/indexing.js';
import { concat } from '../ops/join.js';
import { tensor } from '../tensor/create.js';
import { synchronize } from '../runtime/backend.js';
import { keep, scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys } from '../util/assert.js';
import type { LabelledBatch } from './labelled.js';
import type { LengthOptions } from './pooling.js';

/** A batch of {@link FeatureDataset}: features `[B, width]` and what belongs to them. */
export interface FeatureBatch {
  readonly x: Tensor;
  readonly y: Tensor;
}

/** Stored features of a dataset with their targets. */
export class FeatureDataset implements Dataset<FeatureBatch> {
  /** `[N, width]`. */
  readonly features: Tensor;
  /** `[N, …]`. */
  readonly targets: Tensor;

  /** @throws AttributeError if there are not as many of both */
  constructor(features: Tensor, targets: Tensor) {
    if (features.rank !== 2 || features.shape[0] !== targets.shape[0]) {
      const [expected, actual] = [`${features.shape[0] ?? 0} targets`, String(targets.shape[0] ?? 0)];
      throw new AttributeError({ op: 'FeatureDataset', argument: 'targets', expected, actual });
    }
    this.features = keep(features);
    this.targets = keep(targets);
  }

  /**
   * Maps a file of {@link FeatureDataset.save}: its pages are read as batches ask for them.
   *
   * @throws FormatError if the file holds something else
   */
  static async open(path: string): Promise<FeatureDataset> {
    const file = await openSafetensors(path);
    if (!file.has('features') || !file.has('targets')) {
      const actual = file.names.join(', ') || 'nothing';
      throw new FormatError({ op: 'FeatureDataset.open', argument: path, expected: 'features and targets', actual });
    }
    return new FeatureDataset(file.tensor('features'), file.tensor('targets'));
  }

  /** Writes features and targets into one safetensors file, atomically. */
  async save(path: string): Promise<void> {
    await saveSafetensors(path, { features: this.features, targets: this.targets });
  }

  get length(): number {
    return this.features.shape[0]!;
  }

  batch(indices: readonly number[]): FeatureBatch {
    return scope(() =>
      noGrad(() => {
        const rows = tensor(Int32Array.from(indices));
        return { x: indexSelect(this.features, 0, rows), y: indexSelect(this.targets, 0, rows) };
      }),
    );
  }

  /** Frees both tensors. */
  dispose(): void {
    this.features.dispose();
    this.targets.dispose();
  }
}

/** A model whose head can be trained apart: `SequenceClassifier`, `SequenceRegressor`. */
export type FeatureModel = Module & {
  features(ids: Tensor, options: LengthOptions): Tensor;
  featureLoss(features: Tensor, target: Tensor): Tensor;
};

/**
 * Runs a model's body over a dataset once, in evaluation mode and without gradients, and keeps what its head reads: training the head
 * costs no pass through the body then, however many epochs. Gives the losses of training with a frozen body, bit for bit where rows
 * are filled up alike (as good as equal otherwise), as long as the body has no dropout.
 *
 * @example
 * ```ts
 * const train = await cacheFeatures(model, dataset);
 * new og.Trainer(headOnly(model), { train, loss: featureLoss, batchSize: 32, optimizer: (p) => new og.optim.AdamW(p, { lr: 1e-2 }) });
 * ```
 */
export async function cacheFeatures(
  model: FeatureModel,
  dataset: Dataset<LabelledBatch>,
  options: { readonly batchSize?: number } = {},
): Promise<FeatureDataset> {
  checkKeys('cacheFeatures', options, ['batchSize']);
  const batchSize = checkInteger('cacheFeatures', 'batchSize', options.batchSize ?? 16, 1);
  const loader = new DataLoader(dataset, { batchSize, shuffle: false, dropLast: false });
  const wasTraining = model.training;
  const parts: { readonly x: Tensor; readonly y: Tensor }[] = [];
  model.eval();
  try {
    for (let i = 0; i < loader.length; i++) {
      parts.push(
        scope(() =>
          noGrad(() => {
            const { x, y, lengths } = loader.next();
            return { x: keep(model.features(x, { lengths })), y: keep(clone(y)) };
          }),
        ),
      );
      await synchronize();
    }
    const join = (side: 'x' | 'y'): Tensor => scope(() => noGrad(() => keep(concat(parts.map((part) => part[side])))));
    return new FeatureDataset(join('x'), join('y'));
  } finally {
    for (const { x, y } of parts) {
      x.dispose();
      y.dispose();
    }
    model.train(wasTraining);
  }
}

/** The loss of a model's head on stored features, for `Trainer`. */
export function featureLoss(model: FeatureModel, { x, y }: FeatureBatch): Tensor {
  return model.featureLoss(x, y);
}
