/** The published form: installs and runs without compiler, network and install script, and says so when it cannot. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { dependencyFolders, readManifest, root, Sandbox } from './helpers/package_sandbox.js';

interface Findings {
  readonly platform: string;
  readonly attempts: readonly { source: string; path: string; outcome: string; reason: string }[];
  readonly checks: Readonly<Record<string, string>>;
}

const program = [
  'const x = og.tensor([1, 2, 3], { requiresGrad: true });',
  'og.backward(og.sum(og.mul(x, x)));',
  "x.grad.data().then((g) => console.log('gradient', Array.from(g).join(' ')));",
].join('\n');

describe('the published package', { timeout: 300_000 }, () => {
  const sandbox = new Sandbox();
  after(() => rmSync(sandbox.folder, { recursive: true, force: true }));

  let dependencies: Record<string, string> = {};
  let tarball = '';
  let project = '';
  let key = '';

  const script = (name: string, ...args: string[]): void => {
    execFileSync(process.execPath, [join(root, 'scripts', name), ...args], { cwd: root, stdio: 'pipe' });
  };
  const doctor = (folder: string, status = 0): Findings => {
    const main = join(folder, 'node_modules/omnigrad/dist/cli/main.js');
    return JSON.parse(sandbox.node([main, 'doctor', '--json'], folder, status).stdout) as Findings;
  };

  before(() => {
    script('prebuild.mjs');
    const folders = dependencyFolders();
    const [main, ...rest] = sandbox.pack([root, ...folders.values()]);
    tarball = main!;
    dependencies = Object.fromEntries([...folders.keys()].map((name, index) => [name, rest[index]!]));
    project = sandbox.install('plain', { omnigrad: tarball, ...dependencies });
    key = doctor(project).platform;
  });

  test('has no install script, no build file and no dependency on a platform package', () => {
    const installed = join(project, 'node_modules/omnigrad');
    const { scripts = {}, optionalDependencies } = readManifest(installed);
    for (const name of ['preinstall', 'install', 'postinstall', 'prepare'])
      assert.equal(scripts[name], undefined, name);
    assert.equal(optionalDependencies, undefined);
    assert.throws(() => readFileSync(join(installed, 'binding.gyp')), { code: 'ENOENT' });
  });

  test('import works', () => {
    const text = `import * as og from 'omnigrad';\n${program}`;
    writeFileSync(join(project, 'main.mjs'), text);
    assert.match(sandbox.node(['main.mjs'], project).stdout, /gradient 2 4 6/);
  });

  test('omnigrad/finetune shares its code with the main entry', () => {
    const text = [
      "import * as og from 'omnigrad';",
      "import { lora, LoraLinear } from 'omnigrad/finetune';",
      'const model = lora(new og.nn.Sequential(new og.nn.Linear(4, 3)), { rank: 2 });',
      'og.sum(model.forward(og.ones([1, 4]))).backward();',
      'console.log(model.layers[0] instanceof LoraLinear, LoraLinear.name, Object.keys(model.stateDict()).length);',
    ].join('\n');
    writeFileSync(join(project, 'finetune.mjs'), text);
    assert.match(sandbox.node(['finetune.mjs'], project).stdout, /true LoraLinear 4/);
    writeFileSync(join(project, 'finetune.cjs'), "console.log(typeof require('omnigrad/finetune').lora);");
    assert.match(sandbox.node(['finetune.cjs'], project).stdout, /function/);
  });

  test('require() works', () => {
    writeFileSync(join(project, 'main.cjs'), `const og = require('omnigrad');\n${program}`);
    assert.match(sandbox.node(['main.cjs'], project).stdout, /gradient 2 4 6/);
  });

  test('classes have the names under which they are exported', () => {
    const lines = [
      "import * as og from 'omnigrad';",
      'const all = [...Object.entries(og), ...Object.entries(og.nn), ...Object.entries(og.optim)];',
      "const types = all.filter(([name, value]) => typeof value === 'function' && /^[A-Z]/.test(name));",
      'console.log(types.length, types.filter(([name, { name: own }]) => name !== own).join());',
    ];
    writeFileSync(join(project, 'names.mjs'), lines.join('\n'));
    const [count, ...others] = sandbox.node(['names.mjs'], project).stdout.trim().split(' ');
    assert.ok(Number(count) > 50, count);
    assert.deepEqual(others, []);
  });

  test('its types resolve, from ESM and from CommonJS', () => {
    const text = [
      "import { tensor, add, nn, type Tensor } from 'omnigrad';",
      "import { lora, type LoraOptions } from 'omnigrad/finetune';",
      'const options: LoraOptions = { rank: 4, variant: "dora", target: /q$/ };',
      'export const tuned: nn.Sequential = lora(new nn.Sequential(), options);',
      'export const sum: Tensor = add(tensor([1, 2]), 1);',
      'export const shape: readonly number[] = sum.shape;',
      '// @ts-expect-error a tensor is not a string',
      'export const wrong: string = sum;',
    ].join('\n');
    writeFileSync(join(project, 'use.mts'), text);
    writeFileSync(join(project, 'use.cts'), text);
    const compilerOptions = {
      target: 'ES2022',
      lib: ['ES2023', 'ESNext.Disposable'],
      module: 'NodeNext',
      strict: true,
      noEmit: true,
      // The declarations name types of Node (AbortSignal, inspect), as a program for Node does itself.
      types: ['node'],
      typeRoots: [join(root, 'node_modules/@types')],
    };
    writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['use.mts', 'use.cts'] }));
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    sandbox.node([tsc, '-p', 'tsconfig.json'], project);
  });

  test('omnigrad doctor finds the binary inside the package and checks it', () => {
    const { attempts, checks } = doctor(project);
    assert.equal(attempts.at(-1)?.source, 'prebuilt');
    assert.equal(attempts.at(-1)?.outcome, 'loaded');
    assert.deepEqual(new Set(Object.values(checks)), new Set(['ok']));
    const version = sandbox.node(
      [join(project, 'node_modules/omnigrad/dist/cli/main.js'), '--version'],
      project,
    ).stdout;
    assert.equal(version.trim(), readManifest(root).version);
  });

  test('without a binary, the error names each place, the reason and the remedy, and so does the doctor', () => {
    const binary = join(project, 'node_modules/omnigrad/prebuilds', key, 'omnigrad.node');
    renameSync(binary, `${binary}.away`);
    try {
      const { stderr } = sandbox.node(['main.mjs'], project, 1);
      assert.match(stderr, /BackendError: \[load\] addon: expected a native binary for /);
      assert.ok(stderr.includes(binary) && stderr.includes(`@omnigrad/${key}`), stderr);
      assert.match(stderr, /no such file/);
      assert.match(stderr, /the package is not installed/);
      assert.ok(stderr.includes(`npm install @omnigrad/${key}@`), stderr);
      const { attempts } = doctor(project, 1);
      assert.deepEqual(
        attempts.map(({ source }) => source),
        ['platform package', 'prebuilt'],
      );
      const main = join(project, 'node_modules/omnigrad/dist/cli/main.js');
      assert.match(sandbox.node([main, 'doctor'], project, 1).stdout, /What to run:/);

      writeFileSync(binary, 'not a shared library');
      const damaged = sandbox.node(['main.mjs'], project, 1).stderr;
      assert.match(damaged, /invalid ELF header|file too short|not a mach-o file|not a valid Win32/i);
      assert.match(damaged, /npm install --force omnigrad/);
    } finally {
      renameSync(`${binary}.away`, binary);
    }
  });

  test('a platform package serves the main package that was made without binaries', () => {
    const out = (name: string): string => join(sandbox.folder, name);
    script('pack_platform.mjs', '--out', out('platform'));
    script('pack_main.mjs', '--platforms', key, '--out', out('omnigrad'));
    const name = `@omnigrad/${key}`;
    assert.deepEqual(readManifest(out('omnigrad')).optionalDependencies, { [name]: readManifest(root).version });
    const [main, platform] = sandbox.pack([out('omnigrad'), out('platform')]);
    const folder = sandbox.install('split', { omnigrad: main!, [name]: platform!, ...dependencies });
    assert.equal(doctor(folder).attempts.at(-1)?.source, 'platform package');

    // A binary of another version is refused by name instead of failing somewhere inside.
    const manifest = join(folder, 'node_modules', name, 'package.json');
    writeFileSync(manifest, JSON.stringify({ ...readManifest(join(manifest, '..')), version: '0.0.1' }));
    const { attempts } = doctor(folder, 1);
    assert.match(attempts.find(({ source }) => source === 'platform package')!.reason, /version 0\.0\.1/);
  });
});
