/** `omnigrad runs`: what has been trained, from the logs. */
import path from 'node:path';
import { Command } from 'commander';
import type { RunRecord, RunSummary } from '../train/run_reader.js';
import { table } from './table.js';

interface Flags {
  readonly json?: boolean;
  readonly html?: string;
  readonly dir: string;
}

const print = (text: string): void => void process.stdout.write(`${text}\n`);

const figure = (value: number, digits = 3): string => (Number.isFinite(value) ? value.toFixed(digits) : '–');
const whole = (value: number): string => (Number.isFinite(value) ? Math.round(value).toLocaleString('en') : '–');

/** 2026-11-26 16:05, in the time of this machine. */
function when(time: number): string {
  const date = new Date(time);
  const two = (value: number): string => String(value).padStart(2, '0');
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join('-');
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}`;
}

const progressOf = ({ step, total }: RunSummary): string => `${step}/${total}`;

/** A run for programs: everything but the steps. */
function factsOf(run: RunRecord, summary: RunSummary): object {
  const { dir, name, status, reason, config, elapsed, updated, superseded, damaged } = run;
  return { name, dir, status, reason, ...summary, elapsed, updated, superseded, damaged, config };
}

async function list(dir: string, { json }: Flags): Promise<void> {
  const { listRuns, summarizeRun } = await import('../train/run_reader.js');
  const runs = (await listRuns(dir)).map((run) => ({ run, summary: summarizeRun(run) }));
  if (json === true) {
    print(JSON.stringify(runs.map(({ run, summary }) => factsOf(run, summary)), null, 2)); // prettier-ignore
    return;
  }
  if (runs.length === 0) {
    print(`No runs below ${path.resolve(dir)}.`);
    return;
  }
  const head = ['run', 'status', 'step', 'loss', 'best valid', 'tokens/s', 'last change'];
  const rows = runs.map(({ run, summary }) => [
    path.relative(dir, run.dir) || run.name,
    run.status,
    progressOf(summary),
    figure(summary.loss),
    figure(summary.bestValid),
    whole(summary.tokensPerSecond),
    when(run.updated),
  ]);
  print(table([head, ...rows], 2));
}

async function show(name: string, { dir, json }: Flags): Promise<void> {
  const { findRun, summarizeRun } = await import('../train/run_reader.js');
  const { flattenConfig } = await import('../train/config_difference.js');
  const { formatDuration } = await import('../train/progress.js');
  const { formatBytes } = await import('../util/format.js');
  const run = await findRun(name, dir);
  const summary = summarizeRun(run);
  if (json === true) {
    print(JSON.stringify(factsOf(run, summary), null, 2));
    return;
  }
  const { machine, parameters } = run.sessions.at(-1)!;
  const size = (bytes: number): string => (Number.isFinite(bytes) ? formatBytes(bytes) : '–');
  const rows = [
    ['run', run.name],
    ['folder', run.dir],
    ['status', run.reason === '' || run.reason === run.status ? run.status : `${run.status} (${run.reason})`],
    ['step', progressOf(summary)],
    ['loss', figure(summary.loss)],
    ['valid', `${figure(summary.lastValid)}, best ${figure(summary.bestValid)} at step ${whole(summary.bestStep)}`],
    ['tokens', `${whole(summary.tokens)}, ${whole(summary.tokensPerSecond)} a second`],
    ['time', `${formatDuration(run.elapsed)} of training, last change ${when(run.updated)}`],
    ['memory', `${size(summary.peakMemory)} of tensors, ${size(summary.peakRss)} of the process at most`],
    ['model', `${whole(parameters)} parameters`],
    ['machine', `${machine.processor}, ${machine.threads} threads, ${machine.isa}`],
    ...(run.superseded > 0 ? [['again', `${run.superseded} logged lines were done again after a resume`]] : []),
    ...(run.damaged > 0 ? [['damaged', `${run.damaged} lines of the log`]] : []),
  ];
  print(table(rows, 2));
  const settings = Object.entries(flattenConfig(run.config)).map(([key, value]) => [`  ${key}`, String(value)]);
  if (settings.length > 0) print(`\nConfiguration\n${table(settings, 2)}`);
  const events = run.events.filter(({ type }) => type !== 'checkpoint').slice(-20);
  const lines = events.map(({ type, time, step, ...fields }) => {
    const short = Object.entries(fields).map(
      ([key, value]) => `${key} ${typeof value === 'string' ? value : JSON.stringify(value)}`,
    );
    return [`  ${when(time)}`, type, step === undefined ? '' : `step ${step}`, short.join(', ')];
  });
  if (lines.length > 0) print(`\nEvents\n${table(lines, 4)}`);
}

async function writePage(file: string, runs: readonly RunRecord[]): Promise<void> {
  const { writeRunReport } = await import('../train/run_report.js');
  await writeRunReport(file, runs);
  print(`Report: ${file}`);
}

async function compare(names: readonly string[], { dir, html, json }: Flags): Promise<void> {
  const { findRun, summarizeRun } = await import('../train/run_reader.js');
  const { configDifferences } = await import('../train/config_difference.js');
  const { distinctNames } = await import('../train/run_report.js');
  const runs: RunRecord[] = [];
  for (const name of names) runs.push(await findRun(name, dir));
  const summaries = runs.map(summarizeRun);
  const differences = configDifferences(runs.map(({ config }) => config));
  if (json === true) {
    print(JSON.stringify({ runs: runs.map((run, i) => factsOf(run, summaries[i]!)), differences }, null, 2));
  } else {
    const rows = [
      ['', ...distinctNames(runs)],
      ['status', ...runs.map(({ status }) => status)],
      ['step', ...summaries.map(progressOf)],
      ['loss', ...summaries.map(({ loss }) => figure(loss))],
      ['best valid', ...summaries.map(({ bestValid }) => figure(bestValid))],
      ['tokens/s', ...summaries.map(({ tokensPerSecond }) => whole(tokensPerSecond))],
      ...differences.map(({ name, values }) => [
        name,
        ...values.map((value) => (value === undefined ? '–' : String(value))),
      ]),
    ];
    print(table(rows));
    if (differences.length === 0) print('The configurations are the same.');
  }
  if (html !== undefined) await writePage(html, runs);
}

async function report(name: string, { dir, html }: Flags): Promise<void> {
  const { findRun } = await import('../train/run_reader.js');
  const run = await findRun(name, dir);
  await writePage(html ?? path.join(run.dir, 'report.html'), [run]);
}

/** The subcommand. */
export function runsCommand(): Command {
  const withDir = (command: Command): Command => command.option('--dir <folder>', 'where runs are', 'runs');
  const json = ['--json', 'print it as JSON'] as const;
  return new Command('runs')
    .description('what has been trained: a table, one run, a comparison, a report')
    .addCommand(
      new Command('list')
        .description('all runs below a folder, newest first')
        .argument('[folder]', '', 'runs')
        .option(...json)
        .action(list),
      { isDefault: true },
    )
    .addCommand(
      withDir(
        new Command('show')
          .description('one run: figures, configuration, events')
          .argument('<run>', 'its name or folder'),
      )
        .option(...json)
        .action(show),
    )
    .addCommand(
      withDir(
        new Command('compare')
          .description('figures side by side, and settings that differ')
          .argument('<runs...>', 'names or folders'),
      )
        .option('--html <file>', 'write a page with the curves, too')
        .option(...json)
        .action(compare),
    )
    .addCommand(
      withDir(new Command('report').description('write the page of a run').argument('<run>', 'its name or folder'))
        .option('--html <file>', 'default: report.html in its folder')
        .action(report),
    );
}
