/**
 * Which layers of a student learn from which of a teacher's, and how their outputs are read.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { MultiHeadAttention } from '../../nn/attention.js';
import type { Module } from '../../nn/module.js';
import { reshape } from '../../ops/views.js';
import { keep } from '../../tensor/scope.js';
import { Tensor } from '../../tensor/tensor.js';
import { formatValue } from '../../util/format.js';
import { blocksOf } from '../block_walk.js';

/** A layer: the number of a block's output (0: what goes into the first block), or the path of a module. */
export type LayerName = number | string;

/**
 * Pairs of layers, student's and teacher's; or `uniform`: layer n of S learns from layer round(n·T / S) of T (TinyBERT's map);
 * or `last`: the last from the last.
 */
export type LayerMap = 'uniform' | 'last' | readonly (readonly [student: LayerName, teacher: LayerName])[];

/** @internal A place where something is read. */
export interface Point {
  readonly name: LayerName;
  readonly module: Module;
  readonly what: 'input' | 'output' | 'scores';
}

function outOfRange(op: string, argument: string, name: LayerName, least: number, count: number): AttributeError {
  const expected = `a block from ${least} to ${count}, or the path of a module`;
  return new AttributeError({ op, argument, expected, actual: formatValue(name) });
}

function moduleAt(op: string, argument: string, model: Module, path: string): Module {
  for (const [name, module] of model.namedModules()) if (name === path) return module;
  const names = [...new Set([...model.namedModules()].map(([name]) => name.replace(/\.\d+(?=\.|$)/g, '.*')))];
  const expected = `the path of a module: ${names.filter(Boolean).slice(0, 12).join(', ')}`;
  throw new AttributeError({ op, argument, expected, actual: formatValue(path) });
}

function pointOf(op: string, argument: string, model: Module, name: LayerName, ofAttention: boolean): Point {
  const blocks = blocksOf(model);
  const least = ofAttention ? 1 : 0;
  if (typeof name === 'number' && !(Number.isInteger(name) && name >= least && name <= blocks.length)) {
    throw outOfRange(op, argument, name, least, blocks.length);
  }
  if (typeof name !== 'number' && typeof name !== 'string') throw outOfRange(op, argument, name, least, blocks.length);
  const module = typeof name === 'string' ? moduleAt(op, argument, model, name) : blocks[Math.max(0, name - 1)]![1];
  if (!ofAttention) return { name, module, what: name === 0 ? 'input' : 'output' };
  const found = [...module.namedModules()].find(([, part]) => part instanceof MultiHeadAttention)?.[1];
  if (found !== undefined) return { name, module: found, what: 'scores' };
  const expected = 'a block with a MultiHeadAttention';
  throw new AttributeError({ op, argument, expected, actual: `${formatValue(name)}, which has none` });
}

/** @internal The pairs that a map means. @throws AttributeError if one is out of range, or there is none */
export function pairsOf(
  op: string,
  argument: string,
  student: Module,
  teacher: Module,
  layers: LayerMap,
  ofAttention: boolean,
): [student: Point, teacher: Point][] {
  const [own, others] = [blocksOf(student).length, blocksOf(teacher).length];
  const least = ofAttention ? 1 : 0;
  const uniform = (): [number, number][] =>
    Array.from({ length: own + 1 - least }, (_, i) => [i + least, Math.round(((i + least) * others) / own)]);
  const list: unknown = layers === 'uniform' ? uniform() : layers === 'last' ? [[own, others]] : layers;
  const isList =
    Array.isArray(list) && list.length > 0 && list.every((pair) => Array.isArray(pair) && pair.length === 2);
  if (!isList) {
    const expected = '"uniform", "last", or pairs [student, teacher]';
    throw new AttributeError({ op, argument: `${argument}.layers`, expected, actual: formatValue(layers) });
  }
  return (list as [LayerName, LayerName][]).map(([a, b], i) => [
    pointOf(op, `${argument}.layers[${i}][0] (student)`, student, a, ofAttention),
    pointOf(op, `${argument}.layers[${i}][1] (teacher)`, teacher, b, ofAttention),
  ]);
}

/**
 * @internal Runs `body` and reads what passes the points meanwhile; hooks are gone afterwards. The tensors live until they are
 * disposed of.
 */
export function reading<T>(points: readonly Point[], body: () => T): { result: T; read: Map<Point, Tensor> } {
  const read = new Map<Point, Tensor>();
  const take = (point: Point, value: unknown): void => {
    if (!(value instanceof Tensor)) {
      const expected = 'a module that takes and gives a tensor';
      throw new AttributeError({
        op: 'distillation',
        argument: String(point.name),
        expected,
        actual: formatValue(value),
      });
    }
    read.get(point)?.dispose(); // a module that runs twice: the last time counts
    read.set(point, keep(reshape(value, value.shape))); // a view: models free their own
  };
  const removers = points.map((point) => {
    const { module, what } = point;
    if (what === 'input') return module.registerForwardPreHook((_module, [x]) => take(point, x));
    return module.registerForwardHook((_module, inputs, output) => {
      if (what === 'output') return take(point, output);
      take(point, (module as MultiHeadAttention).scores(...(inputs as Parameters<MultiHeadAttention['scores']>)));
    });
  });
  try {
    return { result: body(), read };
  } catch (error) {
    for (const tensor of read.values()) tensor.dispose();
    throw error;
  } finally {
    for (const remove of removers) remove();
  }
}
