/** npm run bench: what the library does on this machine, beside its peers and the machine's ceilings, in one run. */
import { writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { Command, InvalidArgumentError } from 'commander';
import { compareRows, formatComparison, readRecorded, type Recorded } from './compare.js';
import { chosen, type CeilingKind, type Row } from './harness.js';
import { kernelCases } from './kernels/index.js';
import { og } from './library.js';
import { modelCases, partsOf } from './models.js';
import { originOf } from './origin.js';
import { renderPage } from './page.js';
import { Ceilings, ceilingUnits, defaultThreads, startPeers } from './peers.js';
import { importRow, kernelRow, modelRows, withFinalCeilings, type RunContext } from './run.js';
import { runJobs, type Job } from './shell.js';
import { concerns, formatJudgement, judge, referenceTargets, targets, type Target } from './targets.js';

interface Options {
  readonly json?: string;
  readonly html?: string;
  readonly compare?: string;
  readonly filter?: string;
  readonly quick?: true;
  readonly targets?: true;
  readonly reference?: true;
  readonly threads: number;
}

function parseThreads(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > 256) throw new InvalidArgumentError('expected 1 to 256.');
  return count;
}

const goalsOf = ({ reference }: Options): readonly Target[] =>
  reference ? [...targets, ...referenceTargets] : targets;

/** Each job with the rows that it would give, so that `--filter` need not run it to know. */
function jobsOf(context: RunContext, peers: Parameters<typeof kernelRow>[1], options: Options): Job[] {
  const { quick, filter } = options;
  const goals = options.targets ? goalsOf(options).filter(({ threads }) => threads === context.threads) : null;
  const isWanted = (row: { readonly name: string; readonly shape: string }): boolean =>
    chosen(filter, row) && (goals === null || goals.some((goal) => concerns(goal, row)));
  const jobs: Job[] = [];
  for (const kernel of kernelCases) {
    if (!isWanted(kernel)) continue;
    jobs.push({
      name: `${kernel.name} ${kernel.shape}`,
      measure: async () => [await kernelRow(kernel, peers, context)],
    });
  }
  for (const model of modelCases(quick === true)) {
    const wanted = partsOf(model).some((part) => isWanted({ ...model, name: model.name + part }));
    if (!wanted) continue;
    const measure = async (): Promise<Row[]> => (await modelRows(model, context)).filter(isWanted);
    jobs.push({ name: `${model.name} ${model.shape}`, measure });
  }
  if (isWanted({ name: 'import', shape: 'fresh process' })) {
    jobs.push({ name: 'import', measure: async () => [importRow(context)] });
  }
  return jobs;
}

async function main(options: Options): Promise<void> {
  const { threads, quick } = options;
  const old = options.compare === undefined ? null : readRecorded(options.compare); // before minutes of measuring
  og.setThreads(threads);
  const context: RunContext = {
    threads,
    measuring: quick ? { rounds: 3, minSeconds: 0.01 } : { rounds: 7, minSeconds: 0.02 },
    ceilings: new Ceilings(),
  };
  const { peers, versions, absent } = await startPeers();
  const header = {
    ...originOf({ isa: og.backend().isa, threads }),
    versions,
    load: loadavg()[0]!,
  };
  console.log(
    `${header.cpu}, ${header.isa}, ${threads} threads, Node ${header.node}, load ${header.load.toFixed(1)}, ${header.commit}`,
  );
  console.log(`peers: ${peers.map(({ name }) => name).join(', ') || 'none'}`);
  for (const line of absent) console.log(`not taking part: ${line}`);
  await context.ceilings.sample(threads, context.measuring);
  const ceilings = Object.entries(ceilingUnits).flatMap(([kind, unit]) => {
    const most = context.ceilings.get(kind as CeilingKind);
    return most === null ? [] : [`${most.toFixed(1)} ${unit}`];
  });
  console.log(`ceilings: ${ceilings.join(', ') || 'not measured, no compiler'}\n`);
  const { rows, failures } = await runJobs(jobsOf(context, peers, options));
  await Promise.all([...peers, context.ceilings].map((worker) => worker.close()));
  const finished = withFinalCeilings(rows, context.ceilings);
  const recorded: Recorded = { ...header, rows: finished, targets: judge(finished, threads, goalsOf(options)) };
  const judged = recorded.targets!.filter(({ verdict }) => verdict !== 'not measured');
  if (judged.length > 0) console.log(`\ngoals on ${threads === 1 ? 'one thread' : `${threads} threads`}:`);
  for (const judgement of judged) console.log(formatJudgement(judgement));
  const write = (file: string, text: string): void => {
    writeFileSync(file, text);
    console.log(`\nwritten: ${file}`);
  };
  if (options.json !== undefined) write(options.json, `${JSON.stringify(recorded, null, 1)}\n`);
  if (options.html !== undefined) write(options.html, renderPage(recorded));
  if (old !== null) {
    console.log(
      `\nagainst ${old.commit} of ${old.date.slice(0, 10)} (${old.cpu}, ${old.isa}, ${old.threads} threads):`,
    );
    const compared = compareRows(old.rows, recorded.rows);
    for (const comparison of compared) console.log(formatComparison(comparison));
    if (compared.some(({ verdict }) => verdict === 'worse')) process.exitCode = 1;
  }
  if (rows.length === 0 && failures.length === 0) console.log(`no row matches ${options.filter}`);
  if (rows.length === 0 || failures.length > 0) process.exitCode = 1;
}

const program = new Command('npm run bench --')
  .description(
    'Measures kernels and whole models beside PyTorch (OG_PYTHON), onnxruntime-node and tfjs (docs/performance.md).',
  )
  .option('--json <file>', 'write the rows, with machine and versions')
  .option('--html <file>', 'write a page with a roofline and bars')
  .option('--compare <file>', 'compare with a run that --json wrote; exit status 1 if a row is worse beyond its noise')
  .option('--filter <text>', 'only rows whose name or shape contains every word')
  .option('--quick', 'three short rounds, smaller models')
  .option('--targets', 'only rows that a goal is about: of kernels, on one thread, or (--threads 2) of whole models')
  .option(
    '--reference',
    'also the goals in absolute figures, which hold for the machine that they were set on (Zen 3, AVX2)',
  )
  .option('--threads <n>', 'threads of every side', parseThreads, defaultThreads);
const given = program.parse().opts<Options>();
const isOnOneThread = given.targets === true && program.getOptionValueSource('threads') === 'default';
await main(isOnOneThread ? { ...given, threads: 1 } : given);
