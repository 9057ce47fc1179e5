/** Finds and loads the native addon, and explains why not. The only place that knows where a binary may lie. */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { BackendError } from '../errors.js';
import { environment } from './environment.js';
import type { NativeAddon } from './native.js';

const require = createRequire(import.meta.url);

/** The package folder. This code lies in src/runtime/ of a checkout, and in a bundled file of dist/. */
const packageRoot = nearestPackage(dirname(fileURLToPath(import.meta.url)));

function nearestPackage(folder: string): string {
  return existsSync(join(folder, 'package.json')) || dirname(folder) === folder
    ? folder
    : nearestPackage(dirname(folder));
}

/** Where another process finds this library in the form that runs here: sources, or the bundle. */
export function libraryEntry(): string {
  const isSource = import.meta.url.endsWith('.ts');
  return pathToFileURL(join(packageRoot, ...(isSource ? ['src', 'index.ts'] : ['dist', 'index.js']))).href;
}

/**
 * A program of this package, for a thread of its own: the bundled file, also where this code runs from src/, since threads do not inherit
 * whatever lets Node load TypeScript.
 *
 * @param name - path inside src/ without extension; it must be an entry in scripts/setup.mjs
 * @throws BackendError if the package was not built
 */
export function programOf(name: string): URL {
  const file = join(packageRoot, 'dist', `${name}.js`);
  if (existsSync(file)) return pathToFileURL(file);
  throw new BackendError({ op: 'worker', expected: file, actual: 'no file', hint: 'Run: npm run build' });
}

/** One place where a binary was looked for. */
export interface LoadAttempt {
  /** What kind of place it is. */
  readonly source: 'OG_BINARY' | 'checkout' | 'platform package' | 'prebuilt';
  /** File, or name of the package. */
  readonly path: string;
  readonly outcome: 'loaded' | 'failed' | 'absent';
  /** Why it was not loaded; empty for `loaded`. */
  readonly reason: string;
}

/** What {@link describeLoad} knows. */
export interface LoadDescription {
  /** Version of this package. */
  readonly version: string;
  /** Platform key of the binaries, such as `linux-x64` or `linux-arm64-musl`. */
  readonly platform: string;
  /** In the order tried; ends with the one that loaded, if any. */
  readonly attempts: readonly LoadAttempt[];
}

/** The published package has no build files. */
const isCheckout = (): boolean => existsSync(join(packageRoot, 'binding.gyp'));

/** True on a Linux whose C library is musl: its binaries are not those of glibc. */
function usesMusl(): boolean {
  if (process.platform !== 'linux') return false;
  const report = process.report as typeof process.report & { excludeNetwork?: boolean }; // types of Node 20 lack it
  const before = report.excludeNetwork;
  report.excludeNetwork = true; // otherwise the report may look up host names
  try {
    const { header } = report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
    return header.glibcVersionRuntime === undefined;
  } finally {
    if (before !== undefined) report.excludeNetwork = before;
  }
}

/** Name under which binaries for this machine are published: `<platform>-<arch>`, and `-musl` where that applies. */
export function platformKey(): string {
  return `${process.platform}-${process.arch}${usesMusl() ? '-musl' : ''}`;
}

/** Version of this package. */
export function packageVersion(): string {
  return (JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string }).version;
}

interface Candidate {
  readonly source: LoadAttempt['source'];
  readonly path: string;
  /** Set where the place itself rules the binary out. */
  readonly refusal?: string;
}

function platformPackage(key: string): Candidate {
  const name = `@omnigrad/${key}`;
  const source = 'platform package';
  let manifest: string;
  try {
    manifest = require.resolve(`${name}/package.json`);
  } catch {
    return { source, path: name, refusal: 'the package is not installed' };
  }
  const found = (JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }).version;
  const expected = packageVersion();
  const path = join(dirname(manifest), 'omnigrad.node');
  return found === expected
    ? { source, path }
    : { source, path, refusal: `it is of version ${found}, this package of version ${expected}` };
}

/** Places in order of preference, made one by one: the common case looks at the first only. */
function* candidates(): Generator<Candidate> {
  if (environment.binary !== undefined) {
    yield { source: 'OG_BINARY', path: environment.binary };
    return; // a user who names a binary does not want another one
  }
  if (isCheckout()) {
    // Nowhere else: a binary packed some time ago would stand in for a build that failed, unnoticed.
    yield { source: 'checkout', path: join(packageRoot, 'build', 'Release', 'omnigrad.node') };
    return;
  }
  const key = platformKey();
  yield platformPackage(key);
  yield { source: 'prebuilt', path: join(packageRoot, 'prebuilds', key, 'omnigrad.node') };
}

let loaded: NativeAddon | undefined;
let attempts: LoadAttempt[] | undefined;

function tryAll(): LoadAttempt[] {
  if (attempts !== undefined) return attempts;
  attempts = [];
  for (const { source, path, refusal } of candidates()) {
    if (refusal !== undefined) {
      attempts.push({ source, path, outcome: existsSync(path) ? 'failed' : 'absent', reason: refusal });
      continue;
    }
    if (!existsSync(path)) {
      attempts.push({ source, path, outcome: 'absent', reason: 'no such file' });
      continue;
    }
    try {
      loaded = require(path) as NativeAddon;
      attempts.push({ source, path, outcome: 'loaded', reason: '' });
      break;
    } catch (error) {
      const reason = (error instanceof Error ? error.message : String(error)).trim();
      attempts.push({ source, path, outcome: 'failed', reason });
    }
  }
  return attempts;
}

/** What was tried to load the addon, and with what outcome. Loads it if that has not happened; never throws. */
export function describeLoad(): LoadDescription {
  return { version: packageVersion(), platform: platformKey(), attempts: tryAll() };
}

/** Commands that lead out of a failed load, one per line. */
export function loadAdvice({ platform, version, attempts: tried }: LoadDescription): string[] {
  if (environment.binary !== undefined) return ['correct or unset OG_BINARY'];
  if (isCheckout()) return ['npm run build    (in the checkout; needs a C++17 compiler, make and Python 3)'];
  const advice = [`npm install @omnigrad/${platform}@${version}    (optional dependencies may have been left out)`];
  if (tried.some(({ outcome }) => outcome === 'failed'))
    advice.push('npm install --force omnigrad    (replaces a damaged binary)');
  advice.push('npx omnigrad doctor    (shows this machine and every place that was tried)');
  return advice;
}

/**
 * Loads the native addon: the file `OG_BINARY` names, or `build/Release` of a checkout, or else the first that loads of the
 * platform package `@omnigrad/<platform>` and `prebuilds/<platform>` inside this package.
 *
 * @throws BackendError if none loads: it lists each place, the reason, and the commands to run
 */
export function loadAddon(): NativeAddon {
  tryAll();
  if (loaded !== undefined) return loaded;
  const description = describeLoad();
  const tried = description.attempts.map(({ source, path, reason }) => `\n  ${source}: ${path}\n    ${reason}`);
  const commands = loadAdvice(description).map((line) => `\n  ${line}`);
  throw new BackendError({
    op: 'load',
    argument: 'addon',
    expected: `a native binary for ${description.platform}`,
    actual: `none that loads; tried:${tried.join('')}\n`,
    hint: `What to run:${commands.join('')}\n`,
  });
}
