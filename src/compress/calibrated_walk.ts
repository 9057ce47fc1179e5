/**
 * Calibrated methods, layer by layer in the order of the calls: each layer's inputs are those that the layers before it, already compressed,
 * give.
 *
 * @module
 */
import { StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import type { Linear } from '../nn/linear.js';
import type { Module } from '../nn/module.js';
import type { Site } from '../nn/surgery.js';
import { all } from '../ops/reduce.js';
import { isFinite } from '../ops/unary.js';
import { synchronize } from '../runtime/backend.js';
import { item } from '../tensor/read.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { blocksOf, walkBlocks } from './block_walk.js';
import type { Calibration } from './calibration.js';
import { observeInputs, type InputStatistics, type ObserveOptions } from './input_statistics.js';

/**
 * Told of layers that share their input, with what was gathered of it; changes or replaces them. `run` calls them with their inputs once
 * more.
 */
export type VisitInputs = (
  sites: readonly Site<Linear>[],
  statistics: InputStatistics,
  run: () => Promise<void>,
) => Promise<void>;

/** @throws StateError naming layers that calibration never reached */
function refuseUnreached(op: string, unreached: readonly Site[]): void {
  if (unreached.length === 0) return;
  throw new StateError({
    op,
    argument: 'calibration',
    expected: 'inputs that reach every layer',
    actual: `${unreached.map(({ path }) => path).join(', ')} never ran`,
    hint: 'Calibrate with other data, or skip the layers with an override',
  });
}

/** Runs the whole model on the calibration inputs. */
export async function runWhole(model: Module, calibration: Calibration): Promise<void> {
  for (const input of calibration) {
    scope(() => noGrad(() => void (model.forward as (x: Tensor) => unknown)(input)));
    await synchronize();
  }
}

/**
 * Looks at all inputs of layers once, before anything is changed.
 *
 * @throws StateError naming layers that never run, or whose inputs are not finite
 */
export async function checkInputs(
  op: string,
  model: Module,
  sites: readonly Site<Linear>[],
  calibration: Calibration,
): Promise<void> {
  const wasTraining = model.training;
  model.eval();
  const { groups, unreached } = await observeInputs(sites, { kinds: ['absMax'] }, () =>
    runWhole(model, calibration),
  ).finally(() => model.train(wasTraining));
  try {
    refuseUnreached(op, unreached);
    for (const { sites: of, statistics } of groups) {
      const finite = scope(() => noGrad(() => all(isFinite(statistics.get('absMax')))));
      const isGood = await item(finite);
      finite.dispose();
      if (isGood) continue;
      const [expected, hint] = ['finite inputs in calibration', 'Look for NaN or infinities in the model or the data'];
      throw new StateError({ op, argument: of[0]!.path, expected, actual: 'NaN or infinities', hint });
    }
  } finally {
    for (const { statistics } of groups) statistics.dispose();
  }
}

/** Layers with one input at a time. */
async function oneByOne(
  op: string,
  sites: readonly Site<Linear>[],
  gathered: ObserveOptions,
  run: () => Promise<void>,
  visit: VisitInputs,
): Promise<void> {
  if (sites.length === 0) return;
  const first = await observeInputs(sites, { kinds: [] }, run);
  for (const { statistics } of first.groups) statistics.dispose();
  refuseUnreached(op, first.unreached);
  for (const group of first.groups) {
    const { groups } = await observeInputs(group.sites, gathered, run);
    try {
      for (const { sites: of, statistics } of groups) await visit(of, statistics, run);
    } finally {
      for (const { statistics } of groups) statistics.dispose();
    }
  }
}

/**
 * Visits layers of a model in the order of their calls, block by block, then those outside of blocks.
 *
 * @throws StateError naming layers that calibration never reached
 */
export async function visitInputs(
  op: string,
  model: Module,
  sites: readonly Site<Linear>[],
  calibration: Calibration,
  gathered: ObserveOptions,
  visit: VisitInputs,
): Promise<void> {
  const isWithin = (prefix: string, path: string): boolean => prefix === '' || path.startsWith(`${prefix}.`);
  const blocks = blocksOf(model).map(([path]) => path);
  for await (const { path: prefix, observe } of walkBlocks(op, model, calibration)) {
    const within = sites.filter(({ path }) => isWithin(prefix, path));
    await oneByOne(op, within, gathered, observe, visit);
  }
  const outside = sites.filter(({ path }) => !blocks.some((prefix) => isWithin(prefix, path)));
  const wasTraining = model.training;
  model.eval();
  await oneByOne(op, outside, gathered, () => runWhole(model, calibration), visit).finally(() =>
    model.train(wasTraining),
  );
}
