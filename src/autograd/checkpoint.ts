/**
 * Activation checkpointing: recomputation instead of saving.
 *
 * @module
 */
import { StateError } from '../errors.js';
import { detach } from '../ops/views.js';
import { noticeDraws, replayDraws, type Draws } from '../tensor/random.js';
import { scope } from '../tensor/scope.js';
import { isGradEnabled, nextNodeId, record, setRecording, withoutRecording, type Node } from '../tensor/tape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { gradients } from './backward.js';

/** What a checkpointed function may give: one tensor, or several. */
export type CheckpointResult = Tensor | readonly Tensor[];

const listOf = (result: CheckpointResult): readonly Tensor[] =>
  Array.isArray(result) ? (result as readonly Tensor[]) : [result as Tensor];

/**
 * Activation checkpointing: computes f(…inputs) without keeping what its gradient needs, and computes it again when the gradient is
 * asked for. Only the inputs are kept. Gradients have the bits that they have without, and so does whatever is drawn at random in
 * `f` (dropout): every stream stands for the second run where it stood for the first.
 *
 * Parameters that `f` reads get their gradients too, and so may the inputs; where neither asks for one, nothing is recorded. Results
 * of recorded calls must be inputs, not read from outside. Checkpoints may be nested. First derivatives only.
 *
 * @param f - gives one tensor or a list of tensors; must compute the same thing when it is called again
 * @throws StateError at `backward`, if `f` reads a recorded result that is not an input, or with `createGraph`
 * @cost the flops of `f` once more in `backward`; while that runs, the memory of one `f`
 * @source Chen et al., arXiv 1604.06174
 * @example
 * ```ts
 * const y = og.checkpoint((x) => block.forward(x), x);
 * ```
 */
export function checkpoint<A extends readonly Tensor[], R extends CheckpointResult>(
  f: (...inputs: A) => R,
  ...inputs: A
): R {
  inputs.forEach((input, i) => checkTensor('checkpoint', `inputs[${i}]`, input));
  if (!isGradEnabled()) return scope(() => f(...inputs));
  const [[result, draws], needed] = withoutRecording(() => noticeDraws(() => scope(() => f(...inputs))));
  if (!needed && !inputs.some((input) => input.requiresGrad)) return result;
  // A node is written to its outputs, so these may be nobody else's.
  const outputs = listOf(result).map((output) =>
    inputs.includes(output) || output.node !== null || output.requiresGrad ? detach(output) : output,
  );
  const node = record('checkpoint', inputs, outputs, inputs, (self, grads) => recompute(self, f, draws, grads));
  node.reachesHiddenLeaves = true;
  return (Array.isArray(result) ? outputs : outputs[0]) as R;
}

/** Runs `f` again, recorded, and takes the gradients through it. */
function recompute<A extends readonly Tensor[]>(
  node: Node,
  f: (...inputs: A) => CheckpointResult,
  draws: Draws,
  grads: readonly (Tensor | null)[],
): (Tensor | null)[] {
  if (isGradEnabled()) {
    throw new StateError({
      op: 'checkpoint',
      expected: 'first derivatives',
      actual: 'createGraph: true',
      hint: 'Compute second derivatives without checkpoint',
    });
  }
  const leaves = node.unpack().map((input, i) => {
    const leaf = detach(input!);
    leaf.requiresGrad = node.needs(i);
    return leaf;
  });
  try {
    const partSince = nextNodeId();
    const again = listOf(recorded(() => scope(() => replayDraws(draws, () => f(...(leaves as unknown as A))))));
    const wanted = leaves.filter((_, i) => node.needs(i));
    const found = gradients('checkpoint', again, wanted, grads, { partSince });
    let next = 0;
    return leaves.map((_, i) => (node.needs(i) ? found[next++]! : null));
  } finally {
    for (const leaf of leaves) leaf.dispose(); // no scope frees what asks for a gradient
  }
}

function recorded<T>(body: () => T): T {
  setRecording(true);
  try {
    return body();
  } finally {
    setRecording(false);
  }
}
