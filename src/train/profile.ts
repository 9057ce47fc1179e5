/**
 * Where the time of a step goes.
 *
 * @module
 */
import { setCostListener } from '../ops/define.js';
import { matmul } from '../ops/matmul.js';
import { waitFor, whenDone } from '../runtime/queue.js';
import { generator, rand } from '../tensor/random.js';
import { scope } from '../tensor/scope.js';
import { checkBoolean, checkKeys, checkNumber } from '../util/assert.js';
import { turn } from '../util/turn.js';

/** Times in milliseconds, rates a second. */
export interface StepProfile {
  /** Making the batches. */
  readonly data: number;
  readonly forward: number;
  /** Backward, and what is computed again in it. */
  readonly backward: number;
  /** Clipping, the optimiser's step, averages. */
  readonly optimizer: number;
  /** Floating-point operations as the operations of the step report them: forward, backward, and what is computed again. */
  readonly flops: number;
  /** `flops` over the whole time of the step. */
  readonly flopsPerSecond: number;
  /** `flopsPerSecond` over the ceiling. */
  readonly shareOfCeiling: number;
}

/** Options of the profile of a run. */
export interface ProfileOptions {
  /** FLOP/s that the machine can do at most. Default: what one large float32 matrix product reaches, measured once. */
  readonly ceiling?: number;
}

/** @internal @throws AttributeError unless the option is one of a profile */
export function checkProfile(profile: unknown): void {
  if (typeof profile !== 'object' || profile === null) {
    checkBoolean('Trainer', 'profile', profile ?? false);
    return;
  }
  checkKeys('Trainer.profile', profile, ['ceiling']);
  const { ceiling } = profile as ProfileOptions;
  if (ceiling !== undefined) checkNumber('Trainer', 'profile.ceiling', ceiling, Number.MIN_VALUE, Number.MAX_VALUE);
}

type Phase = 'data' | 'forward' | 'backward' | 'optimizer';

/** @internal Watches one step: its synchronous parts run inside it, and it decides what happens between them. */
export interface StepWatch {
  /** Runs the part that makes a batch. */
  data<T>(body: () => T): T;
  /** Runs any other part. */
  part<T>(body: () => T): T;
  /** Between parts: lets the event loop turn. */
  border(phase: Phase): Promise<void>;
  /** What the event says of the step. */
  report(): { readonly profile?: StepProfile };
}

/** @internal Lets the event loop turn between the parts, and nothing else. */
export const idleWatch: StepWatch = {
  data: (body) => body(),
  part: (body) => body(),
  border: turn,
  report: () => ({}),
};

/** @internal Runs `body` and adds up the floating-point operations that the operations called in it report. */
export function countFlops<T>(body: () => T): [result: T, flops: number] {
  let flops = 0;
  setCostListener((_name, cost) => void (flops += cost.flops));
  try {
    return [body(), flops];
  } finally {
    setCostListener(null);
  }
}

/** @internal Waits for the queue at every border, and takes the time. */
export function profilingWatch(ceiling: number): StepWatch {
  const times: Record<Phase, number> = { data: 0, forward: 0, backward: 0, optimizer: 0 };
  const begun = performance.now();
  let last = begun;
  let flops = 0;
  const stop = (phase: Phase): void => {
    const now = performance.now();
    times[phase] += now - last;
    last = now;
  };
  return {
    data: (body) => {
      const result = body();
      waitFor();
      stop('data');
      return result;
    },
    part: (body) => {
      const [result, counted] = countFlops(body);
      flops += counted;
      return result;
    },
    border: async (phase) => {
      await whenDone();
      stop(phase);
    },
    report: () => {
      const rate = (flops * 1000) / (performance.now() - begun);
      return { profile: { ...times, flops, flopsPerSecond: rate, shareOfCeiling: rate / ceiling } };
    },
  };
}

let measured: Promise<number> | null = null;

/** FLOP/s of a large float32 matrix product on this machine: the best of a few, measured once a process. */
export function productRate(): Promise<number> {
  measured ??= measureProduct();
  return measured;
}

async function measureProduct(size = 1024, times = 6): Promise<number> {
  const stream = generator(0);
  const a = rand([size, size], { generator: stream });
  const b = rand([size, size], { generator: stream });
  let best = 0;
  for (let i = 0; i < times; i++) {
    await whenDone();
    const begun = performance.now();
    scope(() => void matmul(a, b));
    await whenDone();
    best = Math.max(best, (2000 * size ** 3) / (performance.now() - begun));
  }
  a.dispose();
  b.dispose();
  return best;
}

/** @internal The watch of the next step, as the option of a run says. */
export async function watchOf(profile: boolean | ProfileOptions | undefined): Promise<StepWatch> {
  if (profile === undefined || profile === false) return idleWatch;
  return profilingWatch((profile === true ? undefined : profile.ceiling) ?? (await productRate()));
}
