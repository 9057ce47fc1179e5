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
export * from './optimizer.js';
export * from './sgd.js';
