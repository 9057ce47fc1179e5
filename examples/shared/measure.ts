/** Figures of models of text. */
import * as og from '../../src/index.js';
import type { Encoded } from './text.js';

const PREDICTED_NOT = -100;

/**
 * Bits that a model needs for a byte of text: the sum of −log2 p over all tokens, ends of documents included, over the bytes. Other than
 * perplexity a token, it can be compared between tokenizers. Each window of the model's context begins without what was before.
 */
export async function bitsPerByte(model: og.GPT, { ids, bytes }: Encoded, batchSize = 16): Promise<number> {
  const { context } = model.config;
  const starts = Array.from({ length: Math.ceil((ids.length - 1) / context) }, (_, i) => i * context);
  const wasTraining = model.training;
  model.eval();
  let nats = 0;
  try {
    for (let from = 0; from < starts.length; from += batchSize) {
      const rows = starts.slice(from, from + batchSize);
      const [x, y] = [new Int32Array(rows.length * context), new Int32Array(rows.length * context).fill(PREDICTED_NOT)];
      let counted = 0;
      for (const [row, start] of rows.entries()) {
        const targets = ids.subarray(start + 1, start + 1 + context);
        x.set(ids.subarray(start, start + targets.length), row * context);
        y.set(targets, row * context);
        counted += targets.length;
      }
      const shape = [rows.length, context];
      const loss = og.scope(() => og.noGrad(() => model.loss(og.tensor(x, { shape }), og.tensor(y, { shape }))));
      nats += (await loss.item()) * counted;
      loss.dispose();
    }
  } finally {
    model.train(wasTraining);
  }
  return nats / Math.LN2 / bytes;
}

/** What a model writes after a prompt, without the prompt; ends with the end of a document or of a turn. */
export async function write(
  model: og.GPT,
  tokenizer: og.Tokenizer,
  prompt: string,
  options: og.GenerateOptions & { readonly stop?: readonly string[] } = {},
): Promise<{ readonly text: string; readonly ended: boolean; readonly tokens: number }> {
  const { stop = ['<|endoftext|>'], ...rest } = options;
  const stopIds = stop.map((token) => tokenizer.tokenToId(token)).filter((id) => id !== undefined);
  const { context } = model.config;
  const all = Array.from(tokenizer.encodeToTypedArray(prompt, { addSpecialTokens: false }));
  const ids = all.length < context ? all : all.slice(-Math.ceil(context / 2)); // a prompt that leaves no room: its end
  const room = Math.min(rest.maxNewTokens ?? Infinity, context - ids.length);
  let [text, tokens] = ['', 0];
  for await (const piece of model.generate(ids, { ...rest, tokenizer, stopIds, maxNewTokens: room })) {
    text += piece.text;
    tokens++;
  }
  return { text, tokens, ended: tokens < room };
}
