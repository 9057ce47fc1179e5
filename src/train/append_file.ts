/**
 * A file that grows record by record and outlives its process at any moment.
 *
 * @module
 */
import { closeSync, fstatSync, fsyncSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { ResourceError, StateError } from '../errors.js';

const NEWLINE = 0x0a;

/**
 * Appends whole records, each with one write, so what a killed process leaves is every record before the last one and at most a
 * part of that. A record that could not be written whole (a full disk) is taken back.
 *
 * @throws ResourceError naming the file and the system's reason
 */
export class AppendFile {
  private handle: number | null = null;
  private size = 0;

  /** @param prepare run before the file is opened: its errors are reported as the file's */
  constructor(
    readonly path: string,
    prepare: () => void = () => {},
  ) {
    this.attempt(() => {
      prepare();
      this.handle = openSync(path, 'a+');
      this.size = fstatSync(this.handle).size;
    });
  }

  /** Writes one record behind the others. */
  append(bytes: Uint8Array): void {
    const handle = this.open();
    this.attempt(() => {
      try {
        for (let done = 0; done < bytes.length;) done += writeSync(handle, bytes, done);
        this.size += bytes.length;
      } catch (error) {
        this.takeBack(handle);
        throw error;
      }
    });
  }

  /** Cuts off what follows the last line feed: a line that a killed process did not finish. */
  cutTornLine(): void {
    const handle = this.open();
    this.attempt(() => {
      const chunk = new Uint8Array(1 << 16);
      let end = this.size;
      while (end > 0) {
        const from = Math.max(0, end - chunk.length);
        const count = readSync(handle, chunk, 0, end - from, from);
        const at = chunk.subarray(0, count).lastIndexOf(NEWLINE);
        if (at >= 0) {
          end = from + at + 1;
          break;
        }
        end = from;
      }
      if (end === this.size) return;
      ftruncateSync(handle, end);
      this.size = end;
    });
  }

  /** Makes what was written survive a loss of power. */
  sync(): void {
    const handle = this.open();
    this.attempt(() => fsyncSync(handle));
  }

  close(): void {
    if (this.handle === null) return;
    closeSync(this.handle);
    this.handle = null;
  }

  private takeBack(handle: number): void {
    try {
      ftruncateSync(handle, this.size);
    } catch {
      // The error of the write is the one to report.
    }
  }

  private open(): number {
    if (this.handle !== null) return this.handle;
    throw new StateError({
      op: 'append',
      argument: this.path,
      expected: 'an open file',
      actual: 'one that was closed',
    });
  }

  private attempt(body: () => void): void {
    try {
      body();
    } catch (cause) {
      if (!(cause instanceof Error && 'syscall' in cause)) throw cause;
      const { code, message } = cause as NodeJS.ErrnoException;
      throw new ResourceError({
        op: 'append',
        argument: this.path,
        expected: 'a file that can be appended to',
        actual: `${code ?? 'an error'}: ${message}`,
        hint: 'Records written before are intact',
        cause,
      });
    }
  }
}
