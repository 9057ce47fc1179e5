import { AttributeError, DTypeError } from '../errors.js';
import { copy_ } from '../ops/copy.js';
import { narrow, reshape, select } from '../ops/views.js';
import { noGrad } from '../autograd/grad.js';
import { empty, tensor } from '../tensor/create.js';
import { keep, scope } from '../tensor/scope.js';
import { Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger, checkKeys } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import type { Dataset } from './loader.js';
import { hostRandom } from './permutation.js';
import type { TokenSequence } from './token_sequence.js';

/** Inputs and the tokens that follow them, both `[B, T]` int32. */
export interface TextBatch {
  readonly x: Tensor;
  readonly y: Tensor;
}

/** Options of {@link TextDataset}. */
export interface TextDatasetOptions {
  /** Tokens in a window. */
  readonly context: number;
  /** Windows begin at another offset each epoch, so that borders fall elsewhere. Default true. */
  readonly shift?: boolean;
  /** Seed of the offsets. Default 0. */
  readonly seed?: number;
}

/**
 * Windows of `context` tokens from one long sequence, side by side; y is x moved on by one. The sequence is an array of ids, an
 * int32 tensor, or shards of one (`openShards`): what is mapped from files (see `openTokens`) is read page by page as windows ask for it.
 */
export class TextDataset implements Dataset<TextBatch> {
  readonly context: number;
  readonly tokens: Tensor | TokenSequence;
  private readonly shift: boolean;
  private readonly seed: number;

  /** @throws AttributeError if there are too few tokens for one window */
  constructor(tokens: ArrayLike<number> | Tensor | TokenSequence, options: TextDatasetOptions) {
    checkKeys('TextDataset', options, ['context', 'shift', 'seed']);
    this.context = checkInteger('TextDataset', 'context', options.context, 1);
    this.seed = checkInteger('TextDataset', 'seed', options.seed ?? 0, 0);
    this.tokens = tokens instanceof Tensor || 'copyTo' in tokens ? tokens : keep(tensor(Int32Array.from(tokens)));
    if (this.tokens instanceof Tensor && (this.tokens.dtype !== 'int32' || this.tokens.rank !== 1)) {
      const actual = `${this.tokens.dtype} ${formatShape(this.tokens.shape)}`;
      throw new DTypeError({ op: 'TextDataset', argument: 'tokens', expected: 'one axis of int32', actual });
    }
    if (this.tokens.size < this.context + 1) {
      throw new AttributeError({
        op: 'TextDataset',
        argument: 'tokens',
        expected: `at least ${this.context + 1} tokens, one window and its successor`,
        actual: formatValue(this.tokens.size),
      });
    }
    this.shift = checkBoolean('TextDataset', 'shift', options.shift ?? true) && this.tokens.size > 2 * this.context + 1;
  }

  /** Windows in an epoch. */
  get length(): number {
    const usable = this.tokens.size - 1 - (this.shift ? this.context - 1 : 0);
    return Math.floor(usable / this.context);
  }

  private offset(epoch: number): number {
    return this.shift ? Math.floor(hostRandom(this.seed, epoch + 0x5eed)() * this.context) : 0;
  }

  private copyTo(row: Tensor, start: number): void {
    if (this.tokens instanceof Tensor) copy_(row, narrow(this.tokens, 0, start, this.context));
    else this.tokens.copyTo(row, start);
  }

  async prepare(indices: readonly number[], epoch: number): Promise<void> {
    if (this.tokens instanceof Tensor || this.tokens.prefetch === undefined) return;
    const { tokens, context } = this;
    const offset = this.offset(epoch);
    await Promise.all(indices.map((index) => tokens.prefetch!(offset + index * context, context + 1)));
  }

  batch(indices: readonly number[], epoch: number): TextBatch {
    const offset = this.offset(epoch);
    const shape = [indices.length, this.context];
    return scope(() =>
      noGrad(() => {
        const x = empty(shape, { dtype: 'int32' });
        const y = empty(shape, { dtype: 'int32' });
        for (const [row, index] of indices.entries()) {
          const start = offset + index * this.context;
          this.copyTo(select(x, 0, row), start);
          this.copyTo(select(y, 0, row), start + 1);
        }
        return { x: reshape(x, shape), y: reshape(y, shape) };
      }),
    );
  }
}
