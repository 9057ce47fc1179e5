/**
 * Walking a model block by block, as one-shot methods need it: the inputs of each block are those that the blocks before it, already
 * compressed, give ("true sequential" in GPTQ's words, arXiv 2210.17323, section 4).
 *
 * @module
 */
import { setImmediate } from 'node:timers/promises';
import { AttributeError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { Module } from '../nn/module.js';
import { synchronize } from '../runtime/backend.js';
import { keep, scope } from '../tensor/scope.js';
import { Tensor } from '../tensor/tensor.js';
import type { Calibration } from './calibration.js';

/** Thrown by the hook on the first block: its inputs are known, the rest of the pass is not needed. */
const reached = Symbol('first block reached');

type Inputs = unknown[];

/** Calls `visit` for every tensor in a call's inputs, in lists and plain objects as well. */
function visitTensors(value: unknown, visit: (tensor: Tensor) => void): void {
  if (value instanceof Tensor) visit(value);
  else if (Array.isArray(value)) for (const item of value) visitTensors(item, visit);
  else if (value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) visitTensors(item, visit);
  }
}

/**
 * The blocks of a model: the longest list of modules of one class among its direct parts (`blocks` of GPT), in order, by path. A
 * model without such a list is its own only block, under the path ''.
 */
export function blocksOf(model: Module): [path: string, block: Module][] {
  const lists = Object.entries(model as unknown as Record<string, unknown>).flatMap(([key, value]) => {
    if (!Array.isArray(value) || value.length === 0 || !value.every((item) => item instanceof Module)) return [];
    const alike = value.every((item) => (item as Module).constructor === (value[0] as Module).constructor);
    return alike ? [value.map((item, i): [string, Module] => [`${key}.${i}`, item as Module])] : [];
  });
  return lists.sort((a, b) => b.length - a.length)[0] ?? [['', model]];
}

/** One block of a walk, with the inputs that it gets. */
export interface BlockStep {
  readonly path: string;
  readonly block: Module;
  readonly index: number;
  readonly count: number;
  /** Runs the block on all inputs, so that hooks on its layers see theirs. What it returns is dropped. */
  observe(): Promise<void>;
}

/** What the model calls its first block with, for each input. */
async function firstInputs(
  op: string,
  model: Module,
  block: Module,
  calibration: Calibration,
  made: Set<Tensor>,
): Promise<Inputs[]> {
  if (block === model) return calibration.map((input) => [input]);
  const captured: Inputs[] = [];
  const remove = block.registerForwardPreHook((_module, inputs) => {
    visitTensors(inputs, (tensor) => {
      if (tensor.owner !== null) made.add(keep(tensor)); // made in this pass; others belong to the model
    });
    captured.push([...inputs]);
    throw reached;
  });
  try {
    for (const input of calibration) {
      try {
        scope(() => noGrad(() => void (model.forward as (x: Tensor) => unknown)(input)));
      } catch (error) {
        if (error !== reached) throw error;
        await setImmediate();
        continue;
      }
      const [expected, actual] = ['a model whose forward calls its blocks', 'one that does not'];
      throw new StateError({ op, argument: 'model', expected, actual });
    }
  } finally {
    remove();
  }
  return captured;
}

/**
 * Yields each block of the model in order. After the caller is done with one, it is run once more and what it gives now becomes
 * the next block's input. The model is put into evaluation mode meanwhile; nothing is recorded.
 *
 * @throws AttributeError if a block does not return a tensor
 */
export async function* walkBlocks(
  op: string,
  model: Module,
  calibration: Calibration,
): AsyncGenerator<BlockStep, void, undefined> {
  const wasTraining = model.training;
  model.eval();
  const blocks = blocksOf(model);
  let inputs: Inputs[] = [];
  const made = new Set<Tensor>();
  try {
    inputs = await firstInputs(op, model, blocks[0]![1], calibration, made);
    for (const [index, [path, block]] of blocks.entries()) {
      const call = (given: Inputs): unknown => (block.forward as (...inputs: unknown[]) => unknown)(...given);
      const observe = async (): Promise<void> => {
        for (const given of inputs) {
          scope(() => noGrad(() => void call(given)));
          await synchronize();
        }
      };
      yield { path, block, index, count: blocks.length, observe };
      if (index === blocks.length - 1) break;
      for (const given of inputs) {
        const output = scope(() => noGrad(() => call(given)));
        if (!(output instanceof Tensor)) {
          const actual = `${path} gives something else`;
          throw new AttributeError({ op, argument: 'model', expected: 'blocks that give a tensor', actual });
        }
        await synchronize();
        const before = given[0] as Tensor;
        given[0] = keep(output);
        made.add(output);
        if (made.delete(before)) before.dispose();
      }
    }
  } finally {
    for (const tensor of made) tensor.dispose();
    model.train(wasTraining);
  }
}
