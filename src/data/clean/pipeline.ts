/**
 * Steps one after the other over a stream of documents, with an account of what each did.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { checkInteger, checkKeys } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { mapInOrder } from '../workers/map.js';
import { StepAccount, type StepReport } from './account.js';
import { runSteps, type CleanedBatch } from './run_steps.js';
import type { CleanStep, TextDocument } from './step.js';

/** Options of {@link clean}. */
export interface CleanOptions {
  /** Dropped documents whose beginnings are kept in the report, for each reason. Default 3. */
  readonly samples?: number;
  /** Characters of such a beginning. Default 200. */
  readonly sampleCharacters?: number;
  /** Threads for the built-in steps without memory at the start of the pipeline. Default 0: all in this thread. The result is the same. */
  readonly workers?: number;
}

/** What a pipeline did, as plain JSON. */
export interface CleanReport {
  readonly documents: { readonly before: number; readonly after: number };
  readonly characters: { readonly before: number; readonly after: number };
  readonly steps: readonly StepReport[];
}

/** Documents that pass the steps; walk it once. */
export interface CleanRun extends AsyncIterable<TextDocument> {
  /** The account so far; complete when the walk has ended. */
  readonly report: CleanReport;
}

/** @throws AttributeError naming the document */
function checkDocument(document: TextDocument, position: number): void {
  if (typeof document?.id === 'string' && typeof document.text === 'string') return;
  throw new AttributeError({
    op: 'clean',
    argument: `document ${position}`,
    expected: 'an object with strings id and text',
    actual: formatValue(document),
    hint: 'Readers such as readDocuments make them of files',
  });
}

/** How many characters travel to a worker together. */
const BATCH_CHARACTERS = 1 << 18;

async function* inBatches(source: AsyncIterable<TextDocument>): AsyncGenerator<TextDocument[], void, undefined> {
  let batch: TextDocument[] = [];
  let characters = 0;
  for await (const document of source) {
    batch.push(document);
    characters += document.text.length;
    if (characters < BATCH_CHARACTERS) continue;
    yield batch;
    [batch, characters] = [[], 0];
  }
  if (batch.length > 0) yield batch;
}

/**
 * Runs documents through steps, in order. Nothing is read before the result is walked, and no faster than it is walked; one document is
 * held at a time (with workers, a few batches of 256 Ki characters).
 *
 * @throws AttributeError if a step or a document is none
 * @throws ResourceError if a worker dies; errors of a step come through as they are
 * @example
 * const run = clean(readDocuments(['a.jsonl.gz']), [normalize(), gopherQuality(), exactDuplicates(), nearDuplicates()]);
 * for await (const { text } of run) …
 * console.log(run.report);
 */
export function clean(
  source: AsyncIterable<TextDocument> | Iterable<TextDocument>,
  steps: readonly CleanStep[],
  options: CleanOptions = {},
): CleanRun {
  checkKeys('clean', options, ['samples', 'sampleCharacters', 'workers']);
  const workers = checkInteger('clean', 'workers', options.workers ?? 0, 0, 256);
  const limits = {
    samples: checkInteger('clean', 'samples', options.samples ?? 3, 0, 1000),
    sampleCharacters: checkInteger('clean', 'sampleCharacters', options.sampleCharacters ?? 200, 1),
  };
  for (const [i, step] of steps.entries()) {
    if (typeof step?.process === 'function' && typeof step.name === 'string') continue;
    const expected = 'a step: an object with name, options and process()';
    throw new AttributeError({ op: 'clean', argument: `steps[${i}]`, expected, actual: formatValue(step) });
  }
  const accounts = steps.map(() => new StepAccount(limits));
  const totals = { before: 0, after: 0, charactersBefore: 0, charactersAfter: 0 };
  const elsewhere = workers === 0 ? 0 : steps.findIndex(({ kind }) => kind === undefined);
  const split = elsewhere < 0 ? steps.length : elsewhere;

  async function* counted(): AsyncGenerator<TextDocument, void, undefined> {
    let position = 0;
    for await (const document of source) {
      checkDocument(document, position++);
      totals.before++;
      totals.charactersBefore += document.text.length;
      yield document;
    }
  }

  async function* viaWorkers(): AsyncGenerator<TextDocument, void, undefined> {
    const task = {
      kind: 'clean' as const,
      steps: steps.slice(0, split).map(({ kind, options: own }) => ({ kind: kind!, options: own })),
      limits,
    };
    for await (const { documents, accounts: parts } of mapInOrder<TextDocument[], CleanedBatch>(
      inBatches(counted()),
      task,
      { workers },
    )) {
      for (const [i, part] of parts.entries()) {
        accounts[i]!.merge(part);
        if (part.summary !== undefined) steps[i]!.merge?.(part.summary);
      }
      yield* documents;
    }
  }

  async function* walk(): AsyncGenerator<TextDocument, void, undefined> {
    const here = steps.slice(split);
    for (const step of here) await step.prepare?.();
    for await (const document of split === 0 ? counted() : viaWorkers()) {
      for (const result of await runSteps(document, here, accounts.slice(split))) {
        totals.after++;
        totals.charactersAfter += result.text.length;
        yield result;
      }
    }
  }

  return {
    get report(): CleanReport {
      return {
        documents: { before: totals.before, after: totals.after },
        characters: { before: totals.charactersBefore, after: totals.charactersAfter },
        steps: steps.map((step, i) => accounts[i]!.report(step)),
      };
    },
    [Symbol.asyncIterator]: walk,
  };
}
