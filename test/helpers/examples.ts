/** The programs of examples/ as processes. */
import { spawn } from 'node:child_process';
import path from 'node:path';
import { root } from './source_tree.js';

/** How an example ended. */
export interface Outcome {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs an example; `watch` sees what it has written so far and may stop it. */
export function runExample(
  name: string,
  args: readonly string[],
  watch?: (out: string, stop: () => void) => void,
): Promise<Outcome> {
  const child = spawn(process.execPath, ['--import', 'tsx', path.join(root, 'examples', name, 'main.ts'), ...args], {
    cwd: root,
    env: { ...process.env, OG_THREADS: '1' },
  });
  let [out, err] = ['', ''];
  child.stdout.on('data', (data: Buffer) => (out += data.toString()));
  child.stderr.on('data', (data: Buffer) => {
    err += data.toString();
    watch?.(err, () => child.kill('SIGINT'));
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status) => resolve({ status, out, err }));
  });
}

/** A model that is trained in no time. */
export const tinyModel = ['--layers', '1', '--heads', '2', '--width', '16', '--vocab', '300'];

export const words = ['tensor', 'gradient', 'kernel', 'train', 'the', 'a', 'of', 'and'];

/** Made-up text of so many words. */
export const sentences = (count: number, of: readonly string[] = words): string =>
  Array.from({ length: count }, (_, i) => of[(i * i + 3 * i) % of.length]! + (i % 9 === 8 ? '.\n' : ' ')).join('');
