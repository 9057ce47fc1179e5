/**
 * Plans of compression: JSON, checked as a whole before any work.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import type { OwnedHardware, RentedHardware } from '../../cost/hardware.js';
import { hardware as costOf } from '../../cost/hardware.js';
import type { BenchmarkOptions } from '../../generate/benchmark.js';
import type { PerplexityOptions } from '../../models/perplexity.js';
import { checkInteger, checkKeys } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { nearestName } from '../../util/nearest.js';
import type { CalibrationOptions } from '../calibration.js';
import { targetOf } from './settings.js';
import { stepKinds, type StepKind } from './step.js';

/** A name, several, or a pattern between slashes: `"/attention\\.(q|v)$/"`. */
export type PlanTarget = string | readonly string[];

/** One step: the name of its kind, and that kind's settings. */
export type PlanStep = Readonly<Record<string, Readonly<Record<string, unknown>>>>;

/** What is to become of a model. JSON-safe. */
export interface CompressionPlan {
  /** Letters, digits, `.`, `-` and `_`. Default: made of the steps. */
  readonly name?: string;
  /** In this order. */
  readonly steps: readonly PlanStep[];
  /** Layers meant by steps that have no target of their own. Default: all linear layers but the output layer. */
  readonly target?: PlanTarget;
  /** What is taken of calibration data that come as a dataset. */
  readonly calibration?: CalibrationOptions;
  /** How perplexity is measured. */
  readonly evaluation?: Pick<PerplexityOptions, 'batchSize' | 'batches'>;
  /** How speed is measured. */
  readonly benchmark?: Pick<BenchmarkOptions, 'prompt' | 'generate' | 'runs'>;
  /** What the machine costs, bought or rented. Default: the rent of `omnigrad/cost`. */
  readonly hardware?: OwnedHardware | RentedHardware;
}

/** @internal A step whose settings were checked. */
export interface ResolvedStep {
  readonly kind: StepKind;
  readonly settings: Readonly<Record<string, unknown>>;
  readonly options: unknown;
}

/** @internal A plan that was checked. */
export interface ResolvedPlan extends Omit<CompressionPlan, 'steps' | 'name'> {
  readonly name: string;
  readonly steps: readonly ResolvedStep[];
}

const OP = 'compress';

function objectOf(argument: string, value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new AttributeError({ op: OP, argument, expected: 'an object', actual: formatValue(value) });
}

function stepOf(source: unknown, i: number, target: PlanTarget | undefined): ResolvedStep {
  const at = `steps[${i}]`;
  const entries = Object.entries(objectOf(at, source));
  const known = [...stepKinds.keys()];
  if (entries.length !== 1) {
    const actual = entries.length === 0 ? 'an empty object' : entries.map(([name]) => name).join(' and ');
    const expected = `an object with one of ${known.join(', ')}`;
    throw new AttributeError({ op: OP, argument: at, expected, actual, hint: 'Write one object for each step' });
  }
  const [[name, given]] = entries as [[string, unknown]];
  const kind = stepKinds.get(name);
  if (kind === undefined) {
    const nearest = nearestName(name, known);
    const hint = nearest === undefined ? undefined : `Did you mean ${nearest}`;
    throw new AttributeError({ op: OP, argument: at, expected: known.join(', '), actual: formatValue(name), hint });
  }
  const settings = objectOf(`${at}.${name}`, given);
  const own = target !== undefined && settings['target'] === undefined && kind.takesTarget(settings) ? { target } : {};
  const all = { ...settings, ...own };
  return { kind, settings: all, options: kind.parse(`${OP}: ${at}.${name}`, all) };
}

/** `quantize-w4a16-gptq`: kinds of steps with those settings that are names. */
function nameOf(steps: readonly ResolvedStep[]): string {
  const words = steps.flatMap(({ kind, settings }) => [
    kind.name,
    ...Object.entries(settings).flatMap(([key, value]) =>
      key !== 'target' && typeof value === 'string' ? [value.replaceAll(/[^\w.-]+/g, '-')] : [],
    ),
  ]);
  return words.join('-');
}

/**
 * Checks a plan as a whole.
 *
 * @throws AttributeError naming the first entry that cannot be, and the nearest that can
 */
export function checkPlan(source: unknown): ResolvedPlan {
  const plan = objectOf('plan', source) as unknown as CompressionPlan;
  const planKeys = ['name', 'steps', 'target', 'calibration', 'evaluation', 'benchmark', 'hardware'];
  checkKeys(OP, plan, planKeys, 'plan');
  if (!Array.isArray(plan.steps) || plan.steps.length === 0) {
    const actual = plan.steps === undefined ? 'none' : formatValue(plan.steps);
    const expected = 'a list of steps, such as [{ "quantize": { "scheme": "w4a16" } }]';
    throw new AttributeError({ op: OP, argument: 'steps', expected, actual });
  }
  if (plan.target !== undefined) targetOf(OP, 'target', plan.target);
  const counts = (argument: 'calibration' | 'evaluation' | 'benchmark', keys: readonly string[]): void => {
    const given = plan[argument];
    if (given === undefined) return;
    checkKeys(OP, objectOf(argument, given), keys, argument);
    for (const [key, value] of Object.entries(given))
      checkInteger(OP, `${argument}.${key}`, value, key === 'seed' ? 0 : 1);
  };
  counts('calibration', ['batches', 'batchSize', 'seed']);
  counts('evaluation', ['batches', 'batchSize']);
  counts('benchmark', ['prompt', 'generate', 'runs']);
  if (plan.hardware !== undefined) costOf(objectOf('hardware', plan.hardware) as unknown as RentedHardware);
  const steps = plan.steps.map((step, i) => stepOf(step, i, plan.target));
  const name = plan.name ?? nameOf(steps);
  if (typeof name !== 'string' || !/^[\w][\w.-]*$/.test(name)) {
    const expected = 'letters, digits, ".", "-" and "_"';
    throw new AttributeError({ op: OP, argument: 'name', expected, actual: formatValue(name) });
  }
  return { ...plan, name, steps };
}
