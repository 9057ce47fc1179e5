/** The text of the default run: the declaration files that ship inside the `typescript` package. */
import { readdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';

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

/** The declarations of the language and of the browser: about 3 MB of regular, well-commented TypeScript. */
async function declarationFiles(): Promise<string> {
  const folder = path.join(path.dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'lib');
  const names = (await readdir(folder)).filter((name) => /^lib\.(es|dom).*\.d\.ts$/.test(name)).sort();
  const texts = await Promise.all(names.map((name) => readFile(path.join(folder, name), 'utf8')));
  const licence = /^\/\*! \*+\nCopyright[\s\S]*?\*+ \*\/\s*/;
  return texts.map((text) => text.replaceAll('\r\n', '\n').replace(licence, '').trim()).join('\n\n');
}

/** The user's text, or the default one, with a part held back. */
export async function loadCorpus(file: string | undefined): Promise<Corpus> {
  if (file === undefined) return split('TypeScript declaration files', await declarationFiles());
  const text = await readFile(file, 'utf8');
  if (text.length < 20_000) {
    throw new Error(`--text ${file}: expected at least 20 kB of text to train on, got ${text.length} characters`);
  }
  return split(path.basename(file), text);
}
