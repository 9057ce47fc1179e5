/** Cleaning: each rule alone, on texts made to break just that one, and the account of a run. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  c4Filter,
  clean,
  decontaminate,
  exactDuplicates,
  finewebQuality,
  gopherQuality,
  gopherRepetition,
  languageFilter,
  normalize,
  normalizeText,
  type CleanStep,
} from '../../src/data/index.js';
import { ngramFractions } from '../../src/data/clean/repetition.js';

async function verdicts(step: CleanStep, texts: readonly string[]): Promise<(string | string[])[]> {
  await step.prepare?.();
  const results: (string | string[])[] = [];
  for (const [i, text] of texts.entries()) {
    const { documents, reason } = await step.process({ id: `d${i}`, text });
    results.push(documents.length === 0 ? `dropped: ${reason}` : documents.map((document) => document.text));
  }
  return results;
}

/** 60 different words of prose, stop words among them. */
const prose = Array.from({ length: 60 }, (_, i) =>
  i % 6 === 0 ? 'the' : i % 6 === 3 ? 'and' : `word${String.fromCharCode(97 + (i % 26))}${i}`,
);
const text = prose.join(' ');

test('normalisation', () => {
  assert.equal(normalizeText('e\u0301 \ud800x\u0000\u200b\r\ny\u00a0\u00a0z  \n\n\n\nend '), 'é \ufffdx\ny z\n\nend');
  assert.equal(normalizeText('ﬁ² ４', { form: 'NFKC' }), 'fi2 4');
  assert.equal(normalizeText('if x:\n\ty  = 1  \n', { indentation: true }), 'if x:\n\ty = 1');
  assert.equal(normalizeText('👩\u200d👧 😀'), '👩\u200d👧 😀');
  assert.throws(() => normalize({ from: 'NFC' } as object), /Did you mean form/);
});

describe('named rules', () => {
  test('Gopher: quality', async () => {
    const cases: [string, string | null][] = [
      [text, null],
      ['the and too short', 'word count'],
      ['a '.repeat(60), 'mean word length'],
      [`${text} ${'# '.repeat(10)}`, 'symbol-to-word ratio'],
      [prose.map((word, i) => `${i % 3 === 0 ? '\n- ' : ''}${word}`).join(' '), 'bullet lines'],
      [text.replaceAll('word', '12345'), null],
      [prose.map((word) => (word.startsWith('word') ? '123456' : word)).join(' '), 'alphabetic words'],
      [text.replaceAll(/\b(the|and)\b/g, 'foo'), 'stop words'],
      [
        Array.from({ length: 8 }, (_, i) => `${prose.slice(8 * i, 8 * i + 8).join(' ')}${i < 4 ? '...' : ''}`).join(
          '\n',
        ),
        'ellipsis lines',
      ],
    ];
    const results = await verdicts(
      gopherQuality(),
      cases.map(([sample]) => sample),
    );
    assert.deepEqual(
      results.map((result) => (typeof result === 'string' ? result : null)),
      cases.map(([, reason]) => (reason === null ? null : `dropped: ${reason}`)),
    );
    assert.deepEqual(await verdicts(gopherQuality({ wordCount: false, stopWords: false }), ['three words here']), [
      ['three words here'],
    ]);
  });

  test('Gopher: shares of n-grams, counted by hand', () => {
    // "a b a b c": pairs ab, ba, ab, bc. ab twice: 4 of 5 characters; the second ab is a repetition of 2.
    const { top, duplicate } = ngramFractions(['a', 'b', 'a', 'b', 'c'], [2], [2]);
    assert.equal(top.get(2), 4 / 5);
    assert.equal(duplicate.get(2), 2 / 5);
    // "x y z x y z x y z": repeated triples cover everything after the first three words, once.
    assert.equal(ngramFractions([...'xyzxyzxyz'], [], [3]).duplicate.get(3), 6 / 9);
    assert.equal(ngramFractions(['one'], [2], [5]).top.get(2), 0);
  });

  test('Gopher: repetition', async () => {
    const lines = Array.from({ length: 10 }, (_, i) => prose.slice(6 * i, 6 * i + 6).join(' '));
    const repeated = [...lines.slice(0, 6), ...lines.slice(0, 4)];
    assert.deepEqual(
      await verdicts(gopherRepetition(), [
        lines.join('\n'),
        repeated.join('\n'),
        `${text} ${text}`,
        'spam eggs '.repeat(30),
      ]),
      [
        [lines.join('\n')],
        'dropped: duplicate line fraction',
        'dropped: duplicate 5-gram character fraction',
        'dropped: top 2-gram character fraction',
      ],
    );
  });

  test('C4', async () => {
    const page =
      'This is the first good line.\nMenu\nPlease enable JavaScript to view this page.\nWe have a privacy policy for you here.\nA second good line [3] is here!\nIs this a third line? Yes.';
    assert.deepEqual(
      await verdicts(c4Filter({ badWords: ['darn'] }), [page, `${page} {`, `${page} Lorem ipsum`, 'no end', `${page} Oh darn it.`, 'Only one good line is here.']),
      [
        ['This is the first good line.\nA second good line  is here!\nIs this a third line? Yes.'],
        'dropped: curly bracket', 'dropped: lorem ipsum', 'dropped: no lines', 'dropped: bad words', 'dropped: sentences',
      ],
    ); // prettier-ignore
  });

  test('FineWeb', async () => {
    const line = (i: number): string => `This is line number ${i}, which is long enough to count.`;
    const good = [0, 1, 2].map(line).join('\n');
    assert.deepEqual(
      await verdicts(finewebQuality(), [
        good,
        good.replaceAll('.', ''),
        [line(0), line(1), line(1)].join('\n'),
        'Short.\nLines.\nonly.',
      ]),
      [
        [good],
        'dropped: lines ending in punctuation',
        'dropped: characters in duplicate lines',
        'dropped: short lines',
      ],
    );
  });

  test('language', async () => {
    const texts = [
      'The quick brown fox jumps over the lazy dog near the river bank.',
      'Der schnelle braune Fuchs springt über den faulen Hund am Flussufer.',
      '红楼梦是中国古典四大名著之一',
    ];
    const step = languageFilter({ keep: ['en', 'zh'] });
    assert.deepEqual(await verdicts(step, texts), [[texts[0]], 'dropped: language de', [texts[2]]]);
    assert.deepEqual(step.summary!(), { languages: { de: 1, en: 1, zh: 1 } });
  });
});

test('exact duplicates: documents, lines', async () => {
  assert.deepEqual(await verdicts(exactDuplicates(), ['Hello, World', 'hello world!', 'other', '!!', '??', '!!']), [
    ['Hello, World'], 'dropped: duplicate', ['other'], ['!!'], ['??'], 'dropped: duplicate',
  ]); // prettier-ignore
  const footer = 'All rights reserved by the company.';
  assert.deepEqual(await verdicts(exactDuplicates({ unit: 'line' }), [`One\n${footer}`, `Two\n${footer}\nEnd`, footer]), [
    [`One\n${footer}`], ['Two\nEnd'], 'dropped: only duplicate lines',
  ]); // prettier-ignore
});

describe('decontamination', () => {
  const example = prose.slice(0, 20).join(' ');
  const sets = [{ name: 'quiz', texts: ['Too short.', example, prose.slice(30, 40).join(' ')] }];

  test('finds 13-grams and short examples, whatever case and punctuation', async () => {
    const hit = `Before. ${prose.slice(4, 17).join(', ').toUpperCase()} after`;
    const miss = prose.slice(4, 16).join(' ');
    const step = decontaminate(sets);
    assert.deepEqual(await verdicts(step, [hit, miss, `a ${prose.slice(30, 40).join(' ')} b`, hit]), [
      'dropped: evaluation quiz', [miss], 'dropped: evaluation quiz', 'dropped: evaluation quiz',
    ]); // prettier-ignore
    assert.deepEqual(step.summary!(), {
      sets: [{ name: 'quiz', examples: 3, tooShort: 1, found: [{ example: 1, documents: 2, first: 'd0' }, { example: 2, documents: 1, first: 'd2' }] }],
    }); // prettier-ignore
  });

  test('cuts collisions with their surroundings', async () => {
    const [before, after] = ['b'.repeat(300), 'c'.repeat(500)];
    const [result] = await verdicts(decontaminate(sets, { action: 'cut' }), [`${before} ${example} ${after}`]);
    assert.deepEqual(result, [after.slice(0, 500 - 199)]); // of `before` 101 characters are left, too few
    const cutAway = await verdicts(decontaminate(sets, { action: 'cut' }), [example]);
    assert.deepEqual(cutAway, ['dropped: evaluation quiz']);
  });
});

test('a run accounts for every document', async () => {
  const documents = [text, text, 'short', `${text} more`].map((each, i) => ({ id: `d${i}`, text: each }));
  const run = clean(documents, [normalize(), gopherQuality(), exactDuplicates()], { samples: 1, sampleCharacters: 4 });
  const kept: string[] = [];
  for await (const { id } of run) kept.push(id);
  assert.deepEqual(kept, ['d0', 'd3']);
  const { report } = run;
  assert.deepEqual(report.documents, { before: 4, after: 2 });
  assert.deepEqual(report.steps.map((step) => step.documents), [{ before: 4, after: 4 }, { before: 4, after: 3 }, { before: 3, after: 2 }]); // prettier-ignore
  assert.deepEqual(report.steps[1]!.dropped, { 'word count': { documents: 1, characters: 5, samples: [{ id: 'd2', text: 'shor', detail: '1' }] } }); // prettier-ignore
  assert.deepEqual(JSON.parse(JSON.stringify(report)), report);
  assert.throws(() => clean(documents, [{} as CleanStep]), { code: 'OG_ATTRIBUTE' });
  await assert.rejects(async () => { for await (const _ of clean([{ id: 1 } as never], [])); }, /document 0/); // prettier-ignore
});
