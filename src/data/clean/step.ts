/**
 * What a cleaning step is: a document in, documents or a reason out.
 *
 * @module
 */

/** A piece of text on its way to a training set. */
export interface TextDocument {
  /** Unique in its source: a name, or file and row. */
  readonly id: string;
  readonly text: string;
  /** Whatever belongs to the text; JSON if the document is to be written, or sent to a worker. */
  readonly meta?: Readonly<Record<string, unknown>>;
}

/** What a step made of one document. */
export interface StepResult {
  /** What goes on: usually one document (the same object where nothing changed); none if it was dropped. */
  readonly documents: readonly TextDocument[];
  /** Why the document was dropped; every dropped document has a reason. */
  readonly reason?: string;
  /** What was found, for a person: the value that broke the rule, the earlier document, … */
  readonly detail?: string;
  /** Occurrences to add up over the run (removed lines, redacted addresses, …). */
  readonly counts?: Readonly<Record<string, number>>;
}

/** One step of a pipeline. Steps with memory (duplicates) see documents one at a time, in order. */
export interface CleanStep {
  /** Name in reports. */
  readonly name: string;
  /** Thresholds and switches, JSON, as they go into reports; with `kind`, enough to make the step again in a worker. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Set by built-in steps without memory: which factory makes the step of its options. */
  readonly kind?: string;
  /** Loads what the step needs; awaited once before the first document. */
  prepare?(): Promise<void>;
  process(document: TextDocument): StepResult | Promise<StepResult>;
  /** What the step knows at the end, JSON, for the report (languages, contaminated examples, memory, …). */
  summary?(): Readonly<Record<string, unknown>>;
  /** Adds the summary of the same step in another worker to this one's; needed where `summary` and `kind` are. */
  merge?(summary: Readonly<Record<string, unknown>>): void;
}

/** The document goes on as it is. */
export function keepDocument(document: TextDocument): StepResult {
  return { documents: [document] };
}

/** The document goes on with another text. */
export function replaceText(document: TextDocument, text: string, counts?: Record<string, number>): StepResult {
  const documents = [text === document.text ? document : { ...document, text }];
  return counts === undefined ? { documents } : { documents, counts };
}

/** The document ends here. */
export function dropDocument(reason: string, detail?: string): StepResult {
  return detail === undefined ? { documents: [], reason } : { documents: [], reason, detail };
}
