/**
 * Native-accelerated tensors, autograd and GPT training for TypeScript.
 *
 * @module
 */
import './methods.js';

export * from './errors.js';
export * from './ops/index.js';
export { backward, backwardInSlices, type BackwardOptions, type Pace } from './autograd/backward.js';
export { checkpoint, type CheckpointResult } from './autograd/checkpoint.js';
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
export { emptyCache, setPoolLimit } from './runtime/cache.js';
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
  applyChatTemplate,
  BpeTokenizer,
  ChatTemplate,
  chatTemplateNames,
  GPT2_PATTERN,
  PipelineTokenizer,
  SentencePieceTokenizer,
  Tokenizer,
  loadTokenizer,
  translatePattern,
  type AllowedSpecial,
  type ApplyChatTemplateOptions,
  type BpeTrainOptions,
  type BpeTrainProgress,
  type ChatMessage,
  type ChatTemplateName,
  type ChatTemplateOptions,
  type DecodeOptions,
  type EncodeOptions,
  type Encoding,
  type Gpt2Options,
  type OffsetOptions,
  type RegexDialect,
  type RenderedChat,
  type SentencePieceOptions,
  type TiktokenOptions,
  type TokenDecoder,
} from './tokenizer/index.js';
export * as nn from './nn/index.js';
export * as optim from './optim/index.js';
export * as schedules from './optim/schedules.js';
export { KvCache } from './nn/kv_cache.js';
export {
  DataLoader,
  type Dataset,
  type DrawnBatch,
  type LoaderOptions,
  type LoaderState,
  type LoaderTimes,
} from './data/loader.js';
export { TextDataset, type TextBatch, type TextDatasetOptions } from './data/text_dataset.js';
export { packFirstFit } from './data/packing.js';
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
  benchmark,
  benchmarkTogether,
  type BenchmarkOptions,
  type GenerationSpeed,
  type Latency,
  type MeasurableModel,
} from './generate/benchmark.js';
export {
  loadSafetensors,
  openSafetensors,
  SafetensorsFile,
  saveSafetensors,
  type LoadSafetensorsOptions,
  type SafetensorsOptions,
  type SaveSafetensorsOptions,
} from './interop/safetensors.js';
export { loadSafetensorsIndex, openSafetensorsIndex, ShardedSafetensors } from './interop/safetensors_index.js';
export {
  cloneModel,
  load,
  saveModel,
  type LoadedModel,
  type LoadModelOptions,
  type SavableModel,
  type SaveModelOptions,
} from './models/saved_model.js';
export { perplexity, type PerplexityOptions, type ScoredText, type ScoringModel } from './models/perplexity.js';
export { residentMemory, type ResidentMemory, type ResidentMemoryOptions } from './models/resident_memory.js';
export { GPT, type CacheDType, type ForwardOptions, type GPTConfig, type ResolvedGPTConfig } from './models/gpt.js';
export type { HiddenOptions } from './models/gpt_inputs.js';
export type { TrainCallback, TrainContext, TrainPhase } from './train/callback.js';
export {
  listCheckpoints,
  loadCheckpoint,
  loadLatestCheckpoint,
  saveCheckpoint,
  type Checkpoint,
  type CheckpointOptions,
  type LatestCheckpoint,
  type RunState,
} from './train/checkpoint.js';
export type { BestCheckpointOptions, BestEntry } from './train/best_checkpoints.js';
export {
  NonFiniteError,
  NonFiniteWeightsError,
  type NonFiniteFields,
  type ModuleOutput,
  type NonFiniteTensor,
} from './train/diagnose.js';
export type { EarlyStoppingOptions, EarlyStoppingState } from './train/early_stopping.js';
export type { EvalInterval, MetricFunction, ValidationSets } from './train/evaluate.js';
export { DivergenceError, type LossSpikeOptions, type LossSpikeState, type Spike } from './train/loss_spikes.js';
export {
  ResumeError,
  type AllowedChanges,
  type ResumeAspect,
  type RunDifference,
  type RunFacts,
} from './train/resume_check.js';
export * from './train/events.js';
export { configDifferences, flattenConfig, type ConfigDifference, type Setting } from './train/config_difference.js';
export { formatDuration, TrainingProgress, type ProgressOptions, type ProgressStream } from './train/progress.js';
export { renderReport, writeReport, type ReportContent, type ReportRow } from './train/report.js';
export {
  findLearningRate,
  type LearningRateSearch,
  type LearningRateSearchOptions,
} from './train/find_learning_rate.js';
export type { Batch, LossFunction, TrainableModel } from './train/loss.js';
export type {
  HardwareUse,
  LoggedEval,
  LoggedEvent,
  LoggedStep,
  RunMachine,
  RunSample,
  StartLine,
} from './train/run_lines.js';
export type { Machine } from './runtime/machine.js';
export { RunLogger, type RunLoggerOptions, type SampleOptions } from './train/run_logger.js';
export {
  findRun,
  listRuns,
  readRun,
  summarizeRun,
  type RunRecord,
  type RunStatus,
  type RunSummary,
} from './train/run_reader.js';
export { renderRunReport, writeRunReport, type RunReportOptions } from './train/run_report.js';
export { TensorBoardWriter, type HparamValue, type TensorBoardOptions } from './train/tensorboard/writer.js';
export { LossScaler, type LossScaleOptions, type LossScaleState } from './train/loss_scale.js';
export { MixedPrecision, type HalfPrecision, type Precision } from './train/precision.js';
export type { PlanFlops, PlanMemory, PlanOptions, TrainingPlan } from './train/plan.js';
export type { RecomputationOptions } from './train/recomputation.js';
export type { ProfileOptions, StepProfile } from './train/profile.js';
export { Trainer } from './train/trainer.js';
export type { RunOptions, TrainerOptions } from './train/trainer_options.js';
export { writeFileAtomically } from './util/atomic_file.js';
export { formatBytes } from './util/format.js';
