/** Rows that time a whole model: training, reading a prompt, generating. Every side has a process of its own. */
import type { Work } from './subject.js';

export interface ModelCase extends Work {
  readonly name: string;
  readonly shape: string;
  /** Tokens of one repetition. */
  readonly tokens: number;
  /** PyTorch takes part a second time, through torch.compile, which takes about a minute to begin. */
  readonly compiled?: boolean;
  /** The same with other layers of ours, in processes of their own: who is compared, by name. Then memory between steps is a row too. */
  readonly beside?: Readonly<Record<string, Work>>;
}

/** The rows that a model gives, as ends of its name. */
export function partsOf({ beside }: ModelCase): readonly string[] {
  return ['', ': peak memory', ...(beside === undefined ? [] : [': memory between steps']), ': event-loop gap'];
}

interface Training {
  readonly layers: number;
  readonly heads: number;
  readonly width: number;
  readonly context: number;
  readonly batch: number;
  readonly vocab: number;
}

/** Forward, backward, clipping, AdamW. */
function training({ batch, context, ...model }: Training, label = '', compiled = false): ModelCase {
  return {
    name: 'training step',
    shape: `${model.layers} layers, ${model.width} wide, ${batch}x${context}${label}`,
    tokens: batch * context,
    op: 'train',
    args: { ...model, batch, context },
    compiled,
  };
}

/**
 * Forward, backward and update of adapters of q and v, over float32 or (`scheme`) quantised layers; the latter beside the former. With
 * `recompute` the blocks' activations are computed again in the backward pass, as the paper of QLoRA does.
 */
function adapting(
  { batch, context, ...model }: Training,
  name: string,
  { scheme, recompute }: { readonly scheme?: string; readonly recompute?: boolean } = {},
): ModelCase {
  const args = { ...model, batch, context, rank: 8 };
  const shape = `${model.layers} layers, ${model.width} wide, ${batch}x${context}, rank 8 of q and v`;
  const common = { name, shape, tokens: batch * context, op: 'adapt' };
  if (scheme === undefined) return { ...common, args };
  return {
    ...common,
    args: { ...args, scheme, recompute: recompute ?? false },
    beside: { 'omnigrad float32': { op: 'adapt', args } },
  };
}

/** GPT-2's 124 million parameters, or a quarter of that. */
const generating = { layers: 12, heads: 12, width: 768, context: 1024, vocab: 50257 };
const generatingQuick = { layers: 6, heads: 6, width: 384, context: 1024, vocab: 50257 };

export function modelCases(quick: boolean): readonly ModelCase[] {
  const geometry = quick ? generatingQuick : generating;
  const label = `${geometry.layers} layers, ${geometry.width} wide`;
  const gpt2 = { layers: 12, heads: 12, width: 768, context: 64, batch: 4, vocab: 50257 };
  return [
    training({ layers: 2, heads: 4, width: 64, context: 32, batch: 4, vocab: 65 }),
    training({ layers: 4, heads: 4, width: 128, context: 64, batch: 8, vocab: 65 }),
    training({ layers: 6, heads: 6, width: 384, context: 256, batch: 12, vocab: 65 }, '', !quick),
    ...(quick ? [] : [training(gpt2, ', GPT-2', true)]),
    adapting({ ...gpt2, ...geometry, context: 64 }, 'LoRA step'),
    adapting({ ...gpt2, ...geometry, context: 64 }, 'QLoRA step', { scheme: 'nf4' }),
    adapting({ ...gpt2, ...geometry, context: 64 }, 'QLoRA step, blocks computed again', {
      scheme: 'nf4',
      recompute: true,
    }),
    { name: 'prefill', shape: `${label}, 512 tokens`, tokens: 512, op: 'prefill', args: { ...geometry, prompt: 512 } },
    {
      name: 'decode',
      shape: `${label}, 64 tokens after 128`,
      tokens: 64,
      op: 'decode',
      args: { ...geometry, prompt: 128, tokens: 64 },
    },
  ];
}
