/** What is written down about the machine beside what was measured on it. */
import { cpus, hostname } from 'node:os';
import { backend } from './backend.js';
import { packageVersion } from './load.js';

/** Where a process runs. */
export interface Machine {
  readonly host: string;
  readonly pid: number;
  readonly processor: string;
  /** Threads of one kernel. */
  readonly threads: number;
  /** Instruction set of the kernels. */
  readonly isa: string;
  readonly node: string;
  readonly platform: string;
  readonly omnigrad: string;
}

/** @internal Where this process runs. */
export function describeMachine(): Machine {
  const { threads, isa } = backend();
  return {
    host: hostname(),
    pid: process.pid,
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    threads,
    isa,
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    omnigrad: packageVersion(),
  };
}
