/** Folders in which the published form is installed as on a machine without compiler, network or npm settings. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

/** npm's own program, so that it runs with a PATH that does not hold it. */
function npmProgram(): string {
  const fromNpm = process.env['npm_execpath'];
  if (fromNpm?.endsWith('npm-cli.js')) return fromNpm;
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
    const file = join(folder, 'npm');
    if (existsSync(file) && realpathSync(file).endsWith('.js')) return realpathSync(file);
  }
  throw new Error('npm was not found on PATH');
}

export interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A temporary folder with its own home, npm cache and a PATH on which there is nothing but node. */
export class Sandbox {
  readonly folder = mkdtempSync(join(realpathSync(tmpdir()), 'omnigrad-packaging-'));
  readonly home = join(this.folder, 'home');
  readonly bin = join(this.folder, 'bin');
  private readonly npm = npmProgram();

  constructor() {
    mkdirSync(this.home);
    mkdirSync(this.bin);
    symlinkSync(process.execPath, join(this.bin, 'node'));
  }

  /** Runs node with the bare environment; fails the test when it ends otherwise than `expectedStatus`. */
  node(args: readonly string[], cwd: string, expectedStatus = 0): Outcome {
    const env = {
      PATH: this.bin,
      HOME: this.home,
      npm_config_cache: join(this.home, 'cache'),
      npm_config_update_notifier: 'false',
    };
    const result = spawnSync(process.execPath, args, { cwd, env, encoding: 'utf8', timeout: 120_000 });
    const text = `node ${args.join(' ')}\n${result.stdout}\n${result.stderr}`;
    assert.equal(result.status, expectedStatus, `${text}\nended by ${result.signal ?? 'exit'}`);
    return { status: result.status!, stdout: result.stdout, stderr: result.stderr };
  }

  /** Packs folders into tarballs in the sandbox; returns their paths in the same order. */
  pack(folders: readonly string[]): string[] {
    const args = [this.npm, 'pack', '--json', '--ignore-scripts', '--offline', '--pack-destination', this.folder];
    const { stdout } = this.node([...args, ...folders], this.folder);
    const packed = JSON.parse(stdout) as { filename: string; name: string }[];
    // npm answers in order of name, and older versions write @scope/name as such.
    return folders.map((folder) => {
      const { name } = readManifest(folder);
      const entry = packed.find((candidate) => candidate.name === name);
      assert.ok(entry, `npm pack left out ${name}`);
      return join(this.folder, entry.filename.replace('@', '').replaceAll('/', '-'));
    });
  }

  /** An empty project into which the tarballs are installed, offline and without scripts. */
  install(name: string, tarballs: Readonly<Record<string, string>>): string {
    const project = join(this.folder, name);
    mkdirSync(project);
    const dependencies = Object.fromEntries(Object.entries(tarballs).map(([key, file]) => [key, `file:${file}`]));
    writeFileSync(join(project, 'package.json'), JSON.stringify({ name, private: true, dependencies }));
    const args = ['install', '--offline', '--ignore-scripts', '--no-audit', '--no-fund', '--no-package-lock'];
    this.node([this.npm, ...args], project);
    return project;
  }
}

export interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly scripts?: Readonly<Record<string, string>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

export function readManifest(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest;
}

/** Folders of everything the package depends on, from this checkout's node_modules: name → folder. */
export function dependencyFolders(): Map<string, string> {
  const found = new Map<string, string>();
  const visit = (manifest: Manifest): void => {
    for (const name of Object.keys(manifest.dependencies ?? {})) {
      if (found.has(name)) continue;
      const folder = join(root, 'node_modules', name);
      found.set(name, folder);
      visit(readManifest(folder));
    }
  };
  visit(readManifest(root));
  return found;
}
