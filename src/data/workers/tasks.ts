/** What workers can be asked to do: the same code runs in this thread when there are none. */
import { AttributeError } from '../../errors.js';
import { loadTokenizer } from '../../tokenizer/load.js';
import type { Tokenizer } from '../../tokenizer/tokenizer.js';
import { formatValue } from '../../util/format.js';
import { StepAccount, type SampleLimits } from '../clean/account.js';
import { languageFilter } from '../clean/language.js';
import { normalize } from '../clean/normalize.js';
import { runSteps, type CleanedBatch } from '../clean/run_steps.js';
import { c4Filter, gopherQuality } from '../clean/quality.js';
import { redact } from '../clean/redact.js';
import { finewebQuality, gopherRepetition } from '../clean/repetition.js';
import type { CleanStep, TextDocument } from '../clean/step.js';
import type { AllowedSpecial } from '../../tokenizer/added_tokens.js';

/** Steps without memory of the pipeline, by their options. */
export interface CleanTask {
  readonly kind: 'clean';
  readonly steps: readonly { readonly kind: string; readonly options: Readonly<Record<string, unknown>> }[];
  readonly limits: SampleLimits;
}

/** Texts to ids, each text followed by the end token. */
export interface TokenizeTask {
  readonly kind: 'tokenize';
  /** Path, or (in this thread only) the tokenizer. */
  readonly tokenizer: string | Tokenizer;
  readonly endToken: number;
  readonly addSpecialTokens: boolean;
  readonly allowedSpecial: AllowedSpecial;
}

/** A function of the user's own: `module` exports a factory under `name`, which gets `options` and gives the function of an item. */
export interface ModuleTask {
  readonly kind: 'module';
  /** URL, as `import.meta.url` is one. */
  readonly module: string;
  /** Default `'default'`. */
  readonly name?: string;
  /** Structured-cloneable. */
  readonly options?: unknown;
}

export type WorkerTask = CleanTask | TokenizeTask | ModuleTask;

/** Ids of several texts after one another. */
export interface TokenizedBatch {
  readonly ids: Int32Array;
  /** Where each text (with its end token) ends in `ids`. */
  readonly ends: Int32Array;
}

const factories: Readonly<Record<string, (options: object) => CleanStep>> = {
  normalize,
  languageFilter,
  gopherQuality,
  gopherRepetition,
  c4Filter,
  finewebQuality,
  redact,
};

async function cleanBatch(task: CleanTask, batch: readonly TextDocument[]): Promise<CleanedBatch> {
  // Made anew for each batch, so that an account covers just that one.
  const steps = task.steps.map(({ kind, options }) => factories[kind]!(options));
  for (const step of steps) await step.prepare?.();
  const accounts = steps.map(() => new StepAccount(task.limits));
  const documents: TextDocument[] = [];
  for (const document of batch) documents.push(...(await runSteps(document, steps, accounts)));
  return {
    documents,
    accounts: accounts.map((account, i) => {
      const summary = steps[i]!.summary?.();
      return { ...account.take(), ...(summary === undefined ? {} : { summary }) };
    }),
  };
}

function tokenizeBatch(task: TokenizeTask, tokenizer: Tokenizer, texts: readonly string[]): TokenizedBatch {
  const { addSpecialTokens, allowedSpecial } = task;
  const parts = texts.map((text) => tokenizer.encodeToTypedArray(text, { addSpecialTokens, allowedSpecial }));
  const ids = new Int32Array(parts.reduce((sum, { length }) => sum + length + 1, 0));
  const ends = new Int32Array(parts.length);
  let at = 0;
  for (const [i, part] of parts.entries()) {
    ids.set(part, at);
    at += part.length;
    ids[at++] = task.endToken;
    ends[i] = at;
  }
  return { ids, ends };
}

/** The function that does a task. */
export async function makeTask(task: WorkerTask): Promise<(item: unknown) => unknown> {
  if (task.kind === 'clean') return (item) => cleanBatch(task, item as readonly TextDocument[]);
  if (task.kind === 'tokenize') {
    const tokenizer = typeof task.tokenizer === 'string' ? await loadTokenizer(task.tokenizer) : task.tokenizer;
    return (item) => tokenizeBatch(task, tokenizer, item as readonly string[]);
  }
  const name = task.name ?? 'default';
  const exported = (await import(task.module)) as Record<string, unknown>;
  const factory = exported[name];
  if (typeof factory !== 'function') {
    throw new AttributeError({
      op: 'mapInWorkers',
      argument: 'name',
      expected: `a function that ${task.module} exports`,
      actual: `${name}: ${formatValue(factory)}`,
    });
  }
  const made = (await (factory as (options: unknown) => unknown)(task.options)) as unknown;
  if (typeof made === 'function') return made as (item: unknown) => unknown;
  const expected = `a factory: ${name}(options) gives the function of an item`;
  throw new AttributeError({ op: 'mapInWorkers', argument: 'name', expected, actual: formatValue(made) });
}
