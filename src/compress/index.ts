/**
 * Making trained models smaller and faster: `omnigrad/compress`.
 *
 * @module
 */
export { blocksOf } from './block_walk.js';
export { calibrationBatches, calibrationHash, type Calibration, type CalibrationOptions } from './calibration.js';
export { type EmbeddingOptions } from './embedding_tables.js';
export { folderJournal, type LayerJournal } from './layer_journal.js';
export { compressionTable, describeSteps, type ComparedModel, type CompressionCard } from './pipeline/card.js';
export {
  checkCompression,
  compress,
  compressAll,
  type CompressedModel,
  type CompressedModels,
  type CompressionEvent,
  type CompressOptions,
} from './pipeline/compress.js';
export { type CompressionMetric, type ModelMeasurement } from './pipeline/measure.js';
export { paretoCharts, paretoFront } from './pipeline/pareto.js';
export { checkPlan, type CompressionPlan, type PlanStep, type PlanTarget, type ResolvedPlan } from './pipeline/plan.js';
export {
  comparedModels,
  renderCompressionReport,
  writeCompressionReport,
  type CompressionReportOptions,
} from './pipeline/report.js';
export { type CompressionKey } from './pipeline/state.js';
export {
  registerStep,
  type Rehearsal,
  type StepContext,
  type StepKind,
  type StepNote,
  type TrainFunction,
} from './pipeline/step.js';
export {
  generateCorpus,
  CorpusDataset,
  type CorpusBatch,
  type CorpusOptions,
  type WrittenRow,
} from './distill/corpus.js';
export { type WritingModel } from './distill/continuation.js';
export { distill, type DistillationParts, type DistillOptions } from './distill/distill.js';
export {
  batchLoss,
  Distillation,
  type DistillationBatch,
  type DistillationModuleOptions,
  type LogitsModel,
  type TeacherBatch,
} from './distill/distillation.js';
export {
  distillationDivergence,
  type DivergenceChoice,
  type DivergenceKind,
  type DivergenceOptions,
  type ResolvedDivergence,
} from './distill/divergence.js';
export { type AttentionMapOptions, type HiddenStateOptions } from './distill/features.js';
export { type LayerMap, type LayerName } from './distill/layer_map.js';
export { OnPolicyDataset, type OnPolicyOptions } from './distill/on_policy.js';
export { initializeFromTeacher, studentOf, type InitializeOptions, type LayerChoice } from './distill/student.js';
export { TeacherCache, type TeacherCacheOptions } from './distill/teacher_cache.js';
export { topKOf, type TopKPredictions } from './distill/top_k.js';
export {
  globalMagnitudeMasks,
  magnitudeMask,
  nOfMMask,
  structuredMask,
  wandaMask,
  type StructuredMaskOptions,
} from './prune/masks.js';
export { type LayerPruning, type PruneMethod } from './prune/method.js';
export {
  MovementLinear,
  movementPruning,
  type MovementPruning,
  type MovementPruningOptions,
} from './prune/movement.js';
export { type PrunePattern, type PruneScope } from './prune/pattern.js';
export { prune, type PrunedLayerReport, type PruneOptions, type PruneOverride } from './prune/prune_model.js';
export { sparsify, type SparsifiedLayerReport, type SparsifyModelOptions } from './prune/sparsify.js';
export {
  layerImportance,
  unitImportance,
  type ImportanceData,
  type UnitImportance,
} from './prune/structured/importance.js';
export { pruneStructures, type PruneStructuresOptions } from './prune/structured/prune_structures.js';
export { removeStructures, type Structures } from './prune/structured/remove.js';
export { type UnitKind } from './prune/structured/units.js';
export {
  cubicSparsity,
  gradualPruning,
  maskedTraining,
  type GradualPruningOptions,
  type MaskCallback,
  type SparsitySchedule,
  type WeightAverages,
} from './prune/training_masks.js';
export {
  quantize,
  type QuantizationOverride,
  type QuantizedLayerReport,
  type QuantizeModelOptions,
} from './quantize/quantize_model.js';
export { planMixedPrecision, type MixedPrecisionBudget, type MixedPrecisionPlan } from './quantize/mixed_precision.js';
export { type WholeModelOptions } from './quantize/model_options.js';
export { type ObserverKind } from './quantize/observers.js';
export { convertQat, prepareQat, type ConvertQatOptions, type QatOptions } from './quantize/qat.js';
export { type LayerQuantization, type QuantizationMethod, type WeightScheme } from './quantize/scheme.js';
export {
  sensitivity,
  type LayerSensitivity,
  type MeasuredCandidate,
  type SensitivityOptions,
} from './quantize/sensitivity.js';
export { type Target } from '../nn/surgery.js';
