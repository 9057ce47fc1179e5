/** Tokenizers: byte-pair encoding of our own, and readers for the usual files. */
export { BpeTokenizer, type BpeTrainOptions, type Gpt2Options, type TiktokenOptions } from './bpe_tokenizer.js';
export type { BpeTrainProgress } from './bpe_trainer.js';
export type { AllowedSpecial } from './added_tokens.js';
export { GPT2_PATTERN, translatePattern, type RegexDialect } from './pattern.js';
export { PipelineTokenizer } from './pipeline.js';
export {
  Tokenizer,
  type DecodeOptions,
  type EncodeOptions,
  type Encoding,
  type OffsetOptions,
  type TokenDecoder,
} from './tokenizer.js';
export { loadTokenizer } from './load.js';
export { SentencePieceTokenizer, type SentencePieceOptions } from './sentencepiece.js';
export {
  applyChatTemplate,
  ChatTemplate,
  type ApplyChatTemplateOptions,
  type ChatMessage,
  type ChatTemplateOptions,
  type RenderedChat,
} from './chat_template.js';
export { chatTemplateNames, type ChatTemplateName } from './chat_templates.js';
