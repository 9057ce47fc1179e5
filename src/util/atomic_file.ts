/**
 * Files that are either as they were or complete: written beside the target, synced, then renamed over it.
 */
import { constants } from 'node:fs';
import { copyFile, link, open, rename, unlink, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { ResourceError } from '../errors.js';

let counter = 0;

/** Makes the rename durable. Some file systems and Windows cannot sync a folder; the rename itself is still atomic. */
async function syncFolder(folder: string): Promise<void> {
  try {
    const handle = await open(folder, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch {
    // nothing to do: durability of the folder entry is the system's own affair here
  }
}

/**
 * Writes a file through `body`. If anything fails, or the process dies, the target is what it was before.
 *
 * @throws ResourceError naming the path and the system's reason (disk full, read-only folder, …)
 */
export async function writeFileAtomically(
  target: string,
  body: (write: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
): Promise<void> {
  const temporary = `${target}.${process.pid}.${counter++}.tmp`;
  let handle: FileHandle | undefined;
  let ownError = false;
  try {
    handle = await open(temporary, 'wx');
    const file = handle;
    const write = async (bytes: Uint8Array): Promise<void> => {
      for (let done = 0; done < bytes.byteLength;) {
        done += (await file.write(bytes, done, Math.min(bytes.byteLength - done, 1 << 24))).bytesWritten;
      }
    };
    await body(write).catch((error: unknown) => {
      ownError = !isSystemError(error);
      throw error;
    });
    await handle.sync();
    await handle.close();
    handle = undefined;
    await rename(temporary, target);
    await syncFolder(path.dirname(target));
  } catch (cause) {
    await handle?.close().catch(() => {});
    await unlink(temporary).catch(() => {});
    if (ownError || !isSystemError(cause)) throw cause;
    throw new ResourceError({
      op: 'write',
      argument: target,
      expected: 'a writable file',
      actual: `${cause.code ?? 'an error'}: ${cause.message}`,
      hint: 'What the file held before is untouched',
      cause,
    });
  }
}

/**
 * Gives a file a second name, replacing what had it: a hard link, or a copy where the file system has none. The name means the old file or
 * the new one at any moment.
 */
export async function linkAtomically(source: string, target: string): Promise<void> {
  const temporary = `${target}.${process.pid}.${counter++}.tmp`;
  try {
    await link(source, temporary).catch(() => copyFile(source, temporary, constants.COPYFILE_FICLONE));
    await rename(temporary, target);
    await syncFolder(path.dirname(target));
  } finally {
    await unlink(temporary).catch(() => {}); // still there if both were names of one file: rename leaves them then
  }
}

function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error;
}
