/**
 * Results that a chain left out. Most are names for a moment in an expression and never read again. One that is read
 * after all is computed then, from the operands of the chain, which its recipe keeps from being recycled; before one of them is
 * changed in place, whatever still depends on it is computed.
 */
import { needed, send, type Matrix, type Program, type Step } from './program.js';
import { submitted, wasSpoilt } from './ring.js';
import { release, retain, type Recipe, type Storage } from './storage.js';

/** Names of collected readers are swept out when a list has grown to this length. */
const SWEEP_LENGTH = 32;

function addReader(storage: Storage, reader: Storage): void {
  const list = storage.readers ?? [];
  const swept =
    list.length % SWEEP_LENGTH === SWEEP_LENGTH - 1 ? list.filter((ref) => ref.deref() !== undefined) : list;
  swept.push(new WeakRef(reader));
  storage.readers = swept;
}

function removeReader(storage: Storage, reader: Storage): void {
  const rest = storage.readers?.filter((ref) => ref.deref() !== reader && ref.deref() !== undefined) ?? [];
  storage.readers = rest.length === 0 ? null : rest;
}

class Left implements Recipe {
  private readonly operands: readonly Storage[];
  /** Only what is needed: the chain's other results shall not live as long as this one. Places are those of the chain. */
  private readonly program: Program;
  /** The frame that would have written it. */
  private readonly sequence = (submitted() - 1) | 0;

  constructor(
    private readonly target: Storage,
    whole: Program,
    private readonly step: number,
    private readonly given: ReadonlySet<number>,
  ) {
    const read = new Set<Storage>();
    const [steps, operands]: [Step[], Matrix[]] = [[], []];
    for (const index of needed(whole, [step], given)) {
      steps[index] = whole.steps[index]!;
      for (const source of steps[index].sources) {
        if (source >= 0) {
          operands[source] = whole.operands[source]!;
          read.add(operands[source].view.storage);
        } else if (given.has(~source)) {
          steps[~source] = whole.steps[~source]!;
          read.add(steps[~source]!.output.storage);
        }
      }
    }
    this.program = { ...whole, steps, operands };
    this.operands = [...read];
    for (const storage of this.operands) {
      retain(storage);
      addReader(storage, target);
    }
  }

  drop(): void {
    this.target.recipe = null;
    for (const storage of this.operands) {
      removeReader(storage, this.target);
      release(storage);
    }
  }

  compute(): void {
    this.target.recipe = null;
    this.target.poisoned = wasSpoilt(this.sequence) || this.operands.some(({ poisoned }) => poisoned);
    try {
      if (!this.target.poisoned) send(this.program, [this.step], this.given);
    } catch (error) {
      this.target.poisoned = true; // an earlier call failed, and this one was not sent
      throw error;
    } finally {
      this.drop();
    }
  }
}

/** Leaves a step's result out for now; the results in `written` are in memory. */
export function deferValue(program: Program, step: number, written: readonly number[]): void {
  const { storage } = program.steps[step]!.output;
  storage.recipe = new Left(storage, program, step, new Set(written));
}

/** Computes a block's contents if they were left out. */
export function settle(storage: Storage): void {
  if (storage.recipe !== null) (storage.recipe as Left).compute();
}

/** Computes what still depends on a block's contents, which are about to change. */
export function settleReaders(storage: Storage): void {
  const readers = storage.readers ?? [];
  storage.readers = null;
  for (const ref of readers) {
    const reader = ref.deref();
    if (reader !== undefined) settle(reader);
  }
}
