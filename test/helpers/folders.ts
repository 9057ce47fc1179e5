/** Folders that are gone when the tests of a file are over. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after } from 'node:test';

/** A maker of empty folders. Call it once, at the top of a test file. */
export function temporaryFolders(): () => Promise<string> {
  const made: string[] = [];
  after(async () => {
    for (const folder of made) await rm(folder, { recursive: true, force: true });
  });
  return async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-test-'));
    made.push(folder);
    return folder;
  };
}
