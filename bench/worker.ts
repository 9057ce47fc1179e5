/** Processes that stand by with work set up and time it on demand: one line of JSON in, one out. */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Subject, Work } from './subject.js';

export type Reply = Readonly<Record<string, unknown>> & { readonly ok: boolean; readonly reason?: string };

/** A process that measures: a peer, the machine's ceilings, or our own library apart from the others. */
export class Worker {
  readonly name: string;
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #waiting: { resolve(reply: Reply): void; reject(error: Error): void }[] = [];
  #ended: Error | null = null;
  #slots = 0;
  #errors = '';

  constructor(name: string, command: string, args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    this.name = name;
    this.#child = spawn(command, args, { stdio: 'pipe', env: { ...process.env, ...env } });
    createInterface({ input: this.#child.stdout }).on('line', (line) => {
      if (line.startsWith('{')) this.#waiting.shift()?.resolve(JSON.parse(line) as Reply);
    });
    this.#child.stderr.on('data', (data: Buffer) => (this.#errors = (this.#errors + data.toString()).slice(-2000)));
    this.#child.stdin.on('error', () => undefined); // the exit below says why
    this.#child.on('error', (error) => this.#end(error.message));
    this.#child.on('exit', (code, signal) => this.#end(`it ended (${signal ?? code})\n${this.#errors}`));
  }

  #end(reason: string): void {
    this.#ended ??= new Error(`${this.name}: ${reason}`.trim());
    for (const { reject } of this.#waiting.splice(0)) reject(this.#ended);
  }

  /** @throws Error if the process ended */
  ask(request: Readonly<Record<string, unknown>>): Promise<Reply> {
    if (this.#ended !== null) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#child.stdin.write(`${JSON.stringify(request)}\n`);
    });
  }

  /** Sets work up, beside what is set up already; null with a peer that does not know it. */
  async prepare(work: Work, threads: number): Promise<Subject | null> {
    const slot = this.#slots++;
    const { ok, reason } = await this.ask({ do: 'setup', slot, op: work.op, args: work.args, threads });
    if (!ok && reason === 'unknown') return null;
    if (!ok) throw new Error(`${this.name}: ${work.op}: ${reason}`);
    return {
      run: async (count) => {
        const reply = await this.ask({ do: 'run', slot, n: count });
        if (!reply.ok) throw new Error(`${this.name}: ${work.op}: ${reply.reason}`);
        return reply['seconds'] as number;
      },
      dispose: async () => void (await this.ask({ do: 'drop', slot })),
    };
  }

  /** Largest resident memory of the process so far, in bytes. */
  async peakBytes(): Promise<number> {
    // On Linux a process starts with the ru_maxrss of the one that made it, which may be far above its own.
    if (process.platform === 'linux') {
      const kilobytes = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${this.#child.pid}/status`, 'utf8'))?.[1];
      if (kilobytes !== undefined) return Number(kilobytes) * 1024;
    }
    return (await this.ask({ do: 'peak' }))['bytes'] as number;
  }

  /** Ends the process and waits for it. */
  async close(): Promise<void> {
    if (this.#ended !== null) return;
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.stdin.end();
    await ended;
  }
}
