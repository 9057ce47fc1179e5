/**
 * Which blocks of a model are computed again in the backward pass, so that a step fits into its memory.
 *
 * @module
 */
import { AttributeError, ResourceError } from '../errors.js';
import { checkpointed } from '../nn/checkpointed.js';
import { Module } from '../nn/module.js';
import { checkKeys, checkNumber } from '../util/assert.js';
import { formatBytes, formatValue } from '../util/format.js';

/** How much memory the activations of a step may take: one of the two. */
export interface RecomputationOptions {
  /** Bytes. */
  readonly budget?: number;
  /** Share of what they take without, 0 to 1. */
  readonly share?: number;
}

/** Repeated blocks of a model: the longest list of modules of one kind that a module holds, the outermost of those. */
export function blocksOf(model: Module): readonly Module[] {
  let best: readonly Module[] = [];
  for (const [, module] of model.namedModules()) {
    for (const value of Object.values(module) as unknown[]) {
      if (!Array.isArray(value) || value.length <= best.length) continue;
      const kind = (value[0] as object | undefined)?.constructor;
      if (value.every((item) => item instanceof Module && item.constructor === kind)) best = value as Module[];
    }
  }
  return best;
}

/** @internal @throws AttributeError for a budget that cannot be */
export function checkRecomputation(op: string, option: unknown): void {
  const argument = 'activationCheckpointing';
  if (typeof option === 'boolean') return;
  if (typeof option !== 'object' || option === null || Array.isArray(option)) {
    const expected = 'true, { budget: bytes } or { share }';
    throw new AttributeError({ op, argument, expected, actual: formatValue(option) });
  }
  checkKeys(`${op}.${argument}`, option, ['budget', 'share']);
  const { budget, share } = option as RecomputationOptions;
  if ((budget === undefined) === (share === undefined)) {
    const actual = budget === undefined ? 'neither' : 'both';
    throw new AttributeError({ op, argument, expected: 'one of budget and share', actual });
  }
  if (budget !== undefined) checkNumber(op, `${argument}.budget`, budget, 1);
  if (share !== undefined) checkNumber(op, `${argument}.share`, share, 0, 1);
}

/** @internal The blocks of a model, and how many of them, counted from the input, are computed again. */
export class Recomputation {
  /** Null while it has yet to be found out. */
  count: number | null;
  private readonly options: RecomputationOptions;

  /** @throws AttributeError for a model without blocks, or a budget that cannot be */
  constructor(
    private readonly model: Module,
    option: true | RecomputationOptions,
  ) {
    checkRecomputation('Trainer', option);
    this.options = option === true ? {} : option;
    if (this.blocks.length === 0) {
      throw new AttributeError({
        op: 'Trainer',
        argument: 'activationCheckpointing',
        expected: 'a model that holds a list of blocks of one kind',
        actual: model.constructor.name,
        hint: 'Use og.checkpoint or og.nn.checkpointed in its forward',
      });
    }
    this.count = option === true ? this.blocks.length : null;
  }

  /** The model's blocks, in order. */
  get blocks(): readonly Module[] {
    return blocksOf(this.model);
  }

  /** Runs `body`, which computes a loss, with so many blocks under a checkpoint. */
  within<T>(body: () => T): T {
    return checkpointed(this.blocks.slice(0, this.count ?? 0), body);
  }

  /**
   * Finds the least number of blocks that keeps the activations within the budget.
   *
   * @param measure - bytes of the activations of a step, with `count` as it is then
   * @throws ResourceError if not even all of them are enough
   */
  settle(measure: () => number): void {
    if (this.count !== null) return;
    const bytesWith = (count: number): number => {
      this.count = count;
      return measure();
    };
    try {
      const without = bytesWith(0);
      const { budget = this.options.share! * without } = this.options;
      if (without <= budget) return;
      const all = this.blocks.length;
      let [low, high] = [0, all]; // low is too few
      const most = bytesWith(all);
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (bytesWith(middle) <= budget) high = middle;
        else low = middle;
      }
      this.count = high;
      if (high < all || most <= budget) return;
      throw new ResourceError({
        op: 'Trainer',
        argument: 'activationCheckpointing',
        expected: `activations of ${formatBytes(budget)} at most`,
        actual: `${formatBytes(most)} with all ${all} blocks computed again`,
        hint: `Allow more (without it is ${formatBytes(without)}), or make the batch smaller`,
      });
    } catch (error) {
      this.count = null;
      throw error;
    }
  }
}
