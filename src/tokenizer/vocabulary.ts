/** Tokens by id and ids by token. */
import { asId, asObject, badField } from './json_fields.js';

/** Ids beyond this would make the table by id absurdly sparse. */
const MAX_ID = 2 ** 24;

export class Vocabulary {
  readonly #ids = new Map<string, number>();
  readonly #tokens: (string | undefined)[] = [];

  /** Tokens in id order, without holes. */
  static fromList(tokens: Iterable<string>): Vocabulary {
    const vocabulary = new Vocabulary();
    let id = 0;
    for (const token of tokens) vocabulary.set(token, id++);
    return vocabulary;
  }

  /**
   * Reads `{token: id}`.
   *
   * @throws `FormatError` if an id is no integer, too large, or given twice.
   */
  static fromJSON(value: unknown, path: string): Vocabulary {
    const vocabulary = new Vocabulary();
    for (const [token, raw] of Object.entries(asObject(value, path))) {
      const id = asId(raw, `${path}[${JSON.stringify(token)}]`);
      if (id > MAX_ID) throw badField(`${path}[${JSON.stringify(token)}]`, `an id up to ${MAX_ID}`, id);
      const other = vocabulary.token(id);
      if (other !== undefined) {
        throw badField(`${path}[${JSON.stringify(token)}]`, `an id of its own, ${JSON.stringify(other)} has`, id);
      }
      vocabulary.set(token, id);
    }
    return vocabulary;
  }

  /** One past the largest id. */
  get size(): number {
    return this.#tokens.length;
  }

  set(token: string, id: number): void {
    this.#ids.set(token, id);
    while (this.#tokens.length <= id) this.#tokens.push(undefined);
    this.#tokens[id] = token;
  }

  id(token: string): number | undefined {
    return this.#ids.get(token);
  }

  token(id: number): string | undefined {
    return this.#tokens[id];
  }

  /** Pairs of token and id in id order. */
  *entries(): Generator<[token: string, id: number]> {
    for (let id = 0; id < this.#tokens.length; id++) {
      const token = this.#tokens[id];
      if (token !== undefined) yield [token, id];
    }
  }

  /** `{token: id}` in id order (keys that look like integers come first, as always in JavaScript). */
  toJSON(): Record<string, number> {
    return Object.fromEntries(this.entries());
  }
}
