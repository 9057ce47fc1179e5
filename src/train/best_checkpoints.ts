/**
 * Checkpoints of the best validations, kept beside the last ones: `best-<step>.safetensors`, with `best.safetensors` for the best of
 * all and `best.json` to say how good they are.
 *
 * @module
 */
import { existsSync } from 'node:fs';
import { mkdir, readdir, unlink } from 'node:fs/promises';
import path from 'node:path';
import { StateError } from '../errors.js';
import { checkInteger, checkKeys, checkOneOf } from '../util/assert.js';
import { linkAtomically, writeFileAtomically } from '../util/atomic_file.js';
import { formatValue } from '../util/format.js';
import { isBetter } from './early_stopping.js';

/** Which checkpoints are the best, and how many are kept. */
export interface BestCheckpointOptions {
  /** `loss`, `perplexity`, one of the run's `metrics`, or any of them of a named set: `<set>.<metric>`. Default `loss`. */
  readonly metric?: string;
  /** Whether small or large values are good. Default `min`. */
  readonly mode?: 'min' | 'max';
  /** How many are kept. Default 1. */
  readonly keep?: number;
}

/** A validation that was among the best. JSON-safe. */
export interface BestEntry {
  readonly step: number;
  readonly value: number;
}

/** @internal Keeps the best checkpoints of a folder. */
export class BestCheckpoints {
  readonly metric: string;
  readonly mode: 'min' | 'max';
  private readonly dir: string;
  private readonly count: number;
  private list: readonly BestEntry[] = [];

  /** @throws AttributeError for options that are unknown or cannot be */
  constructor(dir: string, options: BestCheckpointOptions) {
    const op = 'checkpoint.best';
    checkKeys(op, options, ['metric', 'mode', 'keep']);
    this.dir = dir;
    this.metric = options.metric ?? 'loss';
    this.mode = checkOneOf(op, 'mode', options.mode ?? 'min', ['min', 'max']);
    this.count = checkInteger(op, 'keep', options.keep ?? 1, 1);
  }

  /** The best validations, the best first. */
  get entries(): readonly BestEntry[] {
    return this.list;
  }

  /**
   * Takes note of a validation; its rank from 1 if its checkpoint is to be stored, else null. The earlier of two equals is the better.
   * One that is known already, as when a finished run is started again, is stored once.
   */
  observe(step: number, value: number): number | null {
    if (!Number.isFinite(value)) return null;
    const known = this.list.some((entry) => entry.step === step && entry.value === value);
    if (known && existsSync(this.pathOf(step))) return null;
    const others = this.list.filter((entry) => entry.step !== step);
    const behind = others.findIndex((entry) => isBetter(this.mode, value, entry.value));
    const rank = behind < 0 ? others.length : behind;
    if (rank >= this.count) return null;
    this.list = [...others.slice(0, rank), { step, value }, ...others.slice(rank)].slice(0, this.count);
    return rank + 1;
  }

  /** Path of the checkpoint of a step. */
  pathOf(step: number): string {
    return path.join(this.dir, `best-${String(step).padStart(8, '0')}.safetensors`);
  }

  /** The best whose file is there. */
  find(): (BestEntry & { readonly path: string }) | null {
    const found = this.list.find(({ step }) => existsSync(this.pathOf(step)));
    return found === undefined ? null : { ...found, path: this.pathOf(found.step) };
  }

  /**
   * Puts the checkpoint of a step in place by `write`; `best.safetensors` and `best.json` follow.
   *
   * @throws ResourceError if it cannot be written
   */
  async store(step: number, write: (target: string) => Promise<void>): Promise<string> {
    const target = this.pathOf(step);
    await mkdir(this.dir, { recursive: true });
    await write(target);
    await this.publish();
    return target;
  }

  /** Points `best.safetensors` at the best file and writes `best.json`. */
  async publish(): Promise<void> {
    const best = this.find();
    if (best === null) return;
    await linkAtomically(best.path, path.join(this.dir, 'best.safetensors'));
    const entries = this.list.map((entry) => ({ ...entry, file: path.basename(this.pathOf(entry.step)) }));
    const text = `${JSON.stringify({ metric: this.metric, mode: this.mode, best: entries }, null, 2)}\n`;
    await writeFileAtomically(path.join(this.dir, 'best.json'), (write) => write(Buffer.from(text)));
  }

  /**
   * Removes files that are no longer among the best. Call it when a regular checkpoint has been saved: until then a restart may go
   * back to where they were.
   */
  async prune(): Promise<void> {
    const kept = new Set(this.list.map(({ step }) => path.basename(this.pathOf(step))));
    const names = await readdir(this.dir).catch(() => [] as string[]);
    const old = names.filter((name) => /^best-\d+\.safetensors$/.test(name) && !kept.has(name));
    for (const name of old) await unlink(path.join(this.dir, name)).catch(() => {});
    if (old.length > 0) await this.publish(); // a roll-back may have undone what it says
  }

  /** @throws StateError unless the entries are those of best checkpoints */
  load(entries: readonly BestEntry[]): void {
    const isEntry = (entry: Partial<BestEntry> | null): boolean =>
      Number.isSafeInteger(entry?.step) && typeof entry?.value === 'number';
    if (!Array.isArray(entries) || !entries.every(isEntry)) {
      const expected = 'a list of best checkpoints';
      throw new StateError({ op: 'checkpoint.best', argument: 'state', expected, actual: formatValue(entries) });
    }
    this.list = entries.slice(0, this.count);
  }
}
