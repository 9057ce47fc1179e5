/** Token tables of models whose layers are sparse. */
import * as og from '../../src/index.js';

/** The model itself, with its token table as int8 codes, as `quantize` with `embeddings: 'int8'` leaves it. */
export function withInt8Table(model: og.GPT): og.GPT {
  const { tokens } = model;
  Object.assign(model, { tokens: og.nn.QuantizedEmbedding.from(tokens, 'int8') });
  tokens.dispose();
  return model;
}
