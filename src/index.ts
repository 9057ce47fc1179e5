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
export {
  backend,
  getThreads,
  setIsa,
  setThreads,
  synchronize,
  synchronizeSync,
  type BackendInfo,
} from './runtime/backend.js';
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
export { getDefaultDType, setDefaultDType, type DType, type DTypeArrays, type TensorData } from './tensor/dtype.js';
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
  type AllowedSpecial,
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
export * as nn from './nn/index.js';
export * as optim from './optim/index.js';
export * as schedules from './optim/schedules.js';
export { KvCache } from './nn/kv_cache.js';
export { DataLoader, type Dataset, type LoaderOptions, type LoaderState, type LoaderTimes } from './data/loader.js';
export { TextDataset, type TextBatch, type TextDatasetOptions } from './data/text_dataset.js';
export type { TokenSequence } from './data/token_sequence.js';
export { openTokens, saveTokens } from './data/tokens_file.js';
export {
  generateTokens,
  type CausalModel,
  type GeneratedPiece,
  type GenerateOptions,
  type ModelCacheOptions,
  type TextCodec,
} from './generate/generate.js';
export { sample, type SamplingOptions } from './generate/sampler.js';
export {
  loadSafetensors,
  openSafetensors,
  SafetensorsFile,
  saveSafetensors,
  type LoadSafetensorsOptions,
  type SafetensorsOptions,
} from './interop/safetensors.js';
export { loadSafetensorsIndex, openSafetensorsIndex, ShardedSafetensors } from './interop/safetensors_index.js';
export {
  cloneModel,
  load,
  saveModel,
  type LoadedModel,
  type SavableModel,
  type SaveModelOptions,
} from './models/saved_model.js';
export { GPT, type ForwardOptions, type GPTConfig, type ResolvedGPTConfig } from './models/gpt.js';
export type { TrainCallback, TrainContext } from './train/callback.js';
export * from './train/checkpoint.js';
export * from './train/events.js';
export { formatDuration, TrainingProgress, type ProgressOptions } from './train/progress.js';
export { renderReport, writeReport, type ReportContent, type ReportRow } from './train/report.js';
export {
  findLearningRate,
  type LearningRateSearch,
  type LearningRateSearchOptions,
} from './train/find_learning_rate.js';
export type { Batch, LossFunction, TrainableModel } from './train/loss.js';
export { Trainer } from './train/trainer.js';
export type { RunOptions, TrainerOptions } from './train/trainer_options.js';
export { writeFileAtomically } from './util/atomic_file.js';
export { formatBytes } from './util/format.js';
