#!/usr/bin/env node
/** The command `omnigrad`: one file per subcommand, each of which imports what it needs only when it runs. */
import { Command } from 'commander';
import { OmniError } from '../errors.js';
import { packageVersion } from '../runtime/load.js';
import { compressCommand } from './compress.js';
import { doctorCommand } from './doctor.js';
import { runsCommand } from './runs.js';
import { trainCommand } from './train.js';

const program = new Command('omnigrad')
  .description('Tensors, autograd and GPT training for TypeScript')
  .version(packageVersion())
  .addCommand(doctorCommand())
  .addCommand(trainCommand())
  .addCommand(compressCommand())
  .addCommand(runsCommand())
  .showHelpAfterError();

try {
  await program.parseAsync();
} catch (error) {
  // A refused input is the user's to correct: the sentence is enough. Anything else is a bug and keeps its stack.
  if (!(error instanceof OmniError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
