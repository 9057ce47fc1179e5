/** What a run of the comparison leaves: JSON that tables are made of. */
import { readFileSync } from 'node:fs';
import type { Origin } from '../origin.js';
import type { ModelQuality } from './quality.js';
import type { Speed } from './speed.js';

/** Both parts, each from its last run. */
export interface CompressionRecord {
  /** By the model's name. */
  readonly quality: Readonly<Record<string, ModelQuality & { readonly origin: Origin }>>;
  readonly speed: (Speed & { readonly origin: Origin }) | null;
  /** How the goals are met. */
  readonly judged: readonly Judged[];
}

/** A goal, what was measured of it, and whether it is met. */
export interface Judged {
  readonly goal: string;
  /** Of which model, or null where no trained model is needed. */
  readonly model: string | null;
  readonly value: number;
  readonly limit: number;
  readonly better: 'lower' | 'higher';
  readonly isMet: boolean;
}

/** What a file has of an earlier run, to which a run adds its parts. */
export function readRecord(file: string): Omit<CompressionRecord, 'judged'> {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as CompressionRecord;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return { quality: {}, speed: null };
  }
}
