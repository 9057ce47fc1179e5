// The measuring side of bench/worker.ts for Node: answers setup, run, drop, peak and report, a line of JSON each.
import { createInterface } from 'node:readline';

/**
 * @param {(op: string, args: object, threads: number) => Promise<{ once: () => unknown, finish?: () => Promise<void>, perCall?: number, dispose?: () => void, report?: () => object | Promise<object> } | undefined>} prepare
 *   undefined for work that this peer does not do; `finish` waits for what `once` started; a call of `once` does the work
 *   `perCall` times, 1 unless said
 * @param {Readonly<Record<string, string>>} versions
 */
export async function serve(prepare, versions) {
  const slots = new Map();
  const answers = {
    hello: () => ({ versions }),
    setup: async ({ slot, op, args, threads }) => {
      const work = await prepare(op, args, threads);
      if (work === undefined) return { ok: false, reason: 'unknown' };
      slots.set(slot, work);
      return {};
    },
    run: async ({ slot, n }) => {
      const { once, finish, perCall = 1 } = slots.get(slot);
      const calls = Math.ceil(n / perCall);
      const begun = performance.now();
      for (let i = 0; i < calls; i++) {
        const result = once();
        if (result instanceof Promise) await result;
      }
      await finish?.();
      return { seconds: ((performance.now() - begun) / 1e3) * (n / (calls * perCall)) };
    },
    drop: ({ slot }) => {
      slots.get(slot)?.dispose?.();
      slots.delete(slot);
      globalThis.gc?.();
      return {};
    },
    report: ({ slot }) => slots.get(slot).report(),
    peak: () => ({ bytes: process.resourceUsage().maxRSS * 1024 }),
  };
  for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    let reply;
    try {
      reply = { ok: true, ...(await answers[request.do](request)) };
    } catch (error) {
      reply = { ok: false, reason: String(error?.message ?? error) };
    }
    process.stdout.write(`${JSON.stringify(reply)}\n`);
  }
}
