// Started by test/process_exit.test.ts with a way to end: queues more work than is done by then, and ends that way.
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import { tensor, add, full, mul } from '../../dist/index.js';

/** Some 20 ms of kernels, most of which have not run when this returns. */
function queueWork() {
  let x = full([1 << 19], 1.5);
  for (let i = 0; i < 25; i++) x = mul(add(x, 1), 0.5);
  return x;
}

const file = fileURLToPath(import.meta.url);

async function startWorker(how) {
  const worker = new Worker(file, { workerData: how });
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
  return worker;
}

const ways = {
  // The loop drains: whatever was queued must neither keep the process forever nor be run on freed memory.
  end: () => void queueWork(),
  exit: () => {
    queueWork();
    process.exit(0);
  },
  'exit-in-read': () => {
    void queueWork().data();
    setImmediate(() => process.exit(0));
  },
  throw: () => {
    queueWork();
    throw new Error('thrown on purpose');
  },
  'worker-exit': async () => void (await startWorker('exit')),
  'worker-terminate': async () => {
    const worker = await startWorker('stay');
    queueWork();
    await worker.terminate();
  },
  'exit-beside-worker': async () => {
    await startWorker('stay');
    queueWork();
    process.exit(0);
  },
};

if (isMainThread) {
  await ways[process.argv[2]]();
} else if (workerData === 'sum') {
  const x = tensor([1, 2, 3]);
  const numbers = [];
  for (let i = 0; i < 20; i++) numbers.push(...(await add(mul(x, i), 1).data()));
  parentPort.postMessage(numbers);
} else {
  queueWork();
  parentPort.postMessage('started');
  if (workerData === 'exit') process.exit(0);
  setInterval(queueWork, 5);
}
