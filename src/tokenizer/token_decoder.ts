/** Decoding of ids as they arrive. */
import type { TokenDecoder, Tokenizer } from './tokenizer.js';

function listed(ids: number | Iterable<number>): Iterable<number> {
  return typeof ids === 'number' ? [ids] : ids;
}

/** For vocabularies of byte strings: bytes are put together until they make characters. */
export class ByteTokenDecoder implements TokenDecoder {
  readonly #utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

  /** `bytesOf` gives `undefined` for ids to leave out. */
  constructor(readonly bytesOf: (id: number) => Uint8Array | undefined) {}

  push(ids: number | Iterable<number>): string {
    let out = '';
    for (const id of listed(ids)) {
      const bytes = this.bytesOf(id);
      if (bytes !== undefined) out += this.#utf8.decode(bytes, { stream: true });
    }
    return out;
  }

  end(): string {
    return this.#utf8.decode();
  }
}

/**
 * For vocabularies whose text depends on the tokens before: a window of ids is decoded with and without the new one,
 * and the difference is passed on once it ends in a whole character. The window moves on with every text passed on.
 */
export class WindowTokenDecoder implements TokenDecoder {
  #ids: number[] = [];
  /** Ids before here only give context. */
  #read = 0;

  constructor(
    readonly tokenizer: Tokenizer,
    readonly skipSpecialTokens: boolean,
  ) {}

  push(ids: number | Iterable<number>): string {
    let out = '';
    for (const id of listed(ids)) {
      this.#ids.push(id);
      const text = this.#decode(this.#ids);
      const context = this.#decode(this.#ids.slice(0, this.#read));
      if (text.length > context.length && !text.endsWith('\ufffd')) {
        out += text.slice(context.length);
        this.#ids = this.#ids.slice(this.#read);
        this.#read = this.#ids.length;
      }
    }
    return out;
  }

  end(): string {
    const rest = this.#decode(this.#ids).slice(this.#decode(this.#ids.slice(0, this.#read)).length);
    this.#ids = [];
    this.#read = 0;
    return rest;
  }

  #decode(ids: readonly number[]): string {
    return this.tokenizer.decode(ids, { skipSpecialTokens: this.skipSpecialTokens });
  }
}
