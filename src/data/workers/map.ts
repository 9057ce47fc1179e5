/**
 * Work spread over threads whose results come in the order of the work.
 *
 * @module
 */
import { Worker } from 'node:worker_threads';
import { ResourceError } from '../../errors.js';
import { programOf } from '../../runtime/load.js';
import { checkInteger, checkKeys } from '../../util/assert.js';
import { receiveError, type SentError } from './errors.js';
import { makeTask, type ModuleTask, type WorkerTask } from './tasks.js';

/** Options of {@link mapInWorkers}. */
export interface WorkerOptions {
  /** Threads; 0: in this thread. */
  readonly workers: number;
  /** Items a worker has before it: one under way and the rest waiting, so that it is never idle. Default 2. */
  readonly ahead?: number;
}

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** One thread and the items it was given, which it answers in order. */
class Hand {
  private readonly worker: Worker;
  private readonly waiting: Waiting[] = [];
  private failure: Error | null = null;

  constructor(task: WorkerTask) {
    this.worker = new Worker(programOf('data/workers/worker'), { workerData: { task } });
    this.worker.on('message', ({ result, error }: { result?: unknown; error?: SentError }) => {
      const next = this.waiting.shift()!;
      if (error === undefined) next.resolve(result);
      else next.reject(receiveError(error));
    });
    this.worker.on('error', (cause) =>
      this.fail(`${(cause as NodeJS.ErrnoException).code ?? cause.name}: ${cause.message}`, cause),
    );
    this.worker.on('messageerror', (cause) => this.fail(`an answer that cannot be read: ${cause.message}`, cause));
    this.worker.on('exit', (code) => this.fail(`its end (exit code ${code})`));
  }

  /** Items given and not answered. */
  get load(): number {
    return this.waiting.length;
  }

  private fail(actual: string, cause?: unknown): void {
    const hint = 'Its memory or stack may be too small for an item; run with { workers: 0 } to see the cause';
    this.failure ??= new ResourceError({ op: 'worker', expected: 'an answer from the thread', actual, hint, cause });
    for (const { reject } of this.waiting.splice(0)) reject(this.failure);
  }

  give(item: unknown): Promise<unknown> {
    if (this.failure !== null) return Promise.reject(this.failure);
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      try {
        this.worker.postMessage({ item });
      } catch (error) {
        this.waiting.pop();
        reject(error as Error); // what cannot be cloned
      }
    });
  }

  async end(): Promise<void> {
    await this.worker.terminate();
  }
}

/** @internal Results of a task, in the order of the items, whatever the number of workers. Reads no more ahead than workers can take. */
export async function* mapInOrder<I, O>(
  source: AsyncIterable<I> | Iterable<I>,
  task: WorkerTask,
  options: WorkerOptions,
): AsyncGenerator<O, void, undefined> {
  checkKeys('mapInWorkers', options, ['workers', 'ahead']);
  const workers = checkInteger('mapInWorkers', 'workers', options.workers, 0, 256);
  const ahead = checkInteger('mapInWorkers', 'ahead', options.ahead ?? 2, 1, 1024);
  if (workers === 0) {
    const run = await makeTask(task);
    for await (const item of source) yield (await run(item)) as O;
    return;
  }
  const hands = Array.from({ length: workers }, () => new Hand(task));
  const pending: Promise<unknown>[] = [];
  try {
    for await (const item of source) {
      const idlest = hands.reduce((best, hand) => (hand.load < best.load ? hand : best));
      const promise = idlest.give(item);
      promise.catch(() => {}); // thrown where it is awaited, in its turn
      pending.push(promise);
      if (pending.length >= workers * ahead) yield (await pending.shift()) as O;
    }
    while (pending.length > 0) yield (await pending.shift()) as O;
  } finally {
    await Promise.all(hands.map((hand) => hand.end()));
  }
}

/**
 * Applies a function of a module to each item, in threads; results come in the order of the items, whatever the number of threads. Items and
 * results are copied between threads (structured clone); typed arrays that are fields of a result move.
 *
 * No more than `workers` × `ahead` items are read before their results are taken.
 *
 * @param task - `module` (a URL) exports under `name` a factory, called once a thread with `options`, that gives the function of an item
 * @throws AttributeError if the module does not export such a factory
 * @throws ResourceError if a thread ends or runs out of memory
 * @throws StateError quoting an error that the function threw; errors of this library come as they are
 * @example
 * // square.mjs: export const square = ({ add }) => (x) => x * x + add;
 * const task = { module: new URL('./square.mjs', import.meta.url).href, name: 'square', options: { add: 1 } };
 * for await (const y of mapInWorkers([1, 2, 3], task, { workers: 2 })) …
 */
export function mapInWorkers<I, O>(
  source: AsyncIterable<I> | Iterable<I>,
  task: Omit<ModuleTask, 'kind'>,
  options: WorkerOptions,
): AsyncGenerator<O, void, undefined> {
  return mapInOrder<I, O>(source, { ...task, kind: 'module' }, options);
}
