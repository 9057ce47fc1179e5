/** The text of the default run: the declaration files that ship inside the `typescript` package. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { declarationFiles } from '../shared/text.js';

export interface Corpus {
  readonly name: string;
  readonly train: string;
  readonly valid: string;
}

/** Share of the text that the model never sees in training. */
const VALID_SHARE = 0.05;

/** Every twentieth piece of about 20 kB goes to validation, so that both parts have the same kind of text. */
function split(name: string, text: string): Corpus {
  const parts: { train: string[]; valid: string[] } = { train: [], valid: [] };
  const every = Math.round(1 / VALID_SHARE);
  const pieces = Math.max(every, Math.round(text.length / 20_000));
  let from = 0;
  for (let i = 0; i < pieces; i++) {
    const target =
      i === pieces - 1
        ? text.length
        : text.indexOf('\n', Math.round(((i + 1) * text.length) / pieces)) + 1 || text.length;
    parts[i % every === every - 1 ? 'valid' : 'train'].push(text.slice(from, target));
    from = target;
  }
  return { name, train: parts.train.join(''), valid: parts.valid.join('') };
}

/** The user's text, or the default one, with a part held back. */
export async function loadCorpus(file: string | undefined): Promise<Corpus> {
  if (file === undefined)
    return split('TypeScript declaration files', [...(await declarationFiles()).values()].join('\n\n'));
  const text = await readFile(file, 'utf8');
  if (text.length < 20_000) {
    throw new Error(`--text ${file}: expected at least 20 kB of text to train on, got ${text.length} characters`);
  }
  return split(path.basename(file), text);
}
