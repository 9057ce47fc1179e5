/** What a tokenizer's vocabulary model does, whatever its algorithm. */

/** Receives one token and the bytes of the word (in UTF-8) it covers. */
export type EmitToken = (id: number, startByte: number, endByte: number) => void;

/** A vocabulary with the algorithm that cuts a word into its tokens. */
export interface TokenModel {
  readonly type: 'BPE' | 'WordPiece' | 'Unigram' | 'WordLevel';
  /** One past the largest id. */
  readonly size: number;
  tokenToId(token: string): number | undefined;
  idToToken(id: number): string | undefined;
  /** Cuts one word. */
  tokenize(word: string, emit: EmitToken): void;
  /** The `model` object of a `tokenizer.json`. */
  toJSON(): Record<string, unknown>;
}
