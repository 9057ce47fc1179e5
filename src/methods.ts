/**
 * Installs operations as methods of Tensor: `x.gelu()` is `gelu(x)`. The only place where a module is augmented; the types
 * follow from the functions, so a method cannot disagree with its function.
 *
 * @module
 */
import { backward, type BackwardOptions } from './autograd/backward.js';
import { registerHook, type GradHook } from './autograd/hooks.js';
import * as ops from './ops/index.js';
import * as read from './tensor/read.js';
import type { TensorData } from './tensor/dtype.js';
import { Tensor } from './tensor/tensor.js';

/** Functions of ops/ that are methods too: their first argument is the tensor. */
const opMethods = [
  'abs', 'acos', 'add', 'all', 'amax', 'amin', 'any', 'argmax', 'argmin', 'argsort', 'asin', 'at', 'atan', 'atan2',
  'broadcastTo', 'ceil', 'chunk', 'clamp', 'clone', 'contiguous', 'copy_', 'cos', 'cosh', 'cumprod', 'cumsum', 'detach',
  'diagonal', 'div', 'dropout', 'elu', 'eq', 'erf', 'erfc', 'exp', 'expand', 'expm1', 'flatten', 'flip', 'floor', 'fmod',
  'gather', 'ge', 'gelu', 'gt', 'hardswish', 'indexAdd', 'indexSelect', 'isFinite', 'isInf', 'isNaN', 'le', 'leakyRelu',
  'log', 'log1p', 'log2', 'logSigmoid', 'logSoftmax', 'logicalAnd', 'logicalNot', 'logicalOr', 'logicalXor', 'logsumexp',
  'lt', 'maskedFill', 'maskedSelect', 'matmul', 'maxWithIndices', 'maximum', 'mean', 'minWithIndices', 'minimum', 'mish',
  'moveAxis', 'mul', 'narrow', 'ne', 'neg', 'nonzero', 'norm', 'normalize', 'pad', 'permute', 'pow', 'prod', 'quickGelu',
  'reciprocal', 'relu', 'reluSquared', 'remainder', 'repeat', 'repeatInterleave', 'reshape', 'roll', 'round', 'rsqrt',
  'scatter', 'scatterAdd', 'select', 'sigmoid', 'sign', 'silu', 'sin', 'sinh', 'slice', 'softmax', 'softplus', 'sort',
  'split', 'sqrt', 'square', 'squeeze', 'std', 'sub', 'sum', 'tan', 'tanh', 'to', 'topk', 'transpose', 'tril', 'triu',
  'trunc', 'unbind', 'unsqueeze', 'variance',
] as const; // prettier-ignore

const readMethods = ['data', 'dataSync', 'item', 'itemSync', 'toArray', 'toArraySync'] as const;

type Method<F> = F extends (x: never, ...rest: infer R) => infer T ? (...rest: R) => T : never;
type OpMethods = { [K in (typeof opMethods)[number]]: Method<(typeof ops)[K]> };
type ReadMethods = { [K in (typeof readMethods)[number]]: Method<(typeof read)[K]> };

declare module './tensor/tensor.js' {
  interface Tensor extends OpMethods, ReadMethods {
    /** See {@link backward}. */
    backward(gradient?: Tensor | null, options?: BackwardOptions): void;
    /** See {@link registerHook}. */
    registerHook(hook: GradHook): () => void;
  }
}

function install(name: string, method: (this: Tensor, ...rest: never[]) => unknown): void {
  Object.defineProperty(Tensor.prototype, name, { value: method, writable: true, configurable: true });
}

for (const name of opMethods) {
  const f = ops[name] as (...all: unknown[]) => unknown;
  install(name, function (this: Tensor, ...rest: unknown[]) {
    return f(this, ...rest);
  } as never);
}
for (const name of readMethods) {
  const f = read[name] as (x: Tensor) => TensorData | unknown;
  install(name, function (this: Tensor) {
    return f(this);
  });
}
install('backward', function (this: Tensor, gradient?: Tensor | null, options?: BackwardOptions) {
  backward(this, gradient, options);
} as never);
install('registerHook', function (this: Tensor, hook: GradHook) {
  return registerHook(this, hook);
} as never);
