/**
 * The gradients of one step: of the batches that are added up, in the arithmetic of the run.
 *
 * @module
 */
import { noGrad } from '../autograd/grad.js';
import { add, div } from '../ops/arithmetic.js';
import { detach } from '../ops/views.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { turn } from '../util/turn.js';
import type { Arithmetic } from './arithmetic.js';
import type { StepWatch } from './profile.js';

/** Where a step's batches and losses come from. */
export interface GradientSource<B> {
  readonly accumulation: number;
  readonly arithmetic: Arithmetic;
  /** Resolves when the next batch can be drawn without waiting. */
  ready(): Promise<void>;
  draw(): B;
  lossOf(batch: B): Tensor;
  countTokens(batch: B): number;
}

/**
 * Queues forward and backward; nothing waits for a kernel, unless the watch does. Each part is synchronous, and each slice of the way
 * back, so that no other code runs inside its scope; the event loop turns between them.
 *
 * @internal
 * @returns the mean loss, not waited for, and the tokens
 */
export async function accumulateGradients<B>(
  source: GradientSource<B>,
  watch: StepWatch,
): Promise<{ readonly loss: Tensor; readonly tokens: number }> {
  const { accumulation, arithmetic } = source;
  let tokens = 0;
  let total: Tensor | null = null;
  arithmetic.refresh();
  for (let i = 0; i < accumulation; i++) {
    const before: Tensor | null = total;
    await source.ready();
    const part = scope(() => {
      const batch = watch.data(() => source.draw());
      tokens += source.countTokens(batch);
      return watch.part(() => div(source.lossOf(batch), accumulation));
    });
    await watch.border('forward');
    await arithmetic.backward(part, { run: (slice) => watch.part(slice), turn });
    total = scope(() => noGrad(() => (before === null ? detach(part) : add(before, part))));
    before?.dispose();
    part.dispose();
    await watch.border('backward');
  }
  return { loss: total!, tokens };
}
