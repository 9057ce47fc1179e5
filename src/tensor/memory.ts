/**
 * What memory is in use, and who forgot to give it back.
 *
 * @module
 */
import { OmniError } from '../errors.js';
import { resetPeak, storageCounters } from '../runtime/storage.js';
import { formatBytes, formatShape } from '../util/format.js';
import { liveTensors, onMake, type Device, type Tensor } from './tensor.js';

/** What {@link memory} reports. */
export interface MemoryReport {
  /** Bytes that tensors hold now. */
  readonly bytes: number;
  /** Tensors alive: made, and neither disposed of nor known to be collected. */
  readonly tensors: number;
  /** Largest `bytes` since the start or the last {@link resetPeakMemory}. */
  readonly peakBytes: number;
  /** Bytes kept for reuse. */
  readonly pooledBytes: number;
  /** Share of allocations served from the pool, 0 to 1. */
  readonly poolHitRate: number;
  readonly byDevice: Readonly<Record<Device, { readonly bytes: number; readonly peakBytes: number }>>;
}

/** Memory in use by tensors. */
export function memory(): MemoryReport {
  const { live, peak, pooled, hits, misses } = storageCounters();
  return {
    bytes: live,
    tensors: liveTensors(),
    peakBytes: peak,
    pooledBytes: pooled,
    poolHitRate: hits + misses === 0 ? 0 : hits / (hits + misses),
    byDevice: { cpu: { bytes: live, peakBytes: peak } },
  };
}

/** Starts `peakBytes` afresh from what is in use now. */
export function resetPeakMemory(): void {
  resetPeak();
}

/** A tensor that was still alive when {@link trackMemory} looked. */
export interface Leak {
  readonly shape: readonly number[];
  readonly dtype: string;
  readonly bytes: number;
  /** Where it was made. */
  readonly stack: string;
}

/** Tensors outlived the code that should have freed them. Code `OG_LEAK`. */
export class LeakError extends OmniError {
  readonly leaks: readonly Leak[];

  constructor(leaks: readonly Leak[]) {
    const total = leaks.reduce((sum, leak) => sum + leak.bytes, 0);
    const lines = leaks.slice(0, 5).map((leak) => `\n  ${formatShape(leak.shape)} ${leak.dtype}, made ${leak.stack}`);
    super('OG_LEAK', {
      op: 'trackMemory',
      expected: 'every tensor that was made to be disposed of or returned',
      actual: `${leaks.length} alive (${formatBytes(total)})`,
      hint: `Dispose of them, or open a scope around the code${lines.join('')}`,
    });
    this.leaks = leaks;
  }
}

function isTensor(value: unknown): value is Tensor {
  return typeof value === 'object' && value !== null && 'isDisposed' in value && 'dtypeId' in value;
}

function returned(value: unknown, found = new Set<unknown>()): Set<unknown> {
  if (isTensor(value)) found.add(value);
  else if (Array.isArray(value)) for (const item of value) returned(item, found);
  else if (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) returned(item, found);
  }
  return found;
}

/** First frame outside this library. */
function callerOf(stack: string | undefined): string {
  const frames = (stack ?? '').split('\n').slice(1);
  const outside = frames.find((frame) => !/[\\/](src|dist)[\\/](tensor|ops|runtime|autograd|methods)/.test(frame));
  return (outside ?? frames.at(-1) ?? 'at an unknown place').trim();
}

/**
 * Runs `body` and throws if tensors that were made in it are still alive afterwards, other than those it returns. For tests and
 * for finding leaks; it makes every tensor remember where it was made, which is slow.
 *
 * @throws LeakError naming where the leaked tensors were made
 */
export function trackMemory<T>(body: () => T): T extends Promise<infer R> ? Promise<R> : T {
  const made = new Map<Tensor, Error>();
  onMake((tensor) => made.set(tensor, new Error('made here')));
  const finish = (result: unknown): unknown => {
    onMake(null);
    const kept = returned(result);
    const leaks = [...made]
      .filter(([tensor]) => !tensor.isDisposed && !kept.has(tensor))
      .map(([tensor, error]) => ({
        shape: tensor.shape,
        dtype: tensor.dtype,
        bytes: tensor.bytes,
        stack: callerOf(error.stack),
      }));
    if (leaks.length > 0) throw new LeakError(leaks);
    return result;
  };
  let result: unknown;
  try {
    result = body();
  } catch (error) {
    onMake(null);
    throw error;
  }
  if (!(result instanceof Promise)) return finish(result) as never;
  return result.then(finish, (error: unknown) => {
    onMake(null);
    throw error;
  }) as never;
}
