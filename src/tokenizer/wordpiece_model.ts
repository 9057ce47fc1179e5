/**
 * WordPiece (BERT): the longest piece of the vocabulary first, from left to right; a word with a part that matches
 * nothing is unknown as a whole. Also WordLevel, where every word is one token.
 *
 * Source: Devlin et al. 2018 (arXiv:1810.04805), the published tokenization.py.
 *
 * @module
 */
import { utf8Length } from './aligned_text.js';
import { asObject, badField, countField, stringField } from './json_fields.js';
import type { EmitToken, TokenModel } from './model.js';
import { Vocabulary } from './vocabulary.js';

export class WordPieceModel implements TokenModel {
  readonly type = 'WordPiece';

  constructor(
    readonly vocabulary: Vocabulary,
    readonly unkToken: string,
    readonly prefix: string,
    readonly maxChars: number,
  ) {}

  /** @throws `FormatError` if the vocabulary is malformed or lacks the unknown token. */
  static fromJSON(value: unknown, path: string): WordPieceModel {
    const json = asObject(value, path);
    const vocabulary = Vocabulary.fromJSON(json['vocab'], `${path}.vocab`);
    const unk = stringField(json, 'unk_token', path, '[UNK]');
    if (vocabulary.id(unk) === undefined) throw badField(`${path}.unk_token`, 'a token of the vocabulary', unk);
    const prefix = stringField(json, 'continuing_subword_prefix', path, '##');
    return new WordPieceModel(vocabulary, unk, prefix, countField(json, 'max_input_chars_per_word', path, 100));
  }

  get size(): number {
    return this.vocabulary.size;
  }

  tokenToId(token: string): number | undefined {
    return this.vocabulary.id(token);
  }

  idToToken(id: number): string | undefined {
    return this.vocabulary.token(id);
  }

  tokenize(word: string, emit: EmitToken): void {
    const chars = Array.from(word);
    const found: [id: number, chars: number][] = [];
    let known = chars.length <= this.maxChars;
    for (let from = 0; known && from < chars.length;) {
      let to = chars.length;
      let id: number | undefined;
      for (; to > from; to--) {
        const part = chars.slice(from, to).join('');
        id = this.vocabulary.id(from > 0 ? this.prefix + part : part);
        if (id !== undefined) break;
      }
      if (id === undefined) known = false;
      else found.push([id, to - from]);
      from = to;
    }
    if (!known) return emit(this.vocabulary.id(this.unkToken)!, 0, utf8Length(word));
    let at = 0;
    let byte = 0;
    for (const [id, count] of found) {
      const end = byte + utf8Length(chars.slice(at, at + count).join(''));
      emit(id, byte, end);
      at += count;
      byte = end;
    }
  }

  toJSON(): Record<string, unknown> {
    return {
      type: 'WordPiece',
      unk_token: this.unkToken,
      continuing_subword_prefix: this.prefix,
      max_input_chars_per_word: this.maxChars,
      vocab: this.vocabulary.toJSON(),
    };
  }
}

export class WordLevelModel implements TokenModel {
  readonly type = 'WordLevel';

  constructor(
    readonly vocabulary: Vocabulary,
    readonly unkToken: string,
  ) {}

  /** @throws `FormatError` if the vocabulary is malformed. */
  static fromJSON(value: unknown, path: string): WordLevelModel {
    const json = asObject(value, path);
    const vocabulary = Vocabulary.fromJSON(json['vocab'], `${path}.vocab`);
    return new WordLevelModel(vocabulary, stringField(json, 'unk_token', path, '<unk>'));
  }

  get size(): number {
    return this.vocabulary.size;
  }

  tokenToId(token: string): number | undefined {
    return this.vocabulary.id(token);
  }

  idToToken(id: number): string | undefined {
    return this.vocabulary.token(id);
  }

  tokenize(word: string, emit: EmitToken): void {
    const id = this.vocabulary.id(word) ?? this.vocabulary.id(this.unkToken);
    if (id !== undefined) emit(id, 0, utf8Length(word));
  }

  toJSON(): Record<string, unknown> {
    return { type: 'WordLevel', vocab: this.vocabulary.toJSON(), unk_token: this.unkToken };
  }
}
