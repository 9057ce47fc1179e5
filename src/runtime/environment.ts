/**
 * The environment variables the library reads, all of them, once.
 *
 * | variable | meaning |
 * |---|---|
 * | `OG_ISA` | instruction set of the kernels: reference, baseline (neon on arm64), avx2, avx512 |
 * | `OG_THREADS` | threads of a kernel, 1 to 256; default: the cores this process may use |
 * | `OG_SYNC` | `1`: every kernel runs on the calling thread; for debugging, results are bit-identical |
 * | `OG_DEBUG` | `1`: errors found by the executor carry the stack of the call that caused them |
 * | `OG_PREPACK` | `0`: no float32 weight is kept in a packed copy for inference |
 * | `OG_BINARY` | path of the addon to load instead of searching for it |
 */
export const environment = {
  sync: process.env['OG_SYNC'] === '1',
  debug: process.env['OG_DEBUG'] === '1',
  prepack: process.env['OG_PREPACK'] !== '0',
  binary: process.env['OG_BINARY'],
};

/** The variables for a process of this one's making: its own, and some that differ. */
export function childEnvironment(changes: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
  return { ...process.env, ...changes };
}
