// What onnxruntime does for each kind of work: the node, its operands and the shapes of its results.
import { randomFillSync } from 'node:crypto';

const sizeOf = (shape) => shape.reduce((a, b) => a * b, 1);

function floats(...shape) {
  const data = new Float32Array(sizeOf(shape));
  for (let i = 0; i < data.length; i++) data[i] = Math.random() * 2 - 1;
  return { type: 'float32', shape, data };
}
/** Of the full range, or the bytes of two codes each. */
function bytes(type, ...shape) {
  const data = type === 'int8' ? new Int8Array(sizeOf(shape)) : new Uint8Array(sizeOf(shape));
  return { type, shape, data: randomFillSync(data) };
}
const filled = (type, Kind, value, ...shape) => ({ type, shape, data: new Kind(sizeOf(shape)).fill(value) });
const scales = (value, ...shape) => filled('float32', Float32Array, value, ...shape);
/** Known when the session is made. */
const constant = (operand) => ({ ...operand, isConstant: true });
const result = (type, ...shape) => ({ type, shape });

/** A product of rows with weights, by the operands behind x. */
function product(node, x, type, { m, n, copies }, weights) {
  return { node, operands: () => [x, ...weights()], results: [result(type, m, n)], copies };
}

const rowNodes = {
  softmax: { op: 'Softmax' },
  logSoftmax: { op: 'LogSoftmax' },
  exp: { op: 'Exp' },
  layerNorm: { op: 'LayerNormalization' },
  rmsNorm: { op: 'RMSNormalization' },
  gelu: { op: 'Gelu', domain: 'com.microsoft' },
  'gelu tanh': { op: 'FastGelu', domain: 'com.microsoft' },
  addLayerNorm: { op: 'SkipLayerNormalization', domain: 'com.microsoft', attributes: { epsilon: { float: 1e-5 } } },
};
const rowWeights = { layerNorm: 2, rmsNorm: 1, addLayerNorm: 2 };

const matrixNodes = {
  transpose: { node: { op: 'Transpose', attributes: { perm: [1, 0] } }, results: (n, w) => [result('float32', w, n)] },
  sumRows: {
    node: { op: 'ReduceSum', attributes: { keepdims: 0 } },
    operands: [constant({ type: 'int64', shape: [1], data: BigInt64Array.of(1n) })],
    results: (n) => [result('float32', n)],
  },
  sumColumns: {
    node: { op: 'ReduceSum', attributes: { keepdims: 0 } },
    operands: [constant({ type: 'int64', shape: [1], data: BigInt64Array.of(0n) })],
    results: (_, w) => [result('float32', w)],
  },
  argmax: {
    node: { op: 'ArgMax', attributes: { axis: 1, keepdims: 0 } },
    results: (n) => [result('int64', n)],
  },
  topk: {
    node: { op: 'TopK', attributes: { axis: 1 } },
    operands: [constant({ type: 'int64', shape: [1], data: BigInt64Array.of(50n) })],
    results: (n) => [result('float32', n, 50), result('int64', n, 50)],
  },
  cumsum: {
    node: { op: 'CumSum' },
    operands: [constant({ type: 'int64', shape: [], data: BigInt64Array.of(1n) })],
    results: (n, w) => [result('float32', n, w)],
  },
};

function conv({ axes, from, to, window, length, stride, padding, groups, backward }) {
  if (backward) return undefined;
  const each = (value) => Array(axes).fill(value);
  const [x, weight, bias] = [
    floats(1, from, ...each(length)),
    constant(floats(to, from / groups, ...each(window))),
    constant(floats(to)),
  ];
  const attributes = {
    kernel_shape: each(window),
    strides: each(stride),
    pads: Array(2 * axes).fill(padding),
    group: groups,
  };
  return {
    node: { op: 'Conv', attributes },
    operands: () => [x, weight, bias],
    results: [result('float32', 1, to, ...each(length / stride))],
  };
}

/** The operator of the ONNX standard. */
function plainAttention({ batch, heads, kvHeads, time, width }) {
  const [q, k, v] = [heads, kvHeads, kvHeads].map((count) => floats(batch, count, time, width));
  return {
    node: { op: 'Attention', attributes: { is_causal: 1 } },
    operands: () => [q, k, v],
    results: [result('float32', batch, heads, time, width)],
  };
}

/** onnxruntime's own, which language models are exported with: causal, into an empty cache. */
function groupQueryAttention({ batch, heads, kvHeads, time, width, window, softCap }) {
  const [q, k, v] = [heads, kvHeads, kvHeads].map((count) => floats(batch, time, count * width));
  const [lengths, total] = [filled('int32', Int32Array, time - 1, batch), filled('int32', Int32Array, time)];
  const attributes = {
    num_heads: heads,
    kv_num_heads: kvHeads,
    ...(window === null ? {} : { local_window_size: window }),
    ...(softCap === null ? {} : { softcap: { float: softCap } }),
  };
  const present = result('float32', batch, kvHeads, time, width);
  return {
    node: { op: 'GroupQueryAttention', domain: 'com.microsoft', attributes },
    operands: () => [q, k, v, null, null, lengths, total],
    results: [result('float32', batch, time, heads * width), present, present],
  };
}

/** Operands of MatMulNBits: codes with 8, or 128, as their zero, and a scale for each block. */
function blockCodes({ n, k, bits, group }) {
  const blocks = k / group;
  return () => [constant(bytes('uint8', n, blocks, (group * bits) / 8)), constant(scales(0.01, n, blocks))];
}

function quantize({ what, rows, width }) {
  const [x, zero] = [floats(rows, width), constant(filled('int8', Int8Array, 0, rows))];
  const codes = result('int8', rows, width);
  if (what === 'rows')
    return {
      node: { op: 'QuantizeLinear', attributes: { axis: 0 } },
      operands: () => [x, constant(scales(0.01, rows)), zero],
      results: [codes],
    };
  if (what === 'whole')
    return {
      node: { op: 'DynamicQuantizeLinear' },
      operands: () => [x],
      results: [result('uint8', rows, width), result('float32'), result('uint8')],
    };
  if (what !== 'dequantize') return undefined;
  const from = bytes('int8', rows, width);
  return {
    node: { op: 'DequantizeLinear', attributes: { axis: 0 } },
    operands: () => [from, constant(scales(0.01, rows)), zero],
    results: [result('float32', rows, width)],
  };
}

/** @type {Readonly<Record<string, (args: any) => { node: object, operands: () => (object | null)[], results: object[], copies?: number } | undefined>>} */
export const works = {
  matmul: ({ m, n, k, form, dtype }) => {
    if (dtype !== 'float32') return undefined;
    const a = form === 'TN' ? floats(k, m) : floats(m, k);
    const b = form === 'NT' ? floats(n, k) : floats(k, n);
    const attributes = { transA: Number(form === 'TN'), transB: Number(form === 'NT') };
    return { node: { op: 'Gemm', attributes }, operands: () => [a, b], results: [result('float32', m, n)] };
  },
  linear: (args) => {
    const { m, n, k, dtype } = args;
    if (dtype !== 'float32') return undefined; // no such kernel: it converts to float32 and back
    return product({ op: 'MatMul' }, floats(m, k), 'float32', args, () => [constant(floats(k, n))]);
  },
  matmulInteger: (args) =>
    product({ op: 'MatMulInteger' }, bytes(args.a, args.m, args.k), 'int32', args, () => [
      constant(bytes(args.b, args.k, args.n)),
    ]),
  linearInt8: (args) => {
    const zero = (value) => constant(filled('uint8', Uint8Array, value));
    return product({ op: 'QLinearMatMul' }, bytes('uint8', args.m, args.k), 'uint8', args, () => [
      constant(scales(0.01)),
      zero(128),
      constant(bytes('int8', args.k, args.n)),
      constant(scales(0.01, args.n)),
      constant(filled('int8', Int8Array, 0, args.n)),
      constant(scales(0.1)),
      zero(128),
    ]);
  },
  linearInt8Dynamic: (args) =>
    product(
      { op: 'DynamicQuantizeMatMul', domain: 'com.microsoft' },
      floats(args.m, args.k),
      'float32',
      { ...args, copies: 1 },
      () => [constant(bytes('int8', args.k, args.n)), constant(scales(0.01, args.n))],
    ),
  weightOnly: (args) => {
    const { n, k, bits, group, variant } = args;
    const attributes = { N: n, K: k, bits, block_size: group, accuracy_level: variant.startsWith('int8') ? 4 : 0 };
    const node = { op: 'MatMulNBits', domain: 'com.microsoft', attributes };
    return product(node, floats(args.m, k), 'float32', args, blockCodes(args));
  },
  attention: (args) => {
    if (args.backward) return undefined;
    return args.variant === 'Attention' ? plainAttention(args) : groupQueryAttention(args);
  },
  attentionDecode: ({ heads, kvHeads, keys, width, copies }) => {
    const q = floats(1, heads, 1, width);
    const cache = () => constant(floats(1, kvHeads, keys, width));
    return {
      node: { op: 'Attention' },
      operands: () => [q, cache(), cache()],
      results: [result('float32', 1, heads, 1, width)],
      copies,
    };
  },
  rows: ({ kind, rows, width }) => {
    const node = rowNodes[kind];
    if (node === undefined) return undefined;
    const x = Array.from({ length: kind === 'addLayerNorm' ? 2 : 1 }, () => floats(rows, width));
    const weights = Array.from({ length: rowWeights[kind] ?? 0 }, () => floats(width));
    const y = result('float32', rows, width);
    if (kind !== 'addLayerNorm') return { node, operands: () => [...x, ...weights], results: [y] };
    return { node, operands: () => [...x, ...weights], results: [y, null, null, y] };
  },
  quantize,
  matrix: ({ kind, rows, width }) => {
    const found = matrixNodes[kind];
    if (found === undefined) return undefined;
    const x = floats(rows, width);
    return { node: found.node, operands: () => [x, ...(found.operands ?? [])], results: found.results(rows, width) };
  },
  embedding: ({ tokens, vocab, width, backward }) => {
    if (backward) return undefined;
    const [table, ids] = [constant(floats(vocab, width)), filled('int32', Int32Array, 0, tokens)];
    for (let i = 0; i < tokens; i++) ids.data[i] = Math.floor(Math.random() * vocab);
    return {
      node: { op: 'Gather', attributes: { axis: 0 } },
      operands: () => [table, ids],
      results: [result('float32', tokens, width)],
    };
  },
  conv,
  rope: ({ batch, heads, time, width }) => {
    const x = floats(batch, heads, time, width);
    const ids = { type: 'int64', shape: [batch, time], data: new BigInt64Array(batch * time) };
    for (let i = 0; i < batch * time; i++) ids.data[i] = BigInt(i % time);
    const tables = [constant(floats(time, width / 2)), constant(floats(time, width / 2))];
    return {
      node: { op: 'RotaryEmbedding', domain: 'com.microsoft' },
      operands: () => [x, ids, ...tables],
      results: [result('float32', batch, heads, time, width)],
    };
  },
  add: ({ shape }) => {
    const [a, b] = [floats(...shape), floats(...shape)];
    return { node: { op: 'Add' }, operands: () => [a, b], results: [result('float32', ...shape)] };
  },
};
