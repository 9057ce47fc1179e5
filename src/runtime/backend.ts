/**
 * The machine as the library sees it: threads, instruction set, and waiting for all work.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { checkInteger } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { addon } from './addon.js';
import { waitFor, whenDone } from './queue.js';

/** What {@link backend} reports. */
export interface BackendInfo {
  /** Instruction set in use. */
  readonly isa: string;
  /** Those this machine and build offer. */
  readonly isas: readonly string[];
  /** Instructions beyond those sets that single kernels use: `vnni` (in avx512 and avx2) and `bf16` (in avx512), `avxvnni` (in avx2), `dotprod` and `i8mm` (in neon). */
  readonly features: readonly string[];
  /** Threads of one kernel. */
  readonly threads: number;
  /** Cores this process may use. */
  readonly hardwareThreads: number;
  /** Version of the border between library and addon. */
  readonly abi: number;
}

/** Instruction set, threads and versions in force. */
export function backend(): BackendInfo {
  return addon.configure();
}

/** Threads that work on one kernel, 1 to 256. Results do not depend on it, to the last bit. */
export function setThreads(count: number): void {
  checkInteger('setThreads', 'count', count, 1, 256);
  waitFor();
  addon.configure({ threads: count });
}

/** Threads that work on one kernel. */
export function getThreads(): number {
  return addon.configure().threads;
}

/**
 * Chooses the instruction set of the kernels, for tests and comparisons. Default: the best there is.
 *
 * @throws AttributeError if this machine or build does not have it
 */
export function setIsa(isa: string): void {
  const { isas } = addon.configure();
  if (!isas.includes(isa)) {
    throw new AttributeError({ op: 'setIsa', argument: 'isa', expected: isas.join(', '), actual: formatValue(isa) });
  }
  waitFor();
  addon.configure({ isa });
  isaInUse = isa;
}

let isaInUse: string | null = null;

/** @internal The instruction set in use, without a call into the addon. */
export function currentIsa(): string {
  isaInUse ??= addon.configure().isa;
  return isaInUse;
}

let features: readonly string[] | null = null;

/** @internal Whether products of two bfloat16 matrices are computed as such, rather than in float32. */
export function multipliesBfloat16(): boolean {
  features ??= addon.configure().features;
  return features.includes('bf16') && currentIsa() === 'avx512';
}

/** Resolves when all queued work is done; rejects with what went wrong in it. */
export function synchronize(): Promise<void> {
  return whenDone();
}

/** {@link synchronize}, blocking. */
export function synchronizeSync(): void {
  waitFor();
}
