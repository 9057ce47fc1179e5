/**
 * Usual forms of conversations, as Jinja templates. Answers stand in `generation` blocks, as Transformers marks them.
 *
 * @module
 */

/** Names of the templates that come with the library. */
export const chatTemplateNames = ['chatml', 'llama-3', 'mistral', 'gemma', 'alpaca'] as const;

/** A template that comes with the library. */
export type ChatTemplateName = (typeof chatTemplateNames)[number];

/** A template with the special tokens it needs. */
export interface NamedChatTemplate {
  readonly source: string;
  /** Special tokens as the models of that family write them. */
  readonly tokens: Readonly<Record<string, string>>;
}

const lines = (...parts: readonly string[]): string => parts.join('');

/** What several templates begin with: a leading system message in `system`, the others in `turns`. */
const splitSystem = lines(
  "{%- if messages[0].role == 'system' -%}",
  '{%- set system = messages[0].content -%}{%- set turns = messages[1:] -%}',
  "{%- else -%}{%- set system = '' -%}{%- set turns = messages -%}{%- endif -%}",
);

/** Refuses turns that do not alternate, beginning with the user's. */
const alternating = lines(
  "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}",
  "{{- raise_exception('Roles must alternate: user, assistant, user, …') -}}{%- endif -%}",
);

/** @internal */
export const namedChatTemplates: Readonly<Record<ChatTemplateName, NamedChatTemplate>> = {
  // OpenAI's ChatML; Qwen, Yi, SmolLM and others
  chatml: {
    source: lines(
      '{%- for message in messages -%}',
      "{{- '<|im_start|>' + message.role + '\\n' -}}",
      "{%- if message.role == 'assistant' -%}",
      "{%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}",
      "{%- else -%}{{- message.content + '<|im_end|>\\n' -}}{%- endif -%}",
      '{%- endfor -%}',
      "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}",
    ),
    tokens: { eos_token: '<|im_end|>' },
  },
  // Meta's Llama 3
  'llama-3': {
    source: lines(
      '{{- bos_token -}}{%- for message in messages -%}',
      "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' -}}",
      "{%- if message.role == 'assistant' -%}",
      "{%- generation -%}{{- message.content | trim + '<|eot_id|>' -}}{%- endgeneration -%}",
      "{%- else -%}{{- message.content | trim + '<|eot_id|>' -}}{%- endif -%}",
      '{%- endfor -%}',
      "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}",
    ),
    tokens: { bos_token: '<|begin_of_text|>', eos_token: '<|eot_id|>' },
  },
  // Mistral 7B Instruct v0.3; the system message goes in front of the first question
  mistral: {
    source: lines(
      splitSystem,
      '{{- bos_token -}}{%- for message in turns -%}',
      alternating,
      "{%- if message.role == 'user' -%}",
      "{{- '[INST] ' + (system + '\\n\\n' if system and loop.first else '') + message.content + '[/INST]' -}}",
      "{%- else -%}{%- generation -%}{{- ' ' + message.content + eos_token -}}{%- endgeneration -%}{%- endif -%}",
      '{%- endfor -%}',
    ),
    tokens: { bos_token: '<s>', eos_token: '</s>' },
  },
  // Google's Gemma 2 and 3; the system message goes in front of the first question
  gemma: {
    source: lines(
      splitSystem,
      '{{- bos_token -}}{%- for message in turns -%}',
      alternating,
      "{%- if message.role == 'assistant' -%}",
      "{{- '<start_of_turn>model\\n' -}}",
      "{%- generation -%}{{- message.content | trim + '<end_of_turn>' -}}{%- endgeneration -%}{{- '\\n' -}}",
      "{%- else -%}{{- '<start_of_turn>user\\n' + (system + '\\n\\n' if system and loop.first else '') -}}",
      "{{- message.content | trim + '<end_of_turn>\\n' -}}{%- endif -%}",
      '{%- endfor -%}',
      "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}",
    ),
    tokens: { bos_token: '<bos>', eos_token: '<end_of_turn>' },
  },
  // Stanford Alpaca; a system message takes the place of the first sentence
  alpaca: {
    source: lines(
      splitSystem,
      '{{- system if system else ',
      "'Below is an instruction that describes a task. Write a response that appropriately completes the request.' -}}",
      '{%- for message in turns -%}',
      alternating,
      "{%- if message.role == 'user' -%}",
      "{{- '\\n\\n### Instruction:\\n' + message.content + '\\n\\n### Response:\\n' -}}",
      '{%- else -%}{%- generation -%}{{- message.content + eos_token -}}{%- endgeneration -%}{%- endif -%}',
      '{%- endfor -%}',
    ),
    tokens: { eos_token: '</s>' },
  },
};
