// onnxruntime-node: a graph of one node for each kernel.
import { createRequire } from 'node:module';
import { serve } from './serve.mjs';
import { model } from './onnx_model.mjs';

const require = createRequire(import.meta.url);
const ort = require('onnxruntime-node');

const uniform = (...shape) => {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  for (let i = 0; i < data.length; i++) data[i] = Math.random() * 2 - 1;
  return { data, shape };
};

/** The node, its operands and the shape of the result. */
const works = {
  matmul: ({ m, n, k, form }) => ({
    node: { op: 'Gemm', attributes: { transA: Number(form === 'TN'), transB: Number(form === 'NT') } },
    inputs: [form === 'TN' ? uniform(k, m) : uniform(m, k), form === 'NT' ? uniform(n, k) : uniform(k, n)],
    result: [m, n],
  }),
  rows: ({ kind, rows, width }) => {
    const node = { softmax: { op: 'Softmax' }, layerNorm: { op: 'LayerNormalization' }, gelu: { op: 'Gelu' } }[kind];
    if (node === undefined) return undefined;
    const weights = kind === 'layerNorm' ? [uniform(width), uniform(width)] : [];
    return { node: { attributes: {}, ...node }, inputs: [uniform(rows, width), ...weights], result: [rows, width] };
  },
  add: ({ shape }) => ({
    node: { op: 'Add', attributes: {} },
    inputs: [uniform(...shape), uniform(...shape)],
    result: shape,
  }),
};

await serve(
  async (op, args, threads) => {
    const work = works[op]?.(args);
    if (work === undefined) return undefined;
    const { node, inputs, result } = work;
    const names = inputs.map((_, i) => `x${i}`);
    const session = await ort.InferenceSession.create(
      model(
        node,
        inputs.map(({ shape }) => shape),
        result,
      ),
      {
        executionProviders: ['cpu'],
        intraOpNumThreads: threads,
        interOpNumThreads: 1,
      },
    );
    const feeds = Object.fromEntries(
      names.map((name, i) => [name, new ort.Tensor('float32', inputs[i].data, inputs[i].shape)]),
    );
    return { once: () => session.run(feeds), dispose: () => void session.release() };
  },
  { 'onnxruntime-node': require('onnxruntime-node/package.json').version },
);
process.exit(0);
