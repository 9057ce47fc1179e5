// Makes the folder of the package `omnigrad` itself for `npm publish`, without binaries, naming the platform packages:
//   node scripts/pack_main.mjs [--platforms linux-x64,linux-arm64,…] [--out FOLDER]
// The names go in here and not into the repository's package.json: as long as a version is unpublished, npm cannot
// resolve them, and `npm ci` in a checkout would fail.
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { main, root } from './common.mjs';
import { setup } from './setup.mjs';

await main(async (args) => {
  const options = { platforms: { type: 'string', default: 'linux-x64,linux-arm64' }, out: { type: 'string' } };
  const { values } = parseArgs({ args, options });
  await setup(['packages', 'dist']);
  const {
    scripts: _scripts,
    devDependencies: _dev,
    ...manifest
  } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const folder = resolve(values.out ?? join(root, 'build/package/omnigrad'));
  const files = manifest.files.filter((name) => name !== 'prebuilds');
  const platforms = values.platforms.split(',').map((key) => [`@omnigrad/${key}`, manifest.version]);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const name of files.filter((entry) => existsSync(join(root, entry))))
    cpSync(join(root, name), join(folder, name), { recursive: true });
  const published = { ...manifest, files, optionalDependencies: Object.fromEntries(platforms) };
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(published, null, 2)}\n`);
  console.log(`pack_main: ${folder}`);
});
