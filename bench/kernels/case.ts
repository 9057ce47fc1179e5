/** What a row of one operation is made of, and our side of measuring it. */
import type { CeilingKind } from '../harness.js';
import { og } from '../library.js';
import type { Subject, Work } from '../subject.js';
import type { Tensor } from '../../src/index.js';

export interface KernelCase extends Work {
  readonly name: string;
  readonly shape: string;
  /** Of the operands; default float32. */
  readonly dtype?: string;
  readonly unit: 'GFLOP/s' | 'GOP/s' | 'GB/s' | 'µs';
  /** Operations, or bytes that must at least be read and written, of one repetition. */
  readonly amount: number;
  /** The other of the two, where it is known: bytes of a row in GFLOP/s, operations of one in GB/s. */
  readonly other?: number;
  /** The ceiling that the row is held against; null for none. Default: that of the unit. */
  readonly limit?: CeilingKind | null;
  /** Peers with several ways to do the work, by name; each becomes a contender of its own, told by `args.variant`. */
  readonly variants?: Readonly<Record<string, readonly string[]>>;
  /** Other ways of this library to the same result, as contenders. */
  readonly also?: Readonly<Record<string, () => () => void>>;
  /** Makes the operands; the returned function does the work once and leaves nothing behind. */
  prepare(): () => void;
}

export const uniform = (...shape: number[]): Tensor => og.uniform(shape, -1, 1);

/** Runs `body` and frees what it made. */
export const discard = (body: () => unknown) => (): void => {
  og.scope(() => void body());
};

/** Bytes beyond what caches hold: operands of this size in turn are read from memory every time. */
const BEYOND_CACHES = 144 << 20;

/** How many operands of this size in turn leave no cache useful. */
export function copiesInMemory(bytes: number): number {
  return Math.max(1, Math.ceil(BEYOND_CACHES / bytes));
}

/** Several of the same kind, given out in turn. */
export function inTurn<T>(count: number, make: () => T): () => T {
  const all = Array.from({ length: count }, make);
  let at = 0;
  return () => all[at++ % count]!;
}

const limits = { 'GFLOP/s': 'fma', 'GOP/s': 'int8', 'GB/s': 'copy', µs: null } as const;

/** The ceiling that a case is held against. */
export function limitOf({ unit, limit }: KernelCase): CeilingKind | null {
  return limit === undefined ? limits[unit] : limit;
}

/** Operations a byte. */
export function intensityOf({ unit, amount, other }: KernelCase): number | null {
  if (other === undefined || unit === 'µs') return null;
  return unit === 'GB/s' ? other / amount : amount / other;
}

/** Something of this library to time. */
export function subjectOf(prepare: () => () => void): Subject {
  const inner = og.scope();
  const once = prepare();
  return {
    run: async (count) => {
      const begun = performance.now();
      for (let i = 0; i < count; i++) once();
      await og.synchronize();
      return (performance.now() - begun) / 1e3;
    },
    dispose: () => inner.dispose(),
  };
}
