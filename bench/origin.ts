/** Where and when something was measured. */
import { execFileSync } from 'node:child_process';
import { cpus } from 'node:os';

export interface Origin {
  readonly date: string;
  readonly cpu: string;
  readonly isa: string;
  readonly threads: number;
  readonly node: string;
  readonly commit: string;
}

/** `unknown` outside a git checkout; `+` after a commit that has uncommitted changes on top. */
function commit(): string {
  try {
    const git = (...args: string[]): string =>
      execFileSync('git', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
    return (
      git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain', '--untracked-files=no') === '' ? '' : '+')
    );
  } catch {
    return 'unknown';
  }
}

/** This machine and this commit, now. */
export function originOf({ isa, threads }: { readonly isa: string; readonly threads: number }): Origin {
  const cpu = cpus()[0]?.model ?? process.arch;
  return { date: new Date().toISOString(), cpu, isa, threads, node: process.version, commit: commit() };
}
