/**
 * Adapting trained models: `omnigrad/finetune`.
 *
 * @module
 */
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
  type HiddenModel,
  type RewardModelingOptions,
  type RewardModelOptions,
} from './preference/reward.js';
export { type RowBatch, type RowOptions, type TokenIds } from './preference/rows.js';
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
export { graftLayers, mergeModels, stackLayers, type MergeModelsOptions, type ModelSlice } from './merge/models.js';
export { slerpStates } from './merge/slerp.js';
export { greedySoup, type GreedySoup, type GreedySoupOptions } from './merge/soup.js';
export { averageStates, taskArithmetic, taskVector, type TaskArithmeticOptions } from './merge/states.js';
export { dareStates, tiesStates, type DareOptions, type TiesOptions, type TrimScope } from './merge/ties.js';
export { combineAdapters, type CombineAdaptersOptions } from './merge/adapters.js';
