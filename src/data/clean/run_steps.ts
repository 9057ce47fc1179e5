/** Steps applied to one document after the other: what pipelines and their workers share. */
import type { StepAccount } from './account.js';
import type { CleanStep, TextDocument } from './step.js';

/** What a worker sends back for a batch: what passed, and its account of the batch. */
export interface CleanedBatch {
  readonly documents: TextDocument[];
  readonly accounts: readonly ReturnType<StepAccount['take']>[];
}

/** A document through steps, from the first on: what comes out at the end. */
export async function runSteps(
  document: TextDocument,
  steps: readonly CleanStep[],
  accounts: readonly StepAccount[],
): Promise<TextDocument[]> {
  let documents: readonly TextDocument[] = [document];
  for (const [i, step] of steps.entries()) {
    const next: TextDocument[] = [];
    for (const each of documents) {
      const result = step.process(each);
      const settled = result instanceof Promise ? await result : result;
      accounts[i]!.add(each, settled);
      next.push(...settled.documents);
    }
    documents = next;
    if (documents.length === 0) break;
  }
  return [...documents];
}
