/** What can be timed. */
export interface Timed {
  /** Does other work than the subjects beside it: their times do not compare. */
  readonly isApart?: true;
  /** Does the work `count` times; seconds for all of them. */
  run(count: number): Promise<number>;
}

/** Something that is set up, timed and taken down. */
export interface Subject extends Timed {
  dispose(): void | Promise<void>;
}

/** The work of a row, as every process that measures it understands it. */
export interface Work {
  readonly op: string;
  readonly args: Readonly<Record<string, unknown>>;
}
