/**
 * The TypeScript blocks of README.md, docs/*.md and docs/guides/*.md run as they are printed. Each block is a module of its own; one after
 * `<!-- no-run -->` is only shown.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { read, root } from './helpers/source_tree.js';

interface Block {
  readonly name: string;
  readonly code: string;
}

/** Runnable blocks of a document, named by the line they begin at. */
function blocksOf(document: string): Block[] {
  const text = read(document);
  return [...text.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].flatMap(({ 1: code, index }) => {
    const before = text.slice(0, index);
    if (before.trimEnd().endsWith('<!-- no-run -->')) return [];
    return [{ name: `${document}:${before.split('\n').length}`, code: code! }];
  });
}

/** The source of an entry point: `omnigrad`, or `omnigrad/<folder>`. */
const entry = (folder = ''): string => JSON.stringify(pathToFileURL(join(root, 'src', folder, 'index.ts')).href);
const loader = import.meta.resolve('tsx');
const folder = mkdtempSync(join(tmpdir(), 'omnigrad-docs-'));
after(() => rmSync(folder, { recursive: true, force: true }));

/** Imports what it is given, one after the other, and says which one failed. */
const runner = join(folder, 'runner.mjs');
writeFileSync(
  runner,
  `for (const [name, url] of JSON.parse(process.argv[2])) {
  try {
    await import(url);
  } catch (error) {
    process.stderr.write(\`\${name}: \${error?.stack ?? error}\\n\`);
    process.exitCode = 1;
  }
}
`,
);

const documents = [
  'README.md',
  ...['docs', 'docs/guides'].flatMap((place) =>
    readdirSync(join(root, place))
      .filter((name) => name.endsWith('.md'))
      .sort()
      .map((name) => `${place}/${name}`),
  ),
];
const blocks = documents.flatMap(blocksOf);

describe('documents', () => {
  test('the README has blocks that run', () => {
    assert.ok(blocks.filter(({ name }) => name.startsWith('README.md')).length >= 5);
  });

  // A process costs a second to start, so documents share one; files that blocks write go to the temporary folder.
  test('every TypeScript block runs', { timeout: 180_000 }, async () => {
    const files = blocks.map(({ name, code }, i) => {
      const file = join(folder, `block${i}.mts`);
      writeFileSync(
        file,
        code.replaceAll(/from 'omnigrad(?:\/(\w+))?'/g, (_, folder?: string) => `from ${entry(folder)}`),
      );
      return [name, pathToFileURL(file).href];
    });
    const options = { cwd: folder, timeout: 170_000, maxBuffer: 1 << 26 };
    const failure = await promisify(execFile)(
      process.execPath,
      ['--import', loader, runner, JSON.stringify(files)],
      options,
    ).then(
      () => null,
      (error: { stderr?: string; message: string }) => error.stderr || error.message,
    );
    assert.equal(failure, null);
  });

  test('the tables of speed are those of the newest record', async () => {
    const script = join(root, 'scripts', 'bench_table.mjs');
    const { stdout } = await promisify(execFile)(process.execPath, [script, '--check']);
    assert.equal(stdout, '');
  });

  test('links between documents lead to files', () => {
    const missing = documents.flatMap((document) =>
      [...read(document).matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)].flatMap(([, target]) => {
        return existsSync(join(root, dirname(document), target!)) ? [] : [`${document}: ${target}`];
      }),
    );
    assert.deepEqual(missing, []);
  });
});
