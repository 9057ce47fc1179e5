/**
 * Greedy soups: averages that a metric chooses.
 */
import { AttributeError } from '../../errors.js';
import type { Module, StateDict } from '../../nn/module.js';
import { checkBoolean, checkKeys } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { copyState, disposeState } from '../copies.js';
import { averageStates, checkStates } from './states.js';

/** Options of {@link greedySoup}. */
export interface GreedySoupOptions {
  /** Whether a greater metric is the better one (accuracy), or a smaller (loss). Default true. */
  readonly higherIsBetter?: boolean;
}

/** What {@link greedySoup} finds. */
export interface GreedySoup {
  /** The soup's state; the model has it, too. */
  readonly state: StateDict;
  /** Which states are in it, best first. */
  readonly members: readonly number[];
  /** The soup's metric. */
  readonly score: number;
  /** The metric of each state by itself. */
  readonly scores: readonly number[];
}

/**
 * Begins with the best state and adds the others, from better to worse, each if the average does not get worse by it. `model` serves to
 * evaluate them and has the soup in the end; if `evaluate` fails, it has what it had before. States may share memory with the model.
 *
 * @param evaluate - the metric of the model as it is now, on data apart from the test's
 * @throws StateError or ShapeError if names or shapes differ
 * @throws AttributeError if a metric is not a number
 * @source Wortsman et al. 2022, arXiv 2203.05482, algorithm 1
 */
export async function greedySoup<M extends Module>(
  model: M,
  states: readonly StateDict[],
  evaluate: (model: M) => number | Promise<number>,
  options: GreedySoupOptions = {},
): Promise<GreedySoup> {
  const op = 'greedySoup';
  checkKeys(op, options, ['higherIsBetter']);
  const higher = checkBoolean(op, 'higherIsBetter', options.higherIsBetter ?? true);
  const views = model.stateDict();
  checkStates(op, [views, ...states]);
  const copy = (state: StateDict): StateDict => copyState(Object.entries(state));
  const before = copy(views);
  const memory = new Set(Object.values(views).map(({ storage }) => storage));
  const own: StateDict[] = [];
  const list = states.map((state) => {
    if (!Object.values(state).some(({ storage }) => memory.has(storage))) return state;
    own.push(copy(state));
    return own.at(-1)!;
  });
  const scoreOf = async (state: StateDict): Promise<number> => {
    model.loadStateDict(state);
    const score = await evaluate(model);
    if (typeof score === 'number' && !Number.isNaN(score)) return score;
    throw new AttributeError({ op, argument: 'evaluate', expected: 'a number', actual: formatValue(score) });
  };
  const isNoWorse = (score: number, than: number): boolean => (higher ? score >= than : score <= than);
  let soup: StateDict | null = null;
  try {
    const scores: number[] = [];
    for (const state of list) scores.push(await scoreOf(state));
    const order = [...list.keys()].sort((a, b) => (higher ? scores[b]! - scores[a]! : scores[a]! - scores[b]!));
    let members = [order[0]!];
    let score = scores[order[0]!]!;
    soup = copy(list[order[0]!]!);
    for (const next of order.slice(1)) {
      const tried = averageStates([...members, next].map((i) => list[i]!));
      const triedScore = await scoreOf(tried);
      if (isNoWorse(triedScore, score)) {
        disposeState(soup);
        [soup, members, score] = [tried, [...members, next], triedScore];
      } else disposeState(tried);
    }
    model.loadStateDict(soup);
    return { state: soup, members, score, scores };
  } catch (error) {
    model.loadStateDict(before);
    if (soup !== null) disposeState(soup);
    throw error;
  } finally {
    disposeState(before);
    disposeState(views);
    for (const state of own) disposeState(state);
  }
}
