/** Rows that time a whole model: training, reading a prompt, generating. Every side has a process of its own. */
import type { Work } from './subject.js';

export interface ModelCase extends Work {
  readonly name: string;
  readonly shape: string;
  /** Tokens of one repetition. */
  readonly tokens: number;
}

const training = { layers: 6, heads: 6, width: 384, context: 256, batch: 12, vocab: 65 };
/** GPT-2's 124 million parameters, or a quarter of that. */
const generating = { layers: 12, heads: 12, width: 768, context: 1024, vocab: 50257 };
const generatingQuick = { layers: 6, heads: 6, width: 384, context: 1024, vocab: 50257 };

export function modelCases(quick: boolean): readonly ModelCase[] {
  const geometry = quick ? generatingQuick : generating;
  const label = `${geometry.layers} layers, ${geometry.width} wide`;
  return [
    {
      name: 'training step',
      shape: '6 layers, 384 wide, 12x256',
      tokens: training.batch * training.context,
      op: 'train',
      args: training,
    },
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
