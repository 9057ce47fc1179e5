/**
 * What trying something out changes, taken note of and put back bit for bit.
 *
 * @module
 */
import { noGrad } from '../autograd/grad.js';
import type { DataLoader } from '../data/loader.js';
import type { Module } from '../nn/module.js';
import { clone, copy_ } from '../ops/copy.js';
import type { EMA } from '../optim/ema.js';
import type { OptimizerOptions } from '../optim/groups.js';
import type { Optimizer } from '../optim/optimizer.js';
import { defaultGenerator } from '../tensor/random.js';
import { keep } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';

/** Notes the values of tensors; the function that puts them back frees the notes. */
function snapshotValues(tensors: readonly Tensor[]): () => void {
  const values = noGrad(() => tensors.map((tensor) => keep(clone(tensor))));
  return () => {
    noGrad(() => tensors.forEach((tensor, i) => copy_(tensor, values[i]!)));
    for (const value of values) value.dispose();
  };
}

/**
 * @internal Notes what forward, backward and steps on a model change: buffers, gradients (none are left meanwhile), modes, the shared
 * random stream, and the parameters unless they stay as they are. Returns what puts everything back.
 */
export function snapshotModel(model: Module, options: { readonly parameters?: boolean } = {}): () => void {
  const parameters = model.namedParameters().map(([, tensor]) => tensor);
  const buffers = model.namedBuffers().map(([, tensor]) => tensor);
  const restoreValues = snapshotValues((options.parameters ?? true) ? [...parameters, ...buffers] : buffers);
  const grads = parameters.map((tensor) => tensor.grad);
  const modes = [...model.namedModules()].map(([, module]) => [module, module.training] as const);
  const generator = defaultGenerator().state;
  for (const tensor of parameters) tensor.grad = null;
  return () => {
    restoreValues();
    parameters.forEach((tensor, i) => {
      tensor.grad?.dispose();
      tensor.grad = grads[i]!;
    });
    for (const [module, training] of modes) module.training = training;
    defaultGenerator().state = generator;
  };
}

/** Parts of a run that its steps change. */
export interface RunParts<B> {
  readonly model: Module;
  readonly optimizer: Optimizer<OptimizerOptions>;
  readonly ema: EMA | null;
  readonly loader: DataLoader<B>;
  /** Of the arithmetic. */
  readonly arithmetic: { state: object };
}

/** @internal Notes everything that steps of a run change. Returns what puts it back. */
export function snapshotRun<B>({ model, optimizer, ema, loader, arithmetic }: RunParts<B>): () => void {
  const restoreModel = snapshotModel(model);
  const state = optimizer.stateDict();
  const saved = noGrad(() =>
    Object.entries(state.tensors).map(([name, tensor]) => [name, keep(clone(tensor))] as const),
  );
  for (const tensor of Object.values(state.tensors)) tensor.dispose();
  const averages = Object.values(ema?.stateDict() ?? {});
  const restoreAverages = snapshotValues(averages);
  const [place, scale] = [loader.state, arithmetic.state];
  return () => {
    restoreModel();
    optimizer.loadStateDict({ ...state, tensors: Object.fromEntries(saved) });
    for (const [, tensor] of saved) tensor.dispose();
    restoreAverages();
    for (const tensor of averages) tensor.dispose();
    loader.state = place;
    arithmetic.state = scale;
  };
}
