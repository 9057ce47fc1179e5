/**
 * Dropout. The mask is never stored: it follows from the generator's counters, and the gradient draws it again.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { defaultGenerator, Generator } from '../tensor/random.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkNumber } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { mul } from './arithmetic.js';
import { defineOp, type Op } from './define.js';

/** Seed and counter, as kernels take them. */
export type DropoutStream = readonly [number, number, number, number];

interface DropoutAttrs {
  readonly stream: DropoutStream;
  readonly p: number;
}

const dropoutOp: Op<DropoutAttrs> = defineOp<DropoutAttrs>({
  name: 'dropout',
  inputs: [{ name: 'x', kind: 'float' }],
  attrCount: 5,
  output: ([x]) => ({ shape: x!.shape, dtype: x!.dtype }),
  encode: ({ stream, p }) => [p, ...stream],
  backward: ({ grad, attrs }) => [dropoutOp.call([grad], attrs)],
  cost: ([x], [y]) => ({ flops: 12 * x!.size, bytes: x!.bytes + y!.bytes }),
});

/** @internal Dropout with the words of one place of a stream: 0 < p < 1. */
export function dropWith(x: Tensor, p: number, stream: DropoutStream): Tensor {
  return dropoutOp.call([x], { stream, p });
}

/** Options of {@link dropout}. */
export interface DropoutOptions {
  /** Default true. When false, `x` comes back as it is. */
  readonly training?: boolean;
  /** Default: the shared stream, see `manualSeed`. */
  readonly generator?: Generator;
}

/**
 * Zeroes each element with probability p and divides the others by 1 − p, so that the expectation stays.
 *
 * @param p - from 0 to 1. Default 0.5
 * @shape any → the same
 * @dtype floats
 * @throws AttributeError if `p` is not a probability
 * @source Srivastava et al., JMLR 15 (2014)
 */
export function dropout(x: Tensor, p = 0.5, options: DropoutOptions = {}): Tensor {
  checkTensor('dropout', 'x', x);
  checkNumber('dropout', 'p', p, 0, 1);
  if (!(options.training ?? true) || p === 0) return x;
  if (p === 1) return mul(x, 0);
  const stream = options.generator ?? defaultGenerator();
  if (!(stream instanceof Generator)) {
    throw new AttributeError({
      op: 'dropout',
      argument: 'generator',
      expected: 'og.generator(seed)',
      actual: formatValue(stream),
    });
  }
  return dropWith(x, p, stream.take(x.size));
}
