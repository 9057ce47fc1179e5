import { alibiBias } from '../../src/ops/alibi.js';
import { scaledDotProductAttention } from '../../src/ops/attention.js';
import { rope, ropeTables } from '../../src/ops/rope.js';
import { testGroup } from '../helpers/reference.js';

testGroup('ops/ops_attention', {
  sdpa: ({ q, k, v, mask }, { causal, scale, window }) =>
    scaledDotProductAttention(q!, k!, v!, { mask: mask ?? null, causal, scale, window }),
  rope: ({ x }, { theta, start, style }) => {
    const [length, width] = [x!.shape.at(-2)!, x!.shape.at(-1)!];
    const { cos, sin } = ropeTables(
      Array.from({ length }, (_, i) => start + i),
      width,
      { theta },
    );
    return rope(x!, cos, sin, { interleaved: style === 'interleaved' });
  },
  alibi_attention: ({ q, k, v }, { causal, H }) =>
    scaledDotProductAttention(q!, k!, v!, { causal, mask: alibiBias(H, q!.shape[2]!, k!.shape[2]!) }),
});
