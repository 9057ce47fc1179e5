/** Masks of pruning, against torch.nn.utils.prune and the definitions. */
import {
  globalMagnitudeMasks,
  magnitudeMask,
  nOfMMask,
  structuredMask,
  wandaMask,
} from '../../src/compress/prune/masks.js';
import * as og from '../../src/index.js';
import { testGroup, type Operation } from '../helpers/reference.js';

/** The reference stores masks as bytes. */
const bytes = (mask: og.Tensor): og.Tensor => mask.to('uint8');
const both = (weight: og.Tensor, mask: og.Tensor): Record<string, og.Tensor> => ({
  mask: bytes(mask),
  pruned: og.where(mask, weight, 0),
});

const operations: Record<string, Operation> = {
  prune: ({ w }, a) =>
    both(w!, a.n === undefined ? magnitudeMask(w!, a.amount) : structuredMask(w!, a.amount, { p: a.n, axis: a.dim })),
  prune_global: ({ a, b }, { amount }) => {
    const [first, second] = globalMagnitudeMasks([a!, b!], amount);
    return { mask_a: bytes(first!), mask_b: bytes(second!) };
  },
  prune_2_4: ({ w }, { n, m }) => both(w!, nOfMMask(w!, n, m)),
  prune_wanda: ({ w, x }, { sparsity }) => ({ mask: bytes(wandaMask(w!, x!, sparsity)) }),
};

testGroup('numeric/prune', operations);
