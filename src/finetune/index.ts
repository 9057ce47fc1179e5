/**
 * Adapting trained models: `omnigrad/finetune`.
 *
 * @module
 */
export {
  freeze,
  headOnly,
  trainableParameters,
  unfreeze,
  unfreezeLast,
  type HeadOnlyOptions,
  type TrainableReport,
} from './freeze.js';
export { type Target } from '../nn/surgery.js';
export {
  adaptersOf,
  adapterState,
  addAdapter,
  lora,
  mergeAdapters,
  mergeAndUnload,
  removeAdapter,
  setActiveAdapters,
  unloadAdapters,
  unmergeAdapters,
  withoutAdapters,
  type LoraOptions,
  type MergeOptions,
  type SetActiveOptions,
} from './lora.js';
export {
  LoraAdapter,
  LoraLinear,
  type AdapterSettings,
  type LoraBase,
  type LoraInit,
  type LoraVariant,
} from './lora_linear.js';
export { loadAdapter, type LoadAdapterOptions } from './peft_load.js';
export { type PeftArchitecture } from './peft_names.js';
export { saveAdapter, type SaveAdapterOptions } from './peft_save.js';
