/**
 * What quantising changes beside linear layers: tables of vectors, and how keys and values are cached.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { GPT, type CacheDType } from '../../models/gpt.js';
import type { Module } from '../../nn/module.js';
import { checkOneOf } from '../../util/assert.js';
import { changeEmbeddings, checkEmbeddings, type EmbeddingOptions } from '../embedding_tables.js';

/** Widest head that a cache of int8 takes. */
const WIDEST_HEAD = 256;

/** Options that concern the model as a whole. */
export interface WholeModelOptions extends EmbeddingOptions {
  /** How keys and values are cached by default, which the model's configuration keeps and files of it hold. Default: as it was. */
  readonly cacheDType?: CacheDType;
}

/** @throws AttributeError if the model has not what the options are about */
export function checkWholeModel(op: string, model: Module, options: WholeModelOptions): void {
  checkEmbeddings(op, model, options);
  const { cacheDType } = options;
  if (cacheDType === undefined) return;
  checkOneOf(op, 'cacheDType', cacheDType, ['float32', 'bfloat16', 'float16', 'int8']);
  const refuse = (expected: string, actual: string): never => {
    throw new AttributeError({ op, argument: 'cacheDType', expected, actual });
  };
  if (!(model instanceof GPT)) return refuse('a GPT', model.constructor.name);
  const { width, heads } = model.config;
  if (cacheDType === 'int8' && width / heads > WIDEST_HEAD)
    refuse(`heads of at most ${WIDEST_HEAD} for int8`, `heads of ${width / heads}`);
}

/** Applies options that were checked. */
export function changeWholeModel(op: string, model: Module, options: WholeModelOptions): void {
  changeEmbeddings(op, model, options);
  const { cacheDType } = options;
  if (cacheDType !== undefined) Object.assign(model, { config: { ...(model as GPT).config, cacheDType } });
}
