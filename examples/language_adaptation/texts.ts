/** Two languages: of files that are given, or of the messages of the TypeScript compiler in English and in Chinese. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import ts from 'typescript';
import { UsageError } from '../shared/cli.js';
import { declarationFiles, readDocuments, typescriptFolder } from '../shared/text.js';

export interface Language {
  readonly name: string;
  readonly documents: readonly string[];
}

/** Comments of a source file without their marks. */
function commentsOf(text: string): string {
  const comments = text.match(/\/\*\*[\s\S]*?\*\//g) ?? [];
  return comments
    .map((comment) =>
      comment
        .replace(/^\s*\/?\*+\/?[ \t]?/gm, '')
        .replace(/\*\/$/, '')
        .trim(),
    )
    .filter((comment) => comment.length > 20)
    .join('\n\n');
}

/** English at hand: comments of the declaration files, and the compiler's messages. */
async function compilerEnglish(): Promise<string[]> {
  const { Diagnostics = {} } = ts as unknown as { readonly Diagnostics?: Record<string, { readonly message: string }> };
  const messages = Object.values(Diagnostics).map(({ message }) => message);
  return [
    ...[...(await declarationFiles()).values()].map(commentsOf).filter((text) => text !== ''),
    messages.join('\n'),
  ];
}

/** Chinese at hand: the compiler's messages in translation. */
async function compilerChinese(): Promise<string[]> {
  const file = path.join(typescriptFolder(), 'zh-cn', 'diagnosticMessages.generated.json');
  const text = await readFile(file, 'utf8').catch(() => {
    throw new UsageError(`--to is needed: the typescript package at hand has no translation in ${file}`);
  });
  return [Object.values(JSON.parse(text) as Record<string, string>).join('\n')];
}

/** @throws UsageError if a file is not there or holds no text */
export async function readLanguages(
  from: string | undefined,
  to: string | undefined,
  field: string,
): Promise<[Language, Language]> {
  const read = async (
    option: string,
    source: string | undefined,
    name: string,
    atHand: () => Promise<string[]>,
  ): Promise<Language> => ({
    name: source === undefined ? name : path.basename(source),
    documents: source === undefined ? await atHand() : await readDocuments(option, source, field),
  });
  return [await read('--from', from, 'English', compilerEnglish), await read('--to', to, 'Chinese', compilerChinese)];
}
