/** Bytes of a file as they come, unpacked on the way. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { pipeline, type Readable, Transform } from 'node:stream';
import * as zlib from 'node:zlib';
import { FormatError, ResourceError } from '../../errors.js';
import { importOptional } from '../../util/optional.js';

interface Fzstd {
  Decompress: new (onData: (chunk: Uint8Array, isLast: boolean) => void) => {
    push(chunk: Uint8Array, isLast?: boolean): void;
  };
}

/** Zstandard, by Node where it has it (22.15, 23.8 and later), else by the optional package fzstd. */
async function zstdTransform(): Promise<Transform> {
  const native = (zlib as unknown as { createZstdDecompress?: () => Transform }).createZstdDecompress;
  if (native !== undefined) return native();
  const { Decompress } = await importOptional<Fzstd>('fzstd', 'readDocuments of .zst files');
  const target: Transform = new Transform({
    transform(chunk: Buffer, _, done) {
      try {
        decoder.push(chunk);
        done();
      } catch (error) {
        done(error as Error);
      }
    },
    flush(done) {
      try {
        decoder.push(new Uint8Array(0), true);
        done();
      } catch (error) {
        done(error as Error);
      }
    },
  });
  const decoder = new Decompress((chunk) => {
    if (chunk.length > 0) target.push(Buffer.from(chunk));
  });
  return target;
}

/**
 * A stream of a file's bytes; `.gz` and `.zst` are unpacked. Reads no faster than it is read.
 *
 * @throws ResourceError if the file is not there or cannot be read
 */
export async function openBytes(file: string): Promise<Readable> {
  const found = await stat(file).catch((cause: NodeJS.ErrnoException) => cause);
  if (found instanceof Error || !found.isFile()) {
    const actual = found instanceof Error ? `${found.code}: ${found.message}` : 'no regular file';
    throw new ResourceError({ op: 'readDocuments', argument: file, expected: 'a file that can be read', actual });
  }
  const packed = createReadStream(file, { highWaterMark: 1 << 18 });
  const transform = /\.gz$/i.test(file)
    ? zlib.createGunzip({ chunkSize: 1 << 18 })
    : /\.zst$/i.test(file)
      ? await zstdTransform()
      : null;
  return transform === null ? packed : pipeline(packed, transform, () => {}); // an error reaches whoever reads the transform
}

/** @internal The error for a file whose bytes could not be had or unpacked. */
export function unreadable(file: string, cause: unknown): Error {
  const { code, message, syscall } = cause as NodeJS.ErrnoException;
  const fields = { op: 'readDocuments', argument: file, actual: `${code ?? 'an error'}: ${message}`, cause };
  return syscall === undefined
    ? new FormatError({
        ...fields,
        expected: /\.(gz|zst)$/i.test(file) ? 'a whole compressed file' : 'a readable file',
      })
    : new ResourceError({ ...fields, expected: 'a file that can be read' });
}
