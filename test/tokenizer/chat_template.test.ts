/** Conversations as text: as Transformers writes them, and where the answers are. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { encodeChat } from '../../src/finetune/index.js';
import {
  applyChatTemplate,
  ChatTemplate,
  loadTokenizer,
  type ChatMessage,
  type ChatTemplateName,
} from '../../src/index.js';
import { readJson } from '../helpers/json.js';

interface Case {
  readonly template: string;
  readonly conversation: string;
  readonly addGenerationPrompt: boolean;
  readonly text: string;
  readonly ids?: readonly number[];
  readonly mask?: readonly number[];
}
const fixture = readJson('test/fixtures/chat/cases.json') as {
  readonly templates: Record<string, { readonly source: string; readonly tokens: Record<string, string> }>;
  readonly conversations: Record<string, readonly ChatMessage[]>;
  readonly tools: readonly object[];
  readonly cases: readonly Case[];
};
const templateOf = (name: string): ChatTemplate => {
  const own = fixture.templates[name];
  return own === undefined ? ChatTemplate.named(name as ChatTemplateName) : new ChatTemplate(own.source, own.tokens);
};
const optionsOf = ({
  conversation,
  addGenerationPrompt,
}: Case): { addGenerationPrompt: boolean; tools?: readonly object[] } => ({
  addGenerationPrompt,
  ...(conversation === 'tools' ? { tools: fixture.tools } : {}),
});
const user = (content: string): ChatMessage => ({ role: 'user', content });
const assistant = (content: string): ChatMessage => ({ role: 'assistant', content });

describe('rendering', () => {
  for (const name of new Set(fixture.cases.map(({ template }) => template))) {
    test(`${name} writes what Transformers writes`, () => {
      const chat = templateOf(name);
      for (const entry of fixture.cases.filter(({ template }) => template === name)) {
        const messages = fixture.conversations[entry.conversation]!;
        assert.equal(chat.render(messages, optionsOf(entry)), entry.text, entry.conversation);
        assert.equal(chat.renderWithAnswers(messages, optionsOf(entry)).text, entry.text);
      }
    });
  }

  test('applyChatTemplate takes a name', () => {
    assert.equal(
      applyChatTemplate([user('Hi')], { template: 'chatml', addGenerationPrompt: true }),
      '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n',
    );
  });

  test('what cannot be is refused with the reason', () => {
    const mistral = ChatTemplate.named('mistral');
    assert.throws(() => mistral.render([user('a'), user('b')]), /Roles must alternate/);
    assert.throws(() => mistral.render([]), /not empty/);
    assert.throws(() => mistral.render([{ content: 'a' } as unknown as ChatMessage]), /role/);
    assert.throws(() => mistral.render([user('a')], { addGenerationprompt: true } as never), /addGenerationPrompt/);
    assert.throws(() => ChatTemplate.named('vicuna' as never), /chatml/);
    assert.throws(() => new ChatTemplate('{% for %}'), /Jinja/);
  });
});

describe('answers', () => {
  const spoken = (chat: ChatTemplate, messages: readonly ChatMessage[]): string[] => {
    const { text, answers } = chat.renderWithAnswers(messages);
    return answers.map(([start, end]) => text.slice(start, end));
  };
  const talk = [user('a b'), assistant('c d'), user('c d'), assistant('e')];

  test('generation blocks say where they are', () => {
    assert.deepEqual(spoken(ChatTemplate.named('chatml'), talk), ['c d<|im_end|>', 'e<|im_end|>']);
    assert.deepEqual(spoken(ChatTemplate.named('mistral'), talk), [' c d</s>', ' e</s>']);
    assert.deepEqual(spoken(templateOf('marked'), talk), ['c d</s>\n', 'e</s>\n']);
  });

  test('without them they are what a turn adds behind its prompt', () => {
    assert.deepEqual(spoken(templateOf('plain'), talk), ['c d</s>', 'e</s>']);
    assert.deepEqual(spoken(templateOf('tools'), talk), ['c d<|im_end|>', 'e<|im_end|>']);
    const thought = new ChatTemplate(
      "{%- for m in messages -%}{{- m.role + ':' + (m.content if loop.last or m.role == 'user' else '…') + '\\n' -}}{%- endfor -%}" +
        "{%- if add_generation_prompt -%}{{- 'assistant:' -}}{%- endif -%}",
    );
    assert.throws(() => thought.renderWithAnswers(talk), /written alike whatever follows.*generation/s);
  });

  test('tokens of answers are those of Transformers’ masks', async () => {
    const tokenizer = await loadTokenizer('test/fixtures/tokenizers/bytelevel_bpe.tokenizer.json');
    let compared = 0;
    for (const entry of fixture.cases) {
      if (entry.ids === undefined) continue;
      const own = encodeChat(fixture.conversations[entry.conversation]!, {
        tokenizer,
        template: templateOf(entry.template),
      });
      assert.deepEqual([...own.ids], entry.ids, `${entry.template} ${entry.conversation}`);
      assert.deepEqual([...own.answer], entry.mask, `${entry.template} ${entry.conversation}`);
      compared++;
    }
    assert.ok(compared >= 20, `${compared} compared`);
  });

  test('a token that crosses the border of an answer counts', async () => {
    const tokenizer = await loadTokenizer('test/fixtures/tokenizers/bytelevel_bpe.tokenizer.json');
    const template = new ChatTemplate(
      "{%- for m in messages -%}{%- if m.role == 'user' -%}{{- m.content -}}{%- else -%}{%- generation -%}{{- m.content -}}{%- endgeneration -%}{%- endif -%}{%- endfor -%}",
    );
    const text = 'the weather';
    const { ids, offsets } = tokenizer.encodeWithOffsets(text, { addSpecialTokens: false });
    const merged = offsets.findIndex(([start, end]) => end - start >= 2);
    assert.ok(merged >= 0);
    const border = offsets[merged]![0] + 1;
    const own = encodeChat([user(text.slice(0, border)), assistant(text.slice(border))], { tokenizer, template });
    assert.deepEqual([...own.ids], ids);
    assert.deepEqual(
      [...own.answer],
      ids.map((_, i) => Number(i >= merged)),
    );
  });
});

describe('folders', () => {
  const folder = mkdtempSync(join(tmpdir(), 'omnigrad-chat-'));
  test('the template and special tokens of tokenizer_config.json, a list of templates, a file of its own', async () => {
    try {
      await assert.rejects(ChatTemplate.load(folder), /none/);
      const config = {
        chat_template: [
          { name: 'default', template: "{{ bos_token + messages[0]['content'] }}" },
          { name: 'tool_use', template: '{{ tools | length }}' },
        ],
        bos_token: { content: '<s>', special: true },
        eos_token: null,
      };
      writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(config));
      const chat = await ChatTemplate.load(folder);
      assert.equal(chat.render([user('x')]), '<s>x');
      assert.equal(chat.render([user('x')], { tools: [{}, {}] }), '2');
      writeFileSync(join(folder, 'chat_template.jinja'), '{{ bos_token }}!');
      assert.equal((await ChatTemplate.load(folder)).render([user('x')]), '<s>!');
      writeFileSync(join(folder, 'tokenizer_config.json'), '{');
      await assert.rejects(ChatTemplate.load(folder), /tokenizer_config\.json.*JSON/);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
