/**
 * Layers of one model in another, and models with more layers than they had.
 */
import { AttributeError, ShapeError, StateError } from '../../errors.js';
import type { StateDict } from '../../nn/module.js';
import { sameShape } from '../../tensor/shape.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkInteger } from '../../util/assert.js';
import { formatShape, formatValue } from '../../util/format.js';
import { copyOf } from '../copies.js';

const isUnder = (name: string, path: string): boolean => name === path || name.startsWith(`${path}.`);

/**
 * A state with some of its layers replaced by another model's.
 *
 * @param map - where each replaced layer or tensor comes from: `{ 'blocks.3': 'blocks.1' }` puts the donor's second block in the place of
 * the fourth; a list of paths means the same places in both
 * @throws StateError if one of them is not there, or has other parts
 * @throws ShapeError if shapes differ
 */
export function graftStates(
  base: StateDict,
  donor: StateDict,
  map: Readonly<Record<string, string>> | readonly string[],
): StateDict {
  const op = 'graftStates';
  const pairs: [string, string][] = Array.isArray(map)
    ? map.map((path: string) => [path, path])
    : Object.entries(map as Readonly<Record<string, string>>);
  if (pairs.length === 0) {
    throw new AttributeError({ op, argument: 'map', expected: 'at least one layer', actual: formatValue(map) });
  }
  const sources = new Map<string, Tensor>();
  for (const [to, from] of pairs) {
    const names = Object.keys(base).filter((name) => isUnder(name, to));
    const theirs = Object.keys(donor).filter((name) => isUnder(name, from));
    const isSame =
      names.length === theirs.length && names.every((name) => Object.hasOwn(donor, from + name.slice(to.length)));
    if (names.length === 0 || !isSame) {
      const expected = `${to} and ${from} with the same parts`;
      const actual = `${names.length} and ${theirs.length} tensors`;
      throw new StateError({ op, argument: 'map', expected, actual });
    }
    for (const name of names) {
      const source = donor[from + name.slice(to.length)]!;
      if (!sameShape(source.shape, base[name]!.shape)) {
        const [expected, actual] = [formatShape(base[name]!.shape), formatShape(source.shape)];
        throw new ShapeError({ op, argument: name, expected, actual });
      }
      sources.set(name, source);
    }
  }
  return Object.fromEntries(Object.entries(base).map(([name, tensor]) => [name, copyOf(sources.get(name) ?? tensor)]));
}

/** Some layers of a model in a row. */
export interface LayerSlice {
  readonly state: StateDict;
  /** From the first to before the last, counted from 0. */
  readonly layers: readonly [start: number, end: number];
}

/** Where a numbered layer stands in a name. */
const numbered = /^(.*?(?:^|\.)(?:blocks|layers|h))\.(\d+)\./;

/** Number of layers of a state. */
function depthOf(state: StateDict): number {
  return 1 + Math.max(-1, ...Object.keys(state).map((name) => Number(numbered.exec(name)?.[2] ?? -1)));
}

/**
 * The state of a deeper (or shorter) model: slices of layers, of one model or of several, one behind the other and numbered anew. What
 * stands before the layers comes from the first slice's model, what stands behind them from the last one's. SOLAR's depth up-scaling of 32
 * layers is `[{ state, layers: [0, 24] }, { state, layers: [8, 32] }]`.
 *
 * @throws AttributeError if a slice reaches beyond its layers
 * @throws StateError if a state has no numbered layers (`blocks.0.…`, `layers.0.…`, `h.0.…`), or models differ around them
 * @source Kim et al. 2023, arXiv 2312.15166, §2.1
 */
export function stackStates(slices: readonly LayerSlice[]): StateDict {
  const op = 'stackStates';
  if (!Array.isArray(slices) || slices.length === 0) {
    throw new AttributeError({ op, argument: 'slices', expected: 'at least one slice', actual: formatValue(slices) });
  }
  const list = slices as readonly LayerSlice[];
  const around = (state: StateDict): string => Object.keys(state).filter((name) => !numbered.test(name)).join(' '); // prettier-ignore
  for (const [i, { state, layers }] of list.entries()) {
    const depth = depthOf(state);
    const argument = `slices[${i}]`;
    if (depth === 0) {
      const expected = 'numbered layers (blocks.0.…, layers.0.…, h.0.…)';
      throw new StateError({ op, argument, expected, actual: 'a state without' });
    }
    const start = checkInteger(op, `${argument}.layers[0]`, layers?.[0], 0, depth - 1);
    checkInteger(op, `${argument}.layers[1]`, layers[1], start + 1, depth);
    if (around(state) !== around(list[0]!.state)) {
      const actual = `${around(state)} for ${around(list[0]!.state)}`;
      throw new StateError({ op, argument, expected: 'the same tensors around the layers', actual });
    }
  }
  const [first, last] = [list[0]!.state, list.at(-1)!.state];
  const names = Object.keys(first);
  const begin = names.findIndex((name) => numbered.test(name));
  const made: StateDict = {};
  const rest = (from: number, to: number, state: StateDict): void => {
    for (const name of names.slice(from, to)) if (!numbered.test(name)) made[name] = copyOf(state[name]!);
  };
  rest(0, begin, first);
  let offset = 0;
  for (const { state, layers } of list) {
    const [start, end] = layers;
    for (const [name, tensor] of Object.entries(state)) {
      const match = numbered.exec(name);
      const index = Number(match?.[2]);
      if (match === null || index < start || index >= end) continue;
      made[`${match[1]}.${index - start + offset}.${name.slice(match[0].length)}`] = copyOf(tensor);
    }
    offset += end - start;
  }
  rest(begin, names.length, last);
  return made;
}
