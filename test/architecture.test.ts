/** The shape of the house: floors, sizes, and lists that must name the same things. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { filesUnder, findCycle, importsOf, includesOf, read, root, withoutComments } from './helpers/source_tree.js';

const sources = filesUnder('src', /\.ts$/);
const nativeSources = filesUnder('native', /\.(h|cpp|cc|cu|cuh)$/);

/** Floor of each folder of src/: a file imports from its own folder and from lower floors. */
const floors: Readonly<Record<string, number>> = {
  'errors.ts': 0,
  util: 0,
  runtime: 1,
  tensor: 2,
  ops: 3,
  autograd: 4,
  nn: 5,
  optim: 5,
  interop: 5,
  tokenizer: 5,
  data: 6, // token files are safetensors files
  generate: 6, // knows no model; models call it
  models: 7,
  train: 8,
  compress: 8,
  finetune: 8,
  explain: 8,
  privacy: 8,
  cost: 8,
  evaluate: 8,
  distributed: 8,
  serve: 8,
  'methods.ts': 9,
  'index.ts': 9,
  cli: 10,
};

/** Imports between equal floors that are meant, each with its reason. */
const sideways: Readonly<Record<string, string>> = {
  'util → errors.ts': 'checks of arguments throw the typed errors',
  'errors.ts → util': 'error texts use the formatters',
  'optim → nn': 'groups of parameters are told apart by the kind of their module; nn knows no optimiser',
  'compress → cost': 'cards of compressed models say what tokens cost; cost is arithmetic that knows no model',
  'index.ts → methods.ts': 'the entry point installs the methods',
};

/** Files above the limit, each with its reason. */
const longFiles: Readonly<Record<string, string>> = {};

/** Kernels that no operation uses, each with its reason. */
const withoutOperation: Readonly<Record<string, string>> = {
  random_bits: 'shows the native test the words of the generator, to compare with the published ones',
};

const nativeFloors: Readonly<Record<string, number>> = { include: 0, core: 1, cpu: 2, cuda: 2, binding: 3 };

const folderOf = (file: string): string => file.split('/')[1]!;

describe('floors', () => {
  test('every folder of src/ has a floor', () => {
    const unknown = [...new Set(sources.map(folderOf))].filter((folder) => floors[folder] === undefined);
    assert.deepEqual(unknown, []);
  });

  test('imports in src/ go down', () => {
    const wrong: string[] = [];
    for (const file of sources) {
      for (const { target } of importsOf(file)) {
        const [from, to] = [folderOf(file), folderOf(target)];
        if (from === to || floors[to]! < floors[from]! || sideways[`${from} → ${to}`] !== undefined) continue;
        wrong.push(`${file} imports ${target}`);
      }
    }
    assert.deepEqual(wrong, []);
  });

  test('the tokeniser needs errors and util only', () => {
    const wrong = sources
      .filter((file) => folderOf(file) === 'tokenizer')
      .flatMap((file) => importsOf(file).map(({ target }) => ({ file, target })))
      .filter(({ target }) => folderOf(target) !== 'tokenizer' && floors[folderOf(target)] !== 0);
    assert.deepEqual(wrong, []);
  });

  test('only src/methods.ts augments a module', () => {
    const pattern = /^declare (module|global)\b/m;
    assert.deepEqual(
      sources.filter((file) => pattern.test(withoutComments(read(file)))),
      ['src/methods.ts'],
    );
  });

  test('every imported file exists, and no import cycle is left at run time', () => {
    const graph = new Map<string, string[]>();
    for (const file of sources) {
      const imports = importsOf(file);
      for (const { target } of imports) assert.ok(sources.includes(target), `${file} imports ${target}`);
      graph.set(
        file,
        imports.filter(({ isType }) => !isType).map(({ target }) => target),
      );
    }
    assert.equal(findCycle(graph), undefined);
  });

  test('includes in native/ go down, and only the binding knows Node', () => {
    const wrong: string[] = [];
    for (const file of nativeSources) {
      const from = folderOf(file);
      for (const target of includesOf(file, (path) => nativeSources.includes(path))) {
        const to = folderOf(target);
        if (from !== to && !(nativeFloors[to]! < nativeFloors[from]!)) wrong.push(`${file} includes ${target}`);
      }
      if (from !== 'binding' && /#include\s*[<"](node_api|js_native_api|uv|v8|napi)/.test(read(file)))
        wrong.push(`${file} includes headers of Node`);
      if (from !== 'cuda' && /#include\s*[<"](cuda|cublas)/.test(read(file)))
        wrong.push(`${file} includes CUDA headers`);
    }
    assert.deepEqual(wrong, []);
  });
});

describe('sizes and texts', () => {
  test('TypeScript files have at most 400 lines, C++ files at most 600', () => {
    const code = ['src', 'test', 'bench', 'examples', 'scripts'].flatMap((folder) =>
      filesUnder(folder, /\.(ts|mjs|mts)$/),
    );
    const cpp = [...nativeSources, ...filesUnder('test/native', /\.(h|cpp)$/), ...filesUnder('bench', /\.(h|cpp)$/)];
    const linesOf = (file: string): number => read(file).split('\n').length - 1;
    const tooLong = [...code.map((file) => ({ file, limit: 400 })), ...cpp.map((file) => ({ file, limit: 600 }))]
      .map(({ file, limit }) => ({ file, limit, lines: linesOf(file) }))
      .filter(({ file, limit, lines }) => lines > limit && longFiles[file] === undefined);
    assert.deepEqual(tooLong, []);
    const stale = Object.keys(longFiles).filter((file) => !existsSync(join(root, file)) || linesOf(file) <= 400);
    assert.deepEqual(stale, [], 'exceptions that are no longer needed');
  });

  test('no path of somebody’s machine, no postponed work, no rule switched off in place', () => {
    const folders = ['src', 'native', 'test', 'bench', 'examples', 'scripts', 'docs', '.ci'];
    const files = folders
      .flatMap((folder) => filesUnder(folder, /\.(ts|mjs|cjs|h|cpp|cc|cu|cmake|md|def)$|\/run$/))
      .filter((file) => !/^test\/fixtures\/|^docs\/api\/|^test\/architecture\.test\.ts$/.test(file));
    const patterns: readonly (readonly [RegExp, string])[] = [
      [/(^|[\s'"`(=])\/(home|Users|root|work|mnt)\/\w/m, 'a path of one machine'],
      [/\b(TODO|FIXME|XXX)\b/, 'postponed work'],
      [/\b(oxlint|eslint)-disable|@ts-(ignore|nocheck)/, 'a rule switched off in place'],
    ];
    const found = files.flatMap((file) => {
      const text = read(file);
      return patterns.filter(([pattern]) => pattern.test(text)).map(([, what]) => `${file}: ${what}`);
    });
    assert.deepEqual(found, []);
  });

  test('the library reads environment variables in one file and never writes to the console', () => {
    const wrong = sources.filter((file) => {
      const text = withoutComments(read(file));
      const readsEnvironment = /process\.env/.test(text) && file !== 'src/runtime/environment.ts';
      return folderOf(file) !== 'cli' && (readsEnvironment || /\bconsole\.\w/.test(text));
    });
    assert.deepEqual(wrong, []);
  });
});

describe('lists that name the same things', () => {
  const entries = [...read('native/kernels.def').matchAll(/^OG_KERNEL\((\w+), (\w+),/gm)];

  const text = sources.map((file) => withoutComments(read(file))).join('\n');

  test('every entry of kernels.def has its file, and is named once', () => {
    for (const [, file] of entries)
      assert.ok(nativeSources.includes(`native/cpu/${file}.cpp`), `native/cpu/${file}.cpp`);
    const names = entries.map(([, , name]) => name);
    assert.equal(new Set(names).size, names.length);
  });

  test('every kernel is used by an operation', () => {
    const unused = entries
      .map(([, , name]) => name!)
      .filter((name) => withoutOperation[name] === undefined && !new RegExp(`['"\`]${name}['"\`]`).test(text));
    assert.deepEqual(unused, []);
  });

  test('every kernel file has a native test that runs it', () => {
    const tests = filesUnder('test/native', /_(test\.cpp|fixture\.h)$/)
      .map(read)
      .join('\n');
    const untested = entries
      .filter(([, , name]) => !tests.includes(`"${name}"`))
      .map(([, file, name]) => `${file}: ${name}`);
    assert.deepEqual(untested, []);
  });

  test('every file of src/ops/ is reached from its index', () => {
    const reached = new Set<string>();
    const visit = (file: string): void => {
      if (reached.has(file)) return;
      reached.add(file);
      for (const { target } of importsOf(file)) visit(target);
    };
    visit('src/ops/index.ts');
    assert.deepEqual(
      sources.filter((file) => file.startsWith('src/ops/') && !reached.has(file)),
      [],
    );
  });
});

describe('kernel objects', () => {
  const folders = ['build/Release/obj.target', 'build/native/CMakeFiles'].filter((folder) =>
    existsSync(join(root, folder)),
  );
  const objects = folders
    .flatMap((folder) => filesUnder(folder, /\.o$/))
    .filter((file) => /\/og_\w+(\.dir)?\//.test(file));
  const hasNm = (process.env['PATH'] ?? '').split(':').some((folder) => existsSync(join(folder, 'nm')));
  const reason =
    process.platform !== 'linux' || !hasNm ? 'nm is not on PATH' : objects.length === 0 ? 'none built' : false;

  test('have no weak and no unique symbols', { skip: reason }, () => {
    const output = execFileSync('nm', ['-A', ...objects], { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 });
    const weak = output.split('\n').filter((line) => / [WVu] /.test(line));
    assert.deepEqual(weak.slice(0, 20), []);
  });
});
