// npm run native:test [-- --sanitize=address,undefined | --sanitize=thread | --arm64] [-- PATTERN]: builds the kernel core
// and its tests with CMake, without Node, and runs them with CTest. A pattern selects tests by name.
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { findProgram, main, root, run, ScriptError } from './common.mjs';
import { kernelSets } from './setup.mjs';

/** What the arm64 run needs besides CMake. */
const crossTools = ['aarch64-linux-gnu-g++', 'qemu-aarch64-static'];

/** Why a run cannot happen here, or undefined. */
export function missingFor({ arm64 = false } = {}) {
  const needed = ['cmake', 'ctest', ...(arm64 ? crossTools : [])];
  const missing = needed.filter((name) => findProgram(name) === undefined);
  return missing.length > 0 ? `${missing.join(', ')} not found on PATH` : undefined;
}

/**
 * Configures, builds and runs; returns the exit status of the first step that fails, or 0. `kernels`: a folder with the
 * kernels as the addon's build left them; those that are not instrumented are then tested as they are.
 */
export function nativeTest({ sanitize = '', arm64 = false, pattern = '', kernels = '' } = {}) {
  const folder = join(
    root,
    'build',
    ['native', ...(arm64 ? ['arm64'] : []), ...sanitize.split(',')].filter(Boolean).join('-'),
  );
  const isPlain = sanitize === '' && !arm64;
  const options = [`-DOG_SANITIZE=${sanitize}`, `-DOG_NATIVE_BENCH=${isPlain ? 'ON' : 'OFF'}`];
  options.push(`-DOG_KERNEL_ARCHIVES=${kernels}`);
  // Compiling what this machine cannot run tests nothing; the addon's build compiles all sets.
  options.push(`-DOG_AVX512=${isPlain || kernelSets() !== 'avx2' ? 'ON' : 'OFF'}`);
  if (arm64) options.push(`-DCMAKE_TOOLCHAIN_FILE=${join(root, 'native', 'arm64.cmake')}`);
  if (findProgram('ccache') !== undefined) options.push('-DCMAKE_CXX_COMPILER_LAUNCHER=ccache');
  const jobs = String(process.env.OG_BUILD_JOBS ?? availableParallelism());
  const configured = run('cmake', ['-S', root, '-B', folder, '-Wno-dev', '--log-level=WARNING', ...options]);
  if (configured !== 0) return configured;
  // Objects of one checkout serve another where ccache is installed: paths below the root are hashed as relative ones.
  const caching = { CCACHE_BASEDIR: root, CCACHE_NOHASHDIR: '1', ...process.env };
  const built = run('cmake', ['--build', folder, '--parallel', jobs, '--', '--quiet'], { env: caching });
  if (built !== 0) return built;
  const test = ['ctest', '--test-dir', folder, '--output-on-failure', '--no-tests=error', '--timeout', '900'];
  // Most of a test's time goes into what it compares with, on one core.
  test.push('--parallel', jobs, ...(pattern ? ['-R', pattern] : []));
  // ThreadSanitizer of older compilers cannot cope with the address randomisation of newer kernels.
  if (sanitize === 'thread' && findProgram('setarch') !== undefined) test.unshift('setarch', '-R');
  const env = {
    ...(isPlain ? {} : { OG_TEST_SIZES: 'small' }),
    ...process.env,
    UBSAN_OPTIONS: 'print_stacktrace=1',
    TSAN_OPTIONS: 'halt_on_error=1',
    ...(sanitize === 'thread' ? { OG_THREADS: process.env.OG_THREADS ?? '4' } : {}),
  };
  return run(test[0], test.slice(1), { env });
}

if (process.argv[1] === import.meta.filename) {
  await main((args) => {
    const sanitize = args.find((arg) => arg.startsWith('--sanitize='))?.slice('--sanitize='.length) ?? '';
    const arm64 = args.includes('--arm64');
    const unknown = args.filter((arg) => arg.startsWith('-') && arg !== '--arm64' && !arg.startsWith('--sanitize='));
    if (unknown.length > 0) throw new ScriptError(`native:test: unknown option ${unknown.join(' ')}`);
    const reason = missingFor({ arm64 });
    if (reason !== undefined) throw new ScriptError(`native:test: ${reason}`);
    return nativeTest({ sanitize, arm64, pattern: args.filter((arg) => !arg.startsWith('-')).join('|') });
  });
}
