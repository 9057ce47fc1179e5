/** Sentences with a sentiment, from a folder of SST-2 or a table of reviews. */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { UsageError } from '../shared/cli.js';

export interface Sentence {
  readonly text: string;
  readonly label: number;
}

export interface SentimentData {
  readonly train: readonly Sentence[];
  readonly valid: readonly Sentence[];
  readonly test: readonly Sentence[];
}

export const classes = ['negative', 'positive'];

/** `sentence TAB label` or `label,sentence` a line; label 0 or 1. @throws UsageError naming the line that is neither */
async function readSentences(file: string): Promise<Sentence[]> {
  const text = await readFile(file, 'utf8').catch(() => {
    throw new UsageError(`--data: expected ${file}, which is not there`);
  });
  const isTable = file.endsWith('.csv');
  const lines = text.replaceAll('\r\n', '\n').split('\n');
  return lines.flatMap((line, i) => {
    if (line.trim() === '' || (isTable && i === 0)) return [];
    const at = isTable ? line.indexOf(',') : line.lastIndexOf('\t');
    const [label, sentence] = isTable
      ? [line.slice(0, at), line.slice(at + 1)]
      : [line.slice(at + 1), line.slice(0, at)];
    if (at > 0 && /^[01]$/.test(label.trim()) && sentence.trim() !== '') {
      return [
        {
          text: sentence
            .trim()
            .replace(/^"([\s\S]*)"$/, '$1')
            .replaceAll('""', '"'),
          label: Number(label),
        },
      ];
    }
    const form = isTable ? '0 or 1, a comma, a sentence' : 'a sentence, a tab, 0 or 1';
    throw new UsageError(`${file}:${i + 1}: expected ${form}, got ${JSON.stringify(line.slice(0, 60))}`);
  });
}

/**
 * A folder of `train.tsv`, `dev.tsv` and `test.tsv`, or one `.csv` with a line of titles, of which a tenth each is held back for
 * validation and test.
 *
 * @throws UsageError if it is neither
 */
export async function readSentiment(source: string | undefined): Promise<SentimentData> {
  const where =
    'A folder of SST-2 (train.tsv, dev.tsv, test.tsv; sentence, tab, 0 or 1), or a .csv of label,review, such as waimai_10k';
  if (source === undefined)
    throw new UsageError(`--data is needed: ${where}. Both are small and public: see README.md of this example`);
  const found = await stat(source).catch(() => {
    throw new UsageError(`--data ${source}: there is no such file or folder. Expected: ${where}`);
  });
  if (found.isDirectory()) {
    const read = (name: string): Promise<Sentence[]> => readSentences(path.join(source, name));
    const [train, valid, test] = [await read('train.tsv'), await read('dev.tsv'), await read('test.tsv')];
    return checked(source, { train, valid, test });
  }
  if (!source.endsWith('.csv')) throw new UsageError(`--data ${source}: expected ${where}`);
  const all = await readSentences(source);
  const part = (which: (i: number) => boolean): Sentence[] => all.filter((_, i) => which(i % 10));
  return checked(source, { train: part((i) => i < 8), valid: part((i) => i === 8), test: part((i) => i === 9) });
}

function checked(source: string, data: SentimentData): SentimentData {
  for (const [name, part] of Object.entries(data) as [string, readonly Sentence[]][]) {
    const kinds = new Set(part.map(({ label }) => label)).size;
    if (kinds < 2)
      throw new UsageError(
        `--data ${source}: expected sentences of both kinds in ${name}, got ${part.length} of ${kinds}`,
      );
  }
  return data;
}

const wordsOf = (text: string): string[] => {
  const words = text.toLowerCase().match(/[\p{Script=Han}]|[^\s\p{Script=Han}]+/gu) ?? [];
  return [...words, ...words.slice(1).map((word, i) => `${words[i]} ${word}`)];
};

/**
 * Multinomial naive Bayes on words and pairs of words, add-one smoothed and binary (Wang and Manning 2012, "Baselines and Bigrams", §2.1):
 * what the figures of a network are to be compared with. Returns predicted classes.
 */
export function naiveBayes(train: readonly Sentence[], test: readonly Sentence[]): number[] {
  const counts = [new Map<string, number>(), new Map<string, number>()] as const;
  const totals = [0, 0];
  const vocabulary = new Set<string>();
  for (const { text, label } of train) {
    for (const word of new Set(wordsOf(text))) {
      counts[label]!.set(word, (counts[label]!.get(word) ?? 0) + 1);
      totals[label]!++;
      vocabulary.add(word);
    }
  }
  const priors = [0, 1].map((label) => Math.log(train.filter((one) => one.label === label).length / train.length));
  return test.map(({ text }) => {
    const scores = [0, 1].map((label) => {
      const known = [...new Set(wordsOf(text))].filter((word) => vocabulary.has(word));
      const logOf = (word: string): number =>
        Math.log(((counts[label]!.get(word) ?? 0) + 1) / (totals[label]! + vocabulary.size));
      return known.reduce((sum, word) => sum + logOf(word), priors[label]!);
    });
    return scores[1]! > scores[0]! ? 1 : 0;
  });
}
