/** A trie over code points, for all vocabulary entries that start at a place in a text. */
interface TrieNode {
  value: number;
  readonly next: Map<number, TrieNode>;
}

export class Trie {
  readonly #root: TrieNode = { value: -1, next: new Map() };

  add(text: string, value: number): void {
    let node = this.#root;
    for (const char of text) {
      const code = char.codePointAt(0)!;
      let child = node.next.get(code);
      if (child === undefined) {
        child = { value: -1, next: new Map() };
        node.next.set(code, child);
      }
      node = child;
    }
    node.value = value;
  }

  /** Calls `visit` with the value and code-point length of each entry that is a prefix of `codes` from `from`. */
  prefixes(codes: ArrayLike<number>, from: number, visit: (value: number, length: number) => void): void {
    let node: TrieNode | undefined = this.#root;
    for (let at = from; at < codes.length; at++) {
      node = node.next.get(codes[at]!);
      if (node === undefined) return;
      if (node.value >= 0) visit(node.value, at + 1 - from);
    }
  }

  /** Length of the longest entry that is a prefix of `codes` from `from`, 0 if there is none. */
  longest(codes: ArrayLike<number>, from: number): number {
    let best = 0;
    this.prefixes(codes, from, (_, length) => (best = length));
    return best;
  }
}

/** The code points of `text`. */
export function codePoints(text: string): Uint32Array {
  return Uint32Array.from(Array.from(text, (char) => char.codePointAt(0)!));
}
