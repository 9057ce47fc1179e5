/** Writing a tokenizer so that a crash never leaves half a file. */
import { open, rename, rm } from 'node:fs/promises';

/** Writes `json` beside `path` and moves it there once it is on disk. */
export async function writeTokenizerFile(path: string, json: unknown): Promise<void> {
  const draft = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}.tmp`;
  try {
    const file = await open(draft, 'wx');
    try {
      await file.writeFile(`${JSON.stringify(json, null, 2)}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    throw error;
  }
}
