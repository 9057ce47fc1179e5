/**
 * Random tensors. The stream is counter-based (Philox4x32-10, Salmon et al., SC'11): the n-th number of a seed is the same on
 * every device, for every thread count, and a generator's state is two numbers.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../errors.js';
import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import { checkInteger, checkNumber } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { checkOptions, finish, uninitialised, type TensorOptions } from './create.js';
import { checkDType, getDefaultDType, isFloating, type DType } from './dtype.js';
import { checkShape, type Shape } from './shape.js';
import type { Tensor } from './tensor.js';

/** Where a generator stands. JSON-safe, so that checkpoints hold it. */
export interface GeneratorState {
  readonly seed: number;
  readonly offset: number;
}

/** Where the streams that a part of the program draws from stood before it. */
export type Draws = ReadonlyMap<Generator, GeneratorState>;
let noticing: Map<Generator, GeneratorState> | null = null;

/** @internal Runs `body`, and tells which streams it drew from and where they stood before. */
export function noticeDraws<T>(body: () => T): [result: T, draws: Draws] {
  const outer = noticing;
  const own = (noticing = new Map<Generator, GeneratorState>());
  try {
    return [body(), own];
  } finally {
    noticing = outer;
    if (outer !== null) for (const [stream, state] of own) if (!outer.has(stream)) outer.set(stream, state);
  }
}

/** @internal Runs `body` with the streams where they stood then, and puts them back to where they stand now. */
export function replayDraws<T>(draws: Draws, body: () => T): T {
  const now = [...draws.keys()].map((stream) => [stream, stream.state] as const);
  for (const [stream, state] of draws) stream.state = state;
  try {
    return body();
  } finally {
    for (const [stream, state] of now) stream.state = state;
  }
}

/** A stream of random numbers. */
export class Generator {
  private seedValue: number;
  private offsetValue = 0;

  /** @param seed - an integer of at most 53 bits */
  constructor(seed: number) {
    this.seedValue = checkInteger('generator', 'seed', seed, 0);
  }

  /** What the stream was started with. */
  get seed(): number {
    return this.seedValue;
  }

  /** Where the stream stands; set it to draw the same numbers again. */
  get state(): GeneratorState {
    return { seed: this.seedValue, offset: this.offsetValue };
  }

  /** @throws AttributeError unless seed and offset are integers of at least 0 */
  set state(state: GeneratorState) {
    this.seedValue = checkInteger('generator', 'state.seed', state?.seed, 0);
    this.offsetValue = checkInteger('generator', 'state.offset', state?.offset, 0);
  }

  /**
   * @internal Reserves counters for `count` numbers; [seed low, seed high, counter low, counter high] as kernels take them.
   */
  take(count: number): [number, number, number, number] {
    if (noticing !== null && !noticing.has(this)) noticing.set(this, this.state);
    const at = this.offsetValue;
    this.offsetValue += Math.ceil(count / 4);
    const high = 2 ** 32;
    return [this.seedValue % high, Math.floor(this.seedValue / high), at % high, Math.floor(at / high)];
  }

  /** A number in [0, 1) on the JavaScript side, from the same stream. */
  random(): number {
    const [seedLow, seedHigh, low, high] = this.take(1);
    return philoxFirst(low, high, seedLow, seedHigh) / 2 ** 32;
  }
}

/** First word of a Philox4x32-10 block: as native/core/philox.h computes it. */
function philoxFirst(c0: number, c1: number, k0: number, k1: number): number {
  let counter: [number, number, number, number] = [c0, c1, 0, 0];
  let key: [number, number] = [k0, k1];
  for (let round = 0; round < 10; round++) {
    const a = BigInt(0xd2511f53) * BigInt(counter[0]);
    const b = BigInt(0xcd9e8d57) * BigInt(counter[2]);
    const low = (x: bigint): number => Number(x & 0xffffffffn);
    const high = (x: bigint): number => Number(x >> 32n);
    counter = [(high(b) ^ counter[1] ^ key[0]) >>> 0, low(b), (high(a) ^ counter[3] ^ key[1]) >>> 0, low(a)];
    key = [(key[0] + 0x9e3779b9) >>> 0, (key[1] + 0xbb67ae85) >>> 0];
  }
  return counter[0];
}

/** A stream of its own with a given seed. */
export function generator(seed: number): Generator {
  return new Generator(seed);
}

const shared = new Generator(0);

/** The stream used where none is named. */
export function defaultGenerator(): Generator {
  return shared;
}

/** Restarts the stream used where none is named. */
export function manualSeed(seed: number): void {
  shared.state = { seed, offset: 0 };
}

/** Options of the random tensors. */
export interface RandomOptions extends TensorOptions {
  /** Default: the shared stream, see {@link manualSeed}. */
  readonly generator?: Generator;
}

const uniformKernel = kernelId('random_uniform', 0, 1, 6);
const normalKernel = kernelId('random_normal', 0, 1, 6);
const integerKernel = kernelId('random_integer', 0, 1, 6);

function draw(
  op: string,
  kernel: number,
  shape: Shape,
  parameters: readonly [number, number],
  dtype: DType,
  options: RandomOptions,
): Tensor {
  checkOptions(op, options);
  const result = uninitialised(checkShape(op, shape), checkDType(op, dtype));
  const stream = options.generator ?? shared;
  if (!(stream instanceof Generator)) {
    throw new AttributeError({
      op,
      argument: 'generator',
      expected: 'og.generator(seed)',
      actual: formatValue(stream),
    });
  }
  submit(kernel, [], [result], [...stream.take(result.size), ...parameters], result.size * 4);
  return finish(result, options);
}

function floatDType(op: string, options: RandomOptions): DType {
  const dtype = options.dtype ?? getDefaultDType();
  if (isFloating(checkDType(op, dtype))) return dtype;
  throw new AttributeError({
    op,
    argument: 'dtype',
    expected: 'a floating-point dtype',
    actual: dtype,
    hint: 'Use og.randint',
  });
}

/** Uniform numbers in [0, 1). */
export function rand(shape: Shape, options: RandomOptions = {}): Tensor {
  return draw('rand', uniformKernel, shape, [0, 1], floatDType('rand', options), options);
}

/** Uniform numbers in [low, high). */
export function uniform(shape: Shape, low: number, high: number, options: RandomOptions = {}): Tensor {
  checkNumber('uniform', 'low', low);
  checkNumber('uniform', 'high', high, low);
  return draw('uniform', uniformKernel, shape, [low, high], floatDType('uniform', options), options);
}

/** Normal numbers of mean 0 and standard deviation 1. */
export function randn(shape: Shape, options: RandomOptions = {}): Tensor {
  return draw('randn', normalKernel, shape, [0, 1], floatDType('randn', options), options);
}

/** Normal numbers of the given mean and standard deviation. */
export function normal(shape: Shape, mean: number, std: number, options: RandomOptions = {}): Tensor {
  checkNumber('normal', 'mean', mean);
  checkNumber('normal', 'std', std, 0);
  return draw('normal', normalKernel, shape, [mean, std], floatDType('normal', options), options);
}

/** Integers from `low` (included) to `high` (excluded), each as likely. Default dtype int64. */
export function randint(low: number, high: number, shape: Shape, options: RandomOptions = {}): Tensor {
  checkInteger('randint', 'low', low);
  checkInteger('randint', 'high', high, low + 1);
  const dtype = options.dtype ?? 'int64';
  if (high - low > 2 ** 32) {
    throw new ShapeError({
      op: 'randint',
      argument: 'high',
      expected: 'a range of at most 2^32',
      actual: String(high - low),
    });
  }
  return draw('randint', integerKernel, shape, [low, high], dtype, options);
}
