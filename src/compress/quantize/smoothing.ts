/**
 * Moving the difficulty of quantising between activations and weights: (x / s)·(W·s)ᵀ = x·Wᵀ for any s > 0 of the inputs.
 *
 * @module
 */
import { noGrad } from '../../autograd/grad.js';
import { TransformerBlock } from '../../nn/block.js';
import type { Linear } from '../../nn/linear.js';
import type { Module } from '../../nn/module.js';
import type { LayerNorm, RMSNorm } from '../../nn/norm.js';
import type { Site } from '../../nn/surgery.js';
import { add, div, maximum, mul, sub } from '../../ops/arithmetic.js';
import { copy_, to } from '../../ops/copy.js';
import { eq } from '../../ops/comparison.js';
import { matmul } from '../../ops/matmul.js';
import { pow } from '../../ops/power.js';
import { amax, amin, sum } from '../../ops/reduce.js';
import { abs, sqrt } from '../../ops/unary.js';
import { detach, unsqueeze } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { ones } from '../../tensor/create.js';
import { item } from '../../tensor/read.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';

/** Powers of the activations' size that AWQ tries: 0 (nothing moves) to just below 1. */
const AWQ_STEPS = 20;
/** Scales are not pulled below this, so that channels that hardly speak stay numbers. */
const LEAST = 1e-4;

/** Largest magnitude of each input's weights over several layers `[in]`. */
function largestWeights(weights: readonly Tensor[]): Tensor {
  return weights.map((weight) => amax(abs(to(detach(weight), 'float32')), 0)).reduce((a, b) => maximum(a, b));
}

/** 1 where a channel has nothing to say, or its scale would not be a number. */
function tamed(scales: Tensor, speaks: Tensor): Tensor {
  return where(eq(speaks, 0), 1, maximum(scales, LEAST));
}

/**
 * SmoothQuant's scales (Xiao et al. 2023, arXiv 2211.10438, eq. 4): sⱼ = max|Xⱼ|^α / max|Wⱼ|^(1−α), over all layers that share
 * the input. Channels that are always 0, in X or in W, keep 1.
 *
 * @param absMax - largest magnitude of each input `[in]`
 */
export function smoothQuantScales(weights: readonly Tensor[], absMax: Tensor, alpha: number): Tensor {
  return scope(() =>
    noGrad(() => {
      const largest = largestWeights(weights);
      return tamed(div(pow(absMax, alpha), pow(maximum(largest, LEAST * 0.1), 1 - alpha)), mul(absMax, largest));
    }),
  );
}

/** Codes of a weight, as the numbers that they stand for. */
export type Rounding = (weight: Tensor) => Tensor;

/**
 * AWQ's scales (Lin et al. 2024, arXiv 2306.00978, eq. 5): s = mean|X|^α, divided by √(max s · min s), with the α in [0, 1) that
 * loses least of the layers' outputs, Σ‖X·(W − round(W·s)/s)ᵀ‖² over the layers that share the input.
 *
 * @param absMean - mean magnitude of each input `[in]`
 * @param gram - XᵀX `[in, in]`
 * @returns the scales, α, and the output error that they leave
 */
export async function awqScales(
  weights: readonly Tensor[],
  absMean: Tensor,
  gram: Tensor,
  rounding: Rounding,
): Promise<{ readonly scales: Tensor; readonly alpha: number; readonly error: number }> {
  const lossOf = (scales: Tensor): Tensor =>
    weights
      .map((weight) => {
        const plain = to(detach(weight), 'float32');
        const lost = sub(plain, div(rounding(mul(plain, scales)), scales));
        return sum(mul(matmul(lost, gram), lost));
      })
      .reduce((a, b) => add(a, b));
  let best: { scales: Tensor; alpha: number; error: number } | null = null;
  for (let step = 0; step < AWQ_STEPS; step++) {
    const alpha = step / AWQ_STEPS;
    const [scales, loss] = scope(() =>
      noGrad(() => {
        const raw = maximum(pow(absMean, alpha), LEAST);
        const centred = step === 0 ? ones(absMean.shape) : div(raw, sqrt(mul(amax(raw), amin(raw))));
        const made = tamed(centred, absMean);
        return [made, lossOf(made)] as const;
      }),
    );
    const error = (await item(loss)) as number;
    loss.dispose();
    if (best === null || error < best.error) {
      best?.scales.dispose();
      best = { scales, alpha, error };
    } else scales.dispose();
  }
  return best!;
}

/** The norm whose output is what these layers, and no others, take in; null if it is not known. */
function normBefore(model: Module, sites: readonly Site<Linear>[]): LayerNorm | RMSNorm | null {
  const layers = new Set<Module>(sites.map(({ layer }) => layer));
  for (const [, block] of model.namedModules()) {
    if (!(block instanceof TransformerBlock)) continue;
    const { attention, mlp } = block;
    const takers: [LayerNorm | RMSNorm, (Module | null)[]][] = [
      [block.attentionNorm, [attention.q, attention.k, attention.v]],
      [block.mlpNorm, [mlp.up, mlp.gate]],
    ];
    for (const [norm, all] of takers) {
      const present = all.filter((module) => module !== null);
      if (present.length !== layers.size || !present.every((module) => layers.has(module))) continue;
      return norm.weight === null ? null : norm;
    }
  }
  return null;
}

/**
 * Multiplies the weights by the scales of their inputs, in place, and divides the inputs: in the norm before, where its output goes
 * to these layers alone, else by what is returned, which the layers must multiply in.
 *
 * @returns the factor 1/s that is left to the layers, or null
 */
export function applyScales(model: Module, sites: readonly Site<Linear>[], scales: Tensor): Tensor | null {
  return scope(() =>
    noGrad(() => {
      const overwrite = (target: Tensor, value: Tensor): void => void copy_(detach(target), to(value, target.dtype));
      for (const { layer } of sites) overwrite(layer.weight, mul(layer.weight, unsqueeze(scales, 0)));
      const norm = normBefore(model, sites);
      if (norm === null) return keep(div(1, scales));
      overwrite(norm.weight!, div(norm.weight!, scales));
      const bias = (norm as Partial<LayerNorm>).bias ?? null;
      if (bias !== null) overwrite(bias, div(bias, scales));
      return null;
    }),
  );
}
