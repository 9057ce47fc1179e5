/**
 * Rewrites a pattern of Rust's fancy-regex for Oniguruma, which reads the patterns of `tokenizer.json`. Two things
 * differ as far as pre-tokenisation patterns go: `^` and `$` mean the ends of the text in Rust but of a line in
 * Oniguruma, and a counted repeat followed by `+` is possessive in Rust but repeated again in Oniguruma.
 *
 * @module
 */
export function rustToOniguruma(pattern: string): string {
  let out = '';
  let at = 0;
  /** Where in `out` the last atom starts, and where open groups start. */
  let atom = 0;
  const open: number[] = [];
  const sticky = (regex: RegExp): string | undefined => {
    regex.lastIndex = at;
    return regex.exec(pattern)?.[0];
  };
  while (at < pattern.length) {
    const char = pattern[at]!;
    const counted = sticky(/\{\d*,?\d*\}\+/y);
    if (counted !== undefined) {
      out = `${out.slice(0, atom)}(?>${out.slice(atom)}${counted.slice(0, -1)})`;
      at += counted.length;
      continue;
    }
    if (char === ')') atom = open.pop() ?? out.length;
    else if (char === '(') open.push(out.length);
    else if (!'*+?{'.includes(char)) atom = out.length;
    const token =
      char === '\\'
        ? (sticky(/\\(?:[pPx]\{[^}]*\}|[^])/y) ?? char)
        : char === '['
          ? (sticky(/\[\^?\]?(?:\\[^]|\[:[^\]]*:\]|[^\]\\])*\]/y) ?? char)
          : char === '{'
            ? (sticky(/\{\d*,?\d*\}/y) ?? char)
            : char;
    out += token === '^' ? '\\A' : token === '$' ? '\\z' : token;
    at += token.length;
  }
  return out;
}
