/**
 * What calibrated methods want to know of a layer's inputs, gathered over batches.
 *
 * @module
 */
import { StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import type { Module } from '../nn/module.js';
import type { Site } from '../nn/surgery.js';
import { add, maximum, minimum } from '../ops/arithmetic.js';
import { clone, to } from '../ops/copy.js';
import { matmul } from '../ops/matmul.js';
import { amax, amin, sum } from '../ops/reduce.js';
import { abs, square } from '../ops/unary.js';
import { detach, reshape, transpose } from '../ops/views.js';
import { keep, scope } from '../tensor/scope.js';
import { Tensor } from '../tensor/tensor.js';

/**
 * Kinds of statistics, each over all rows (tokens) seen: `gram` XᵀX `[in, in]`; per input channel `[in]`: `absMax`, `absSum`,
 * `squareSum`, `max`, `min`.
 */
export type StatisticKind = 'gram' | 'absMax' | 'absSum' | 'squareSum' | 'max' | 'min';

const computations: Readonly<Record<StatisticKind, (rows: Tensor) => Tensor>> = {
  gram: (rows) => matmul(transpose(rows, 0, 1), rows),
  absMax: (rows) => amax(abs(rows), 0),
  absSum: (rows) => sum(abs(rows), 0),
  squareSum: (rows) => sum(square(rows), 0),
  max: (rows) => amax(rows, 0),
  min: (rows) => amin(rows, 0),
};
const combinations: Readonly<Record<StatisticKind, (a: Tensor, b: Tensor) => Tensor>> = {
  gram: add,
  absMax: maximum,
  absSum: add,
  squareSum: add,
  max: maximum,
  min: minimum,
};

/** What looks at inputs in its own way. */
export interface InputObserver {
  /** Takes inputs `[rows, in]`, float32, into account. */
  add(rows: Tensor): void;
}

/** Statistics of the inputs of one layer, or of several that share their input (the projections of attention). float32. */
export class InputStatistics {
  /** Rows (tokens) seen. */
  rows = 0;
  private readonly values = new Map<StatisticKind, Tensor>();
  private readonly kinds: readonly StatisticKind[];
  private readonly keepRows: boolean;
  /** Sees the inputs as well, if there is one. */
  readonly observer: InputObserver | null;
  /** The inputs themselves, `[rows, in]` each, if they were asked for. */
  readonly samples: Tensor[] = [];

  constructor(kinds: readonly StatisticKind[], keepRows = false, observer: InputObserver | null = null) {
    this.kinds = kinds;
    this.keepRows = keepRows;
    this.observer = observer;
  }

  /** Takes the inputs `[…, in]` of one call into account. */
  add(x: Tensor): void {
    const width = x.shape.at(-1)!;
    const count = width === 0 ? 0 : x.size / width;
    if (count === 0) return;
    this.rows += count;
    noGrad(() =>
      scope(() => {
        const rows = reshape(to(detach(x), 'float32'), [count, width]);
        for (const kind of this.kinds) {
          const [before, now] = [this.values.get(kind), computations[kind](rows)];
          this.values.set(kind, keep(before === undefined ? now : combinations[kind](before, now)));
          before?.dispose();
        }
        this.observer?.add(rows);
        if (this.keepRows) this.samples.push(keep(clone(rows)));
      }),
    );
  }

  /** @throws StateError if it was not asked for, or no input came */
  get(kind: StatisticKind): Tensor {
    const value = this.values.get(kind);
    if (value !== undefined) return value;
    const actual = this.kinds.includes(kind) ? 'none: the calibration never reached the layer' : 'not gathered';
    throw new StateError({ op: 'InputStatistics', expected: `the statistic ${kind}`, actual });
  }

  /** Frees all of it. */
  dispose(): void {
    for (const value of this.values.values()) value.dispose();
    for (const rows of this.samples) rows.dispose();
    this.values.clear();
    this.samples.length = 0;
  }
}

/** What {@link observeInputs} gives. */
export interface Observation<L extends Module> {
  /** Sites that were called with the same tensor in one group, in the order of their first calls. */
  readonly groups: readonly { readonly sites: readonly Site<L>[]; readonly statistics: InputStatistics }[];
  /** Sites that the calibration never reached. */
  readonly unreached: readonly Site<L>[];
}

/** Options of {@link observeInputs}. */
export interface ObserveOptions {
  readonly kinds: readonly StatisticKind[];
  /** Keep the inputs as well (`samples`). Default false. */
  readonly keepRows?: boolean;
  /** Makes an observer for each group of layers. Default: none. */
  readonly observer?: () => InputObserver;
}

/**
 * Gathers statistics of the inputs of layers while `run` calls the model. Layers that are called with the very same tensor share one
 * set of statistics, which is computed once.
 */
export async function observeInputs<L extends Module>(
  sites: readonly Site<L>[],
  options: ObserveOptions,
  run: () => Promise<void>,
): Promise<Observation<L>> {
  const groups: { sites: Site<L>[]; statistics: InputStatistics }[] = [];
  const groupOf = new Map<Site<L>, (typeof groups)[number]>();
  let latest: { readonly input: Tensor; readonly group: (typeof groups)[number] } | null = null;
  const removers = sites.map((site) =>
    site.layer.registerForwardPreHook((_module, [input]) => {
      if (!(input instanceof Tensor)) return;
      let group = groupOf.get(site);
      if (group === undefined) {
        if (latest?.input === input) group = latest.group;
        else {
          const observer = options.observer?.() ?? null;
          group = { sites: [], statistics: new InputStatistics(options.kinds, options.keepRows, observer) };
          groups.push(group);
        }
        group.sites.push(site);
        groupOf.set(site, group);
      }
      if (group.sites[0] === site) group.statistics.add(input);
      latest = { input, group };
    }),
  );
  try {
    await run();
  } finally {
    latest = null;
    for (const remove of removers) remove();
  }
  return { groups, unreached: sites.filter((site) => !groupOf.has(site)) };
}
