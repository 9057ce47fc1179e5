/**
 * A loss of rows, computed block by block: each block's logits become their gradient before the next block's are made, so that the
 * logits of all rows, the teacher's and the student's, are never held together.
 *
 * @module
 */
import { StateError } from '../../errors.js';
import { enableGrad, gradientsOf, noGrad } from '../../autograd/grad.js';
import { add } from '../../ops/arithmetic.js';
import { copy_, to } from '../../ops/copy.js';
import { timesSaved, wideOf } from '../../ops/cross_entropy.js';
import { detach, narrow } from '../../ops/views.js';
import { empty, zeros } from '../../tensor/create.js';
import { keep, scope } from '../../tensor/scope.js';
import { isGradEnabled, record } from '../../tensor/tape.js';
import type { Tensor } from '../../tensor/tensor.js';

/** Adds the parts of a sum up as they come. */
function addTo(totals: (Tensor | null)[], parts: readonly (Tensor | null)[]): void {
  parts.forEach((part, i) => {
    if (part === null) return;
    const before = totals[i] ?? null;
    totals[i] = keep(before === null ? detach(part) : add(before, part));
    before?.dispose();
  });
}

/**
 * @internal Σ over blocks of `body(rows of the block, first row)`, a scalar. While recording, gradients with respect to the rows and
 * the parameters that `body` uses are ready when the sum is; the graph keeps them and nothing else.
 *
 * @param rows - `[N, D]`
 * @param parameters - those that `body` may use besides; the others get nothing
 * @source as Liger kernel's fused losses, arXiv 2410.10989
 */
export function sumOverBlocks(
  rows: Tensor,
  parameters: readonly Tensor[],
  blockRows: number,
  body: (block: Tensor, begin: number) => Tensor,
): Tensor {
  const count = rows.shape[0]!;
  if (count === 0) return zeros([], { dtype: wideOf(rows.dtype) });
  const block = Math.ceil(count / Math.max(1, Math.ceil(count / blockRows))); // all of about one size
  const recording = isGradEnabled() && [rows, ...parameters].some(({ requiresGrad }) => requiresGrad);
  const [total, grads]: (Tensor | null)[][] = [[null], parameters.map(() => null)];
  const dRows = recording && rows.requiresGrad ? keep(empty(rows.shape, { dtype: rows.dtype })) : null;
  let used = [...parameters.keys()]; // after the first block: those that take part
  for (let begin = 0; begin < count; begin += block) {
    const size = Math.min(block, count - begin);
    scope(() => {
      const part = detach(narrow(detach(rows), 0, begin, size));
      if (!recording) return addTo(total!, [noGrad(() => body(part, begin))]);
      if (dRows !== null) part.requiresGrad = true;
      const value = enableGrad(() => body(part, begin));
      const wanted = [...(dRows === null ? [] : [part]), ...used.map((i) => parameters[i]!)];
      const found = gradientsOf(value, wanted);
      noGrad(() => {
        if (dRows !== null) copy_(narrow(dRows, 0, begin, size), found.shift()!);
        const all = parameters.map((): Tensor | null => null);
        for (const [n, i] of used.entries()) all[i] = found[n]!;
        if (begin === 0) used = used.filter((i) => all[i] !== null);
        addTo(grads!, all);
        addTo(total!, [value]);
      });
      part.dispose();
    });
  }
  const sum = detach(total![0]!); // of the caller's scope
  total![0]!.dispose();
  if (!recording) return sum;
  const inputs = [rows, ...used.map((i) => parameters[i]!)];
  const saved = [dRows, ...used.map((i) => grads![i]!)];
  record('distillationLoss', inputs, [sum], saved, (node, [grad]) => {
    if (isGradEnabled()) {
      const [expected, actual] = ['first derivatives only, since the logits are gone', 'createGraph'];
      throw new StateError({ op: 'distillationLoss', expected, actual, hint: 'Use distillationDivergence on logits' });
    }
    const kept = node.unpack();
    return inputs.map((input, i) => (kept[i] ? to(timesSaved(kept[i], grad!), input.dtype) : null));
  });
  for (const tensor of saved) tensor?.dispose();
  return sum;
}
