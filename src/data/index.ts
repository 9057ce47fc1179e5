/**
 * Reading, cleaning, deduplicating, tokenising, packing and mixing of training data: `omnigrad/data`. Loaders and `TextDataset` are in the
 * main entry.
 *
 * @module
 */
export {
  dataCard,
  dataCardMarkdown,
  saveDataCard,
  type DataCard,
  type DataCardContent,
  type DataSource,
} from './card.js';
export { type ReasonReport, type StepReport } from './clean/account.js';
export { decontaminate, type DecontaminateOptions, type EvaluationSet } from './clean/decontaminate.js';
export { exactDuplicates, type ExactDuplicatesOptions } from './clean/exact.js';
export { languageFilter, type LanguageOptions } from './clean/language.js';
export { candidateProbability, jaccard, MinHasher, shingles, type ShingleOptions } from './clean/minhash.js';
export {
  nearDuplicateClusters,
  NearDuplicateIndex,
  nearDuplicates,
  type NearDuplicate,
  type NearDuplicatesOptions,
} from './clean/near_duplicates.js';
export { normalize, normalizeText, type NormalizeOptions } from './clean/normalize.js';
export { clean, type CleanOptions, type CleanReport, type CleanRun } from './clean/pipeline.js';
export { c4Filter, gopherQuality, type C4Options, type GopherQualityOptions } from './clean/quality.js';
export { isIbanValid, isLuhnValid, redact, type PersonalData, type RedactOptions } from './clean/redact.js';
export {
  finewebQuality,
  gopherRepetition,
  type FinewebOptions,
  type GopherRepetitionOptions,
} from './clean/repetition.js';
export {
  dropDocument,
  keepDocument,
  replaceText,
  type CleanStep,
  type StepResult,
  type TextDocument,
} from './clean/step.js';
export { type WordRule } from './clean/words.js';
export { mixDatasets, MixedDataset, type MixOptions, type MixSource } from './mix.js';
export { readDocuments, type DocumentStream } from './read/documents.js';
export { type FileFormat, type FileReport, type ReadOptions, type Row } from './read/options.js';
export { readShardIndex, tokenizerHash, type ShardEntry, type ShardIndex } from './shards/index_file.js';
export { openShards, ShardedTokens, type OpenShardsOptions } from './shards/read.js';
export { writeShards, type ShardOptions, type ShardProgress } from './shards/write.js';
export { type TokenSequence } from './token_sequence.js';
export { mapInWorkers, type WorkerOptions } from './workers/map.js';
export { type ModuleTask } from './workers/tasks.js';
