// Brings a checkout into a state in which it can run: packages, addon, dist/. Each stage is skipped when a digest of its
// inputs equals the one written after its last success, so a second run costs a few milliseconds.
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { capture, digest, filesUnder, findProgram, packageProgram, root, run, ScriptError } from './common.mjs';

const stampFolder = join(root, 'build', 'setup');
const lockFolder = join(root, 'build', 'setup.lock');
const stampFile = (stage) =>
  stage === 'packages'
    ? join(root, 'node_modules', '.omnigrad-setup')
    : join(stampFolder, stage === 'addonHere' ? 'addon' : stage);

function readStamp(stage) {
  try {
    return readFileSync(stampFile(stage), 'utf8').trim();
  } catch {
    return '';
  }
}

function writeStamp(stage, value) {
  mkdirSync(dirname(stampFile(stage)), { recursive: true });
  const temporary = `${stampFile(stage)}.${process.pid}`;
  writeFileSync(temporary, `${value}\n`);
  renameSync(temporary, stampFile(stage));
}

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Holds build/setup.lock while `body` runs. A lock whose owner is gone is taken over. */
async function withLock(body) {
  mkdirSync(join(root, 'build'), { recursive: true });
  for (let waited = 0; ; waited += 1) {
    try {
      mkdirSync(lockFolder);
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    let owner = 0;
    try {
      owner = Number(readFileSync(join(lockFolder, 'pid'), 'utf8'));
    } catch {
      // Between mkdir and the write of the pid; give the owner five seconds to write it.
      const age = existsSync(lockFolder) ? Date.now() - statSync(lockFolder).mtimeMs : 0;
      if (age > 5000) owner = -1;
    }
    if (owner !== 0 && (owner < 0 || !isAlive(owner))) {
      // Renaming is atomic, so of several waiters only one removes the dead lock.
      const grave = `${lockFolder}.${process.pid}`;
      try {
        renameSync(lockFolder, grave);
        rmSync(grave, { recursive: true, force: true });
      } catch {
        // another waiter was first
      }
      continue;
    }
    if (waited === 0) console.log('setup: another setup of this checkout is running; waiting for it');
    await sleep(200);
  }
  try {
    writeFileSync(join(lockFolder, 'pid'), String(process.pid));
    return await body();
  } finally {
    rmSync(lockFolder, { recursive: true, force: true });
  }
}

const packageInputs = () => digest(['package.json', 'package-lock.json'], 'packages', process.platform, process.arch);
const addonFiles = () => ['binding.gyp', ...filesUnder('native')];
const addonInputs = () => digest(addonFiles(), 'addon', process.platform, process.arch);
const addonHereInputs = () => digest(addonFiles(), 'addon', process.platform, process.arch, kernelSets());
const distInputs = () =>
  digest(['tsconfig.json', 'scripts/setup.mjs', ...filesUnder('src')], 'dist', readStamp('packages'));

/** True where node_modules is a link: whoever made the link looks after the packages. */
const packagesAreLinked = () =>
  lstatSync(join(root, 'node_modules'), { throwIfNoEntry: false })?.isSymbolicLink() ?? false;

const stages = {
  packages: {
    isDone: () =>
      packagesAreLinked() || (existsSync(join(root, 'node_modules')) && readStamp('packages') === packageInputs()),
    inputs: packageInputs,
    make: installPackages,
  },
  addon: {
    isDone: () => existsSync(join(root, 'build/Release/omnigrad.node')) && readStamp('addon') === addonInputs(),
    inputs: addonInputs,
    make: (wasInterrupted) => buildAddon(wasInterrupted, 'all'),
  },
  // The kernels of this machine alone, in a third of the time; a whole addon will do as well.
  addonHere: {
    isDone: () => stages.addon.isDone() || readStamp('addonHere') === addonHereInputs(),
    inputs: addonHereInputs,
    make: (wasInterrupted) => buildAddon(wasInterrupted, kernelSets()),
  },
  dist: {
    isDone: () => existsSync(join(root, 'dist/index.js')) && readStamp('dist') === distInputs(),
    inputs: distInputs,
    make: compileDist,
  },
};

/**
 * Runs the stages that are not up to date, in order.
 * @param {('packages' | 'addon' | 'addonHere' | 'dist')[]} wanted
 */
export async function setup(wanted) {
  checkNode();
  if (wanted.every((stage) => stages[stage].isDone())) return;
  await withLock(async () => {
    for (const stage of wanted) {
      const { isDone, inputs, make } = stages[stage];
      if (isDone()) continue; // also when the setup that we waited for did it
      const wasInterrupted = readStamp(stage) === 'unfinished';
      const before = inputs();
      // `unfinished` stays in place when this process is killed, so the next run knows that outputs may be torn.
      if (stage !== 'packages' || existsSync(join(root, 'node_modules'))) writeStamp(stage, 'unfinished');
      const started = Date.now();
      await make(wasInterrupted);
      // Inputs that changed during the work leave a stamp that does not match: the stage runs again next time.
      writeStamp(stage, before);
      console.log(`setup: ${stage} ready (${((Date.now() - started) / 1000).toFixed(1)} s)`);
    }
  });
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return;
  throw new ScriptError(`omnigrad needs Node 20.19 or later, this is ${process.version}. See https://nodejs.org`);
}

function installPackages() {
  console.log('setup: installing npm packages (package.json or package-lock.json changed since the last install)');
  // Not `npm ci`: it refuses a lock without the entries of optional packages for other platforms. `--no-save` leaves
  // package.json and the lock as they are.
  const args = ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error'];
  const npm = process.env.npm_execpath?.endsWith('.js') ? [process.execPath, process.env.npm_execpath] : ['npm'];
  const status = run(npm[0], [...npm.slice(1), ...args], { shell: npm[0] === 'npm' && process.platform === 'win32' });
  if (status !== 0) throw new ScriptError('setup: npm install failed (see above). The npm registry must be reachable.');
}

/** The folder whose include/node holds the headers of this Node version, or undefined: node-gyp then downloads them. */
export function findNodeHeaders() {
  const candidates = [process.env.npm_config_nodedir, join(process.execPath, '..', '..'), '/usr', '/usr/local'];
  for (const folder of candidates) {
    if (!folder || !existsSync(join(folder, 'include/node/node_api.h'))) continue;
    const text = readFileSync(join(folder, 'include/node/node_version.h'), 'utf8');
    const major = /#define NODE_MAJOR_VERSION (\d+)/.exec(text)?.[1];
    if (major === process.versions.node.split('.')[0]) return folder;
  }
  return undefined;
}

function requireCompiler() {
  if (process.platform === 'win32') return; // node-gyp looks for Visual Studio itself and explains what it misses
  const wanted = process.env.CXX?.split(' ').filter((word) => !word.includes('ccache'))[0];
  const missing = [];
  if (!findProgram('python3', 'python')) missing.push('Python 3');
  if (!findProgram('make', 'gmake')) missing.push('make');
  if (!(wanted ? existsSync(wanted) || findProgram(wanted) : findProgram('c++', 'g++', 'clang++')))
    missing.push(wanted ? `the compiler that CXX names (${wanted})` : 'a C++17 compiler');
  if (missing.length === 0) return;
  throw new ScriptError(
    `setup: the addon cannot be built, for want of: ${missing.join(', ')}.\n` +
      '  Debian, Ubuntu: apt-get install build-essential python3\n' +
      '  Fedora:         dnf install gcc-c++ make python3\n' +
      '  macOS:          xcode-select --install\n' +
      'The published npm package carries a built addon and needs none of these.',
  );
}

/** The fastest instruction set of this machine, as binding.gyp calls it; `all` where that is not known. */
export function kernelSets() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'all';
  const flags = new Set(/^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.trim().split(/\s+/));
  const has = (...names) => names.every((name) => flags.has(name));
  if (!has('avx2', 'fma', 'f16c')) return 'all';
  return has('avx512f', 'avx512bw', 'avx512dq', 'avx512vl') ? 'avx512' : 'avx2';
}

function buildAddon(wasInterrupted, sets) {
  requireCompiler();
  const which = sets === 'all' ? '' : `, kernels for ${sets} only`;
  console.log(`setup: building the native addon (native/ or binding.gyp changed since the last build${which})`);
  // An interrupted compiler can leave a torn object that is newer than its source; make would trust it.
  if (wasInterrupted) rmSync(join(root, 'build/Release'), { recursive: true, force: true });
  const headers = findNodeHeaders();
  const jobs = String(process.env.OG_BUILD_JOBS ?? availableParallelism());
  const args = ['configure', 'build', '--jobs', jobs, ...(headers ? ['--nodedir', headers] : [])];
  const verbose = process.env.OG_VERBOSE === '1';
  const command = [packageProgram('node-gyp'), ...args];
  const started = capture(process.execPath, command, {
    env: buildEnvironment(sets),
    ...(verbose ? { stdio: 'inherit' } : {}),
  });
  if (started.status === 0 && existsSync(join(root, 'build/Release/omnigrad.node'))) return;
  if (!verbose) console.error(failureLines(started.output));
  throw new ScriptError('setup: the addon could not be built (see above). OG_VERBOSE=1 shows the whole log.');
}

/** The environment for node-gyp: CC and CXX as the user set them, else through ccache where that is installed. */
function buildEnvironment(sets) {
  const env = { ...process.env, OG_SETS: sets };
  // node-gyp reads it, and an old value from an enclosing npm would win over --nodedir.
  delete env.npm_config_nodedir;
  const [c, cxx] = findProgram('gcc') && findProgram('g++') ? ['gcc', 'g++'] : ['cc', 'c++'];
  if (env.CC === undefined && env.CXX === undefined && [c, cxx, 'ccache'].every((name) => findProgram(name))) {
    env.CC = `ccache ${c}`;
    env.CXX = `ccache ${cxx}`;
    // Objects of one checkout then serve another: paths below the root are hashed as relative ones.
    env.CCACHE_BASEDIR ??= root;
    env.CCACHE_NOHASHDIR ??= '1';
  }
  return env;
}

/** The compiler's own messages out of a node-gyp log; the end of the log when there are none. */
function failureLines(log) {
  const lines = log.split('\n').filter((line) => !/^gyp info|^ {2}(g\+\+|c\+\+|ccache|touch|ar|rm|cp) /.test(line));
  const first = lines.findIndex((line) => /error|undefined reference|gyp ERR!/i.test(line));
  return (first < 0 ? lines.slice(-40) : lines.slice(Math.max(0, first - 2), first + 60)).join('\n');
}

/** What users import or run; everything else in dist/ is a piece that these share. */
const entries = [
  'src/index.ts',
  'src/finetune/index.ts',
  'src/compress/index.ts',
  'src/cost/index.ts',
  'src/data/index.ts',
  'src/data/workers/worker.ts',
  'src/cli/main.ts',
];

/**
 * esbuild turns a class that names itself into `var Linear = class _Linear`; its name is part of what users see. (Its own
 * option for this also wraps every closure, which costs time in each call.)
 */
function withClassNames(code) {
  const names = [...code.matchAll(/^var (\w+) = class _\1\b/gm)].map(([, name]) => name);
  if (names.length === 0) return code;
  const pairs = names.map((name) => `[${name}, "${name}"]`).join(', ');
  const line = `for (const [type, value] of [${pairs}]) Object.defineProperty(type, "name", { value, configurable: true });`;
  return code.replace(/\n*(\/\/# sourceMappingURL=.*\s*)?$/, `\n${line}\n$1`);
}

/** Types by tsc; code in few files by esbuild: Node takes three times as long to import it as one file a module. */
async function compileDist() {
  console.log('setup: compiling src/ to dist/');
  // A fresh folder, so that outputs of deleted sources do not stay; put in place only when it is whole.
  const fresh = join(root, 'build', 'dist.new');
  rmSync(fresh, { recursive: true, force: true });
  const args = [packageProgram('typescript', 'tsc'), '-p', 'tsconfig.json', '--outDir', fresh];
  const status = run(process.execPath, [...args, '--tsBuildInfoFile', join(root, 'build', 'dist.tsbuildinfo.new')]);
  rmSync(join(root, 'build', 'dist.tsbuildinfo.new'), { force: true });
  if (status !== 0) throw new ScriptError('setup: src/ does not compile (see above)');
  const { build } = await import('esbuild');
  const { outputFiles } = await build({
    absWorkingDir: root,
    entryPoints: entries,
    outdir: fresh,
    outbase: 'src',
    bundle: true,
    splitting: true,
    chunkNames: 'chunks/[name]-[hash]',
    format: 'esm',
    platform: 'node',
    target: 'node20.19',
    packages: 'external',
    sourcemap: true,
    logLevel: 'warning',
    write: false,
  });
  for (const { path, text } of outputFiles) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, path.endsWith('.js') ? withClassNames(text) : text);
  }
  rmSync(join(root, 'dist'), { recursive: true, force: true });
  cpSync(fresh, join(root, 'dist'), { recursive: true });
  rmSync(fresh, { recursive: true, force: true });
}
