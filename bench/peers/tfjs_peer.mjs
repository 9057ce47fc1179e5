// TensorFlow.js on WebAssembly (SIMD, threads): the kernels that it has.
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { serve } from './serve.mjs';

const require = createRequire(import.meta.url);
const tf = require('@tensorflow/tfjs');
const wasm = require('@tensorflow/tfjs-backend-wasm');
wasm.setWasmPaths(join(dirname(require.resolve('@tensorflow/tfjs-backend-wasm/package.json')), 'dist/'));

const uniform = (...shape) => tf.randomUniform(shape, -1, 1);
const works = {
  matmul: ({ m, n, k, form, dtype }) => {
    if (dtype !== 'float32') return undefined;
    if (form !== 'NN') return undefined; // transposed operands leave its fast kernel: 0.5 GFLOP/s, a minute a row
    if (2 * m * n * k > 1e10) return undefined; // its place is clear from the smaller ones
    const [a, b] = [uniform(m, k), uniform(k, n)];
    return () => tf.matMul(a, b);
  },
  rows: ({ kind, rows, width }) => {
    if (kind !== 'softmax') return undefined;
    const x = uniform(rows, width);
    return () => tf.softmax(x);
  },
  add: ({ shape }) => {
    const [a, b] = [uniform(...shape), uniform(...shape)];
    return () => tf.add(a, b);
  },
};

await serve(
  async (op, args, threads) => {
    if (tf.getBackend() !== 'wasm') {
      wasm.setThreadsCount(threads);
      await tf.setBackend('wasm');
    }
    tf.engine().startScope();
    const body = works[op]?.(args);
    if (body === undefined) tf.engine().endScope();
    return body && { once: () => body().dispose(), dispose: () => tf.engine().endScope() };
  },
  { tfjs: tf.version.tfjs },
);
process.exit(0);
