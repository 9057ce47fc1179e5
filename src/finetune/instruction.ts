/**
 * Instruction tuning: conversations as token ids whose loss counts the answers only, several to a row without cross-talk.
 *
 * @module
 */
import type { Dataset } from '../data/loader.js';
import { packFirstFit } from '../data/packing.js';
import { padRows } from '../data/padding.js';
import { AttributeError } from '../errors.js';
import type { Module } from '../nn/module.js';
import { tensor } from '../tensor/create.js';
import type { Tensor } from '../tensor/tensor.js';
import { ChatTemplate, type ChatMessage, type ChatTemplateOptions } from '../tokenizer/chat_template.js';
import type { ChatTemplateName } from '../tokenizer/chat_templates.js';
import { Tokenizer } from '../tokenizer/tokenizer.js';
import { checkBoolean, checkInteger, checkKeys, checkOneOf } from '../util/assert.js';
import { formatValue } from '../util/format.js';

/** Target of a position that does not count. */
const IGNORED = -100;

/** A conversation as ids. */
export interface EncodedChat {
  readonly ids: Int32Array;
  /** 1 for tokens that the assistant says, 0 for the others. */
  readonly answer: Uint8Array;
}

/**
 * A conversation as ids, with a mark at each token of an answer. A token that crosses the border of an answer belongs to it: so
 * nothing of an answer goes untrained, whatever the tokenizer merges.
 *
 * @throws AttributeError if the template refuses the messages
 * @throws FormatError if the template does not tell where answers are, see {@link ChatTemplate.renderWithAnswers}
 */
export function encodeChat(
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions & { readonly tokenizer: Tokenizer; readonly template: ChatTemplate | ChatTemplateName },
): EncodedChat {
  const { tokenizer, template, ...rest } = options;
  const chat = template instanceof ChatTemplate ? template : ChatTemplate.named(template);
  const { text, answers } = chat.renderWithAnswers(messages, rest);
  // Tokens are in the order of the text: one walk over both. The template has written the special tokens.
  const { ids, offsets } = tokenizer.encodeWithOffsets(text, { addSpecialTokens: false });
  const answer = new Uint8Array(ids.length);
  let at = 0;
  for (const [i, [start, end]] of offsets.entries()) {
    while (at < answers.length && answers[at]![1] <= start) at++;
    if (at < answers.length && end > answers[at]![0] && end > start) answer[i] = 1;
  }
  return { ids: Int32Array.from(ids), answer };
}

/** An example of {@link InstructionDataset}: a conversation, or a question with its answer. */
export type InstructionExample =
  | readonly ChatMessage[]
  | { readonly messages: readonly ChatMessage[]; readonly tools?: readonly object[] }
  | { readonly prompt: string; readonly completion: string; readonly system?: string };

/** Options of {@link InstructionDataset}. */
export interface InstructionOptions {
  readonly tokenizer: Tokenizer;
  /** The form of the conversations, or the name of one that comes with the library. */
  readonly template: ChatTemplate | ChatTemplateName;
  /** Longest sequence, and length of a packed row: at most the model's context. */
  readonly maxLength: number;
  /** Put several conversations into a row; each sees only itself. Default true. */
  readonly packing?: boolean;
  /** Which tokens count in the loss. Default `answers`. */
  readonly lossOn?: 'answers' | 'all';
  /** What happens to longer conversations: their end is cut off, they are left out, or refused. Default `truncate`. */
  readonly tooLong?: 'truncate' | 'drop' | 'error';
  /** Fills rows up when conversations are not packed; never counted. Default 0. */
  readonly padId?: number;
}

const optionKeys = ['tokenizer', 'template', 'maxLength', 'packing', 'lossOn', 'tooLong', 'padId'];

/** A batch of conversations. */
export interface InstructionBatch {
  /** Ids, int32: `[1, N]` where packed, all rows behind each other and nothing to fill them up; else `[B, T]`. */
  readonly x: Tensor;
  /** The token after each, or -100 where it does not count. */
  readonly y: Tensor;
  /** Where each conversation begins in x, and where the last ends; none where each has a row of its own. */
  readonly offsets?: readonly number[];
}

interface Sequence {
  readonly ids: Int32Array;
  /** Successors that count, -100 elsewhere. */
  readonly targets: Int32Array;
}

const op = 'InstructionDataset';

function messagesOf(example: InstructionExample): { messages: readonly ChatMessage[]; tools?: readonly object[] } {
  if (Array.isArray(example)) return { messages: example as readonly ChatMessage[] };
  const { messages, tools, prompt, completion, system } = Object(example) as Record<string, unknown>;
  if (Array.isArray(messages)) {
    return {
      messages: messages as readonly ChatMessage[],
      ...(Array.isArray(tools) ? { tools: tools as readonly object[] } : {}),
    };
  }
  if (typeof prompt === 'string' && typeof completion === 'string') {
    const first = typeof system === 'string' ? [{ role: 'system', content: system }] : [];
    return { messages: [...first, { role: 'user', content: prompt }, { role: 'assistant', content: completion }] };
  }
  throw new AttributeError({
    op,
    argument: 'examples',
    expected: 'a list of messages, { messages } or { prompt, completion }',
    actual: formatValue(example),
  });
}

/**
 * Conversations for `Trainer`, encoded once. The loss counts what the assistant says (and what ends its turns). With packing (the
 * default) an item of the dataset is a row of several conversations; attention keeps them apart and positions begin anew, so the loss
 * and its gradients are those of separate rows, without the time for padding. Use {@link instructionLoss}.
 *
 * @example
 * ```ts
 * const train = new InstructionDataset(examples, { tokenizer, template: 'chatml', maxLength: 1024 });
 * new og.Trainer(gpt, { train, loss: instructionLoss, batchSize: 2, optimizer: (p) => new og.optim.AdamW(p, { lr: 1e-4 }) });
 * ```
 * @source packing without cross-talk: Krell et al. 2021, arXiv 2107.02027, §3.2; loss on answers: Ouyang et al. 2022, arXiv 2203.02155
 */
export class InstructionDataset implements Dataset<InstructionBatch> {
  readonly maxLength: number;
  readonly packing: boolean;
  /** Conversations that were left out, being too long or without an answer that fits. */
  readonly dropped: number;
  /** Tokens of all conversations. */
  readonly tokens: number;
  /** Tokens that count in the loss. */
  readonly counted: number;
  readonly #sequences: readonly Sequence[];
  readonly #rows: readonly (readonly number[])[];
  readonly #padId: number;

  /**
   * @throws AttributeError if an option cannot be, an example is malformed, or no conversation is left
   * @throws FormatError if the template does not tell where answers are
   */
  constructor(examples: Iterable<InstructionExample>, options: InstructionOptions) {
    checkKeys(op, options, optionKeys);
    const { tokenizer } = options;
    if (!(tokenizer instanceof Tokenizer)) {
      throw new AttributeError({ op, argument: 'tokenizer', expected: 'a tokenizer', actual: formatValue(tokenizer) });
    }
    this.maxLength = checkInteger(op, 'maxLength', options.maxLength, 2);
    this.packing = checkBoolean(op, 'packing', options.packing ?? true);
    this.#padId = checkInteger(op, 'padId', options.padId ?? 0, 0, Math.max(tokenizer.vocabSize - 1, 0));
    const lossOn = checkOneOf(op, 'lossOn', options.lossOn ?? 'answers', ['answers', 'all']);
    const tooLong = checkOneOf(op, 'tooLong', options.tooLong ?? 'truncate', ['truncate', 'drop', 'error']);
    const { template } = options;
    const chat = template instanceof ChatTemplate ? template : ChatTemplate.named(template);
    const sequences: Sequence[] = [];
    let dropped = 0;
    let number = 0;
    for (const example of examples) {
      const { messages, tools } = messagesOf(example);
      const { ids, answer } = encodeChat(messages, { tokenizer, template: chat, ...(tools && { tools }) });
      if (ids.length > this.maxLength && tooLong === 'error') {
        const expected = `at most ${this.maxLength} tokens`;
        throw new AttributeError({ op, argument: `examples[${number}]`, expected, actual: String(ids.length) });
      }
      number++;
      const length = Math.min(ids.length, this.maxLength);
      const targets = new Int32Array(length).fill(IGNORED);
      for (let i = 0; i + 1 < length; i++) if (lossOn === 'all' || answer[i + 1] === 1) targets[i] = ids[i + 1]!;
      const isDropped = ids.length > this.maxLength && tooLong === 'drop';
      if (isDropped || targets.every((target) => target === IGNORED)) dropped++;
      else sequences.push({ ids: ids.subarray(0, length), targets });
    }
    if (sequences.length === 0) {
      const actual = `${dropped} of ${number} too long or without one`;
      throw new AttributeError({ op, argument: 'examples', expected: 'a conversation with an answer', actual });
    }
    const lengths = sequences.map(({ ids }) => ids.length);
    this.#sequences = sequences;
    this.#rows = this.packing ? packFirstFit(lengths, this.maxLength) : sequences.map((_, i) => [i]);
    this.dropped = dropped;
    this.tokens = lengths.reduce((sum, length) => sum + length, 0);
    this.counted = sequences.reduce((sum, { targets }) => sum + targets.filter((id) => id !== IGNORED).length, 0);
  }

  /** Rows: packed ones, or conversations. */
  get length(): number {
    return this.#rows.length;
  }

  /** Numbers of the conversations (of those that were kept) in a row. */
  row(index: number): readonly number[] {
    return this.#rows[checkInteger(op, 'index', index, 0, this.#rows.length - 1)]!;
  }

  batch(indices: readonly number[]): InstructionBatch {
    const chosen = indices.flatMap((index) => this.row(index)).map((n) => this.#sequences[n]!);
    if (!this.packing) {
      return {
        x: padRows(
          chosen.map(({ ids }) => ids),
          this.#padId,
        ),
        y: padRows(
          chosen.map(({ targets }) => targets),
          IGNORED,
        ),
      };
    }
    const offsets = [0];
    for (const { ids } of chosen) offsets.push(offsets.at(-1)! + ids.length);
    const joined = (part: 'ids' | 'targets'): Tensor => {
      const all = new Int32Array(offsets.at(-1)!);
      for (const [n, sequence] of chosen.entries()) all.set(sequence[part], offsets[n]!);
      return tensor(all, { shape: [1, all.length] });
    };
    return { x: joined('ids'), y: joined('targets'), offsets };
  }
}

/** A model that can tell its loss on packed sequences: `GPT`, and what wraps it. */
export type InstructionModel = Module & {
  loss(x: Tensor, y: Tensor, options?: { readonly offsets?: readonly number[] }): Tensor;
};

/** The mean loss of a model (nats a counted token) on a batch of {@link InstructionDataset}, for `Trainer`. */
export function instructionLoss(model: InstructionModel, { x, y, offsets }: InstructionBatch): Tensor {
  return offsets === undefined ? model.loss(x, y) : model.loss(x, y, { offsets });
}
