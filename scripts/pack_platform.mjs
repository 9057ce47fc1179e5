// Makes the folder of this machine's platform package, @omnigrad/<platform>, ready for `npm publish`:
//   node scripts/pack_platform.mjs [--out FOLDER]          default: build/package/<platform>
// One is made on each supported platform; scripts/pack_main.mjs then makes the package that names them all.
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { main, root } from './common.mjs';
import { prebuild } from './prebuild.mjs';

await main(async (args) => {
  const { values } = parseArgs({ args, options: { out: { type: 'string' } } });
  const { key, file } = await prebuild();
  const folder = resolve(values.out ?? join(root, 'build/package', key));
  const { version, license, engines } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const manifest = {
    name: `@omnigrad/${key}`,
    version,
    description: `The native binary of omnigrad for ${key}`,
    license,
    engines,
    os: [process.platform],
    cpu: [process.arch],
    // npm installs the package only where these three fit, so each machine fetches one binary.
    ...(process.platform === 'linux' ? { libc: [key.endsWith('-musl') ? 'musl' : 'glibc'] } : {}),
    main: 'omnigrad.node',
    files: ['omnigrad.node'],
  };
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  copyFileSync(file, join(folder, 'omnigrad.node'));
  copyFileSync(join(root, 'LICENSE'), join(folder, 'LICENSE'));
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  writeFileSync(
    join(folder, 'README.md'),
    `# ${manifest.name}\n\n${manifest.description}. Installed by omnigrad itself.\n`,
  );
  console.log(`pack_platform: ${folder}`);
});
