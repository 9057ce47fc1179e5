/**
 * What an interrupted compression leaves in its folder, and the next attempt goes on from.
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { StateError } from '../../errors.js';
import { load, saveModel } from '../../models/saved_model.js';
import type { GPT } from '../../models/gpt.js';
import type { Module } from '../../nn/module.js';
import { data } from '../../tensor/read.js';
import { writeFileAtomically } from '../../util/atomic_file.js';
import { calibrationHash, type Calibration } from '../calibration.js';
import { folderJournal, type LayerJournal } from '../layer_journal.js';
import type { ResolvedPlan } from './plan.js';
import type { StepNote } from './step.js';

/** What the result of a plan depends on, as hashes (SHA-256, hexadecimal). */
export interface CompressionKey {
  readonly model: string;
  readonly plan: string;
  /** Null without calibration. */
  readonly calibration: string | null;
}

/** SHA-256 over the names, dtypes, shapes and values of a model's tensors, and its configuration. */
export async function modelHash(model: Module & { readonly config: object }): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify(model.config));
  const state = model.stateDict();
  try {
    for (const name of Object.keys(state).sort()) {
      const value = state[name]!;
      hash.update(`${name} ${value.dtype} ${value.shape.join('x')};`);
      const { buffer, byteOffset, byteLength } = await data(value);
      hash.update(new Uint8Array(buffer, byteOffset, byteLength));
    }
  } finally {
    for (const value of Object.values(state)) value.dispose();
  }
  return hash.digest('hex');
}

/** JSON whose keys are in order, so that the order in a file does not matter. */
function canonical(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(canonical);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, entry]) => [key, canonical(entry)]),
  );
}

/** @internal */
export async function keyOf(
  model: string,
  { steps }: ResolvedPlan,
  calibration: Calibration | null,
): Promise<CompressionKey> {
  const plan = JSON.stringify(steps.map(({ kind, settings }) => [kind.name, canonical(settings)]));
  return {
    model,
    plan: createHash('sha256').update(plan).digest('hex'),
    calibration: calibration === null ? null : await calibrationHash(calibration),
  };
}

interface StateFile {
  readonly format: string;
  readonly key: CompressionKey;
  /** Steps that are done: the model after the last of them is in `model-<done>`. */
  readonly done: number;
  /** What happened in each step so far. */
  readonly notes: readonly (readonly StepNote[])[];
}

const FORMAT = 'omnigrad-compression-state/1';

/** @throws StateError naming what differs */
export function checkKey(folder: string, found: CompressionKey, key: CompressionKey): void {
  const differing = (['model', 'plan', 'calibration'] as const).filter((part) => found[part] !== key[part]);
  if (differing.length === 0) return;
  throw new StateError({
    op: 'compress',
    argument: folder,
    expected: 'a folder for this compression',
    actual: `one with another ${differing.join(' and another ')}`,
    hint: 'Use another folder, or delete this one',
  });
}

/** @internal The unfinished work in a folder. */
export class PipelineState {
  private constructor(
    readonly folder: string,
    private content: StateFile,
  ) {}

  /**
   * Takes up what is in a folder, or begins.
   *
   * @throws StateError if it is the work of another model, plan or calibration
   */
  static async open(folder: string, key: CompressionKey): Promise<PipelineState> {
    const file = path.join(folder, 'state.json');
    const text = await readFile(file, 'utf8').catch(() => null);
    let content: StateFile = { format: FORMAT, key, done: 0, notes: [] };
    if (text !== null) {
      const found = JSON.parse(text) as Partial<StateFile>;
      if (found.format !== FORMAT || found.key === undefined) {
        const [expected, hint] = [`unfinished work of format ${FORMAT}`, 'Delete the folder to begin anew'];
        throw new StateError({ op: 'compress', argument: file, expected, actual: 'something else', hint });
      }
      checkKey(folder, found.key, key);
      content = found as StateFile;
    }
    return new PipelineState(folder, content);
  }

  /** Steps that are done. */
  get done(): number {
    return this.content.done;
  }

  /** What happened in a step. */
  notesOf(step: number): readonly StepNote[] {
    return this.content.notes[step] ?? [];
  }

  /** Folder of a step that is under way. */
  stepFolder(step: number): string {
    return path.join(this.folder, `step-${step}`);
  }

  /** Folder of the model after so many steps. */
  modelFolder(steps: number): string {
    return path.join(this.folder, `model-${steps}`);
  }

  private async write(content: StateFile): Promise<void> {
    this.content = content;
    await writeFileAtomically(path.join(this.folder, 'state.json'), (write) =>
      write(Buffer.from(JSON.stringify(content))),
    );
  }

  /** A journal of a step, which also keeps what is noted of finished layers. */
  journal(step: number, pending: StepNote[]): LayerJournal {
    const inner = folderJournal(path.join(this.stepFolder(step), 'layers'), JSON.stringify(this.content.key));
    return {
      restore: (model) => inner.restore(model),
      record: async (model, paths) => {
        await this.addNotes(step, pending.splice(0));
        await inner.record(model, paths);
      },
    };
  }

  /** Adds notes to a step's; a newer one of a layer takes an older one's place. */
  async addNotes(step: number, added: readonly StepNote[]): Promise<void> {
    if (added.length === 0) return;
    const names = new Set(added.map(({ path: name }) => name).filter((name) => name !== undefined));
    const notes = this.content.notes.slice();
    while (notes.length <= step) notes.push([]);
    notes[step] = [...notes[step]!.filter(({ path: name }) => name === undefined || !names.has(name)), ...added];
    await this.write({ ...this.content, notes });
  }

  /** The model after the steps that are done; null if none is. */
  async lastModel(): Promise<GPT | null> {
    return this.done === 0 ? null : (await load(this.modelFolder(this.done))).model;
  }

  /** A step is done: keeps its model, and drops what led there. */
  async finishStep(step: number, model: GPT): Promise<void> {
    await saveModel(this.modelFolder(step + 1), model);
    await this.write({ ...this.content, done: step + 1 });
    await remove(this.stepFolder(step));
    if (step > 0) await remove(this.modelFolder(step));
  }
}

/** Removes a folder, as far as it can be: some systems keep files that are mapped. */
export async function remove(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true }).catch(() => {});
}
