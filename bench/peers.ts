/** The peers that this machine has, and its ceilings. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { measure, type CeilingKind, type MeasureOptions } from './harness.js';
import type { Subject } from './subject.js';
import { Worker, type Reply } from './worker.js';

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/** GNU's OpenMP stops spinning after milliseconds; Intel's would spin for 200 ms while others are measured. */
const torchEnvironment = { KMP_BLOCKTIME: '1', PYTHONDONTWRITEBYTECODE: '1' };

/** glibc gives large results back to the system at once; a kernel's time would then be that of page faults. */
const keepingMemory = {
  MALLOC_MMAP_MAX_: '0',
  MALLOC_TRIM_THRESHOLD_: String(2 ** 40),
  MALLOC_TOP_PAD_: String(2 ** 28),
};

/** PyTorch as it comes, or (`forKernels`) with an allocator that keeps what was freed. */
export function startTorch(options: { readonly forKernels: boolean; readonly compiled?: boolean }): Worker | null {
  const python = process.env['OG_PYTHON'];
  if (python === undefined) return null;
  const compiled = options.compiled === true;
  const own = { ...(options.forKernels ? keepingMemory : {}), ...(compiled ? { OG_TORCH_COMPILE: '1' } : {}) };
  const env = { ...torchEnvironment, ...own };
  return new Worker(compiled ? 'torch compile' : 'torch', python, [at('./peers/torch_peer.py')], env);
}

/** Our library in a process of its own. */
export function startOurs(): Worker {
  return new Worker('omnigrad', process.execPath, ['--expose-gc', at('./peers/omnigrad_peer.mjs')]);
}

function startNode(name: string, packageName: string, file: string): Worker | null {
  if (!existsSync(at(`./node_modules/${packageName}`))) return null;
  return new Worker(name, process.execPath, ['--expose-gc', at(file)]);
}

/** Those that time single operations and answer; `absent` says why others do not take part. */
export async function startPeers(): Promise<{ peers: Worker[]; versions: Record<string, string>; absent: string[] }> {
  const install = 'npm install --prefix bench --ignore-scripts';
  const candidates = [
    { name: 'torch', worker: startTorch({ forKernels: true }), missing: 'OG_PYTHON names no interpreter with torch' },
    {
      name: 'onnxruntime-node',
      worker: startNode('onnxruntime', 'onnxruntime-node', './peers/ort_peer.mjs'),
      missing: install,
    },
    { name: 'tfjs', worker: startNode('tfjs-wasm', '@tensorflow/tfjs', './peers/tfjs_peer.mjs'), missing: install },
  ];
  const peers: Worker[] = [];
  const versions: Record<string, string> = {};
  const absent: string[] = [];
  for (const { name, worker, missing } of candidates) {
    if (worker === null) {
      absent.push(`${name}: ${missing}`);
      continue;
    }
    try {
      Object.assign(versions, (await worker.ask({ do: 'hello' }))['versions']);
      peers.push(worker);
    } catch (error) {
      absent.push((error as Error).message.split('\n').slice(0, 2).join(' '));
    }
  }
  return { peers, versions, absent };
}

/** Compiles the program that measures ceilings where that was not done yet; null without a compiler. */
function ceilingsProgram(): string | null {
  const source = at('./native/ceilings.cpp');
  const program = at('../build/ceilings');
  if (existsSync(program) && statSync(program).mtimeMs > statSync(source).mtimeMs) return program;
  mkdirSync(at('../build'), { recursive: true });
  const tune = process.arch === 'x64' ? '-march=native' : '-mcpu=native';
  const flags = ['-O2', tune, '-ffp-contract=fast', '-pthread', source, '-o', program];
  const done = [process.env['CXX'], 'c++', 'g++', 'clang++'].some(
    (name) => name !== undefined && spawnSync(name, flags, { shell: name.includes(' ') }).status === 0,
  );
  return done ? program : null;
}

/** Kinds of ceilings with their units, in the order in which a run names them. */
export const ceilingUnits: Readonly<Record<CeilingKind, string>> = {
  fma: 'GFLOP/s',
  int8: 'GOP/s of bytes',
  copy: 'GB/s copied',
  read: 'GB/s read',
};

/**
 * What the machine can do at most, the best of all samples of the run. The ceilings are sampled in turn with the rows, since
 * neighbours and clocks change meanwhile.
 */
export class Ceilings {
  readonly #worker: Worker | null;
  readonly #best = new Map<CeilingKind, number>();

  constructor() {
    const program = ceilingsProgram();
    this.#worker = program === null ? null : new Worker('ceilings', program, []);
  }

  /** The most seen so far; null without a compiler, or where the machine has no such instruction. */
  get(kind: CeilingKind): number | null {
    return this.#best.get(kind) ?? null;
  }

  /** Something to time whose every sample counts; null where {@link get} is. */
  async prepare(kind: CeilingKind, threads: number): Promise<Subject | null> {
    const worker = this.#worker;
    if (worker === null) return null;
    const { ok, work } = (await worker.ask({ do: 'setup', op: kind, args: {}, threads })) as Reply & { work: number };
    if (!ok) return null;
    return {
      isApart: true,
      run: async (count) => {
        const seconds = (await worker.ask({ do: 'run', n: count }))['seconds'] as number;
        this.#best.set(kind, Math.max(this.#best.get(kind) ?? 0, (work * count) / seconds / 1e9));
        return seconds;
      },
      dispose: async () => void (await worker.ask({ do: 'drop' })),
    };
  }

  /** Samples all without anything else. */
  async sample(threads: number, options: MeasureOptions): Promise<void> {
    for (const kind of Object.keys(ceilingUnits) as CeilingKind[]) {
      const subject = await this.prepare(kind, threads);
      if (subject === null) continue;
      await measure([subject], options);
      await subject.dispose();
    }
  }

  async close(): Promise<void> {
    await this.#worker?.close();
  }
}

/** Threads that a run uses unless told otherwise. */
export const defaultThreads = availableParallelism();
