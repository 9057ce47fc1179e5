/**
 * Optimisers: `og.optim`.
 *
 * @module
 */
export * from './adam.js';
export * from './adamw8bit.js';
export * from './adaptive.js';
export * from './clip.js';
export * from './ema.js';
export type {
  OptimizedParameters,
  OptimizerOptions,
  OptionCheck,
  OptionChecks,
  ParameterGroup,
  ResolvedGroup,
} from './groups.js';
export * from './model_groups.js';
export * from './muon.js';
export * from './optimizer.js';
export * from './sgd.js';
