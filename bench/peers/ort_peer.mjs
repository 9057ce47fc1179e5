// onnxruntime-node: a graph of one node for each kernel, or of as many as there are weights in turn.
import { createRequire } from 'node:module';
import { serve } from './serve.mjs';
import { model } from './onnx_model.mjs';
import { works } from './ort_work.mjs';

const require = createRequire(import.meta.url);
const ort = require('onnxruntime-node');

const arrays = {
  float32: Float32Array,
  uint8: Uint8Array,
  int8: Int8Array,
  int32: Int32Array,
  int64: BigInt64Array,
  float16: Uint16Array,
};
const sizeOf = (shape) => shape.reduce((a, b) => a * b, 1);

/** Copies of a work's node in one graph, each with weights and results of its own; the other operands are shared. */
function graphOf({ node, operands, results, copies = 1 }) {
  const graph = { nodes: [], inputs: [], outputs: [], constants: [] };
  const feeds = {};
  for (let copy = 0; copy < copies; copy++) {
    const inputs = operands().map((operand, i) => {
      if (operand === null) return '';
      const { isConstant, type, shape, data } = operand;
      const name = isConstant ? `w${copy}_${i}` : `x${i}`;
      if (isConstant) graph.constants.push({ name, type, shape, data });
      else if (copy === 0) {
        graph.inputs.push({ name, type, shape });
        feeds[name] = new ort.Tensor(type, data, shape);
      }
      return name;
    });
    const outputs = results.map((result, i) => (result === null ? null : { ...result, name: `y${copy}_${i}` }));
    graph.outputs.push(...outputs.filter((output) => output !== null));
    graph.nodes.push({ ...node, inputs, outputs: outputs.map((output) => output?.name ?? '') });
  }
  return { graph, feeds };
}

await serve(
  async (op, args, threads) => {
    const work = works[op]?.(args);
    if (work === undefined) return undefined;
    const { graph, feeds } = graphOf(work);
    const session = await ort.InferenceSession.create(model(graph), {
      executionProviders: ['cpu'],
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
      logSeverityLevel: 3,
    });
    // Results that are made anew at each call would cost it page faults.
    const fetches = Object.fromEntries(
      graph.outputs.map(({ name, type, shape }) => [
        name,
        new ort.Tensor(type, new arrays[type](sizeOf(shape)), shape),
      ]),
    );
    return {
      once: () => session.run(feeds, fetches),
      perCall: work.copies ?? 1,
      dispose: () => void session.release(),
    };
  },
  { 'onnxruntime-node': require('onnxruntime-node/package.json').version },
);
process.exit(0);
