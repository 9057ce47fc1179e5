/**
 * Results in a folder of safetensors files that are made one after another: each is there whole or not at all, says what it was made
 * from, and is not made again.
 *
 * @module
 */
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { FormatError } from '../../errors.js';
import { openSafetensors, saveSafetensors, type SafetensorsFile } from '../../interop/safetensors.js';
import type { Tensor } from '../../tensor/tensor.js';
import { writeFileAtomically } from '../../util/atomic_file.js';

/** What a folder says it holds. JSON-safe. */
export type Description = Readonly<Record<string, string | number>>;

async function readOrNull(file: string): Promise<string | null> {
  return readFile(file, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') return null;
    throw cause;
  });
}

/** @internal A folder of shards. */
export class ShardFolder {
  readonly folder: string;
  private readonly op: string;

  private constructor(op: string, folder: string) {
    [this.op, this.folder] = [op, folder];
  }

  /**
   * Opens a folder, or makes it.
   *
   * @throws FormatError if it holds something that was made from something else
   */
  static async open(op: string, folder: string, description: Description): Promise<ShardFolder> {
    await mkdir(folder, { recursive: true });
    const file = path.join(folder, 'cache.json');
    const text = await readOrNull(file);
    if (text === null) {
      const json = `${JSON.stringify(description, null, 2)}\n`;
      await writeFileAtomically(file, (write) => write(new TextEncoder().encode(json)));
      return new ShardFolder(op, folder);
    }
    let found: Description;
    try {
      found = JSON.parse(text) as Description;
    } catch {
      throw new FormatError({ op, argument: file, expected: 'a description in JSON', actual: 'something else' });
    }
    for (const [name, value] of Object.entries(description)) {
      if (found?.[name] === value) continue;
      const [expected, actual] = [`${name} ${JSON.stringify(value)}`, JSON.stringify(found?.[name] ?? null)];
      const hint = 'It was made from something else: delete the folder, or take another';
      throw new FormatError({ op, argument: file, expected, actual, hint });
    }
    return new ShardFolder(op, folder);
  }

  private path(index: number): string {
    return path.join(this.folder, `shard-${String(index).padStart(5, '0')}.safetensors`);
  }

  /**
   * A shard that was made before from data of this hash; null if there is none yet.
   *
   * @throws FormatError if it was made from other data, or lacks a tensor
   */
  async find(index: number, dataHash: string, names: readonly string[]): Promise<SafetensorsFile | null> {
    const argument = this.path(index);
    let file: SafetensorsFile;
    try {
      file = await openSafetensors(argument);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw cause;
    }
    const missing = names.find((name) => !file.has(name));
    if (missing !== undefined) {
      const actual = `without ${missing}`;
      throw new FormatError({ op: this.op, argument, expected: names.join(', '), actual });
    }
    if (file.metadata.get('data') === dataHash) return file;
    const [expected, actual] = ['results of the same data', 'those of other data'];
    const hint = 'Delete the folder, or take another';
    throw new FormatError({ op: this.op, argument, expected, actual, hint });
  }

  /** Writes a shard, atomically. */
  async write(index: number, dataHash: string, tensors: Readonly<Record<string, Tensor>>): Promise<SafetensorsFile> {
    await saveSafetensors(this.path(index), tensors, { data: dataHash });
    return openSafetensors(this.path(index));
  }
}
