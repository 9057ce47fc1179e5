/** Losses, optimiser steps and embeddings: what a training step does beside its products. */
import { og } from '../library.js';
import { discard, uniform, type KernelCase } from './case.js';

function crossEntropy(count: number, classes: number, backward: boolean): KernelCase {
  return {
    name: `crossEntropy ${backward ? 'forward+backward' : 'forward'}`,
    shape: `${count}x${classes}`,
    unit: 'GB/s',
    amount: (backward ? 12 : 4) * count * classes,
    other: (backward ? 8 : 4) * count * classes,
    op: 'crossEntropy',
    args: { rows: count, classes, backward },
    prepare: () => {
      const x = uniform(count, classes).requiresGrad_(backward);
      const target = og.randint(0, classes, [count], { dtype: 'int32' });
      return discard(() => {
        const loss = og.crossEntropy(x, target);
        if (backward) og.gradientsOf(loss, [x]);
      });
    },
  };
}

/** The last layer of a language model with its loss, forward and backward: three products. */
function linearCrossEntropy(count: number, width: number, classes: number): KernelCase {
  return {
    name: 'linearCrossEntropy forward+backward',
    shape: `${count}x${width}x${classes}`,
    unit: 'GFLOP/s',
    amount: 6 * count * width * classes,
    other: 8 * (count + classes) * width,
    op: 'linearCrossEntropy',
    args: { rows: count, width, classes, backward: true },
    prepare: () => {
      const [hidden, weight] = [uniform(count, width).requiresGrad_(), uniform(classes, width).requiresGrad_()];
      const target = og.randint(0, classes, [count], { dtype: 'int32' });
      return discard(() => og.gradientsOf(og.linearCrossEntropy(hidden, weight, target), [hidden, weight]));
    },
  };
}

/** Reads weight, gradient and both moments, writes all but the gradient. */
function adamw(size: number): KernelCase {
  return {
    name: 'adamw',
    shape: String(size),
    unit: 'GB/s',
    amount: 28 * size,
    other: 14 * size,
    op: 'adamw',
    args: { size },
    variants: { torch: ['fused', 'default'] },
    prepare: () => {
      const parameter = uniform(size).requiresGrad_();
      og.backward(parameter, uniform(size));
      const optimizer = new og.optim.AdamW([parameter], { lr: 1e-3 });
      return () => void optimizer.step();
    },
  };
}

/** Norm of the gradients of many parameters. */
function gradNorm(count: number, size: number): KernelCase {
  return {
    name: 'gradNorm',
    shape: `${count} of ${size}`,
    unit: 'GB/s',
    amount: 4 * count * size,
    other: 2 * count * size,
    limit: 'read',
    op: 'gradNorm',
    args: { count, size },
    prepare: () => {
      const parameters = Array.from({ length: count }, () => uniform(size).requiresGrad_());
      for (const parameter of parameters) og.backward(parameter, uniform(size));
      return () => og.optim.gradNorm(parameters).dispose();
    },
  };
}

/** Rows of a table, and the gradient of the table: dense, so that all of it is written. */
function embedding(tokens: number, vocab: number, width: number, backward: boolean): KernelCase {
  return {
    name: `embedding ${backward ? 'backward' : 'forward'}`,
    shape: `${tokens} of ${vocab}x${width}`,
    unit: 'GB/s',
    amount: 4 * width * (backward ? tokens + vocab : 2 * tokens),
    op: 'embedding',
    args: { tokens, vocab, width, backward },
    prepare: () => {
      const table = uniform(vocab, width).requiresGrad_(backward);
      const ids = og.randint(0, vocab, [tokens], { dtype: 'int32' });
      if (!backward) return () => og.embedding(table, ids).dispose();
      const [y, gradient] = [og.embedding(table, ids), uniform(tokens, width)];
      return discard(() => og.gradientsOf(y, [table], { gradOutputs: [gradient], retainGraph: true }));
    },
  };
}

export const trainingCases: readonly KernelCase[] = [
  crossEntropy(256, 50257, false),
  crossEntropy(256, 50257, true),
  linearCrossEntropy(3072, 384, 4096),
  adamw(8 << 20),
  gradNorm(100, 108_000),
  embedding(8192, 50257, 768, false),
  embedding(8192, 50257, 768, true),
];
