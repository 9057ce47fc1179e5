/** What the examples have in common on the command line. */
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { InvalidArgumentError, type Command } from 'commander';
import * as og from '../../src/index.js';

/** Something the user has to put right. */
export class UsageError extends Error {}

export const say = (text: string): void => void process.stdout.write(`${text}\n`);

/** A parser of options that are whole numbers. */
export const whole =
  (least: number) =>
  (text: string): number => {
    const value = Number(text);
    if (Number.isInteger(value) && value >= least) return value;
    throw new InvalidArgumentError(`Expected a whole number from ${least} on.`);
  };

/** A parser of options that are numbers above zero. */
export function positive(text: string): number {
  const value = Number(text);
  if (value > 0 && Number.isFinite(value)) return value;
  throw new InvalidArgumentError('Expected a number above 0.');
}

/** Shape of the GPT that an example makes. */
export interface Geometry {
  vocab: number;
  layers: number;
  heads: number;
  width: number;
  context: number;
}

/** Adds the options of a shape. `vocab` and `context` say from where on, and the default; `of`: what a context is tokens of. */
export function withGeometry(
  command: Command,
  {
    vocab,
    width,
    context,
  }: {
    readonly vocab: { readonly least: number; readonly usual: number };
    readonly width: number;
    readonly context: { readonly least: number; readonly usual: number; readonly of: string };
  },
): Command {
  return command
    .option('--vocab <number>', 'tokens to learn', whole(vocab.least), vocab.usual)
    .option('--layers <number>', '', whole(1), 4)
    .option('--heads <number>', '', whole(1), 4)
    .option('--width <number>', '', whole(1), width)
    .option('--context <number>', `tokens of a ${context.of}`, whole(context.least), context.usual);
}

/** Runs an example; what the user can put right ends it with one line instead of a stack. */
export async function runExample(main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    if (!(error instanceof UsageError || error instanceof og.OmniError)) throw error;
    process.stderr.write(`error: ${error.message}\n`);
    process.exitCode = 1;
  }
}

/**
 * Writes down what a folder was made with, or compares.
 *
 * @throws UsageError if the folder was made with other settings, naming them
 */
export async function keepSettings(folder: string, settings: Readonly<Record<string, unknown>>): Promise<void> {
  const file = path.join(folder, 'settings.json');
  const before = await readFile(file, 'utf8').catch(() => null);
  if (before === null) {
    await mkdir(folder, { recursive: true });
    await og.writeFileAtomically(file, (write) => write(Buffer.from(`${JSON.stringify(settings, null, 2)}\n`)));
    return;
  }
  const differences = og.configDifferences([JSON.parse(before) as unknown, settings]);
  if (differences.length === 0) return;
  const list = differences.map(({ name, values: [old, now] }) => `${name} was ${String(old)} and is ${String(now)}`);
  throw new UsageError(
    `${folder} holds a run with other settings (${list.join('; ')}). Pass --fresh, or another --out`,
  );
}

/** Prints rows as a table. */
export function printTable(rows: readonly og.ReportRow[]): void {
  const columns = [...new Set(rows.flatMap(({ cells }) => Object.keys(cells)))];
  const lines = [
    ['', ...columns],
    ...rows.map(({ name, cells }) => [name, ...columns.map((column) => cells[column] ?? '–')]),
  ];
  const widths = lines[0]!.map((_, i) => Math.max(...lines.map((line) => line[i]!.length)));
  const show = (line: readonly string[]): string =>
    line.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  ');
  say(
    `\n${[show(lines[0]!), widths.map((width) => '-'.repeat(width)).join('  '), ...lines.slice(1).map(show)].join('\n')}\n`,
  );
}
