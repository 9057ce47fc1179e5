/**
 * Optimisers and schedules by name.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import type { Module } from '../nn/module.js';
import * as optim from '../optim/index.js';
import * as schedules from '../optim/schedules.js';
import { zeros } from '../tensor/create.js';
import { formatValue } from '../util/format.js';
import { nearestName } from '../util/nearest.js';

/** A part by its type, with options. */
export type Typed = Readonly<Record<string, unknown>> & { readonly type: string };

type AnyOptimizer = optim.Optimizer<optim.OptimizerOptions>;
type OptimizerClass = new (parameters: never, options?: never) => AnyOptimizer;

const optimizers: Readonly<Record<string, OptimizerClass>> = {
  sgd: optim.SGD,
  adam: optim.Adam,
  adamw: optim.AdamW,
  adamw8bit: optim.AdamW8bit,
  adamax: optim.Adamax,
  nadam: optim.NAdam,
  radam: optim.RAdam,
  rmsprop: optim.RMSprop,
  adagrad: optim.Adagrad,
  adafactor: optim.Adafactor,
  lion: optim.Lion,
  muon: optim.Muon,
};

/** Those whose options are plain numbers and lists. */
const scheduleNames = [
  'constant', 'linear', 'cosine', 'cosineWarmRestarts', 'polynomial', 'inverseSqrt', 'wsd', 'oneCycle', 'exponential', 'stepDecay',
  'multiStep', 'linearRamp', 'piecewise', 'reduceOnPlateau',
] as const; // prettier-ignore

function unknown(argument: string, type: string, known: readonly string[]): AttributeError {
  const nearest = nearestName(type, known);
  return new AttributeError({
    op: 'train',
    argument: `${argument}.type`,
    expected: known.join(', '),
    actual: formatValue(type),
    hint: nearest === undefined ? undefined : `Did you mean ${nearest}`,
  });
}

/** What groups of parameters are made by; everything else goes to the optimiser. */
const groupKeys = ['weightDecay', 'adamLr'];

/**
 * An optimiser of a model: weight decay is for matrices and tables alone, unless `decayAll` is true; Muon takes the matrices of hidden
 * layers, and AdamW, with `adamLr`, the rest.
 */
export function makeOptimizer({ type, decayAll, ...options }: Typed, model: Module): AnyOptimizer {
  const Class = optimizers[type]!;
  const rest = Object.fromEntries(Object.entries(options).filter(([name]) => !groupKeys.includes(name)));
  if (type === 'muon') {
    const { lr, adamLr, weightDecay } = options;
    const given = Object.fromEntries(
      Object.entries({ lr, adamLr, weightDecay }).filter(([, value]) => value !== undefined),
    );
    return new Class(optim.muonGroups(model, given) as never, rest as never);
  }
  const { weightDecay } = options;
  if (typeof weightDecay !== 'number' || weightDecay === 0 || decayAll === true) {
    const parameters = model.parameters().filter((parameter) => parameter.requiresGrad);
    return new Class(parameters as never, options as never);
  }
  return new Class(optim.decayGroups(model, { weightDecay }) as never, rest as never);
}

/** @throws AttributeError unless there is such an optimiser with such options: it is made for a parameter that is thrown away */
export function checkOptimizer({ type, decayAll, ...options }: Typed): void {
  const Class = Object.hasOwn(optimizers, type) ? optimizers[type]! : undefined;
  if (Class === undefined) throw unknown('optimizer', type, Object.keys(optimizers));
  if (decayAll !== undefined && typeof decayAll !== 'boolean') {
    const actual = formatValue(decayAll);
    throw new AttributeError({ op: 'train', argument: 'optimizer.decayAll', expected: 'true or false', actual });
  }
  const own =
    type === 'muon' ? Object.fromEntries(Object.entries(options).filter(([name]) => name !== 'adamLr')) : options;
  const trial = zeros([2, 2], { requiresGrad: true });
  try {
    new Class([trial] as never, own as never).dispose();
  } finally {
    trial.dispose();
  }
}

/** A schedule by its name. */
export function makeSchedule({ type, ...options }: Typed): schedules.Schedule {
  const make = schedules[type as (typeof scheduleNames)[number]] as (options: object) => schedules.Schedule;
  return make(options);
}

/** @throws AttributeError unless there is such a schedule with such options */
export function checkSchedule(schedule: Typed): void {
  if (!(scheduleNames as readonly string[]).includes(schedule.type))
    throw unknown('schedule', schedule.type, scheduleNames);
  makeSchedule(schedule);
}
