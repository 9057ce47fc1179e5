/** `omnigrad doctor`: what this machine offers, which binary was loaded or why none was, and a small self-check. */
import { cpus, release, totalmem } from 'node:os';
import { Command } from 'commander';
import { describeLoad, loadAddon, loadAdvice, type LoadDescription } from '../runtime/load.js';
import type { NativeConfiguration } from '../runtime/native.js';

/** The findings, as `--json` prints them. */
interface Findings {
  readonly omnigrad: string;
  readonly node: string;
  readonly platform: string;
  readonly system: string;
  readonly cpu: string;
  /** Memory of the machine in GiB. */
  readonly memory: number;
  readonly environment: Readonly<Record<string, string>>;
  readonly attempts: LoadDescription['attempts'];
  readonly native?: NativeConfiguration;
  /** Each check with `ok` or what went wrong. */
  readonly checks: Readonly<Record<string, string>>;
  readonly advice: readonly string[];
}

/** Runs each check to its end; a failure is a finding, not the end of the report. */
async function selfCheck(): Promise<Record<string, string>> {
  const results: Record<string, string> = {};
  const check = async (name: string, body: () => Promise<void>): Promise<void> => {
    try {
      await body();
      results[name] = 'ok';
    } catch (error) {
      results[name] = error instanceof Error ? error.message : String(error);
    }
  };
  const expectClose = (actual: ArrayLike<number>, expected: readonly number[]): void => {
    const fits = actual.length === expected.length && expected.every((x, i) => Math.abs(x - Number(actual[i])) < 1e-5);
    if (!fits) throw new Error(`expected ${expected.join(', ')}, got ${Array.from(actual).join(', ')}`);
  };
  await check('forward', async () => {
    const [{ tensor }, { add }, { data }] = await Promise.all([
      import('../tensor/create.js'),
      import('../ops/arithmetic.js'),
      import('../tensor/read.js'),
    ]);
    expectClose((await data(add(tensor([1, 2, 3]), tensor([4, 5, 6])))) as Float32Array, [5, 7, 9]);
  });
  await check('backward', async () => {
    const [{ tensor, ones }, { mul }, { backward }, { data }] = await Promise.all([
      import('../tensor/create.js'),
      import('../ops/arithmetic.js'),
      import('../autograd/backward.js'),
      import('../tensor/read.js'),
    ]);
    const x = tensor([1, 2, 3], { requiresGrad: true });
    backward(mul(x, x), ones([3]));
    expectClose((await data(x.grad!)) as Float32Array, [2, 4, 6]);
  });
  return results;
}

async function examine(): Promise<Findings> {
  const load = describeLoad();
  const isLoaded = load.attempts.some(({ outcome }) => outcome === 'loaded');
  const native = isLoaded ? { native: loadAddon().configure() } : {};
  const variables = Object.entries(process.env).filter(([name]) => name.startsWith('OG_'));
  return {
    omnigrad: load.version,
    node: process.version,
    platform: load.platform,
    system: `${process.platform} ${release()}`,
    cpu: `${cpus().length} × ${cpus()[0]?.model.trim() ?? 'unknown'}`,
    memory: Math.round(totalmem() / 2 ** 30),
    environment: Object.fromEntries(variables.map(([name, value]) => [name, value ?? ''])),
    attempts: load.attempts,
    ...native,
    checks: isLoaded ? await selfCheck() : {},
    advice: isLoaded ? [] : loadAdvice(load),
  };
}

function render(findings: Findings): string {
  const { attempts, native, checks, advice, environment } = findings;
  const row = (name: string, text: string): string => `${name.padEnd(13)}${text}`;
  const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  const lines = [
    row('omnigrad', findings.omnigrad),
    row('node', findings.node),
    row('platform', `${findings.platform} (${findings.system})`),
    row('cpu', `${findings.cpu}, ${findings.memory} GiB of memory`),
    row('environment', variables.length > 0 ? variables.join(' ') : 'no OG_* variable is set'),
    'native addon',
  ];
  for (const { source, path, outcome, reason } of attempts) {
    lines.push(`  ${outcome.padEnd(8)} ${source}: ${path}`);
    if (outcome === 'failed') lines.push(...reason.split('\n').map((line) => `           ${line}`));
    else if (reason !== '') lines.push(`           ${reason}`);
  }
  if (native !== undefined) {
    const more = native.features.length > 0 ? `; with ${native.features.join(', ')}` : '';
    lines.push(row('instructions', `${native.isa} in use; available: ${native.isas.join(', ')}${more}`));
    lines.push(row('threads', `${native.threads} in use, ${native.hardwareThreads} offered by the machine`));
  }
  for (const [name, result] of Object.entries(checks)) lines.push(row('check', `${name}: ${result}`));
  if (advice.length > 0) lines.push('No native binary could be loaded. What to run:', ...advice.map((x) => `  ${x}`));
  return `${lines.join('\n')}\n`;
}

/** The subcommand. Its exit status is 1 when no binary loads or a check fails. */
export function doctorCommand(): Command {
  return new Command('doctor')
    .description('explain how the native binary was found or why not, and check that it works')
    .option('--json', 'print the findings as JSON')
    .action(async ({ json }: { json?: boolean }) => {
      const findings = await examine();
      process.stdout.write(json === true ? `${JSON.stringify(findings, null, 2)}\n` : render(findings));
      const isWell = findings.native !== undefined && Object.values(findings.checks).every((result) => result === 'ok');
      if (!isWell) process.exitCode = 1;
    });
}
