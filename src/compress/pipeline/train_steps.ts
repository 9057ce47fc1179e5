/**
 * The steps that train: `finetune`, and `distill`, in which the model learns from the one that the plan began with. The training itself is
 * the caller's.
 *
 * @module
 */
import { AttributeError, StateError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import type { GPT } from '../../models/gpt.js';
import { cloneModel } from '../../models/saved_model.js';
import type { Linear } from '../../nn/linear.js';
import type { Module } from '../../nn/module.js';
import { sitesOf, type Site } from '../../nn/surgery.js';
import { eq, logicalAnd, ne } from '../../ops/comparison.js';
import { any } from '../../ops/reduce.js';
import { item } from '../../tensor/read.js';
import { generator } from '../../tensor/random.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { Distillation, type DistillationModuleOptions } from '../distill/distillation.js';
import { checkChoice, choiceKeys, type DivergenceChoice } from '../distill/divergence.js';
import { spreadLayers } from '../distill/student.js';
import { isLinear } from '../linear_sites.js';
import { removeStructures } from '../prune/structured/remove.js';
import { maskedTraining, type MaskCallback } from '../prune/training_masks.js';
import type { Settings } from './settings.js';
import { registerStep, type Rehearsal, type StepContext, type TrainFunction } from './step.js';

/** Pruned layers, by path. */
function prunedLayers(model: Module): Map<string, Site<Linear>> {
  return new Map([...sitesOf(model, isLinear)].filter(([, { layer }]) => layer.pruned !== null));
}

/** Where the zeros of pruned layers are (bool), by path. */
function zerosOf(model: Module): Map<string, Tensor> {
  const find = ({ layer }: Site<Linear>): Tensor => scope(() => noGrad(() => keep(eq(layer.weight, 0))));
  return new Map([...prunedLayers(model)].map(([path, site]) => [path, find(site)]));
}

/** @throws StateError naming a layer whose zeros training has filled */
async function checkZeros(zeros: ReadonlyMap<string, Tensor>, model: Module): Promise<void> {
  const layers = prunedLayers(model);
  for (const [path, mask] of zeros) {
    const trained = layers.get(path)?.layer;
    if (trained === undefined) continue;
    const filled = scope(() => noGrad(() => any(logicalAnd(mask, ne(trained.weight, 0)))));
    const isFilled = await item(filled);
    filled.dispose();
    if (!isFilled) continue;
    const hint = 'Pass the callbacks that the function is given to the Trainer';
    const [expected, actual] = ['a training in which zeros stay zeros', `some of ${path} are not`];
    throw new StateError({ op: 'compress', argument: 'train', expected, actual, hint });
  }
}

function checkTrain(name: string, { train }: Pick<Rehearsal, 'train'>): void {
  if (train !== undefined) return;
  const expected = `a function that trains, for the ${name} step`;
  throw new AttributeError({ op: 'compress', argument: 'train', expected, actual: 'none' });
}

/**
 * Has `student` trained, as it is or within a module that holds it.
 *
 * @returns the trained student, which takes the place of the one that was given
 */
async function trained(
  step: 'finetune' | 'distill',
  student: GPT,
  module: Parameters<TrainFunction>[0],
  settings: Settings,
  { train, dir, signal: given }: StepContext,
): Promise<GPT> {
  const signal = given ?? new AbortController().signal;
  const zeros = zerosOf(student);
  const callbacks: MaskCallback[] = zeros.size > 0 ? [maskedTraining(student)] : [];
  try {
    const result = (await train!(module, settings, { step, dir, signal, callbacks })) ?? student;
    signal.throwIfAborted(); // a trainer that was told to stop returns; its step is not done
    await checkZeros(zeros, result);
    if (result !== student) student.dispose();
    return result.eval();
  } catch (error) {
    student.dispose();
    throw error;
  } finally {
    for (const held of [...callbacks, ...zeros.values()]) held.dispose();
  }
}

registerStep<Settings>({
  name: 'finetune',
  takesTarget: () => false,
  parse: (_op, settings) => settings,
  needsCalibration: () => false,
  rehearse: (_model, _options, context) => checkTrain('finetune', context),
  describe: ({ steps }) => (typeof steps === 'number' ? `finetune ${steps} steps` : 'finetune'),
  run: (model, settings, context) => {
    const copy = cloneModel(model);
    return trained('finetune', copy, copy, settings, context);
  },
});

/** What `distill` takes beside what the training is told. */
interface DistillStep extends DivergenceChoice, Pick<DistillationModuleOptions<GPT>, 'alpha' | 'hidden' | 'attention'> {
  /** How many layers of the model become the student, spread evenly, or which. Default: all. */
  readonly layers?: number | readonly number[];
  /** For the function that trains. */
  readonly train?: Settings;
}

const distillKeys = ['layers', ...choiceKeys, 'alpha', 'hidden', 'attention', 'train'];

function parseDistill(op: string, settings: Settings): DistillStep {
  checkKeys(op, settings, distillKeys, 'settings');
  const options = settings as DistillStep;
  const { layers, alpha, train } = options;
  checkChoice(op, options);
  if (alpha !== undefined) checkNumber(op, 'alpha', alpha, 0, 1);
  for (const key of ['hidden', 'attention', 'train'] as const) {
    const value: unknown = options[key];
    if (value === undefined || (typeof value === 'object' && value !== null && !Array.isArray(value))) continue;
    throw new AttributeError({ op, argument: key, expected: 'an object', actual: formatValue(value) });
  }
  for (const key of ['hidden', 'attention'] as const) {
    if (options[key] !== undefined) checkKeys(`${op}.${key}`, options[key], featureKeys[key], 'settings');
  }
  if (train !== undefined && Object.getPrototypeOf(train) !== Object.prototype) {
    throw new AttributeError({ op, argument: 'train', expected: 'a plain object', actual: formatValue(train) });
  }
  if (layers === undefined) return options;
  if (typeof layers === 'number') checkInteger(op, 'layers', layers, 1);
  else {
    const isRising = (value: unknown, i: number, all: readonly unknown[]): boolean =>
      Number.isSafeInteger(value) && (value as number) >= 0 && (i === 0 || (value as number) > (all[i - 1] as number));
    if (!Array.isArray(layers) || layers.length === 0 || !layers.every(isRising)) {
      const expected = 'how many layers, or their numbers from 0 on in order';
      throw new AttributeError({ op, argument: 'layers', expected, actual: formatValue(layers) });
    }
  }
  return options;
}

const featureKeys = {
  hidden: ['layers', 'weight', 'loss', 'project'],
  attention: ['layers', 'weight', 'of'],
} as const;

/** Numbers of the layers that the student begins with. @throws AttributeError if there are not so many */
function chosenLayers(model: GPT, layers: DistillStep['layers']): readonly number[] {
  const count = model.blocks.length;
  if (layers === undefined) return spreadLayers(count, count);
  if (typeof layers === 'number') return spreadLayers(checkInteger('distill', 'layers', layers, 1, count), count);
  for (const layer of layers) checkInteger('distill', 'layers', layer, 0, count - 1);
  return layers;
}

/** The student before it learns: a copy of the model, or of some of its layers, as `studentOf` chooses them. */
function studentFrom(model: GPT, layers: DistillStep['layers']): GPT {
  const chosen = chosenLayers(model, layers);
  return removeStructures(model, { layers: model.blocks.map((_, i) => i).filter((i) => !chosen.includes(i)) });
}

function moduleOf(student: GPT, teacher: GPT, options: DistillStep): Distillation<GPT> {
  const { layers: _1, train: _2, hidden, ...own } = options;
  // projections begin alike in every attempt
  const features = hidden === undefined ? {} : { hidden: { ...hidden, generator: generator(0) } };
  return new Distillation({ student, teacher, ...own, ...features });
}

registerStep<DistillStep>({
  name: 'distill',
  takesTarget: () => false,
  parse: parseDistill,
  needsCalibration: () => false,
  rehearse(model, options, context) {
    checkTrain('distill', context);
    const student = studentFrom(model, options.layers);
    try {
      if (context.earlier.length === 0 && student.blocks.length === model.blocks.length) {
        const expected = 'fewer layers than the teacher has, or a step before that changes the model';
        throw new AttributeError({ op: 'distill', argument: 'layers', expected, actual: String(model.blocks.length) });
      }
      const { projections } = moduleOf(student, context.original, options);
      for (const projection of projections) projection.dispose();
    } finally {
      student.dispose();
    }
  },
  standIn: async (model, { layers }) => studentFrom(model, layers),
  describe({ train }, [note]) {
    const { steps } = (train ?? {}) as { steps?: unknown };
    const share = Number(note?.['student']) / Number(note?.['teacher']);
    const size = note === undefined ? '' : ` a student of ×${share.toFixed(2)} the parameters`;
    return `distill${size}${typeof steps === 'number' ? `, ${steps} steps` : ''}`;
  },
  async run(model, options, context) {
    const { original, note } = context;
    const student = studentFrom(model, options.layers);
    const module = moduleOf(student, original, options);
    try {
      const { alpha, choice } = module;
      note({
        layers: chosenLayers(model, options.layers),
        student: student.parameterCount(),
        teacher: original.parameterCount(),
        alpha,
        divergence: choice.divergence,
        temperature: choice.temperature,
      });
      return await trained('distill', student, module, options.train ?? {}, context);
    } finally {
      for (const projection of module.projections) projection.dispose();
    }
  },
});
