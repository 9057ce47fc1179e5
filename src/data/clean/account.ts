/** What one step did, counted. */
import type { CleanStep, StepResult, TextDocument } from './step.js';

/** Documents dropped for one reason. */
export interface ReasonReport {
  readonly documents: number;
  readonly characters: number;
  /** The first few. */
  readonly samples: readonly { readonly id: string; readonly text: string; readonly detail?: string }[];
}

/** The account of a step, as plain JSON. */
export interface StepReport {
  readonly name: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly documents: { readonly before: number; readonly after: number };
  /** UTF-16 units. */
  readonly characters: { readonly before: number; readonly after: number };
  /** Documents whose text was changed and kept. */
  readonly changed: number;
  readonly dropped: Readonly<Record<string, ReasonReport>>;
  readonly counts: Readonly<Record<string, number>>;
  readonly summary?: Readonly<Record<string, unknown>>;
}

/** How much of what was dropped is shown. */
export interface SampleLimits {
  readonly samples: number;
  readonly sampleCharacters: number;
}

type Sample = ReasonReport['samples'][number];

interface Reason {
  documents: number;
  characters: number;
  samples: Sample[];
}

interface Figures {
  before: number;
  after: number;
  charactersBefore: number;
  charactersAfter: number;
  changed: number;
  dropped: Record<string, Reason>;
  counts: Record<string, number>;
  /** From another thread: what its copy of the step found since it was last asked. */
  summary?: Readonly<Record<string, unknown>>;
}

const nothing = (): Figures => ({
  before: 0,
  after: 0,
  charactersBefore: 0,
  charactersAfter: 0,
  changed: 0,
  dropped: {},
  counts: {},
});

/** @internal */
export class StepAccount {
  private figures = nothing();

  constructor(private readonly limits: SampleLimits) {}

  private reason(name: string): Reason {
    return (this.figures.dropped[name] ??= { documents: 0, characters: 0, samples: [] });
  }

  private count(counts: Readonly<Record<string, number>>): void {
    for (const [name, times] of Object.entries(counts))
      this.figures.counts[name] = (this.figures.counts[name] ?? 0) + times;
  }

  add(document: TextDocument, { documents, reason, detail, counts }: StepResult): void {
    const { figures, limits } = this;
    figures.before++;
    figures.charactersBefore += document.text.length;
    if (counts !== undefined) this.count(counts);
    for (const { text } of documents) {
      figures.after++;
      figures.charactersAfter += text.length;
    }
    if (documents.length > 0) {
      if (documents.length > 1 || documents[0]!.text !== document.text) figures.changed++;
      return;
    }
    const entry = this.reason(reason ?? 'no reason given');
    entry.documents++;
    entry.characters += document.text.length;
    if (entry.samples.length >= limits.samples) return;
    const text = document.text.slice(0, limits.sampleCharacters);
    entry.samples.push({ id: document.id, text, ...(detail === undefined ? {} : { detail }) });
  }

  /** What was counted since the last call. */
  take(): Figures {
    const { figures } = this;
    this.figures = nothing();
    return figures;
  }

  merge(other: Figures): void {
    const { figures, limits } = this;
    figures.before += other.before;
    figures.after += other.after;
    figures.charactersBefore += other.charactersBefore;
    figures.charactersAfter += other.charactersAfter;
    figures.changed += other.changed;
    this.count(other.counts);
    for (const [name, { documents, characters, samples }] of Object.entries(other.dropped)) {
      const entry = this.reason(name);
      entry.documents += documents;
      entry.characters += characters;
      entry.samples.push(...samples.slice(0, limits.samples - entry.samples.length));
    }
  }

  report(step: CleanStep): StepReport {
    const { before, after, charactersBefore, charactersAfter, changed, dropped, counts } = this.figures;
    const summary = step.summary?.();
    return {
      name: step.name,
      options: step.options,
      documents: { before, after },
      characters: { before: charactersBefore, after: charactersAfter },
      changed,
      dropped: structuredClone(dropped),
      counts: { ...counts },
      ...(summary === undefined ? {} : { summary }),
    };
  }
}
