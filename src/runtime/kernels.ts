/** Kernels by name. The counts in the registry are checked when an operation is defined, so that a mismatch is an error here. */
import { BackendError } from '../errors.js';
import { addon } from './addon.js';

const byName = new Map(addon.kernels().map((entry, id) => [entry.name, { ...entry, id }]));

/**
 * Number of a kernel for {@link submit}.
 *
 * @throws BackendError if the addon has no such kernel or it takes other operands: the addon is of another version
 */
export function kernelId(name: string, inputs: number, outputs: number, attrs: number): number {
  const entry = byName.get(name);
  const expected = `a kernel with ${inputs} inputs, ${outputs} outputs, ${attrs} attributes`;
  const hint = 'The addon does not belong to this version: run npm run build';
  if (entry === undefined) throw new BackendError({ op: name, expected, actual: 'none', hint });
  if (entry.inputs !== inputs || entry.outputs !== outputs || entry.attrs !== attrs) {
    const actual = `${entry.inputs} inputs, ${entry.outputs} outputs, ${entry.attrs} attributes`;
    throw new BackendError({ op: name, expected, actual, hint });
  }
  return entry.id;
}

/** Names of all kernels of the loaded addon. */
export function kernelNames(): string[] {
  return [...byName.keys()];
}
