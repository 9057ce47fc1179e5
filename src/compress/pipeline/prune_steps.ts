/**
 * The steps `prune` (single weights, n:m, squares; or whole heads, neurons and layers) and `sparsify`.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import type { GPT } from '../../models/gpt.js';
import { concat } from '../../ops/join.js';
import { narrow } from '../../ops/views.js';
import { full } from '../../tensor/create.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkKeys } from '../../util/assert.js';
import type { Calibration } from '../calibration.js';
import { layerPruningKeys, resolvePruning, type LayerPruning } from '../prune/method.js';
import { checkPruning, prune, type PruneOptions } from '../prune/prune_model.js';
import {
  checkSparsification,
  resolveSparseForm,
  sparseFormKeys,
  sparsify,
  type SparsifyModelOptions,
} from '../prune/sparsify.js';
import {
  checkAmounts,
  checkPruneStructures,
  pruneStructures,
  type PruneStructuresOptions,
} from '../prune/structured/prune_structures.js';
import type { Structures } from '../prune/structured/remove.js';
import { overridesOf, targetSetting, without, type Settings } from './settings.js';
import { registerStep, type StepNote } from './step.js';

const structureKeys = ['heads', 'neurons', 'layers', 'importance', 'scope'] as const;
const weightKeys = ['target', 'overrides', ...layerPruningKeys] as const;

type Batch = { readonly x: Tensor; readonly y: Tensor };

/** What a `prune` step is about: single weights, or structures. */
type PruneStep =
  | { readonly of: 'weights'; readonly options: PruneOptions }
  | { readonly of: 'structures'; readonly options: PruneStructuresOptions<Batch> };

const isOfStructures = (settings: Settings): boolean =>
  settings['pattern'] === undefined && structureKeys.some((key) => settings[key] !== undefined);

function parsePrune(op: string, settings: Settings): PruneStep {
  checkKeys(op, settings, [...new Set([...weightKeys, ...structureKeys])], 'settings');
  const has = (key: string): boolean => settings[key] !== undefined;
  const [weights, structures] = [weightKeys.filter(has), structureKeys.filter(has)];
  if (weights.length > 0 && structures.length > 0) {
    const actual = `${weights.join(', ')} beside ${structures.join(', ')}`;
    const hint = 'Write a step for each';
    throw new AttributeError({ op, argument: 'settings', expected: 'weights or structures', actual, hint });
  }
  if (structures.length > 0) {
    const options = settings as PruneStructuresOptions<Batch>;
    checkAmounts(op, options);
    return { of: 'structures', options };
  }
  const general = without(settings, 'target', 'overrides') as unknown as LayerPruning;
  resolvePruning(op, general);
  const check = (at: string, own: Settings): void =>
    void resolvePruning(at, { ...general, ...own } as unknown as LayerPruning);
  const overrides = overridesOf(op, settings['overrides'], layerPruningKeys, check);
  return { of: 'weights', options: { ...general, ...targetSetting(op, settings), overrides } };
}

/** Inputs with the tokens that follow: what importance by Taylor takes. */
function batchesOf(calibration: Calibration): Batch[] {
  return calibration.map((x) => {
    const [rows, length] = x.shape as [number, number];
    const y = scope(() =>
      noGrad(() => keep(concat([narrow(x, 1, 1, length - 1), full([rows, 1], -100, { dtype: x.dtype })], 1))),
    );
    return { x, y };
  });
}

/** Carries `use` out with what the importance needs of the calibration. */
async function withEvidence<T>(
  options: PruneStructuresOptions<Batch>,
  calibration: Calibration | null,
  use: (options: PruneStructuresOptions<Batch>) => T | Promise<T>,
): Promise<T> {
  if (calibration === null) return use(options);
  const batches = options.importance === 'taylor' ? batchesOf(calibration) : [];
  try {
    return await use({ ...options, calibration, ...(batches.length === 0 ? {} : { batches }) });
  } finally {
    for (const { y } of batches) y.dispose();
  }
}

/** What is told of structures that went; heads and neurons are those of layers that stay. */
interface StructuresNote {
  readonly heads: number;
  readonly neurons: number;
  /** Their numbers. */
  readonly layers: readonly number[];
  readonly parametersBefore: number;
  readonly parametersAfter: number;
}

/** Units that go from layers that stay. */
function countOf(units: Structures['heads'], layers: readonly number[] = []): number {
  const stays = (path: string): boolean => !layers.some((layer) => path.startsWith(`blocks.${layer}.`));
  return Object.entries(units ?? {}).reduce((sum, [path, { length }]) => sum + (stays(path) ? length : 0), 0);
}

/** Share of the weights that are 0, or not stored, over layers that were told of. */
function sparsityOf(notes: readonly StepNote[]): number {
  const total = (of: (note: StepNote) => number): number => notes.reduce((sum, note) => sum + of(note), 0);
  return total(({ weights, sparsity }) => Number(weights) * Number(sparsity)) / total(({ weights }) => Number(weights));
}

const percent = (share: number): string => `${(100 * share).toFixed(share > 0.995 ? 1 : 0)} %`;
const several = (count: number, word: string): string => `${count} ${word}${count === 1 ? '' : 's'}`;

function describePrune(settings: Settings, notes: readonly StepNote[]): string {
  if (isOfStructures(settings)) {
    const [note] = notes;
    if (note === undefined) return 'prune structures';
    const { heads, neurons, layers, parametersBefore, parametersAfter } = note as unknown as StructuresNote;
    const counts = [[heads, 'head'], [neurons, 'neuron'], [layers.length, 'layer']] as const; // prettier-ignore
    const gone = counts.flatMap(([count, word]) => (count > 0 ? [several(count, word)] : []));
    return `prune ${gone.join(', ')}, ${percent(parametersAfter / parametersBefore)} of the parameters left`;
  }
  const method = String(settings['method'] ?? 'magnitude');
  const patterns = [...new Set(notes.map(({ pattern }) => String(pattern)))];
  if (patterns.length === 0) return `prune ${method}`;
  return `prune ${patterns.join(', ')} ${method}, ${percent(sparsityOf(notes))} zeros in ${several(notes.length, 'layer')}`;
}

registerStep<PruneStep>({
  name: 'prune',
  takesTarget: (settings) => !isOfStructures(settings),
  parse: parsePrune,
  needsCalibration({ of, options }) {
    if (of === 'weights')
      return [options, ...(options.overrides ?? [])].some(({ method }) => (method ?? 'magnitude') !== 'magnitude');
    const { layers, importance } = options;
    return (typeof layers === 'number' && layers > 0) || importance === 'activation' || importance === 'taylor';
  },
  rehearse(model, { of, options }, { calibration }) {
    if (of === 'weights') return checkPruning(model, options);
    const evidence = calibration === null ? {} : { calibration, batches: calibration.map((x) => ({ x, y: x })) };
    checkPruneStructures(model, { ...options, ...evidence });
  },
  async standIn(model, { of, options }) {
    if (of === 'weights') {
      const { pattern, target, overrides = [] } = options;
      return prune(model, {
        pattern,
        ...(target === undefined ? {} : { target }),
        overrides: overrides.map(({ method: _1, damping: _2, ...own }) => own),
      });
    }
    const { heads = 0, neurons = 0, layers = 0, scope: group } = options;
    if (group === 'global' && heads + neurons > 0) return null; // which layers keep how much is not known
    const gone = typeof layers === 'number' ? Array.from({ length: layers }, (_, i) => i) : layers;
    return pruneStructures(model, { heads, neurons, layers: gone });
  },
  describe: describePrune,
  async run(model, { of, options }, { calibration, journal, signal, note }) {
    signal?.throwIfAborted();
    if (of === 'weights') {
      return prune(model, {
        ...options,
        ...(calibration === null ? {} : { calibration }),
        ...(signal === undefined ? {} : { signal }),
        journal,
        onLayer: (report) => note({ ...report }),
      });
    }
    let gone: Structures = {};
    const onPlan = (structures: Structures): void => void (gone = structures);
    const result = await withEvidence(options, calibration, (given) => pruneStructures(model, { ...given, onPlan }));
    const told: StructuresNote = {
      heads: countOf(gone.heads, gone.layers),
      neurons: countOf(gone.neurons, gone.layers),
      layers: gone.layers ?? [],
      parametersBefore: model.parameterCount(),
      parametersAfter: result.parameterCount(),
    };
    note({ ...told });
    return result;
  },
});

registerStep<SparsifyModelOptions>({
  name: 'sparsify',
  takesTarget: () => true,
  parse(op, settings) {
    checkKeys(op, settings, [...sparseFormKeys, 'embeddings', 'target'], 'settings');
    resolveSparseForm(op, settings as SparsifyModelOptions);
    return { ...(without(settings, 'target') as SparsifyModelOptions), ...targetSetting(op, settings) };
  },
  needsCalibration: () => false,
  rehearse: (model, options) => checkSparsification(model, options),
  standIn: (model: GPT, options) => sparsify(model, options),
  describe(settings, notes) {
    const form = settings['values'] === 'int8' ? ' int8' : '';
    const tables = typeof settings['embeddings'] === 'string' ? `, embeddings ${settings['embeddings']}` : '';
    if (notes.length === 0) return `sparsify${form}${tables}`;
    const stored = notes.filter(({ layout }) => layout !== 'dense');
    if (stored.length === 0) return `sparsify: all ${several(notes.length, 'layer')} stay dense${tables}`;
    const layouts = [...new Set(stored.map(({ layout }) => String(layout)))].join(', ');
    const dense = notes.length - stored.length;
    const rest = dense === 0 ? '' : `, ${dense} stay dense`;
    return `sparsify ${layouts}${form}, ${percent(sparsityOf(stored))} left out of ${several(stored.length, 'layer')}${rest}${tables}`;
  },
  run(model, options, { journal, signal, note }) {
    return sparsify(model, {
      ...options,
      ...(signal === undefined ? {} : { signal }),
      journal,
      onLayer: (report) => note({ ...report }),
    });
  },
});
