/** Casts between floats of 32, 16 and 8 bits, bit by bit; products of 16-bit floats. */
import assert from 'node:assert/strict';
import * as og from '../../src/index.js';
import { matmul } from '../../src/ops/matmul.js';
import { testGroup, type Operation } from '../helpers/reference.js';

const halves = { f16: 'float16', bf16: 'bfloat16' } as const;
const eighths = { f8_e4m3fn: 'e4m3fn', f8_e5m2: 'e5m2' } as const;

const isHalf = (name: string): name is keyof typeof halves => name in halves;

/** Bit patterns, as integers. Of the many NaN patterns any will do: the reference's own is put in its place. */
function bitsOf(half: og.Tensor): og.Tensor {
  return og.tensor(Int32Array.from(half.dataSync() as Uint16Array), { shape: half.shape });
}

const operations: Record<string, Operation> = {
  cast: ({ x, bits }, { to, from }) => {
    if (from !== undefined) {
      if (!isHalf(from)) return og.fromFloat8(bits!, eighths[from as keyof typeof eighths]);
      const patterns = Uint16Array.from(bits!.dataSync() as Int32Array);
      return og.tensor(patterns, { dtype: halves[from] }).to('float32');
    }
    if (isHalf(to)) {
      const half = x!.to(halves[to]);
      return { bits: bitsOf(half), back: half.to('float32') };
    }
    const format = eighths[to as keyof typeof eighths];
    assert.ok(format, to);
    const codes = og.toFloat8(x!, format);
    return { bits: codes, back: og.fromFloat8(codes, format) };
  },
  matmul_low: ({ a, b }) => matmul(a!, b!).to('float32'),
};

testGroup('numeric/rounding', operations);
