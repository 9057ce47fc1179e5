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
export { type Target } from '../nn/surgery.js';
export { gradualUnfreezing, type GradualUnfreezingOptions, type UnfreezingContext } from './gradual.js';
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
export {
  KtoDataset,
  PreferenceDataset,
  type KtoBatch,
  type KtoDatasetOptions,
  type KtoExample,
  type PairedBatch,
  type PreferenceBatch,
  type PreferenceExample,
} from './preference/dataset.js';
export { answerLogProbs, type LogitsModel, type RowLogProbs } from './preference/log_probs.js';
export {
  bradleyTerryLoss,
  dpoLoss,
  ktoLoss,
  orpoLoss,
  simpoLoss,
  type BradleyTerryOptions,
  type DpoLossOptions,
  type KtoInputs,
  type KtoLossOptions,
  type OrpoLossOptions,
  type PairLogProbs,
  type SimpoLossOptions,
} from './preference/losses.js';
export { PreferenceMeter, PreferenceMetrics, type PreferenceReport } from './preference/metrics.js';
export { precomputeReference, type PrecomputeOptions } from './preference/reference.js';
export {
  RewardModel,
  rewardModeling,
  type RewardModelingOptions,
  type RewardModelOptions,
} from './preference/reward.js';
export {
  type AnswerRow,
  type AnswerRowOptions,
  type AnswerRowSettings,
  type RowBatch,
  type TokenIds,
} from './preference/rows.js';
export {
  dpo,
  kto,
  orpo,
  simpo,
  type DpoOptions,
  type KtoOptions,
  type MeteredOptions,
  type OrpoOptions,
  type PreferenceLoss,
  type Reference,
  type ReferenceOptions,
  type SimpoOptions,
} from './preference/training.js';
export { Ewc, type EwcOptions } from './continual/ewc.js';
export { L2Sp, type L2SpOptions } from './continual/l2sp.js';
export { withPenalty, type Penalty } from './continual/penalty.js';
export { mergeBatches, RehearsalDataset, type RehearsalOptions } from './continual/rehearsal.js';
export { LogitEnsemble, type EnsembleMember, type EnsembleOptions } from './merge/ensemble.js';
export { graftStates, stackStates, type LayerSlice } from './merge/layers.js';
export {
  graftLayers,
  mergeModels,
  stackLayers,
  type MergeIntoOptions,
  type MergeModelsOptions,
  type ModelSlice,
} from './merge/models.js';
export { slerpStates } from './merge/slerp.js';
export { greedySoup, type GreedySoup, type GreedySoupOptions } from './merge/soup.js';
export { averageStates, taskArithmetic, taskVector, type TaskArithmeticOptions } from './merge/states.js';
export { dareStates, tiesStates, type DareOptions, type TiesOptions, type TrimScope } from './merge/ties.js';
export { combineAdapters, type CombineAdaptersOptions } from './merge/adapters.js';
export { type HiddenModel, type LengthOptions, type Pooling } from './pooling.js';
export {
  prefixTuning,
  PrefixEncoder,
  PromptEmbedding,
  promptTuning,
  VirtualTokenModel,
  VirtualTokenSets,
  type PrefixOptions,
  type PromptOptions,
} from './virtual_tokens.js';
export {
  loadVirtualTokens,
  saveVirtualTokens,
  type LoadVirtualTokensOptions,
  type SaveVirtualTokensOptions,
} from './virtual_tokens_peft.js';
