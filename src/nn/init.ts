/**
 * Initial values of parameters. All write in place and return the tensor.
 *
 * @module
 */
import { ShapeError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { copy_ } from '../ops/copy.js';
import { empty, full, type TensorOptions } from '../tensor/create.js';
import { normal, uniform, type Generator } from '../tensor/random.js';
import { scope } from '../tensor/scope.js';
import type { Shape } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { formatShape } from '../util/format.js';

let inSkeleton = false;

/**
 * @internal Makes modules whose large parameters have shapes, but neither memory nor values: others are to take their places
 * (`loadStateDict` with `assign`). Nothing is drawn from random streams.
 */
export function skeleton<T>(make: () => T): T {
  const before = inSkeleton;
  inSkeleton = true;
  try {
    return make();
  } finally {
    inSkeleton = before;
  }
}

/** @internal A tensor that is about to be given its initial values. In a {@link skeleton}, one element stands for all. */
export function unfilled(shape: Shape, options: TensorOptions = {}): Tensor {
  if (!inSkeleton) return empty(shape, options);
  const one = empty([1], options);
  const all = one.view(
    0,
    shape,
    shape.map(() => 0),
  );
  one.dispose();
  return all;
}

function overwrite(target: Tensor, make: () => Tensor): Tensor {
  if (inSkeleton) return target;
  scope(() => noGrad(() => void copy_(target, make())));
  return target;
}

const options = (
  target: Tensor,
  generator: Generator | undefined,
): { dtype: 'float32' | 'float64'; generator?: Generator } => ({
  dtype: target.dtype === 'float64' ? 'float64' : 'float32',
  ...(generator === undefined ? {} : { generator }),
});

/** Inputs and outputs of one unit: axis 1 and axis 0, each times the receptive field (axes from 2). */
function fans(op: string, { shape }: Tensor): { fanIn: number; fanOut: number } {
  if (shape.length < 2) {
    throw new ShapeError({ op, argument: 'tensor', expected: 'at least 2 axes', actual: formatShape(shape) });
  }
  const field = shape.slice(2).reduce((product, length) => product * length, 1);
  return { fanIn: shape[1]! * field, fanOut: shape[0]! * field };
}

/** One value everywhere. */
export function constant_(tensor: Tensor, value: number): Tensor {
  return overwrite(tensor, () => full(tensor.shape, value, { dtype: tensor.dtype }));
}

/** Fills with zeros. Returns its argument. */
export function zeros_(tensor: Tensor): Tensor {
  return constant_(tensor, 0);
}

/** Fills with ones. Returns its argument. */
export function ones_(tensor: Tensor): Tensor {
  return constant_(tensor, 1);
}

/** Normal numbers. Default: mean 0, std 1. */
export function normal_(tensor: Tensor, mean = 0, std = 1, generator?: Generator): Tensor {
  return overwrite(tensor, () => normal(tensor.shape, mean, std, options(tensor, generator)));
}

/** Uniform numbers in [low, high). Default: [0, 1). */
export function uniform_(tensor: Tensor, low = 0, high = 1, generator?: Generator): Tensor {
  return overwrite(tensor, () => uniform(tensor.shape, low, high, options(tensor, generator)));
}

/** Uniform within ±gain·√(6 / (fanIn + fanOut)) (Glorot and Bengio 2010). */
export function xavierUniform_(tensor: Tensor, gain = 1, generator?: Generator): Tensor {
  const { fanIn, fanOut } = fans('xavierUniform_', tensor);
  if (tensor.size === 0) return tensor;
  const bound = gain * Math.sqrt(6 / (fanIn + fanOut));
  return uniform_(tensor, -bound, bound, generator);
}

/** Normal with std gain·√(2 / (fanIn + fanOut)) (Glorot and Bengio 2010). */
export function xavierNormal_(tensor: Tensor, gain = 1, generator?: Generator): Tensor {
  const { fanIn, fanOut } = fans('xavierNormal_', tensor);
  if (tensor.size === 0) return tensor;
  return normal_(tensor, 0, gain * Math.sqrt(2 / (fanIn + fanOut)), generator);
}

/** Uniform within ±√(6 / ((1 + a²)·fanIn)) (He et al. 2015); `a` is the slope of a leaky ReLU, default √5 as in PyTorch's layers. */
export function kaimingUniform_(tensor: Tensor, a = Math.sqrt(5), generator?: Generator): Tensor {
  const { fanIn } = fans('kaimingUniform_', tensor);
  if (tensor.size === 0) return tensor;
  const bound = Math.sqrt(6 / ((1 + a * a) * fanIn));
  return uniform_(tensor, -bound, bound, generator);
}

/** Normal with std √(2 / ((1 + a²)·fanIn)) (He et al. 2015). */
export function kaimingNormal_(tensor: Tensor, a = 0, generator?: Generator): Tensor {
  const { fanIn } = fans('kaimingNormal_', tensor);
  if (tensor.size === 0) return tensor;
  return normal_(tensor, 0, Math.sqrt(2 / ((1 + a * a) * fanIn)), generator);
}
