/** Turns cases into rows. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import {
  makeRow,
  measure,
  median,
  statistics,
  type MeasureOptions,
  type Row,
  type RowParts,
  type Statistics,
} from './harness.js';
import { intensityOf, limitOf, subjectOf, type KernelCase } from './kernels/case.js';
import { distUrl, og } from './library.js';
import { partsOf, type ModelCase } from './models.js';
import { startOurs, startTorch, type Ceilings } from './peers.js';
import type { Subject, Work } from './subject.js';
import type { Worker } from './worker.js';

export interface RunContext {
  readonly threads: number;
  readonly measuring: MeasureOptions;
  readonly ceilings: Ceilings;
}

/** A value per second of a timing in the row's unit. */
function valueOf(seconds: number, unit: string, amount: number): number {
  if (unit === 'µs') return seconds * 1e6;
  return unit === 'tokens/s' ? amount / seconds : amount / seconds / 1e9;
}

function timedRow(
  parts: Omit<RowParts, 'ours'>,
  amount: number,
  ours: Statistics,
  peers: readonly (readonly [string, Statistics])[],
): Row {
  const value = (seconds: number): number => valueOf(seconds, parts.unit, amount);
  return makeRow({
    ...parts,
    ours: value(ours.median),
    best: value(ours.best),
    spread: ours.mad / ours.median,
    peers: Object.fromEntries(peers.map(([name, timing]) => [name, value(timing.median)])),
  });
}

/** The ways in which a peer does the work of a case, by name. */
function waysOf(kernel: KernelCase, peer: string): readonly (readonly [name: string, work: Work])[] {
  const variants = kernel.variants?.[peer];
  if (variants === undefined) return [[peer, kernel]];
  return variants.map((variant) => [`${peer} ${variant}`, { op: kernel.op, args: { ...kernel.args, variant } }]);
}

/** Runs so often that every one of several weights in turn was met: some are laid out anew then. */
async function meetAll(subject: Subject, { args }: Work): Promise<void> {
  await subject.run(typeof args['copies'] === 'number' ? args['copies'] : 1);
}

/** Work of a peer that was seen to run; null where the peer does not know it, or (which is said) cannot do it here. */
async function contender(peer: Worker, name: string, work: Work, threads: number): Promise<Subject | null> {
  let subject: Subject | null = null;
  try {
    subject = await peer.prepare(work, threads);
    if (subject !== null) await meetAll(subject, work);
    return subject;
  } catch (error) {
    await subject?.dispose();
    console.log(`not taking part: ${name}: ${(error as Error).message.split('\n')[0]}`);
    return null;
  }
}

export async function kernelRow(kernel: KernelCase, peers: readonly Worker[], context: RunContext): Promise<Row> {
  const { threads, measuring, ceilings } = context;
  const { name, shape, dtype = 'float32', unit, amount } = kernel;
  const limit = limitOf(kernel);
  const subjects: Subject[] = [subjectOf(kernel.prepare)];
  const names: string[] = [];
  try {
    await meetAll(subjects[0]!, kernel);
    for (const [other, prepare] of Object.entries(kernel.also ?? {})) {
      subjects.push(subjectOf(prepare));
      names.push(other);
    }
    for (const peer of peers) {
      for (const [way, work] of waysOf(kernel, peer.name)) {
        const subject = await contender(peer, way, work, threads);
        if (subject === null) continue;
        subjects.push(subject);
        names.push(way);
      }
    }
    const machine = limit === null ? null : await ceilings.prepare(limit, threads);
    if (machine !== null) subjects.push(machine);
    const [ours, ...others] = await measure(subjects, measuring);
    const ceiling = limit === null ? null : ceilings.get(limit);
    const better = unit === 'µs' ? 'lower' : 'higher';
    const timings = names.map((other, i) => [other, others[i]!] as const);
    const intensity = intensityOf(kernel);
    return timedRow({ name, shape, dtype, threads, unit, better, ceiling, limit, intensity }, amount, ours!, timings);
  } finally {
    for (const subject of subjects.reverse()) await subject.dispose();
    og.emptyCache();
  }
}

/** The same rows against the ceilings as they are known at the end of the run. */
export function withFinalCeilings(rows: readonly Row[], ceilings: Pick<Ceilings, 'get'>): Row[] {
  return rows.map((row) => makeRow({ ...row, ceiling: row.limit === null ? null : ceilings.get(row.limit) }));
}

/**
 * A model runs for thousands of steps, with code that is compiled by then (our side's takes 200 steps of the smallest model to get there),
 * and a sample is long enough for collections of garbage to fall into it.
 */
const ofModels = (measuring: MeasureOptions): MeasureOptions => ({
  ...measuring,
  minSeconds: 5 * measuring.minSeconds,
  warmUpSeconds: 100 * measuring.minSeconds,
});

/** The row of a memory in bytes, ours first. */
function memoryRow(
  parts: Pick<RowParts, 'name' | 'shape' | 'threads'>,
  names: readonly string[],
  bytes: readonly number[],
): Row {
  const [ours, ...others] = bytes.map((value) => value / 2 ** 20);
  const peers = Object.fromEntries(names.map((name, i) => [name, others[i]!]));
  return makeRow({ ...parts, unit: 'MiB', better: 'lower', ours: ours!, peers });
}

/** Tokens a second, memory and the largest event-loop gap of one model; every side in a fresh process. */
export async function modelRows(model: ModelCase, context: RunContext): Promise<Row[]> {
  const { threads, measuring } = context;
  globalThis.gc?.(); // what the rows before left must not be swept up while a model runs
  const started: { readonly name: string; readonly worker: Worker; readonly work: Work }[] = [];
  const start = (worker: Worker | null, work: Work = model, name = worker?.name): void => {
    if (worker !== null) started.push({ name: name!, worker, work });
  };
  start(startOurs());
  for (const [name, work] of Object.entries(model.beside ?? {})) start(startOurs(), work, name);
  start(startTorch({ forKernels: false }));
  if (model.compiled) start(startTorch({ forKernels: false, compiled: true }));
  try {
    const subjects: Subject[] = [];
    const sides: typeof started = [];
    for (const side of started) {
      const subject = await side.worker.prepare(side.work, threads);
      if (subject === null && side === started[0]) throw new Error(`${side.name}: no work called ${model.op}`);
      if (subject === null) continue; // a peer that does not know it
      subjects.push(subject);
      sides.push(side);
    }
    const [ours, ...others] = await measure(subjects, ofModels(measuring));
    const names = sides.slice(1).map(({ name }) => name);
    const peak = await Promise.all(sides.map(({ worker }) => worker.peakBytes()));
    const ownSides = sides.filter(({ worker }) => worker.name === 'omnigrad');
    const reports = await Promise.all(ownSides.map(({ worker }) => worker.ask({ do: 'report', slot: 0 })));
    const rows: Record<string, (parts: Pick<RowParts, 'name' | 'shape' | 'threads'>) => Row> = {
      '': (parts) =>
        timedRow(
          { ...parts, unit: 'tokens/s', better: 'higher' },
          model.tokens,
          ours!,
          others.map((timing, i) => [names[i]!, timing] as const),
        ),
      ': peak memory': (parts) => memoryRow(parts, names, peak),
      ': memory between steps': (parts) =>
        memoryRow(
          parts,
          Object.keys(model.beside!),
          reports.map((report) => report['resident'] as number),
        ),
      ': event-loop gap': (parts) =>
        makeRow({ ...parts, unit: 'ms', better: 'lower', ours: reports[0]!['gap'] as number }),
    };
    return partsOf(model).map((part) => rows[part]!({ name: `${model.name}${part}`, shape: model.shape, threads }));
  } finally {
    for (const { worker } of started) await worker.close();
  }
}

/** Milliseconds that a fresh process says its import took. */
function importTimes(command: string, args: readonly string[], rounds: number): number[] {
  return Array.from({ length: rounds }, () => {
    const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
    if (status !== 0) throw new Error(`import: ${command}: ${stderr.trim()}`);
    return Number(stdout);
  });
}

/** Time of `import 'omnigrad'` in a fresh process, beside `import torch`. */
export function importRow({ threads, measuring }: RunContext): Row {
  if (!existsSync(fileURLToPath(distUrl))) throw new Error('import: dist/ is missing. Run: npm run build -- dist');
  const code = `const t = performance.now(); await import('${distUrl.href}'); console.log(performance.now() - t); process.exit(0)`;
  const ours = statistics(importTimes(process.execPath, ['--input-type=module', '-e', code], measuring.rounds));
  const python = process.env['OG_PYTHON'];
  const torch = 'import time; t = time.perf_counter(); import torch; print((time.perf_counter() - t) * 1e3)';
  return makeRow({
    name: 'import',
    shape: 'fresh process',
    threads,
    unit: 'ms',
    better: 'lower',
    ours: ours.median,
    best: ours.best,
    spread: ours.mad / ours.median,
    peers: python === undefined ? {} : { torch: median(importTimes(python, ['-c', torch], 3)) },
  });
}
