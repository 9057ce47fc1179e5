/**
 * What heads, neurons and layers are worth.
 *
 * @module
 */
import { AttributeError, StateError } from '../../../errors.js';
import { gradientsOf, noGrad } from '../../../autograd/grad.js';
import type { Module } from '../../../nn/module.js';
import { add, mul } from '../../../ops/arithmetic.js';
import { to } from '../../../ops/copy.js';
import { cosineSimilarity } from '../../../ops/losses.js';
import { sum } from '../../../ops/reduce.js';
import { abs, sqrt, square } from '../../../ops/unary.js';
import { detach, reshape } from '../../../ops/views.js';
import { synchronize } from '../../../runtime/backend.js';
import { data } from '../../../tensor/read.js';
import { keep, scope } from '../../../tensor/scope.js';
import { Tensor } from '../../../tensor/tensor.js';
import { checkOneOf } from '../../../util/assert.js';
import { blocksOf } from '../../block_walk.js';
import { checkCalibration, type Calibration } from '../../calibration.js';
import { runWhole } from '../../calibrated_walk.js';
import { observeInputs } from '../../input_statistics.js';
import { unitSites, type UnitKind, type UnitSite } from './units.js';

/**
 * How units are judged. `magnitude`: the L2 norm of all weights that write or read a unit. `activation`: the L2 norm, over the calibration
 * tokens, of what a unit gives to the layer that reads it (Minitron, Muralidharan et al. 2024, arXiv 2407.14679). `taylor`: |∂L/∂g|, the
 * first-order change of the loss when the unit's gate g goes from 1 to 0, which is |Σ w·∂L/∂w| over the weights that read it; its mean over
 * batches (Molchanov et al. 2019, arXiv 1906.10771; for heads Michel et al. 2019, arXiv 1905.10650).
 */
export type UnitImportance = 'magnitude' | 'activation' | 'taylor';
/** @internal Every {@link UnitImportance}. */
export const unitImportances: readonly UnitImportance[] = ['magnitude', 'activation', 'taylor'];

/** What judging takes beside the model. */
export interface ImportanceData<M extends Module = Module, B = { readonly x: Tensor; readonly y: Tensor }> {
  /** Inputs, for `activation`. */
  readonly calibration?: Calibration;
  /** Batches, for `taylor`. */
  readonly batches?: readonly B[];
  /** Loss on a batch, for `taylor`. Default: model.loss(x, y). */
  readonly loss?: (model: M, batch: B) => Tensor;
}

/** Sums over the `per` neighbours of each unit: `[units · per]` → `[units]`. */
const perUnit = (values: Tensor, per: number): Tensor => sum(reshape(values, [values.size / per, per]), 1);

function magnitudes({ writers, reader }: UnitSite): Tensor {
  const squares = (weight: Tensor, axis: number): Tensor => sum(square(to(detach(weight), 'float32')), axis);
  const parts = writers.map(({ site, rows }) => perUnit(squares(site.layer.weight, 1), rows));
  parts.push(perUnit(squares(reader.site.layer.weight, 0), reader.columns));
  return sqrt(parts.reduce((a, b) => add(a, b)));
}

async function byActivation(op: string, model: Module, sites: readonly UnitSite[], calibration: Calibration) {
  const readers = sites.map(({ reader }) => reader.site);
  const { groups, unreached } = await observeInputs(readers, { kinds: ['squareSum'] }, () =>
    runWhole(model, calibration),
  );
  try {
    if (unreached.length > 0) {
      const actual = `${unreached.map(({ path }) => path).join(', ')} never ran`;
      throw new StateError({ op, argument: 'calibration', expected: 'inputs that reach every layer', actual });
    }
    return sites.map(({ reader }) => {
      const { statistics } = groups.find(({ sites: of }) => of.includes(reader.site))!;
      return keep(scope(() => noGrad(() => sqrt(perUnit(statistics.get('squareSum'), reader.columns)))));
    });
  } finally {
    for (const { statistics } of groups) statistics.dispose();
  }
}

async function byTaylor<M extends Module, B>(
  op: string,
  model: M,
  sites: readonly UnitSite[],
  batches: readonly B[],
  lossOf: (model: M, batch: B) => Tensor,
): Promise<Tensor[]> {
  const weights = sites.map(({ reader }) => reader.site.layer.weight);
  const flags = model.parameters().map((parameter) => [parameter, parameter.requiresGrad] as const);
  let totals: Tensor[] = [];
  for (const [parameter] of flags) parameter.requiresGrad = weights.includes(parameter); // no other gradient is wanted
  try {
    for (const batch of batches) {
      const before = totals;
      totals = scope(() => {
        const loss = lossOf(model, batch);
        if (!(loss instanceof Tensor) || loss.size !== 1) {
          const actual = loss instanceof Tensor ? `shape [${loss.shape.join(', ')}]` : 'something else';
          throw new AttributeError({ op, argument: 'loss', expected: 'a loss that is a scalar tensor', actual });
        }
        const grads = gradientsOf(loss, weights);
        return noGrad(() =>
          grads.map((grad, i) => {
            if (grad === null) {
              const actual = `it does not depend on ${sites[i]!.reader.site.path}`;
              throw new StateError({ op, argument: 'loss', expected: 'a loss of the whole model', actual });
            }
            const gates = sum(mul(to(detach(weights[i]!), 'float32'), to(grad, 'float32')), 0);
            const found = abs(perUnit(gates, sites[i]!.reader.columns));
            return keep(before[i] === undefined ? found : add(before[i], found));
          }),
        );
      });
      for (const tensor of before) tensor.dispose();
      await synchronize();
    }
    return scope(() => noGrad(() => totals.map((total) => keep(mul(total, 1 / batches.length)))));
  } finally {
    for (const tensor of totals) tensor.dispose();
    for (const [parameter, requiresGrad] of flags) parameter.requiresGrad = requiresGrad;
  }
}

/** @internal What `by` needs is there. @throws AttributeError otherwise */
export function checkImportance<M extends Module, B>(
  op: string,
  model: M,
  by: UnitImportance,
  given: ImportanceData<M, B>,
): void {
  checkOneOf(op, 'importance', by, unitImportances);
  if (by === 'activation') checkCalibration(op, given.calibration);
  if (by !== 'taylor') return;
  if (!Array.isArray(given.batches) || given.batches.length === 0) {
    const [expected, actual] = ['at least one batch for taylor', 'none'];
    throw new AttributeError({ op, argument: 'batches', expected, actual });
  }
  if (given.loss === undefined && typeof (model as { loss?: unknown }).loss !== 'function') {
    const [expected, actual] = ['a loss, or a model with loss(x, y)', 'neither'];
    throw new AttributeError({ op, argument: 'loss', expected, actual });
  }
}

/**
 * Importance of every unit of a model, by the path of the module (`blocks.0.attention`, `blocks.0.mlp`).
 *
 * @throws AttributeError if the model has no such units, or what `by` needs is missing
 * @throws StateError if a layer is quantised or an adapter, or the importance is not finite
 */
export async function unitImportance<M extends Module, B = { readonly x: Tensor; readonly y: Tensor }>(
  model: M,
  kind: UnitKind,
  by: UnitImportance,
  given: ImportanceData<M, B> = {},
): Promise<Map<string, Float64Array>> {
  const op = 'unitImportance';
  checkOneOf(op, 'kind', kind, ['heads', 'neurons']);
  checkImportance(op, model, by, given);
  const sites = unitSites(op, model, kind);
  const wasTraining = model.training;
  model.eval();
  let scores: Tensor[];
  try {
    if (by === 'activation') scores = await byActivation(op, model, sites, given.calibration!);
    else if (by === 'taylor') {
      type Trainable = { loss(x: Tensor, y: Tensor): Tensor };
      type Pair = { readonly x: Tensor; readonly y: Tensor };
      const own = (of: M, batch: B): Tensor =>
        (of as unknown as Trainable).loss((batch as unknown as Pair).x, (batch as unknown as Pair).y);
      scores = await byTaylor(op, model, sites, given.batches!, given.loss ?? own);
    } else scores = scope(() => noGrad(() => sites.map((site) => keep(magnitudes(site)))));
  } finally {
    model.train(wasTraining);
  }
  const result = new Map<string, Float64Array>();
  for (const [i, { path }] of sites.entries()) {
    const values = Float64Array.from((await data(scores[i]!)) as Float32Array);
    scores[i]!.dispose();
    if (!values.every((value) => Number.isFinite(value))) {
      const [expected, hint] = ['finite importance', 'Look for NaN or infinities in the model or the data'];
      throw new StateError({ op, argument: path, expected, actual: 'NaN or infinities', hint });
    }
    result.set(path, values);
  }
  return result;
}

/**
 * Block influence: 1 − the mean cosine of a block's input and output over all calibration tokens, for each block. What changes its
 * input least matters least.
 *
 * @throws AttributeError if there is no calibration
 * @throws StateError if a value is not finite
 * @source ShortGPT, Men et al. 2024, arXiv 2403.03853, equation 1
 */
export async function layerImportance(model: Module, calibration: Calibration): Promise<number[]> {
  const op = 'layerImportance';
  checkCalibration(op, calibration);
  const blocks = blocksOf(model);
  const totals: (Tensor | undefined)[] = blocks.map(() => undefined);
  const tokens = blocks.map(() => 0);
  const removers = blocks.map(([, block], i) =>
    block.registerForwardHook((_module, [input], output) => {
      if (!(input instanceof Tensor) || !(output instanceof Tensor)) return;
      const before = totals[i];
      totals[i] = scope(() =>
        noGrad(() => {
          const cosines = cosineSimilarity(to(detach(input), 'float32'), to(detach(output), 'float32'));
          tokens[i]! += cosines.size;
          const total = sum(cosines);
          return keep(before === undefined ? total : add(before, total));
        }),
      );
      before?.dispose();
    }),
  );
  const wasTraining = model.training;
  model.eval();
  try {
    await runWhole(model, calibration);
    const found: number[] = [];
    for (const [i, total] of totals.entries()) {
      const value = total === undefined ? NaN : 1 - Number((await data(total))[0]) / tokens[i]!;
      if (!Number.isFinite(value)) {
        const [path] = blocks[i]!;
        const actual = total === undefined ? 'a block that never runs' : 'NaN or infinities';
        throw new StateError({ op, argument: path, expected: 'finite inputs and outputs', actual });
      }
      found.push(value);
    }
    return found;
  } finally {
    model.train(wasTraining);
    for (const remove of removers) remove();
    for (const total of totals) total?.dispose();
  }
}
