/**
 * Native-accelerated tensors, autograd and GPT training for TypeScript.
 *
 * @module
 */
import './methods.js';

export * from './errors.js';
export * from './ops/index.js';
export { backward, type BackwardOptions } from './autograd/backward.js';
export * from './autograd/custom.js';
export * from './autograd/grad.js';
export * from './autograd/gradcheck.js';
export { registerHook, type GradHook } from './autograd/hooks.js';
export { backend, getThreads, setIsa, setThreads, synchronize, synchronizeSync, type BackendInfo } from './runtime/backend.js';
export { emptyCache, setPoolLimit } from './runtime/storage.js';
export {
  arange,
  empty,
  eye,
  fromTypedArray,
  full,
  linspace,
  ones,
  onesLike,
  tensor,
  zeros,
  zerosLike,
  type DataOptions,
  type NestedArray,
  type TensorOptions,
} from './tensor/create.js';
export { getDefaultDType, setDefaultDType, type DType, type TensorData } from './tensor/dtype.js';
export { LeakError, memory, resetPeakMemory, trackMemory, type Leak, type MemoryReport } from './tensor/memory.js';
export { formatTensor } from './tensor/print.js';
export {
  defaultGenerator,
  generator,
  manualSeed,
  normal,
  rand,
  randint,
  randn,
  uniform,
  type Generator,
  type GeneratorState,
  type RandomOptions,
} from './tensor/random.js';
export { type NestedNumbers } from './tensor/read.js';
export { keep, scope, type Scope } from './tensor/scope.js';
export { type Shape } from './tensor/shape.js';
export { isGradEnabled } from './tensor/tape.js';
export { Tensor, type Device } from './tensor/tensor.js';
export {
  BpeTokenizer,
  GPT2_PATTERN,
  PipelineTokenizer,
  SentencePieceTokenizer,
  Tokenizer,
  loadTokenizer,
  translatePattern,
  type BpeTrainOptions,
  type BpeTrainProgress,
  type DecodeOptions,
  type EncodeOptions,
  type Encoding,
  type Gpt2Options,
  type OffsetOptions,
  type RegexDialect,
  type SentencePieceOptions,
  type TiktokenOptions,
  type TokenDecoder,
} from './tokenizer/index.js';
