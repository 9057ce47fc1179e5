/**
 * Heads: what a model of text is made to say of whole sequences, or of each token.
 */
import { Dropout } from '../nn/dropout.js';
import { normal_, zeros_ } from '../nn/init.js';
import { Linear } from '../nn/linear.js';
import { Module } from '../nn/module.js';
import { crossEntropy } from '../ops/cross_entropy.js';
import { bceWithLogits, mseLoss } from '../ops/losses.js';
import { normalize } from '../ops/norm.js';
import { reshape } from '../ops/views.js';
import type { Generator } from '../tensor/random.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger, checkKeys, checkNumber, checkOneOf } from '../util/assert.js';
import { lengthsOf, pool, poolings, widthOf, type HiddenModel, type LengthOptions, type Pooling } from './pooling.js';

/** Options of every head. */
export interface HeadOptions {
  /** Width of the model's vectors. Default: `config.width` of the model. */
  readonly width?: number;
  /** Probability of dropping an element of the vector that goes into the head, in training. Default 0. */
  readonly dropout?: number;
  /** Id that fills rows up, where a call does not say how long they are. Default: none. */
  readonly padId?: number;
  /** Stream of the initial values and of dropout. */
  readonly generator?: Generator;
}

const headKeys = ['width', 'dropout', 'padId', 'generator'];

/** What a sequence's labels are: one class, several classes at a time, or numbers. */
export type Problem = 'single' | 'multi' | 'regression';

/** Options of {@link SequenceClassifier}. */
export interface ClassifierOptions extends HeadOptions {
  /** Classes, or numbers to predict. */
  readonly labels: number;
  /** Default `last`. */
  readonly pooling?: Pooling;
  /** Default `single`. */
  readonly problem?: Problem;
  /** Default false, as in Hugging Face's decoders. */
  readonly bias?: boolean;
}

function checkHead(
  op: string,
  options: object,
  own: readonly string[],
): { readonly dropout: number; readonly padId?: number } {
  checkKeys(op, options, [...own, ...headKeys]);
  const { dropout, padId } = options as HeadOptions;
  return {
    dropout: checkNumber(op, 'dropout', dropout ?? 0, 0, 1),
    ...(padId === undefined ? {} : { padId: checkInteger(op, 'padId', padId, 0) }),
  };
}

/** A new output layer: normal with std 0.02, as models of text begin. */
function outputLayer(width: number, out: number, bias: boolean, generator: Generator | undefined): Linear {
  const layer = new Linear(width, out, { bias, ...(generator === undefined ? {} : { generator }) });
  normal_(layer.weight, 0, 0.02, generator);
  if (layer.bias !== null) zeros_(layer.bias);
  return layer;
}

const streamOf = (generator: Generator | undefined): { generator?: Generator } =>
  generator === undefined ? {} : { generator };

/**
 * A model with an output layer over one vector a sequence: classes, several classes at a time, or numbers. The layer is called
 * `score`, as in Hugging Face's `GPT2ForSequenceClassification`, whose logits and losses it gives. Rows are filled up on the right: a
 * causal model needs no mask then.
 *
 * @example
 * ```ts
 * const model = new SequenceClassifier(gpt, { labels: 2 });
 * model.loss(ids, labels, { lengths }).backward();
 * ```
 */
export class SequenceClassifier<M extends HiddenModel = HiddenModel> extends Module {
  readonly backbone: M;
  readonly dropout: Dropout;
  readonly score: Linear;
  readonly labels: number;
  readonly pooling: Pooling;
  readonly problem: Problem;
  readonly padId: number | undefined;

  /** @throws AttributeError if an option cannot be, or the model has no `hidden` */
  constructor(backbone: M, options: ClassifierOptions) {
    super();
    const op = 'SequenceClassifier';
    const { dropout, padId } = checkHead(op, options, ['labels', 'pooling', 'problem', 'bias']);
    this.labels = checkInteger(op, 'labels', options.labels, 1);
    this.pooling = checkOneOf(op, 'pooling', options.pooling ?? 'last', poolings);
    this.problem = checkOneOf(op, 'problem', options.problem ?? 'single', ['single', 'multi', 'regression']);
    this.padId = padId;
    this.backbone = backbone;
    this.dropout = new Dropout(dropout, streamOf(options.generator));
    const bias = checkBoolean(op, 'bias', options.bias ?? false);
    this.score = outputLayer(widthOf(op, backbone, options.width), this.labels, bias, options.generator);
  }

  /** What the head reads: ids `[B, T]` → `[B, width]`. */
  features(ids: Tensor, options: LengthOptions = {}): Tensor {
    const op = 'SequenceClassifier';
    return scope(() => pool(op, this.backbone.hidden(ids), lengthsOf(op, ids, options, this.padId), this.pooling));
  }

  /** Logits, or numbers: ids `[B, T]` → `[B, labels]`. */
  forward(ids: Tensor, options: LengthOptions = {}): Tensor {
    return scope(() => this.headForward(this.features(ids, options)));
  }

  /** The head alone, of stored features: `[B, width]` → `[B, labels]`. */
  headForward(features: Tensor): Tensor {
    return scope(() => this.score.forward(this.dropout.forward(features)));
  }

  /**
   * Cross-entropy of classes, mean binary cross-entropy of several classes at a time, or mean squared error: a scalar.
   *
   * Shapes: ids `[B, T]`; target int32 `[B]` for `single`, floats `[B, labels]` for `multi`, `[B, labels]` or (one label) `[B]` for
   * `regression`.
   */
  loss(ids: Tensor, target: Tensor, options: LengthOptions = {}): Tensor {
    return scope(() => this.lossOf(this.forward(ids, options), target));
  }

  /** The loss of stored features `[B, width]`: see `cacheFeatures`. */
  featureLoss(features: Tensor, target: Tensor): Tensor {
    return scope(() => this.lossOf(this.headForward(features), target));
  }

  private lossOf(logits: Tensor, target: Tensor): Tensor {
    if (this.problem === 'single') return crossEntropy(logits, target);
    const wanted = target.rank === 1 && this.labels === 1 ? reshape(target, [-1, 1]) : target;
    return this.problem === 'multi' ? bceWithLogits(logits, wanted) : mseLoss(logits, wanted);
  }
}

/** Options of {@link SequenceRegressor}. */
export interface RegressorOptions extends Omit<ClassifierOptions, 'labels' | 'problem'> {
  /** Numbers to predict. Default 1. */
  readonly outputs?: number;
}

/** A {@link SequenceClassifier} that predicts numbers. */
export class SequenceRegressor<M extends HiddenModel = HiddenModel> extends SequenceClassifier<M> {
  constructor(backbone: M, options: RegressorOptions = {}) {
    const { outputs = 1, ...rest } = options;
    super(backbone, { bias: true, ...rest, labels: outputs, problem: 'regression' });
  }
}

/** Options of {@link TokenClassifier}. */
export interface TokenClassifierOptions extends HeadOptions {
  /** Classes. */
  readonly labels: number;
}

/**
 * A model with an output layer over the vector of each token (names in texts, parts of speech). The layer is called `classifier`, as
 * in Hugging Face's `GPT2ForTokenClassification`. Targets of -100 (padding, later parts of a word) do not count.
 */
export class TokenClassifier<M extends HiddenModel = HiddenModel> extends Module {
  readonly backbone: M;
  readonly dropout: Dropout;
  readonly classifier: Linear;
  readonly labels: number;

  /** @throws AttributeError if an option cannot be, or the model has no `hidden` */
  constructor(backbone: M, options: TokenClassifierOptions) {
    super();
    const op = 'TokenClassifier';
    const { dropout } = checkHead(op, options, ['labels']);
    this.labels = checkInteger(op, 'labels', options.labels, 1);
    this.backbone = backbone;
    this.dropout = new Dropout(dropout, streamOf(options.generator));
    this.classifier = outputLayer(widthOf(op, backbone, options.width), this.labels, true, options.generator);
  }

  /** Logits: ids `[B, T]` → `[B, T, labels]`. */
  forward(ids: Tensor): Tensor {
    return scope(() => this.classifier.forward(this.dropout.forward(this.backbone.hidden(ids))));
  }

  /** Mean cross-entropy of the tokens that count: ids and target (int32) `[B, T]` → a scalar. */
  loss(ids: Tensor, target: Tensor): Tensor {
    return scope(() => crossEntropy(this.forward(ids), target));
  }
}

/** Options of {@link EmbeddingModel}. */
export interface EmbeddingOptions extends HeadOptions {
  /** Default `mean`. */
  readonly pooling?: Pooling;
  /** Make vectors of length 1. Default true. */
  readonly normalize?: boolean;
  /** Width of the result, by a linear layer called `projection`. Default: the model's own width, without a layer. */
  readonly outputs?: number;
}

/** A model that turns a text into one vector, for search and comparison; trained with {@link infoNce}. */
export class EmbeddingModel<M extends HiddenModel = HiddenModel> extends Module {
  readonly backbone: M;
  readonly dropout: Dropout;
  readonly projection: Linear | null;
  readonly pooling: Pooling;
  readonly normalize: boolean;
  readonly padId: number | undefined;

  /** @throws AttributeError if an option cannot be, or the model has no `hidden` */
  constructor(backbone: M, options: EmbeddingOptions = {}) {
    super();
    const op = 'EmbeddingModel';
    const { dropout, padId } = checkHead(op, options, ['pooling', 'normalize', 'outputs']);
    this.pooling = checkOneOf(op, 'pooling', options.pooling ?? 'mean', poolings);
    this.normalize = checkBoolean(op, 'normalize', options.normalize ?? true);
    this.padId = padId;
    this.backbone = backbone;
    this.dropout = new Dropout(dropout, streamOf(options.generator));
    const width = widthOf(op, backbone, options.width);
    const { outputs } = options;
    this.projection =
      outputs === undefined
        ? null
        : outputLayer(width, checkInteger(op, 'outputs', outputs, 1), false, options.generator);
  }

  /** Vectors: ids `[B, T]` → `[B, width]`. */
  forward(ids: Tensor, options: LengthOptions = {}): Tensor {
    const op = 'EmbeddingModel';
    return scope(() => {
      const pooled = pool(op, this.backbone.hidden(ids), lengthsOf(op, ids, options, this.padId), this.pooling);
      const dropped = this.dropout.forward(pooled);
      const y = this.projection === null ? dropped : this.projection.forward(dropped);
      return this.normalize ? normalize(y) : y;
    });
  }
}
