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
