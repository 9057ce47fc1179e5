/**
 * Where numbers ceased to be finite: the batch again, with a look at what each module gives.
 *
 * @module
 */
import { OmniError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { formatIndices, type DataLoader, type DrawnBatch, type LoaderState } from '../data/loader.js';
import type { Module } from '../nn/module.js';
import { to } from '../ops/copy.js';
import { mean } from '../ops/reduce.js';
import { clamp, isFinite, logicalNot } from '../ops/unary.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { defaultGenerator, type GeneratorState } from '../tensor/random.js';
import { item } from '../tensor/read.js';
import { keep, scope, tensorsIn } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import type { LossFunction } from './loss.js';
import { DivergenceError } from './loss_spikes.js';

/** A tensor with numbers that are not finite. */
export interface NonFiniteTensor {
  /** Path of the parameter, or field of the batch. */
  readonly name: string;
  readonly dtype: DType;
  /** Share of its values that are NaN or infinite, in (0, 1]. */
  readonly share: number;
}

/** What a module gave. */
export interface ModuleOutput {
  /** Path of the module in the model; empty for the model itself. */
  readonly path: string;
  /** Name of its class. */
  readonly type: string;
  readonly dtype: DType;
  /** Share of the values of its output that are NaN or infinite, in (0, 1]. */
  readonly share: number;
  /** Whether all its inputs were finite: then it is where they arose. */
  readonly inputsFinite: boolean;
}

/** What a {@link NonFiniteError} knows. */
export interface NonFiniteFields {
  /** Step that could not be taken, from 1. */
  readonly step: number;
  readonly loss: number;
  readonly gradNorm: number;
  readonly epoch: number;
  /** Examples of each batch of the step (one, unless gradients are accumulated). */
  readonly batches: readonly (readonly number[])[];
  /** Index into `batches` of the first whose forward pass is not finite; null if all are. */
  readonly batch: number | null;
  /** First module, in the order of the forward pass, whose output is not finite; null if there is none. */
  readonly module: ModuleOutput | null;
  /** Parameters that hold such numbers before the step. */
  readonly weights: readonly NonFiniteTensor[];
  /** Parameters whose gradients do. */
  readonly gradients: readonly NonFiniteTensor[];
  /** Fields of the batch that do. */
  readonly inputs: readonly NonFiniteTensor[];
  /** The last good checkpoint, if the run keeps any. */
  readonly checkpoint: string | null;
}

const percent = (share: number): string => `${Number((share * 100).toPrecision(3))} %`;
const describeTensors = (list: readonly NonFiniteTensor[]): string =>
  list.slice(0, 4).map(({ name, dtype, share }) => `${name} (${dtype}, ${percent(share)})`).join(', ') +
  (list.length > 4 ? `, … (${list.length})` : ''); // prettier-ignore

function describeCause({ module, weights, gradients, inputs }: NonFiniteFields): string {
  if (weights.length > 0) return `weights were not finite before the step: ${describeTensors(weights)}`;
  if (inputs.length > 0) return `the batch itself is not finite: ${describeTensors(inputs)}`;
  if (module !== null) {
    const where = module.path === '' ? 'the model' : `module ${module.path}`;
    const from = module.inputsFinite ? 'from finite inputs' : 'from inputs that are not finite, either';
    return `first in ${where} (${module.type}): ${percent(module.share)} of its ${module.dtype} output, ${from}`;
  }
  if (gradients.length > 0) return `the forward pass is finite, gradients are not: ${describeTensors(gradients)}`;
  return 'all modules give finite numbers when the batch is run again: the loss function itself, or something that is not reproducible';
}

/**
 * A loss or gradient that is NaN or infinite, and where it came from. The weights are those before the step: nothing was updated.
 * `code` is `OG_STATE`.
 */
export class NonFiniteError extends StateError implements NonFiniteFields {
  readonly step: number;
  readonly loss: number;
  readonly gradNorm: number;
  readonly epoch: number;
  readonly batches: readonly (readonly number[])[];
  readonly batch: number | null;
  readonly module: ModuleOutput | null;
  readonly weights: readonly NonFiniteTensor[];
  readonly gradients: readonly NonFiniteTensor[];
  readonly inputs: readonly NonFiniteTensor[];
  readonly checkpoint: string | null;

  constructor(fields: NonFiniteFields) {
    const { step, loss, gradNorm, epoch, batches, batch, checkpoint } = fields;
    const what = Number.isFinite(loss) ? `a gradient norm of ${gradNorm}` : `a loss of ${loss}`;
    const examples = formatIndices(batch === null ? batches.flat() : batches[batch]!);
    super({
      op: 'Trainer',
      expected: 'a finite loss and gradient',
      actual: `${what} at step ${step} (examples ${examples} of epoch ${epoch}); ${describeCause(fields)}`,
      hint: `Lower the learning rate, set clipGradNorm, or look at these examples; no weight was changed by this step${checkpoint === null ? '' : `, and the last good checkpoint is ${checkpoint}`}`,
    });
    this.step = step;
    this.loss = loss;
    this.gradNorm = gradNorm;
    this.epoch = epoch;
    this.batches = batches;
    this.batch = batch;
    this.module = fields.module;
    this.weights = fields.weights;
    this.gradients = fields.gradients;
    this.inputs = fields.inputs;
    this.checkpoint = checkpoint;
  }
}

/** Share of values that are not finite, as a tensor that no scope frees; null for integers and empty tensors. */
function shareOf(value: Tensor): Tensor | null {
  if (!isFloating(value.dtype) || value.size === 0) return null;
  return scope(() => noGrad(() => keep(mean(to(logicalNot(isFinite(value)), 'float64')))));
}

/** {@link shareOf} what was given, where −∞ may be a mask's. */
function shareOfInput(value: Tensor): Tensor | null {
  if (!isFloating(value.dtype)) return null;
  return scope(() => noGrad(() => shareOf(clamp(value, -1, Infinity))));
}

async function take(share: Tensor | null): Promise<number> {
  return share === null ? 0 : item(share).finally(() => share.dispose());
}

/** Those of some tensors that hold NaN or infinities. */
async function findNonFinite(
  tensors: Iterable<readonly [string, Tensor]>,
  measure: (value: Tensor) => Tensor | null = shareOf,
): Promise<NonFiniteTensor[]> {
  const shares = [...tensors].map(([name, value]) => ({ name, dtype: value.dtype, share: measure(value) }));
  const found: NonFiniteTensor[] = [];
  for (const { name, dtype, share } of shares) {
    const value = await take(share);
    if (value > 0) found.push({ name, dtype, share: value });
  }
  return found;
}

interface Seen {
  readonly path: string;
  readonly type: string;
  readonly outputs: readonly { readonly dtype: DType; readonly share: Tensor | null }[];
  readonly inputs: readonly (Tensor | null)[];
}

/** Runs `forward` once and finds the first module, in the order in which they return, with an output that is not finite. */
async function firstNonFinite(model: Module, forward: () => void): Promise<ModuleOutput | null> {
  const seen: Seen[] = [];
  const removers = [...model.namedModules()].map(([path, module]) =>
    module.registerForwardHook((_, inputs, output) => {
      const outputs = [...tensorsIn(output)].map((value) => ({ dtype: value.dtype, share: shareOf(value) }));
      seen.push({ path, type: module.constructor.name, outputs, inputs: [...tensorsIn(inputs)].map(shareOfInput) });
    }),
  );
  try {
    forward();
  } finally {
    for (const remove of removers) remove();
  }
  let first: ModuleOutput | null = null;
  for (const { path, type, outputs, inputs } of seen) {
    let inputsFinite = true;
    for (const share of inputs) if ((await take(share)) > 0) inputsFinite = false;
    for (const { dtype, share } of outputs) {
      const value = await take(share);
      if (value > 0) first ??= { path, type, dtype, share: value, inputsFinite };
    }
  }
  return first;
}

/** Floating-point tensors of a batch by field. */
function fieldsOf(batch: unknown): [string, Tensor][] {
  const isRecord = typeof batch === 'object' && batch !== null && Object.getPrototypeOf(batch) === Object.prototype;
  const parts = isRecord ? Object.entries(batch) : [['batch', batch] as const];
  return parts.flatMap(([name, part]) => [...tensorsIn(part)].map((value): [string, Tensor] => [name, value]));
}

/** Where the run stood before a step. */
export interface StepStart {
  readonly loader: LoaderState;
  readonly generator: GeneratorState;
}

/** @internal What {@link explainNonFinite} is given. */
export interface FailedStep<M extends Module, B> {
  readonly model: M;
  readonly loader: DataLoader<B>;
  readonly accumulation: number;
  readonly loss: LossFunction<M, B>;
  readonly start: StepStart;
  readonly draw: () => B;
  readonly step: number;
  readonly values: { readonly loss: number; readonly gradNorm: number };
  readonly checkpoint: string | null;
}

/**
 * Runs the batches of a step again from where it began, with hooks on all modules. Weights, gradients, the loader's place and the random
 * stream are afterwards as they were before the step.
 *
 * @internal
 */
export async function explainNonFinite<M extends Module, B>(failed: FailedStep<M, B>): Promise<NonFiniteError> {
  const { model, loader, start } = failed;
  const named = model.namedParameters();
  const weights = await findNonFinite(named);
  const gradients = await findNonFinite(
    named.flatMap(([name, { grad }]) => (grad === null ? [] : [[name, grad] as const])),
  );
  const batches: (readonly number[])[] = [];
  const inputs: NonFiniteTensor[] = [];
  let [module, culprit]: [ModuleOutput | null, number | null] = [null, null];
  loader.state = start.loader;
  defaultGenerator().state = start.generator;
  let epoch = start.loader.epoch;
  try {
    for (let i = 0; i < failed.accumulation; i++) {
      // `draw` may leave batches out; the loader says where it stood only afterwards.
      const drawn: { indices: readonly number[]; batch: B } = scope(() => {
        const batch = failed.draw();
        return { indices: loader.last?.indices ?? [], batch };
      });
      epoch = loader.last?.epoch ?? epoch;
      batches.push(drawn.indices);
      const bad = await findNonFinite(fieldsOf(drawn.batch), shareOfInput);
      let lossShare: Tensor | null = null;
      const first = await firstNonFinite(model, () =>
        scope(() => void (lossShare = shareOf(failed.loss(model, drawn.batch)))),
      );
      const lossIsBad = (await take(lossShare)) > 0;
      if (culprit === null && (bad.length > 0 || first !== null || lossIsBad)) {
        [module, culprit] = [first, i];
        inputs.push(...bad);
      }
    }
  } finally {
    loader.state = start.loader;
    defaultGenerator().state = start.generator;
  }
  const { step, values, checkpoint } = failed;
  return new NonFiniteError({
    step,
    ...values,
    epoch,
    batches,
    batch: culprit,
    module,
    weights,
    gradients,
    inputs,
    checkpoint,
  });
}

/**
 * Says in an error at which step and examples it arose, if it is one of this library's that does not say so itself.
 *
 * @internal
 */
export function addPlace(error: unknown, step: number, drawn: DrawnBatch | null): void {
  const says = error instanceof NonFiniteError || error instanceof DivergenceError;
  if (!(error instanceof OmniError) || says || error.op === 'DataLoader' || drawn === null) return;
  const { message } = error;
  error.message = `${message} (step ${step}, examples ${formatIndices(drawn.indices)} of epoch ${drawn.epoch})`;
  if (error.stack !== undefined) error.stack = error.stack.replace(message, () => error.message);
}

/** Weights that a checkpoint must not hold. `code` is `OG_STATE`. */
export class NonFiniteWeightsError extends StateError {
  /** Steps done. */
  readonly step: number;
  readonly weights: readonly NonFiniteTensor[];
  /** The last good checkpoint, if there is one. */
  readonly checkpoint: string | null;

  constructor(step: number, weights: readonly NonFiniteTensor[], checkpoint: string | null) {
    super({
      op: 'Trainer',
      expected: 'finite weights to save',
      actual: `after step ${step} these are not: ${describeTensors(weights)}`,
      hint: `Lower the learning rate or set clipGradNorm; nothing was saved${checkpoint === null ? '' : `, and the last good checkpoint is ${checkpoint}`}`,
    });
    this.step = step;
    this.weights = weights;
    this.checkpoint = checkpoint;
  }
}

/**
 * Throws if weights that are about to be saved are not finite.
 *
 * @internal
 * @throws NonFiniteWeightsError naming them
 */
export async function checkWeights(model: Module, step: number, checkpoint: string | null): Promise<void> {
  const weights = await findNonFinite(model.namedParameters());
  if (weights.length === 0) return;
  throw new NonFiniteWeightsError(step, weights, checkpoint);
}
