/** The program of a worker thread: does its task on each item that arrives. */
import { parentPort, workerData } from 'node:worker_threads';
import { sendError } from './errors.js';
import { makeTask, type WorkerTask } from './tasks.js';

/** Buffers of typed arrays in a result move to the other thread instead of being copied. */
function buffersOf(result: unknown): ArrayBuffer[] {
  if (typeof result !== 'object' || result === null) return [];
  return Object.values(result).flatMap((value) =>
    ArrayBuffer.isView(value) && value.buffer instanceof ArrayBuffer && value.byteLength === value.buffer.byteLength
      ? [value.buffer]
      : [],
  );
}

const port = parentPort!;
const ready = makeTask((workerData as { task: WorkerTask }).task);
ready.catch(() => {}); // told with the first item

/** Items are done one after the other, so answers come in the order of the questions. */
let last: Promise<void> = Promise.resolve();

async function answer(item: unknown): Promise<void> {
  try {
    const run = await ready;
    const result = await run(item);
    port.postMessage({ result }, [...new Set(buffersOf(result))]);
  } catch (error) {
    port.postMessage({ error: sendError(error) });
  }
}

port.on('message', ({ item }: { item: unknown }) => {
  last = last.then(() => answer(item));
});
