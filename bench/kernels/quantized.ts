/** Products of 8-bit codes, layers with quantised weights, and making codes. */
import { og } from '../library.js';
import { copiesInMemory, discard, inTurn, uniform, type KernelCase } from './case.js';
import type { Quantized, Tensor } from '../../src/index.js';

type Byte = 'int8' | 'uint8';

const codes = (dtype: Byte, ...shape: number[]): Tensor =>
  og.randint(dtype === 'int8' ? -128 : 0, dtype === 'int8' ? 128 : 256, shape, { dtype });
const sign = (dtype: Byte): string => (dtype === 'int8' ? 's8' : 'u8');

/** Sums in int32 of codes of the full range. Peers have the second operand beforehand, and may lay it out once. */
function matmulInteger(m: number, n: number, k: number, a: Byte, b: Byte): KernelCase {
  return {
    name: `matmulInteger ${sign(a)}${sign(b)}`,
    shape: `${m}x${n}x${k}`,
    dtype: a,
    unit: 'GOP/s',
    amount: 2 * m * n * k,
    other: m * k + k * n + 4 * m * n,
    op: 'matmulInteger',
    args: { m, n, k, a, b, copies: 1 },
    prepare: () => {
      const [x, weight] = [codes(a, m, k), codes(b, k, n)];
      return () => og.matmulInteger(x, weight).dispose();
    },
  };
}

/** Unsigned activations with one scale, signed weights with one scale an output, sums, scaled and rounded to unsigned codes. */
function linearInt8(m: number, n: number, k: number, place?: 'memory'): KernelCase {
  const copies = place === undefined ? 1 : copiesInMemory(n * k);
  const [operations, moved] = [2 * m * n * k, m * k + n * k + m * n];
  return {
    ...(m === 1
      ? { unit: 'GB/s', amount: n * k, other: operations, limit: 'read' }
      : { unit: 'GOP/s', amount: operations, other: moved }),
    name: `linearInt8${place === undefined ? '' : `, weights in ${place}`}`,
    shape: `${m}x${n}x${k}`,
    dtype: 'int8',
    op: 'linearInt8',
    args: { m, n, k, copies },
    variants: { torch: ['fbgemm', 'onednn'] },
    prepare: () => {
      const none = { axis: null, groupSize: null, bits: 8 } as const;
      const zeroPoint = og.tensor(128, { dtype: 'int32' });
      const x: Quantized = { codes: codes('uint8', m, k), scale: og.tensor(0.01), zeroPoint, ...none };
      const weight = inTurn(copies, () => og.quantize(uniform(n, k), { axis: 0 }));
      const output = { scale: 0.1, zeroPoint: 128, dtype: 'uint8' } as const;
      return () => og.linearInt8(x, weight(), null, { output }).dispose();
    },
  };
}

/** float32 rows are rounded to codes on the way. */
function linearInt8Dynamic(m: number, n: number, k: number): KernelCase {
  return {
    name: 'linearInt8Dynamic',
    shape: `${m}x${n}x${k}`,
    dtype: 'int8',
    unit: 'GOP/s',
    amount: 2 * m * n * k,
    other: 4 * m * k + n * k + 4 * m * n,
    op: 'linearInt8Dynamic',
    args: { m, n, k },
    variants: { torch: ['fbgemm', 'onednn'] },
    prepare: () => {
      const [x, weight] = [uniform(m, k), og.quantize(uniform(n, k), { axis: 0 })];
      return () => og.linearInt8Dynamic(x, weight).dispose();
    },
  };
}

interface WeightOnly {
  readonly bits: 4 | 8;
  /** Elements of a scale; null for one an output. */
  readonly group: number | null;
  readonly activations: 'float' | 'int8';
}

/**
 * Weights in codes with float32 scales, x in float32. One row counts the bytes of codes and scales, from memory. For few rows, x
 * is rounded to int8 on both sides or neither; many rows and 8-bit weights meet both ways of onnxruntime.
 */
function weightOnly(m: number, n: number, k: number, { bits, group, activations }: WeightOnly): KernelCase {
  const bytes = (n * k * bits) / 8 + (4 * n * k) / (group ?? k);
  const copies = m <= 16 ? copiesInMemory(bytes) : 1;
  const operations = 2 * m * n * k;
  const groups = group === null ? 'a scale an output' : `groups of ${group}`;
  const how = activations === 'int8' ? ', int8 activations' : '';
  return {
    ...(m === 1
      ? { unit: 'GB/s', amount: bytes, other: operations, limit: 'read' }
      : { unit: 'GFLOP/s', amount: operations, other: bytes + 4 * m * (n + k) }),
    name: `linear int${bits}, ${groups}${how}`,
    shape: `${m}x${n}x${k}`,
    op: 'weightOnly',
    args: { m, n, k, bits, group, copies },
    variants: {
      onnxruntime:
        group === null
          ? []
          : ['int8 activations', 'float activations'].filter(
              (way) => m > 16 || bits === 8 || way.startsWith(activations),
            ),
      torch: bits === 4 ? ['int4pack bf16'] : group === null ? ['int8pack bf16'] : [],
    },
    prepare: () => {
      const options = bits === 4 ? { bits, packed: true } : { bits };
      const x = uniform(m, k);
      const weight = inTurn(copies, () =>
        og.quantize(uniform(n, k), group === null ? { ...options, axis: 0 } : { ...options, groupSize: group }),
      );
      return () => og.quantizedLinear(x, weight(), null, { activations }).dispose();
    },
  };
}

interface Quantizing {
  readonly what: 'rows' | 'whole' | 'groups' | 'dequantize';
  readonly name: string;
  /** Bytes of an element's code and share of a scale. */
  readonly codeBytes: number;
  readonly variants?: KernelCase['variants'];
}

function quantizing(rows: number, width: number, { what, name, codeBytes, variants }: Quantizing): KernelCase {
  return {
    name,
    shape: `${rows}x${width}`,
    unit: 'GB/s',
    amount: (4 + codeBytes) * rows * width,
    op: 'quantize',
    args: { what, rows, width },
    ...(variants === undefined ? {} : { variants }),
    prepare: () => {
      const x = uniform(rows, width);
      if (what === 'rows') return discard(() => og.quantize(x, { axis: 0 }));
      if (what === 'whole') return discard(() => og.quantize(x, { scheme: 'affine' }));
      if (what === 'groups') return discard(() => og.quantize(x, { bits: 4, groupSize: 32, packed: true }));
      const quantized = og.quantize(x, { axis: 0 });
      return () => og.dequantize(quantized).dispose();
    },
  };
}

const int4 = { bits: 4, group: 32 } as const;

export const quantizedCases: readonly KernelCase[] = [
  matmulInteger(512, 2304, 768, 'int8', 'int8'),
  matmulInteger(512, 2304, 768, 'uint8', 'uint8'),
  matmulInteger(512, 2304, 768, 'uint8', 'int8'),
  matmulInteger(512, 768, 3072, 'int8', 'int8'),
  matmulInteger(512, 768, 3072, 'uint8', 'uint8'),
  linearInt8(512, 2304, 768),
  linearInt8(512, 768, 3072),
  linearInt8(8, 3072, 768, 'memory'),
  linearInt8(1, 3072, 768, 'memory'),
  linearInt8Dynamic(512, 2304, 768),
  weightOnly(1, 3072, 768, { ...int4, activations: 'int8' }),
  weightOnly(1, 50257, 768, { ...int4, activations: 'int8' }),
  weightOnly(1, 3072, 768, { ...int4, activations: 'float' }),
  weightOnly(8, 3072, 768, { ...int4, activations: 'int8' }),
  weightOnly(512, 3072, 768, { ...int4, activations: 'float' }),
  weightOnly(512, 3072, 768, { ...int4, activations: 'int8' }),
  weightOnly(1, 3072, 768, { bits: 8, group: 32, activations: 'float' }),
  weightOnly(1, 3072, 768, { bits: 8, group: null, activations: 'float' }),
  weightOnly(512, 3072, 768, { bits: 8, group: null, activations: 'float' }),
  quantizing(16384, 768, {
    what: 'rows',
    name: 'quantize int8, a scale a row',
    codeBytes: 1,
    variants: { torch: ['scales given', 'composed'], onnxruntime: ['scales given'] },
  }),
  quantizing(16384, 768, { what: 'whole', name: 'quantize uint8, one scale', codeBytes: 1 }),
  quantizing(16384, 768, { what: 'groups', name: 'quantize int4, groups of 32', codeBytes: 0.5 + 4 / 32 }),
  quantizing(16384, 768, { what: 'dequantize', name: 'dequantize int8, a scale a row', codeBytes: 1 }),
];
