/** Optimisers with all options and groups, and schedules, against what torch.optim and transformers gave (fixtures/optim/make.py). */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { assertClose, numbersOf } from '../helpers/allclose.js';
import { load, readSafetensors } from '../helpers/reference.js';

const { optim, schedules } = og;

type Options = Readonly<Record<string, unknown>>;
interface Case {
  readonly name: string;
  readonly optimizer: string;
  readonly options: Options;
  readonly groups: readonly Options[] | null;
  readonly tol: number;
}
interface Rates {
  readonly name: string;
  readonly base: number;
  readonly total: number;
  readonly attrs: Readonly<Record<string, never>>;
  readonly rates: readonly number[];
}
interface Plateau {
  readonly name: string;
  readonly options: Readonly<Record<string, never>>;
  readonly rates: readonly number[];
}

const at = (name: string): URL => new URL(`../fixtures/optim/${name}`, import.meta.url);
const fixture = JSON.parse(readFileSync(at('optim.json'), 'utf8')) as {
  readonly cases: readonly Case[];
  readonly schedules: readonly Rates[];
  readonly metrics: readonly number[];
  readonly plateaus: readonly Plateau[];
};
const stored = readSafetensors(at('optim.safetensors'));

/** Our names of options where they are more than PyTorch's in camel case. */
const names: Readonly<Record<string, string>> = { d: 'clipThreshold', adjust_lr_fn: 'adjustLr' };
const values: Readonly<Record<string, string>> = { match_rms_adamw: 'matchRmsAdamW' };

function ours(options: Options): Record<string, never> {
  const camel = (name: string): string => name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
  return Object.fromEntries(
    Object.entries(options).map(([name, value]) => [
      names[name] ?? camel(name),
      (values[String(value)] ?? value) as never,
    ]),
  );
}

/** The parameters after each step. */
function trajectory({ optimizer: name, options, groups }: Case, dtype: og.DType): og.Tensor[] {
  const keys = ['tall', 'wide', 'square'];
  const params = keys.map((key) => og.to(load(stored, `start.${key}`), dtype).requiresGrad_());
  const grads = keys.map((key) => og.to(load(stored, `grads.${key}`), dtype));
  const Made = optim[name as 'SGD'];
  const given = groups === null ? params : groups.map((group, i) => ({ params: [params[i]!], ...ours(group) }));
  const optimizer = new Made(given, ours(options));
  const after: og.Tensor[][] = params.map(() => []);
  for (let step = 0; step < grads[0]!.shape[0]!; step++) {
    params.forEach((param, i) => (param.grad = og.clone(og.select(grads[i]!, 0, step))));
    optimizer.step();
    optimizer.zeroGrad();
    params.forEach((param, i) => after[i]!.push(og.noGrad(() => og.clone(param))));
  }
  optimizer.dispose();
  return after.map((list) => og.to(og.stack(list), 'float64'));
}

for (const reference of fixture.cases) {
  for (const [dtype, tol] of [
    ['float64', reference.tol],
    ['float32', Math.max(reference.tol, 2e-4)],
  ] as const) {
    test(`${reference.name} takes the steps of torch.optim.${reference.optimizer}, ${dtype}`, () => {
      const got = trajectory(reference, dtype);
      for (const [i, key] of ['tall', 'wide', 'square'].entries()) {
        assertClose(got[i]!, load(stored, `${reference.name}.${key}`), { rtol: tol, atol: tol }, key);
      }
    });
  }
}

test('the fixture tells options apart: no two trajectories are the same', () => {
  const seen = new Map<string, string>();
  for (const { name } of fixture.cases) {
    const bytes = String(numbersOf(load(stored, `${name}.square`)));
    assert.equal(seen.get(bytes), undefined, name);
    seen.set(bytes, name);
  }
});

/** The schedule that a case stands for. */
function scheduleOf({ name, attrs }: Rates): og.schedules.Schedule {
  const { linearRamp, exponential, stepDecay, multiStep } = schedules;
  switch (name) {
    case 'hf_inverse_sqrt':
    case 'hf_inverse_sqrt_timescale':
    case 'hf_inverse_sqrt_plain':
      return schedules.inverseSqrt(attrs);
    case 'hf_polynomial':
      return schedules.polynomial(attrs);
    case 'hf_cosine_restarts':
      return schedules.cosine(attrs);
    case 'hf_wsd_linear':
    case 'hf_wsd_cosine':
    case 'hf_wsd_1-sqrt':
    case 'hf_wsd_zero':
    case 'torch_wsd_exponential':
      return schedules.wsd(attrs as never);
    case 'torch_sgdr':
      return schedules.cosineWarmRestarts(attrs as never);
    case 'torch_sequence': {
      const parts = [
        linearRamp({ start: 0.2, steps: 5 }),
        exponential({ gamma: 0.9 }),
        stepDecay({ stepSize: 3, gamma: 0.5 }),
      ];
      return schedules.sequence(parts, [0, 5, 20]);
    }
    case 'torch_chain':
      return schedules.chain(
        linearRamp({ start: 0.2, steps: 5 }),
        exponential({ gamma: 0.9 }),
        multiStep({ milestones: [10, 20], gamma: 0.5 }),
      );
    case 'torch_constant_factor':
      return schedules.piecewise({ points: [[0, 0.25], [7, 1]], between: 'constant' }); // prettier-ignore
    case 'torch_lambda_lines':
      return schedules.piecewise({ points: [[2, 0.5], [8, 2], [12, 0.25], [25, 1]] }); // prettier-ignore
    default:
      return assert.fail(`no schedule for ${name}`);
  }
}

function assertRates(got: readonly number[], want: readonly number[]): void {
  assert.equal(got.length, want.length);
  got.forEach((rate, i) => assert.ok(Math.abs(rate - want[i]!) <= 1e-12, `step ${i}: ${rate} instead of ${want[i]}`));
}

for (const reference of fixture.schedules) {
  test(`${reference.name} gives the rates of its peer`, () => {
    const schedule = scheduleOf(reference);
    assertRates(
      reference.rates.map((_, step) => reference.base * schedule(step, reference.total)),
      reference.rates,
    );
  });
}

for (const { name, options, rates } of fixture.plateaus) {
  test(`reduceOnPlateau ${name} reduces when torch does, also when it is saved and loaded in between`, () => {
    const { min_lr: least, threshold_mode: mode, ...same } = options;
    const all = {
      ...same,
      eps: 0,
      ...(least === undefined ? {} : { end: least / 0.1 }),
      ...(mode === undefined ? {} : { thresholdMode: 'absolute' as const }),
    };
    let schedule = schedules.reduceOnPlateau(all);
    const got = fixture.metrics.map((metric, i) => {
      if (i % 7 === 3) {
        const state = JSON.parse(JSON.stringify(schedule.stateDict())) as og.schedules.ScheduleState;
        schedule = schedules.reduceOnPlateau(all);
        schedule.loadStateDict(state);
      }
      schedule.observe(metric);
      return 0.1 * schedule(i, fixture.metrics.length);
    });
    assertRates(got, rates);
    assert.ok(new Set(rates).size > 1, 'the fixture reduces');
  });
}
