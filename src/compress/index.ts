/**
 * Making trained models smaller and faster: `omnigrad/compress`.
 *
 * @module
 */
export { blocksOf } from './block_walk.js';
export { calibrationBatches, calibrationHash, type Calibration, type CalibrationOptions } from './calibration.js';
export { folderJournal, type LayerJournal } from './layer_journal.js';
export { compressionTable, type ComparedModel, type CompressionCard } from './pipeline/card.js';
export {
  compress,
  compressAll,
  type CompressedModel,
  type CompressedModels,
  type CompressionEvent,
  type CompressOptions,
} from './pipeline/compress.js';
export { type CompressionMetric, type ModelMeasurement } from './pipeline/measure.js';
export { paretoCharts, paretoFront } from './pipeline/pareto.js';
export { checkPlan, type CompressionPlan, type PlanStep, type PlanTarget } from './pipeline/plan.js';
export {
  comparedModels,
  renderCompressionReport,
  writeCompressionReport,
  type CompressionReportOptions,
} from './pipeline/report.js';
export { type CompressionKey } from './pipeline/state.js';
export {
  registerStep,
  type FinetuneFunction,
  type Rehearsal,
  type StepContext,
  type StepKind,
  type StepNote,
} from './pipeline/step.js';
export {
  globalMagnitudeMasks,
  magnitudeMask,
  nOfMMask,
  structuredMask,
  wandaMask,
  type StructuredMaskOptions,
} from './prune/masks.js';
export {
  quantize,
  type QuantizationOverride,
  type QuantizedLayerReport,
  type QuantizeModelOptions,
} from './quantize/quantize_model.js';
export { type LayerQuantization, type QuantizationMethod, type WeightScheme } from './quantize/scheme.js';
export { type Target } from '../nn/surgery.js';
