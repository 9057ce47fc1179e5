/**
 * Layers and losses: `og.nn`.
 *
 * @module
 */
export * from './attention.js';
export * from './block.js';
export * from './checkpointed.js';
export * from './conv.js';
export * from './dropout.js';
export * from './embedding.js';
export * from './float8_linear.js';
export * as init from './init.js';
export * from './int8_linear.js';
export * from './kv_cache.js';
export { KvPool } from './kv_pages.js';
export { registerLayerKind, type LayerForm, type LayerKind } from './layer_forms.js';
export * from './linear.js';
export * from './mlp.js';
export * from './module.js';
export * from './norm.js';
export * from './quantized_embedding.js';
export type { CodedScales } from './double_quant.js';
export * from './quantized_linear.js';
export * from './sequential.js';
export * from './sparse_linear.js';
export * from '../ops/losses.js';
