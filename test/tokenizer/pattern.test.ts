/** Translated patterns match what the originals match; the expected pieces were noted from Oniguruma and fancy-regex. */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import { FormatError } from '../../src/errors.js';
import { Splitter, translatePattern, type RegexDialect } from '../../src/tokenizer/pattern.js';
import { rustToOniguruma } from '../../src/tokenizer/pattern_dialect.js';

function pieces(pattern: string, text: string, dialect: RegexDialect = 'oniguruma'): string[] {
  const cursor = new Splitter(pattern, dialect).over(text);
  const out: string[] = [];
  for (let start = 0, end = cursor.next(); end >= 0; start = end, end = cursor.next()) out.push(text.slice(start, end));
  return out;
}

const CL100K = String.raw`'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s`;

suite('patterns', () => {
  test('possessive repeats and atomic groups do not give back', () => {
    assert.deepEqual(pieces('a++ab|.', 'aaab'), ['a', 'a', 'a', 'b']);
    assert.deepEqual(pieces('a+ab|.', 'aaab'), ['aaab']);
    assert.deepEqual(pieces('(?>a|ab)c|.', 'abc'), ['a', 'b', 'c']);
    assert.deepEqual(pieces('a{1,2}+ab', 'aab', 'rust'), ['aab']);
    assert.deepEqual(pieces('a?+ab|.', 'ab', 'rust'), ['a', 'b']);
  });

  test('a count followed by + repeats in Oniguruma and is possessive in Rust', () => {
    assert.deepEqual(pieces('1{1,3}+', '11111'), ['11111']);
    assert.deepEqual(pieces('1{1,3}+', '11111', 'rust'), ['111', '11']);
  });

  test('case is ignored where the pattern says so, also for long s and Kelvin', () => {
    assert.deepEqual(pieces("(?i:'s|'k)|.", "'S'ſ'K'\u212a's"), ["'S", "'ſ", "'K", "'\u212a", "'s"]);
    assert.deepEqual(pieces('(?i)[a-c]+|.', 'aBCd'), ['aBC', 'd']);
    assert.deepEqual(pieces('a(?i:b)c|.', 'aBcABc'), ['aBc', 'A', 'B', 'c']);
  });

  test('white space is that of Unicode', () => {
    assert.deepEqual(pieces(String.raw`\s+|\S+`, 'a\u0085\u00a0b\ufeffc'), ['a', '\u0085\u00a0', 'b\ufeffc']);
  });

  test('line and text ends', () => {
    assert.deepEqual(pieces('ab$|[^x]', 'ab\nab'), ['ab', '\n', 'ab']);
    assert.deepEqual(pieces('ab$|[^x]', 'ab\nab', 'rust'), ['a', 'b', '\n', 'ab']);
    assert.deepEqual(pieces('^ab|[^x]', 'ab\nab', 'rust'), ['ab', '\n', 'a', 'b']);
  });

  test('classes: properties, scripts, POSIX names, intersections', () => {
    assert.deepEqual(pieces(String.raw`\p{Han}+|\p{^L}+|\pL+`, '中文ab12'), ['中文', 'ab', '12']);
    assert.deepEqual(pieces('[[:alpha:]]+|[^[:alpha:]]+', 'aé12'), ['aé', '12']);
    assert.deepEqual(pieces('[a-z&&[^aeiou]]+|.', 'bcade'), ['bc', 'a', 'd', 'e']);
    assert.deepEqual(pieces(String.raw`[]\-&~|({]+|.`, ']-&~|({x'), [']-&~|({', 'x']);
  });

  test('a match of nothing parts the text around it', () => {
    assert.deepEqual(pieces('(?=b)', 'aabab'), ['aa', 'ba', 'b']);
  });

  test('every piece follows the one before, to the end of the text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => assert.equal(pieces(CL100K, text, 'rust').join(''), text)),
    );
  });

  test('a Rust pattern written for Oniguruma matches the same', () => {
    const rewritten = rustToOniguruma(CL100K);
    assert.ok(rewritten.includes(String.raw`(?>\p{N}{1,3})`) && rewritten.includes(String.raw`\s++\z`));
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom('a', 'B', '1', "'", 's', ' ', '\n', '\r', '.', '中') }), (text) =>
        assert.deepEqual(pieces(rewritten, text), pieces(CL100K, text, 'rust')),
      ),
    );
  });

  test('what has no equivalent is refused by name', () => {
    for (const pattern of [
      '(a',
      'a)',
      '[a',
      '*a',
      '\\',
      '\\X',
      '(?x:a)',
      '\\p{Nope}',
      '[z-a]',
      '[[:nope:]]',
      '\\x{110000}',
    ]) {
      assert.throws(() => translatePattern(pattern), FormatError, pattern);
    }
  });
});
