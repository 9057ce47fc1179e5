/** The repository as text: files, and who imports or includes whom. For test/architecture.test.ts. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

export const read = (file: string): string => readFileSync(join(root, file), 'utf8');

/** Files under a folder whose name ends as given, relative to the root, with forward slashes; not those of packages. */
export function filesUnder(folder: string, ending: RegExp): string[] {
  let entries: string[];
  try {
    entries = readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' });
  } catch {
    return [];
  }
  return entries
    .map((name) => posix.join(folder, name.replaceAll('\\', '/')))
    .filter((file) => ending.test(file) && !file.includes('/node_modules/') && statSync(join(root, file)).isFile())
    .sort();
}

/** Source without comments, so that an example in a comment is not taken for code. */
export function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '');
}

export interface Import {
  readonly target: string;
  /** Erased by the compiler: cannot make a cycle at run time. */
  readonly isType: boolean;
}

/** The relative imports of a TypeScript file, as paths from the root. */
export function importsOf(file: string): Import[] {
  const text = withoutComments(read(file));
  const found: Import[] = [];
  const add = (specifier: string, isType: boolean): void => {
    if (!specifier.startsWith('.')) return;
    found.push({ target: posix.join(posix.dirname(file), specifier).replace(/\.js$/, '.ts'), isType });
  };
  for (const match of text.matchAll(/^\s*(?:import|export)\s+(type\s)?[^'";]*?from\s+'([^']+)'/gm))
    add(match[2]!, match[1] !== undefined);
  for (const match of text.matchAll(/^\s*import\s+'([^']+)'/gm)) add(match[1]!, false);
  // A module augmentation names its module without importing it; a dynamic import runs after all modules have loaded.
  for (const match of text.matchAll(/\bimport\(\s*'([^']+)'\s*\)/g)) add(match[1]!, true);
  return found;
}

/** The quoted includes of a C++ file, as paths from the root; includes are relative to the file or to native/. */
export function includesOf(file: string, isThere: (path: string) => boolean): string[] {
  return [...read(file).matchAll(/^\s*#include\s+"([^"]+)"/gm)].map(([, name]) => {
    const beside = posix.join(posix.dirname(file), name!);
    const places = [beside, `native/${name}`, `native/include/${name}`];
    return places.find(isThere) ?? beside;
  });
}

/** One cycle of a graph as a path that ends where it began, or undefined. */
export function findCycle(graph: ReadonlyMap<string, readonly string[]>): string[] | undefined {
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (node: string): string[] | undefined => {
    if (done.has(node)) return undefined;
    const at = path.indexOf(node);
    if (at >= 0) return [...path.slice(at), node];
    path.push(node);
    for (const next of graph.get(node) ?? []) {
      const cycle = visit(next);
      if (cycle !== undefined) return cycle;
    }
    path.pop();
    done.add(node);
    return undefined;
  };
  for (const node of graph.keys()) {
    const cycle = visit(node);
    if (cycle !== undefined) return cycle;
  }
  return undefined;
}
