/** Small models for the tests of adapters. */
import type { LoraLinear } from '../../src/finetune/index.js';
import * as og from '../../src/index.js';
import { nn } from '../../src/index.js';

export const tokens = og.tensor(
  Int32Array.from({ length: 24 }, (_, i) => (i * 7 + 3) % 16),
  { shape: [2, 12] },
);

/** Two layers in a list, the second without a bias, and a head. */
export class Net extends nn.Module {
  readonly layers: nn.Module[];
  readonly head: nn.Linear;

  constructor(dtype: og.DType = 'float32', seed = 1) {
    super();
    const options = { dtype, generator: og.generator(seed) };
    this.layers = [new nn.Linear(6, 5, options), new nn.Linear(5, 5, { ...options, bias: false })];
    this.head = new nn.Linear(5, 3, options);
  }

  forward(x: og.Tensor): og.Tensor {
    for (const layer of this.layers) x = (layer as nn.Linear).forward(x).tanh();
    return this.head.forward(x);
  }
}

/** Its token table is large enough for decisive logits, as a trained one is. */
export function gpt(): og.GPT {
  const generator = og.generator(2);
  const model = new og.GPT({ vocabSize: 16, context: 16, layers: 2, heads: 2, width: 32 }, { generator });
  nn.init.normal_(model.tokens.weight, 0, 0.3, generator);
  return model;
}

/** Makes int4 layers of all linear layers of the blocks. */
export function quantized(model: og.GPT): og.GPT {
  for (const { attention, mlp } of model.blocks) {
    for (const [holder, keys] of [
      [attention, ['q', 'k', 'v', 'o']],
      [mlp, ['up', 'down']],
    ] as const) {
      const layers = holder as unknown as Record<string, nn.Module>;
      for (const key of keys) layers[key] = nn.QuantizedLinear.from(layers[key] as nn.Linear);
    }
  }
  return model;
}

/** An adapted layer of the list. */
export const layerOf = (model: Net, index = 0): LoraLinear => model.layers[index] as LoraLinear;
/** Four inputs of a {@link Net}. */
export const input = (dtype: og.DType = 'float32'): og.Tensor =>
  og.randn([4, 6], { dtype, generator: og.generator(7) });
