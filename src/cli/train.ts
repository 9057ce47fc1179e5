/** `omnigrad train`: trains a GPT as a configuration file says. */
import { Command } from 'commander';
import { stopOnSignals } from './stop_on_signals.js';

interface TrainFlags {
  readonly set: string[];
  readonly resume?: boolean;
  readonly dryRun?: boolean;
  readonly findLr?: boolean;
}

const collect = (value: string, list: string[]): string[] => [...list, value];

/** The subcommand. Its exit status is 130 after Ctrl-C, when the run is saved. */
export function trainCommand(): Command {
  return new Command('train')
    .description('train a GPT on text: tokenizer, checkpoints, log, TensorBoard files, model and report in one folder')
    .argument('<config>', 'a JSON file; paths in it are relative to the current folder')
    .option('--set <key=value>', 'set an entry otherwise, such as optimizer.lr=1e-3; may be repeated', collect, [])
    .option('--resume', 'go on from the newest checkpoint, if there is one')
    .option('--dry-run', 'print the whole configuration and what the run would do and take: memory, time, dollars')
    .option(
      '--find-lr',
      'try rising learning rates on the data, and say which one to begin with; writes tokenizer and tokens',
    )
    .action(async (file: string, { set, resume = false, dryRun = false, findLr = false }: TrainFlags) => {
      const { readConfig } = await import('./train_config.js');
      const config = await readConfig(file, set);

      const say = (text: string): void => void process.stdout.write(`${text}\n`);
      if (dryRun) {
        const { describePlan } = await import('./train_plan.js');
        const plan = await describePlan(config);
        say(`${JSON.stringify(config, null, 2)}\n\n${plan.trimEnd()}`);
        return;
      }
      const { findRate, train } = await import('./train_run.js');
      if (findLr) {
        await findRate(config, { signal: stopOnSignals(), say });
        return;
      }
      const { CI, TERM } = process.env;
      const mode = (CI !== undefined && CI !== '' && CI !== 'false') || TERM === 'dumb' ? 'lines' : 'auto';
      await train(config, { resume, signal: stopOnSignals(), say, mode });
    });
}
