/**
 * Making trained models smaller and faster: `omnigrad/compress`.
 *
 * @module
 */
export { blocksOf } from './block_walk.js';
export { calibrationBatches, calibrationHash, type Calibration, type CalibrationOptions } from './calibration.js';
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
} from './prune/training_masks.js';
export {
  quantize,
  type QuantizationOverride,
  type QuantizedLayerReport,
  type QuantizeModelOptions,
} from './quantize/quantize_model.js';
export { type LayerQuantization, type QuantizationMethod, type WeightScheme } from './quantize/scheme.js';
export { type Target } from '../nn/surgery.js';
