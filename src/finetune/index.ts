/**
 * Adapting trained models: `omnigrad/finetune`.
 *
 * @module
 */
export {
  addBottleneck,
  bottleneck,
  bottlenecksOf,
  loadBottleneck,
  removeBottleneck,
  saveBottleneck,
  setActiveBottlenecks,
  withoutBottlenecks,
  type BottleneckOptions,
  type BottleneckPlacement,
  type LoadBottleneckOptions,
} from './bottleneck.js';
export { BottleneckAdapter, BottleneckSet, type BottleneckActivation } from './bottleneck_layer.js';
export { contrastiveLoss, infoNce, type Embedder, type InfoNceOptions, type PairBatch } from './contrastive.js';
export { cacheFeatures, FeatureDataset, featureLoss, type FeatureBatch, type FeatureModel } from './features.js';
export {
  freeze,
  headOnly,
  trainableParameters,
  unfreeze,
  unfreezeLast,
  type HeadOnlyOptions,
  type TrainableReport,
} from './freeze.js';
export { gradualUnfreezing, type GradualUnfreezingOptions } from './gradual.js';
export {
  EmbeddingModel,
  SequenceClassifier,
  SequenceRegressor,
  TokenClassifier,
  type ClassifierOptions,
  type EmbeddingOptions,
  type HeadOptions,
  type Problem,
  type RegressorOptions,
  type TokenClassifierOptions,
} from './heads.js';
export {
  encodeChat,
  InstructionDataset,
  instructionLoss,
  type EncodedChat,
  type InstructionBatch,
  type InstructionExample,
  type InstructionModel,
  type InstructionOptions,
} from './instruction.js';
export {
  LabelledDataset,
  labelledLoss,
  PairDataset,
  type LabelledBatch,
  type LabelledExample,
  type LabelledModel,
  type LabelledOptions,
  type PairExample,
  type RowOptions,
  type TextEncoder,
  type TextOrIds,
} from './labelled.js';
export { type Target } from './layers.js';
export {
  adaptersOf,
  adapterState,
  addAdapter,
  lora,
  mergeAdapters,
  mergeAndUnload,
  removeAdapter,
  setActiveAdapters,
  unloadAdapters,
  unmergeAdapters,
  withoutAdapters,
  type LoraOptions,
  type MergeOptions,
  type SetActiveOptions,
} from './lora.js';
export {
  LoraAdapter,
  LoraLinear,
  type AdapterSettings,
  type LoraBase,
  type LoraInit,
  type LoraVariant,
} from './lora_linear.js';
export {
  accuracy,
  classificationScores,
  evaluateClassifier,
  f1Score,
  type ClassificationScores,
  type Classifier,
  type ClassScore,
  type F1Average,
} from './metrics.js';
export { loadAdapter, type LoadAdapterOptions } from './peft_load.js';
export { type PeftArchitecture } from './peft_names.js';
export { saveAdapter, type SaveAdapterOptions } from './peft_save.js';
export { type HiddenModel, type LengthOptions, type Pooling } from './pooling.js';
export {
  prefixTuning,
  PrefixEncoder,
  PromptEmbedding,
  promptTuning,
  VirtualTokenModel,
  type PrefixOptions,
  type PromptOptions,
} from './virtual_tokens.js';
export {
  loadVirtualTokens,
  saveVirtualTokens,
  type LoadVirtualTokensOptions,
  type SaveVirtualTokensOptions,
} from './virtual_tokens_peft.js';
