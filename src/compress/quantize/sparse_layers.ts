/**
 * Sparse layers made smaller: their kept values as 8-bit codes.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import type { Module } from '../../nn/module.js';
import { SparseLinear } from '../../nn/sparse_linear.js';
import { place, sitesOf, type Site } from '../../nn/surgery.js';
import { clone } from '../../ops/copy.js';
import { BlockTensor } from '../../ops/sparse.js';
import { toSparse } from '../../ops/sparse_convert.js';
import { detach } from '../../ops/views.js';
import { scope } from '../../tensor/scope.js';
import { bytesOf } from '../linear_sites.js';
import type { QuantizedLayerReport } from './quantize_model.js';
import type { ResolvedQuantization } from './scheme.js';

const isFloatSparse = (module: Module): module is SparseLinear =>
  Object.getPrototypeOf(module) === SparseLinear.prototype && (module as SparseLinear).scale === null;

/** Sparse layers whose values are floats. */
export const floatSparseSites = (model: Module): Site<SparseLinear>[] => [...sitesOf(model, isFloatSparse).values()];

/** @throws AttributeError unless the scheme has 8-bit integer weights, the only codes that sparse kernels take */
export function checkSparseScheme(op: string, path: string, { scheme }: ResolvedQuantization): void {
  if (scheme === 'w8a8' || scheme === 'w8a16') return;
  throw new AttributeError({
    op,
    argument: 'scheme',
    expected: `w8a8 or w8a16 for ${path}, which is sparse`,
    actual: scheme,
    hint: 'Leave sparse layers as they are with a target, or with an override: { target, skip: true }',
  });
}

/** Puts a layer with codes for the kept values, rounded to nearest with a scale a row, in the place of one; it takes float inputs. */
export async function quantizeSparse(op: string, site: Site<SparseLinear>): Promise<QuantizedLayerReport> {
  const { path, layer } = site;
  const { weight } = layer;
  const dense = scope(() => noGrad(() => detach(weight.toDense())));
  let made: SparseLinear;
  try {
    const { layout } = weight;
    const side = weight instanceof BlockTensor ? { blockSize: weight.blockSize } : {};
    const codes = await toSparse(dense, { layout, ...side, dtype: 'int8' });
    made = new SparseLinear(codes, layer.bias === null ? null : scope(() => noGrad(() => clone(layer.bias!))));
  } finally {
    dense.dispose();
  }
  if (layer.bias?.requiresGrad === false) made.freeze();
  made.train(layer.training);
  const [bytesBefore, bytesAfter] = [bytesOf(layer), bytesOf(made)];
  place(op, site, made);
  layer.dispose();
  return { path, scheme: 'w8a16', method: 'rtn', outputError: null, bytesBefore, bytesAfter };
}
