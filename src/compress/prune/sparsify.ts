/**
 * Pruned layers on sparse kernels.
 *
 * @module
 */
import { AttributeError, StateError } from '../../errors.js';
import { cloneModel, type SavableModel } from '../../models/saved_model.js';
import type { Linear } from '../../nn/linear.js';
import type { Module } from '../../nn/module.js';
import { SparseLinear } from '../../nn/sparse_linear.js';
import { chooseSites, place, type Site, type Target } from '../../nn/surgery.js';
import { chooseLayout } from '../../ops/sparse_choice.js';
import type { BlockSize, SparseLayout } from '../../ops/sparse.js';
import { checkBoolean, checkInteger, checkKeys, checkOneOf } from '../../util/assert.js';
import { changeEmbeddings, checkEmbeddings, type EmbeddingOptions } from '../embedding_tables.js';
import type { LayerJournal } from '../layer_journal.js';
import { bytesOf, checkWeights, linearSites } from '../linear_sites.js';

/** Options of {@link sparsify}. */
export interface SparsifyModelOptions extends EmbeddingOptions {
  /**
   * `auto`: the layout that suits a layer's pattern, if it is expected to be faster than the dense product (`chooseLayout`), else the
   * layer stays dense. A layout by name is taken in any case. Default `auto`.
   */
  readonly layout?: SparseLayout | 'auto';
  /** How the kept values are stored; int8 with a scale for each row. Default `float32`. */
  readonly values?: 'float32' | 'int8';
  /** Rows of x that the layers will mostly see: 1 when decoding (default), batch × length for prompts. */
  readonly rows?: number;
  /** Which of the pruned layers. Default: all. */
  readonly target?: Target;
  /** Change the model itself instead of a copy. Default false. */
  readonly inPlace?: boolean;
  /** Told of each layer when it is done. */
  readonly onLayer?: (report: SparsifiedLayerReport) => void;
  /** Stops between layers; the promise is rejected with its reason. */
  readonly signal?: AbortSignal;
  /** Keeps finished layers, so that the same call goes on after an interruption: see `folderJournal`. Default: none. */
  readonly journal?: LayerJournal;
}

/** What became of one layer. */
export interface SparsifiedLayerReport {
  readonly path: string;
  readonly layout: SparseLayout | 'dense';
  /** How many weights the layer has, zeros included. */
  readonly weights: number;
  /** Share of the weights that are not stored. */
  readonly sparsity: number;
  /** Of weight and bias. */
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

const OP = 'sparsify';
const layouts: readonly (SparseLayout | 'auto')[] = ['auto', 'csr', 'block', '2:4'];

/** @internal Keys of {@link SparsifyModelOptions} that say what becomes of a layer. */
export const sparseFormKeys = ['layout', 'values', 'rows'] as const;

/** @internal What becomes of layers, with its defaults. @throws AttributeError for the first option that cannot be */
export function resolveSparseForm(
  op: string,
  given: SparsifyModelOptions,
): Required<Pick<SparsifyModelOptions, (typeof sparseFormKeys)[number]>> {
  return {
    layout: checkOneOf(op, 'layout', given.layout ?? 'auto', layouts),
    values: checkOneOf(op, 'values', given.values ?? 'float32', ['float32', 'int8']),
    rows: checkInteger(op, 'rows', given.rows ?? 1, 1),
  };
}

/** @internal Whether `sparsify` would take a model and options. @throws what it would throw before any work on layers */
export function checkSparsification(model: Module, options: SparsifyModelOptions): void {
  checkEmbeddings(OP, model, options);
  prunedSites(model, options.target, resolveSparseForm(OP, options).layout);
}

/** Layouts that a pattern allows, best first, and the side of its squares. */
function allowedLayouts(pruned: string): { layouts: SparseLayout[]; blockSize: BlockSize | null } {
  const side = /^block:(\d+)$/.exec(pruned)?.[1];
  if (side !== undefined) return { layouts: ['block', 'csr'], blockSize: Number(side) as BlockSize };
  // whole fours with at most two kept: n ≤ 2 of 4; 2n of 8 need not be
  const isSemi = pruned === '2:4' || pruned === '1:4';
  return { layouts: isSemi ? ['2:4', 'csr'] : ['csr'], blockSize: null };
}

/** The pruned layers that are meant. @throws StateError if none is pruned */
function prunedSites(model: Module, target: Target | undefined, layout: SparseLayout | 'auto'): Site<Linear>[] {
  const all = linearSites(OP, model).filter(({ layer }) => layer.pruned !== null);
  if (all.length === 0) {
    const hint = 'Prune it first: prune(model, { pattern: … })';
    throw new StateError({ op: OP, argument: 'model', expected: 'a pruned model', actual: 'no pruned layer', hint });
  }
  const sites = target === undefined ? all : chooseSites(OP, all, target);
  for (const { path, layer } of sites) {
    const { layouts: allowed } = allowedLayouts(layer.pruned!);
    if (layout !== 'auto' && !allowed.includes(layout)) {
      throw new AttributeError({
        op: OP,
        argument: 'layout',
        expected: `${allowed.join(' or ')} for ${path}, which is pruned as ${layer.pruned}`,
        actual: layout,
        hint: "Use 'auto', or choose layers with target",
      });
    }
    if (layer.weight.dtype !== 'float32' && layer.weight.dtype !== 'float64') {
      const actual = `${layer.weight.dtype} in ${path}`;
      throw new StateError({ op: OP, argument: 'model', expected: 'weights of float32', actual });
    }
  }
  return sites;
}

/**
 * A copy of a pruned model (or the model itself, `inPlace`) whose pruned layers are `nn.SparseLinear`: they compute with the kept weights
 * alone, and files hold those alone. Where the dense product is expected to be faster (`layout: 'auto'`), the layer stays. `embeddings` makes
 * tables of vectors smaller too, which are much of a small model once its layers are sparse.
 *
 * @example
 * ```ts
 * const semi = await prune(gpt, { pattern: '2:4', method: 'sparsegpt', calibration });
 * const sparse = await sparsify(semi, { rows: 1, values: 'int8' });
 * await saveModel('runs/sparse', sparse);
 * ```
 * @throws AttributeError if an option cannot be, a layer's pattern does not suit the layout, or there is no table for `embeddings` to change
 * @throws StateError if no layer is pruned, or a weight is not finite
 */
export async function sparsify<M extends Module>(model: M, options: SparsifyModelOptions = {}): Promise<M> {
  checkKeys(OP, options, [...sparseFormKeys, 'embeddings', 'target', 'inPlace', 'onLayer', 'signal', 'journal']);
  const { target, inPlace, onLayer, signal, journal } = options;
  const { layout, values, rows } = resolveSparseForm(OP, options);
  checkBoolean(OP, 'inPlace', inPlace ?? false);
  checkEmbeddings(OP, model, options);
  const rehearsal = prunedSites(model, target, layout);
  await checkWeights(OP, rehearsal);
  const result = inPlace ? model : (cloneModel(model as unknown as SavableModel) as unknown as M);
  try {
    const sites = inPlace ? rehearsal : prunedSites(result, target, layout);
    changeEmbeddings(OP, result, options);
    const done = (await journal?.restore(result)) ?? new Set<string>();
    for (const site of sites) {
      if (done.has(site.path)) continue;
      signal?.throwIfAborted();
      const { path, layer } = site;
      const { layouts: allowed, blockSize } = allowedLayouts(layer.pruned!);
      const [bytesBefore, weights] = [bytesOf(layer), layer.weight.size];
      let [chosen, sparsity]: [SparseLayout | 'dense', number] = ['dense', 0];
      for (const candidate of layout === 'auto' ? allowed : [layout]) {
        const made = await SparseLinear.fromLinear(layer, {
          layout: candidate,
          ...(candidate === 'block' ? { blockSize: blockSize! } : {}),
          ...(values === 'int8' ? { dtype: 'int8' } : {}),
        });
        sparsity = made.weight.sparsity;
        const size = { m: rows, n: layer.outFeatures, k: layer.inFeatures };
        if (layout === 'auto' && chooseLayout({ ...size, sparsity, layouts: [candidate] }) === 'dense') {
          made.dispose();
          continue;
        }
        chosen = candidate;
        if (!layer.weight.requiresGrad) made.freeze();
        made.train(layer.training);
        place(OP, site, made);
        onLayer?.({ path, layout: chosen, weights, sparsity, bytesBefore, bytesAfter: bytesOf(made) });
        layer.dispose();
        break;
      }
      if (chosen === 'dense')
        onLayer?.({ path, layout: 'dense', weights, sparsity, bytesBefore, bytesAfter: bytesBefore });
      await journal?.record(result, [path]);
    }
    return result;
  } catch (error) {
    if (!inPlace) result.dispose();
    throw error;
  }
}
