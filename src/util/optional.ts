import { BackendError } from '../errors.js';

/**
 * A package that is not installed with this one.
 *
 * @throws BackendError naming the command that installs it
 */
export async function importOptional<T>(name: string, purpose: string): Promise<T> {
  try {
    return (await import(name)) as T;
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND';
    throw new BackendError({
      op: purpose,
      expected: `the optional package ${name}`,
      actual: missing ? 'none installed' : (cause as Error).message,
      hint: `Run: npm install ${name}`,
      cause,
    });
  }
}
