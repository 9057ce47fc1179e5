/** `omnigrad compress`: makes a saved model smaller, as plans say. */
import { Command } from 'commander';
import { stopOnSignals } from './stop_on_signals.js';

interface CompressFlags {
  readonly plan: string[];
  readonly calibration?: string[];
  readonly evaluation?: string[];
  readonly out?: string;
  readonly field: string;
  readonly measure: boolean;
  readonly dryRun?: boolean;
}

const collect = (value: string, list: string[] = []): string[] => [...list, value];

/** The subcommand. Its exit status is 130 after Ctrl-C; the same command goes on then. */
export function compressCommand(): Command {
  return new Command('compress')
    .description('make a saved model smaller: layers by the steps of a plan, a card, and a report beside the original')
    .argument('<folder>', 'a model that saveModel or `omnigrad train` wrote')
    .requiredOption('--plan <file>', 'a JSON file; may be repeated, to compare several', collect)
    .option(
      '--calibration <file>',
      'text, JSON Lines or tokens that steps calibrate and train with; may be repeated',
      collect,
    )
    .option('--evaluation <file>', 'text to measure with; default: a fifth of the calibration text, held back', collect)
    .option('--field <name>', 'field of the lines of JSON Lines files', 'text')
    .option('--out <folder>', 'where the result goes; default: the folder and the name of the plan')
    .option('--no-measure', 'no figures, no report')
    .option('--dry-run', 'check everything, print what would be done')
    .action(async (folder: string, flags: CompressFlags) => {
      const { compressFolder } = await import('./compress_run.js');
      await compressFolder(folder, {
        plans: flags.plan,
        calibration: flags.calibration ?? [],
        evaluation: flags.evaluation ?? [],
        field: flags.field,
        out: flags.out ?? null,
        measure: flags.measure,
        dryRun: flags.dryRun ?? false,
        signal: stopOnSignals(),
        say: (text) => void process.stdout.write(`${text}\n`),
      });
    });
}
