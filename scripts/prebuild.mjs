// Puts the addon of this machine, stripped, into prebuilds/<platform>/, where the published package finds it without a
// compiler or an install script. Runs before `npm pack`.
import { chmodSync, copyFileSync, mkdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { capture, findProgram, main, root, run, ScriptError } from './common.mjs';
import { setup } from './setup.mjs';

/** The newest glibc a binary asks for: older systems cannot load it. */
function neededGlibc(file) {
  if (process.platform !== 'linux' || findProgram('nm') === undefined) return undefined;
  const { output } = capture('nm', ['-D', file]);
  const versions = [...output.matchAll(/@GLIBC_(\d+)\.(\d+)/g)].map((match) => [Number(match[1]), Number(match[2])]);
  return versions.sort((a, b) => b[0] - a[0] || b[1] - a[1])[0]?.join('.');
}

/** Builds what is missing; returns the platform key and the file. */
export async function prebuild() {
  await setup(['packages', 'addon', 'dist']);
  const { tsImport } = await import('tsx/esm/api');
  const { platformKey } = await tsImport('../src/runtime/load.ts', import.meta.url);
  const key = platformKey();
  const folder = join(root, 'prebuilds', key);
  const file = join(folder, 'omnigrad.node');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  copyFileSync(join(root, 'build/Release/omnigrad.node'), file);
  chmodSync(file, 0o644);
  const strip = process.platform === 'win32' ? undefined : findProgram('strip');
  if (strip === undefined) console.log('prebuild: not stripped: no strip on PATH');
  else if (run(strip, [process.platform === 'darwin' ? '-x' : '--strip-all', file]) !== 0)
    throw new ScriptError(`prebuild: strip failed on ${file}`);
  const glibc = neededGlibc(file);
  const size = (statSync(file).size / 2 ** 20).toFixed(1);
  console.log(`prebuild: prebuilds/${key}/omnigrad.node, ${size} MiB${glibc ? `, needs glibc ${glibc} or later` : ''}`);
  return { key, file };
}

if (process.argv[1] === import.meta.filename) await main(async () => void (await prebuild()));
