/** @internal Runs `body`, and `restore` once it is over: at once, or when the promise that it gives settles. */
export function during<T>(body: () => T, restore: () => void): T {
  let result: T;
  try {
    result = body();
  } catch (error) {
    restore();
    throw error;
  }
  if (result instanceof Promise) return result.finally(restore) as T;
  restore();
  return result;
}
