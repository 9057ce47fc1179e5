// The table of contents: one line an op file. Everything exported here is `og.…`, and what methods.ts lists is `x.…` too.
export * from './arithmetic.js';
export * from './comparison.js';
export { clone, contiguous, copy_, to } from './copy.js';
export { expand, broadcastTo } from './broadcast.js';
export * from './power.js';
export * from './reduce.js';
export * from './unary.js';
export {
  detach,
  diagonal,
  flatten,
  flip,
  narrow,
  permute,
  reshape,
  select,
  slice,
  squeeze,
  transpose,
  unsqueeze,
} from './views.js';
export * from './where.js';
export {
  relu,
  sigmoid,
  tanh,
  silu,
  gelu,
  softplus,
  logSigmoid,
  elu,
  celu,
  selu,
  leakyRelu,
  reluSquared,
  relu6,
  hardsigmoid,
  hardswish,
  mish,
  quickGelu,
  softsign,
  glu,
  type GeluOptions,
} from './activation.js';
export * from './add_norm.js';
export * from './alibi.js';
export * as audio from './audio.js';
export { scaledDotProductAttention, type AttentionOptions } from './attention.js';
export { crossEntropy, type CrossEntropyOptions, type Reduction } from './cross_entropy.js';
export { dropout, type DropoutOptions } from './dropout.js';
export * from './einsum.js';
export * from './fake_quantize.js';
export * as fft from './fft.js';
export * as linalg from './linalg.js';
export { type Operand } from './elementwise.js';
export * from './embedding.js';
export * from './linear_cross_entropy.js';
export * from './losses.js';
export { linear, type LinearActivation, type LinearEnd } from './linear.js';
export { matmul } from './matmul.js';
export * from './norm.js';
export * from './obs_block.js';
export * from './rope.js';
export * from './softmax.js';
export * from './at.js';
export * from './conv.js';
export * from './float8.js';
export * from './indexing.js';
export * from './interpolate.js';
export * from './join.js';
export * from './matmul_integer.js';
export * from './pad.js';
export {
  adaptiveAvgPool1d,
  adaptiveAvgPool2d,
  avgPool1d,
  avgPool2d,
  maxPool1d,
  maxPool2d,
  type AvgPoolOptions,
  type MaxPoolOptions,
  type PoolOptions,
} from './pool.js';
export * from './blockwise.js';
export {
  dequantize,
  quantize,
  type QuantizationErrors,
  type QuantizationRounding,
  type QuantizationScheme,
  type Quantized,
  type QuantizeOptions,
} from './quantization.js';
export { quantizedLinear, type QuantizedLinearOptions } from './quantized_linear.js';
export * from './random_ops.js';
export { cumprod, cumsum, prod } from './scan.js';
export * from './sorting.js';
export * from './swiglu.js';
export { fold, unfold, type Pair, type WindowOptions } from './unfold.js';
export {
  BlockTensor,
  CsrTensor,
  SemiStructuredTensor,
  SparseTensor,
  sparseBsrTensor,
  sparseCsrTensor,
  sparseSemiStructuredTensor,
  type BlockSize,
  type SparseLayout,
} from './sparse.js';
export * from './sparse_choice.js';
export * from './sparse_convert.js';
export * from './sparse_linear.js';
