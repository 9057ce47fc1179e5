/**
 * Conversations as text: chat templates in Jinja, with the places of the answers.
 *
 * @module
 */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Template } from '@huggingface/jinja';
import { AttributeError, FormatError } from '../errors.js';
import { checkBoolean, checkKeys, checkOneOf } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { chatTemplateNames, namedChatTemplates, type ChatTemplateName } from './chat_templates.js';

/** One turn of a conversation; further fields (tool calls, names) are the template's to read. */
export interface ChatMessage {
  /** `system`, `user`, `assistant`, `tool`, or what the template knows. */
  readonly role: string;
  /** Text, or parts as the template reads them. */
  readonly content?: unknown;
  readonly [field: string]: unknown;
}

/** Options of {@link ChatTemplate.render}, named as those of Transformers' `apply_chat_template`. */
export interface ChatTemplateOptions {
  /** Begin the assistant's next turn. Default false. */
  readonly addGenerationPrompt?: boolean;
  /** JSON schemas of functions that the model may call. Default: none. */
  readonly tools?: readonly object[];
  /** Documents for retrieval, where the template reads them. Default: none. */
  readonly documents?: readonly object[];
  /** More variables of the template. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** A rendered conversation with the places of what the assistant says. */
export interface RenderedChat {
  readonly text: string;
  /** Start and end of each answer in the text, in UTF-16 units; what ends the turn is part of it. */
  readonly answers: readonly (readonly [start: number, end: number])[];
}

const op = 'ChatTemplate';
const MAX_BYTES = 4 << 20;
const optionKeys = ['addGenerationPrompt', 'tools', 'documents', 'variables'];
/** Private-use characters that mark where answers begin and end. */
const [OPEN, CLOSE] = ['\uf8f0', '\uf8f1'];
const generationBlock = /\{%(-?)\s*(end)?generation\s*(-?)%\}/g;

function compile(source: string): Template {
  if (source.length > MAX_BYTES) {
    const actual = `${source.length} characters`;
    throw new FormatError({ op, argument: 'template', expected: `at most ${MAX_BYTES} characters`, actual });
  }
  try {
    return new Template(source);
  } catch (cause) {
    const actual = (cause as Error).message;
    throw new FormatError({ op, argument: 'template', expected: 'a Jinja template', actual, cause });
  }
}

/** The same template, with a mark where a generation block begins and ends; white space is treated as around the block. */
function marked(source: string): string {
  return source.replace(
    generationBlock,
    (_, left: string, end: string | undefined, right: string) =>
      `{%${left} if true %}{{ '${end === undefined ? OPEN : CLOSE}' }}{% endif ${right}%}`,
  );
}

function checkMessages(messages: readonly ChatMessage[]): void {
  const isMessage = (message: unknown): boolean =>
    typeof message === 'object' && message !== null && typeof (message as ChatMessage).role === 'string';
  if (Array.isArray(messages) && messages.length > 0 && messages.every(isMessage)) return;
  const expected = 'a list of { role, content }, not empty';
  throw new AttributeError({ op, argument: 'messages', expected, actual: formatValue(messages) });
}

/** Takes the marks out. */
function unmark(text: string): RenderedChat {
  const answers: [number, number][] = [];
  let plain = '';
  let start: number | null = null;
  for (const part of text.split(/([\uf8f0\uf8f1])/)) {
    if (part === OPEN) start = plain.length;
    else if (part === CLOSE) {
      if (start !== null && plain.length > start) answers.push([start, plain.length]);
      start = null;
    } else plain += part;
  }
  return { text: plain, answers };
}

/**
 * A conversation's form, in the Jinja of Hugging Face's `tokenizer_config.json`.
 *
 * @example
 * ```ts
 * const chat = ChatTemplate.named('chatml');
 * chat.render([{ role: 'user', content: 'Hi' }], { addGenerationPrompt: true }); // <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n
 * ```
 */
export class ChatTemplate {
  /** Text of each template by name; `default` is there always. */
  readonly sources: Readonly<Record<string, string>>;
  /** Special tokens by their names in templates (`bos_token`, `eos_token`, …). */
  readonly tokens: Readonly<Record<string, string>>;
  readonly #compiled = new Map<string, Template>();

  /**
   * @param source - of the template, or of several by name: `tool_use` is taken when tools are given, `default` otherwise
   * @throws FormatError if one is no Jinja template
   */
  constructor(source: string | Readonly<Record<string, string>>, tokens: Readonly<Record<string, string>> = {}) {
    this.sources = typeof source === 'string' ? { default: source } : { ...source };
    this.tokens = { ...tokens };
    if (typeof this.sources['default'] !== 'string') {
      const actual = Object.keys(this.sources).join(', ') || formatValue(source);
      throw new AttributeError({ op, argument: 'source', expected: 'a template named default', actual });
    }
    for (const text of Object.values(this.sources)) this.#template(text);
  }

  /**
   * A template that comes with the library: `chatml`, `llama-3`, `mistral`, `gemma` or `alpaca`.
   *
   * @param tokens - special tokens that differ from those of the family
   */
  static named(name: ChatTemplateName, tokens: Readonly<Record<string, string>> = {}): ChatTemplate {
    const found = namedChatTemplates[checkOneOf(op, 'name', name, chatTemplateNames)];
    return new ChatTemplate(found.source, { ...found.tokens, ...tokens });
  }

  /**
   * The template of a Hugging Face folder: `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`, and the special
   * tokens of that file.
   *
   * @throws FormatError if the folder has none, or a file is malformed
   */
  static async load(folder: string): Promise<ChatTemplate> {
    const read = async (name: string): Promise<string | null> => {
      const file = join(folder, name);
      const found = await stat(file).catch(() => null);
      if (found === null) return null;
      if (found.size > 8 * MAX_BYTES) {
        throw new FormatError({
          op,
          argument: file,
          expected: `at most ${8 * MAX_BYTES} bytes`,
          actual: `${found.size}`,
        });
      }
      return readFile(file, 'utf8');
    };
    const argument = join(folder, 'tokenizer_config.json');
    const own = await read('chat_template.jinja');
    const json = await read('tokenizer_config.json');
    let config: Record<string, unknown> = {};
    try {
      config = Object(json === null ? {} : JSON.parse(json)) as Record<string, unknown>;
    } catch (cause) {
      throw new FormatError({ op, argument, expected: 'JSON', actual: (cause as Error).message, cause });
    }
    const tokens: Record<string, string> = {};
    for (const [name, value] of Object.entries(config)) {
      const content: unknown =
        typeof value === 'object' && value !== null ? (value as { content?: unknown }).content : value;
      if (name.endsWith('_token') && typeof content === 'string') tokens[name] = content;
    }
    const given = own ?? config['chat_template'];
    if (typeof given === 'string') return new ChatTemplate(given, tokens);
    if (Array.isArray(given)) {
      const entries = given.map((entry: unknown): [string, string] => {
        const { name, template } = Object(entry) as { name?: unknown; template?: unknown };
        if (typeof name === 'string' && typeof template === 'string') return [name, template];
        const expected = 'templates of { name, template }';
        throw new FormatError({ op, argument: `${argument}: chat_template`, expected, actual: formatValue(entry) });
      });
      return new ChatTemplate(Object.fromEntries(entries), tokens);
    }
    throw new FormatError({
      op,
      argument: folder,
      expected: 'chat_template.jinja, or chat_template in tokenizer_config.json',
      actual: 'none',
      hint: `Use ChatTemplate.named with one of ${chatTemplateNames.join(', ')}`,
    });
  }

  #template(source: string): Template {
    let template = this.#compiled.get(source);
    if (template === undefined) this.#compiled.set(source, (template = compile(source)));
    return template;
  }

  #source({ tools }: ChatTemplateOptions): string {
    return (tools === undefined ? undefined : this.sources['tool_use']) ?? this.sources['default']!;
  }

  #run(source: string, messages: readonly ChatMessage[], options: ChatTemplateOptions): string {
    const { addGenerationPrompt = false, tools, documents, variables } = options;
    try {
      return this.#template(source).render({
        ...this.tokens,
        tools: tools ?? null,
        documents: documents ?? null,
        add_generation_prompt: addGenerationPrompt,
        ...variables,
        messages: [...messages],
      });
    } catch (cause) {
      const actual = (cause as Error).message;
      throw new AttributeError({
        op,
        argument: 'messages',
        expected: 'messages that the template takes',
        actual,
        cause,
      });
    }
  }

  /**
   * A conversation as text, as Transformers' `apply_chat_template(messages, tokenize=False)` gives it. Encode it without special
   * tokens of the tokenizer's own: the template writes them.
   *
   * @throws AttributeError if messages are malformed, or the template refuses them (with its words)
   */
  render(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    checkKeys(op, options, optionKeys);
    checkMessages(messages);
    checkBoolean(op, 'addGenerationPrompt', options.addGenerationPrompt ?? false);
    return this.#run(this.#source(options), messages, options);
  }

  /**
   * A conversation as text, and where the assistant speaks in it: what the template's `generation` blocks hold, or, for a template
   * without them, what each of the assistant's messages adds to a conversation that ends in a generation prompt (white space at its
   * end left out).
   *
   * @throws AttributeError as {@link ChatTemplate.render}
   * @throws FormatError if a template without `generation` blocks writes earlier turns in another way once later ones follow
   */
  renderWithAnswers(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): RenderedChat {
    const text = this.render(messages, options);
    const source = this.#source(options);
    if (source.search(generationBlock) >= 0) {
      if (/[\uf8f0\uf8f1]/.test(text)) {
        const expected = 'text without U+F8F0 and U+F8F1';
        throw new AttributeError({ op, argument: 'messages', expected, actual: 'one of them' });
      }
      const found = unmark(this.#run(marked(source), messages, options));
      if (found.text === text) return found;
      const hint = 'Write {%- generation -%} and {%- endgeneration -%}';
      throw new FormatError({
        op,
        argument: 'template',
        expected: 'generation blocks around text',
        actual: 'others',
        hint,
      });
    }
    const answers: [number, number][] = [];
    for (const [i, { role }] of messages.entries()) {
      if (role !== 'assistant') continue;
      // A conversation cannot always be rendered empty; what an answer without a question begins with is not known then.
      const before = i === 0 ? '' : this.#run(source, messages.slice(0, i), { ...options, addGenerationPrompt: true });
      const after = this.#run(source, messages.slice(0, i + 1), { ...options, addGenerationPrompt: false });
      if (!text.startsWith(before) || !text.startsWith(after) || after.length < before.length) {
        throw new FormatError({
          op,
          argument: 'template',
          expected: 'turns that are written alike whatever follows',
          actual: `others for message ${i}`,
          hint: 'Put {%- generation -%} and {%- endgeneration -%} around the answers in the template',
        });
      }
      const end = after.trimEnd().length;
      if (end > before.length) answers.push([before.length, end]);
    }
    return { text, answers };
  }
}

/** Options of {@link applyChatTemplate}. */
export interface ApplyChatTemplateOptions extends ChatTemplateOptions {
  /** The template, or the name of one that comes with the library. */
  readonly template: ChatTemplate | ChatTemplateName;
}

/**
 * A conversation as text: {@link ChatTemplate.render} in one call.
 *
 * @throws AttributeError if messages are malformed, or the template refuses them
 */
export function applyChatTemplate(messages: readonly ChatMessage[], options: ApplyChatTemplateOptions): string {
  const { template, ...rest } = options;
  const chat = template instanceof ChatTemplate ? template : ChatTemplate.named(template);
  return chat.render(messages, rest);
}
