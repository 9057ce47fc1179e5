/** Lines of a byte stream. */
import { isUtf8 } from 'node:buffer';
import type { Readable } from 'node:stream';
import { unreadable } from './bytes.js';

/** One line, or why it is none. */
export interface Line {
  /** From 1. */
  readonly number: number;
  /** Without its end. */
  readonly text: string;
  /** Bytes with its end. */
  readonly bytes: number;
  /** What is wrong with it: not UTF-8, or too long (it is empty then). */
  readonly fault?: string;
}

/** Lines of UTF-8 text, ended by `\n` or `\r\n`. At most `maxBytes` of a line are held; the rest of a longer one is passed over. */
export async function* linesOf(file: string, bytes: Readable, maxBytes: number): AsyncGenerator<Line, void, undefined> {
  let parts: Buffer[] = [];
  let held = 0;
  let skipped = 0;
  let number = 0;
  const take = (chunk: Buffer): void => {
    if (skipped > 0 || held + chunk.length > maxBytes) {
      skipped += held + chunk.length;
      [parts, held] = [[], 0];
    } else {
      parts.push(chunk);
      held += chunk.length;
    }
  };
  const finish = (ending: number): Line => {
    number++;
    const total = held + skipped + ending;
    if (skipped > 0) {
      skipped = 0;
      return { number, text: '', bytes: total, fault: `a line of ${total} bytes, above the limit of ${maxBytes}` };
    }
    let line = parts.length === 1 ? parts[0]! : Buffer.concat(parts, held);
    [parts, held] = [[], 0];
    if (number === 1 && line.length >= 3 && line[0] === 0xef && line[1] === 0xbb && line[2] === 0xbf)
      line = line.subarray(3);
    if (line.at(-1) === 0x0d) line = line.subarray(0, -1);
    const text = line.toString('utf8');
    return isUtf8(line)
      ? { number, text, bytes: total }
      : { number, text, bytes: total, fault: 'bytes that are not UTF-8' };
  };
  const chunks = bytes[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  try {
    for (;;) {
      let next: IteratorResult<Buffer>;
      try {
        next = await chunks.next();
      } catch (cause) {
        throw unreadable(file, cause);
      }
      if (next.done === true) break;
      const chunk = next.value;
      let start = 0;
      for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
        take(chunk.subarray(start, end));
        start = end + 1;
        yield finish(1);
      }
      if (start < chunk.length) take(chunk.subarray(start));
    }
    if (held + skipped > 0) yield finish(0);
  } finally {
    bytes.destroy();
  }
}
