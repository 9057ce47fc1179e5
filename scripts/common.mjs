// What every script needs: where the repository is, how to run a program, how to find one, how to walk a folder.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The repository root. */
export const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');

/** A failure whose message is all that the user needs: no stack is printed. */
export class ScriptError extends Error {}

/** Runs a program in the repository root with the terminal attached; returns its exit status. */
export function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (result.error) throw new ScriptError(`${command} could not be started: ${result.error.message}`);
  if (result.signal) {
    console.error(`${command} was ended by ${result.signal}`);
    return 1;
  }
  return result.status ?? 1;
}

/** Runs a program and returns what it printed, with `status`. */
export function capture(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, ...options });
  if (result.error) throw new ScriptError(`${command} could not be started: ${result.error.message}`);
  return { status: result.status ?? 1, output: `${result.stdout}${result.stderr}`, stdout: result.stdout };
}

/** The full path of a program on PATH, or undefined. */
export function findProgram(...names) {
  const endings = process.platform === 'win32' ? ['.exe', '.cmd', ''] : [''];
  for (const name of names) {
    for (const folder of (process.env.PATH ?? '').split(delimiter)) {
      for (const ending of endings) {
        const file = join(folder, name + ending);
        try {
          accessSync(file, constants.X_OK);
          return file;
        } catch {
          // not in this folder
        }
      }
    }
  }
  return undefined;
}

/** Every file under `folder` (relative to the root) for which `keep` holds, sorted, as forward-slash paths. */
export function filesUnder(folder, keep = () => true) {
  const found = [];
  const walk = (at) => {
    for (const entry of readdirSync(at, { withFileTypes: true })) {
      const full = join(at, entry.name);
      if (entry.isDirectory()) walk(full);
      else if (entry.isFile()) {
        const name = relative(root, full).split(sep).join('/');
        if (keep(name)) found.push(name);
      }
    }
  };
  if (existsSync(join(root, folder))) walk(join(root, folder));
  return found.sort();
}

/** A digest of the names and contents of files, and of further words that decide the result. */
export function digest(files, ...words) {
  const hash = createHash('sha256');
  for (const word of words) hash.update(`${word}\0`);
  for (const file of files) {
    hash.update(`${file}\0`);
    hash.update(existsSync(join(root, file)) ? readFileSync(join(root, file)) : '(absent)');
  }
  return hash.digest('hex');
}

/** The path of a JavaScript program inside an installed package, so that it runs without npx and on Windows alike. */
export function packageProgram(name, program = name) {
  const require = createRequire(join(root, 'package.json'));
  let folder;
  for (const base of require.resolve.paths(name) ?? []) {
    if (existsSync(join(base, name, 'package.json'))) {
      folder = join(base, name);
      break;
    }
  }
  if (folder === undefined) throw new ScriptError(`the package ${name} is not installed. Run: npm install`);
  const { bin } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  return join(folder, typeof bin === 'string' ? bin : bin[program]);
}

/** Runs the body of a script; a ScriptError becomes one line on stderr and exit status 1. */
export async function main(body) {
  try {
    process.exitCode = (await body(process.argv.slice(2))) ?? 0;
  } catch (error) {
    if (!(error instanceof ScriptError)) throw error;
    console.error(error.message);
    process.exitCode = 1;
  }
}
