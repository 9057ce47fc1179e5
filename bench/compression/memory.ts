/** Results that are kept from run to run. */
import { readFile } from 'node:fs/promises';
import * as og from '../../src/index.js';

interface Entry {
  readonly settings: unknown;
  readonly value: unknown;
}

/** Results by name, in a file: what was found with the same settings is found again. */
export class Memory {
  private constructor(
    private readonly file: string,
    private readonly entries: Map<string, Entry>,
  ) {}

  static async open(file: string): Promise<Memory> {
    const text = await readFile(file, 'utf8').catch(() => '{}');
    return new Memory(file, new Map(Object.entries(JSON.parse(text) as Record<string, Entry>)));
  }

  /** What `find` gives, or gave before. */
  async of<T>(name: string, settings: object, find: () => Promise<T>): Promise<T> {
    const found = this.entries.get(name);
    if (found !== undefined && og.configDifferences([found.settings, settings]).length === 0) return found.value as T;
    const begun = performance.now();
    const value = await find();
    console.log(`${name}: ${JSON.stringify(value)}, ${((performance.now() - begun) / 1000).toFixed(0)} s`);
    this.entries.set(name, { settings: JSON.parse(JSON.stringify(settings)) as unknown, value });
    const text = `${JSON.stringify(Object.fromEntries(this.entries), null, 1)}\n`;
    await og.writeFileAtomically(this.file, (write) => write(Buffer.from(text)));
    return value;
  }
}
