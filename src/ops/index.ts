// The table of contents: one line an op file. Everything exported here is `og.…`, and what methods.ts lists is `x.…` too.
export * from './arithmetic.js';
export * from './comparison.js';
export { clone, contiguous, copy_, to } from './copy.js';
export { expand, broadcastTo } from './broadcast.js';
export * from './power.js';
export * from './reduce.js';
export * from './unary.js';
export { detach, diagonal, flatten, flip, narrow, permute, reshape, select, slice, squeeze, transpose, unsqueeze } from './views.js';
export * from './where.js';
