// The measuring side of bench/worker.ts for Node: answers setup, run, drop, peak and report, a line of JSON each.
import { createInterface } from 'node:readline';

/**
 * @param {(op: string, args: object, threads: number) => Promise<{ once: () => unknown, finish?: () => Promise<void>, dispose?: () => void, report?: () => object } | undefined>} prepare
 *   undefined for work that this peer does not do; `finish` waits for what `once` started
 * @param {Readonly<Record<string, string>>} versions
 */
export async function serve(prepare, versions) {
  let work;
  const answers = {
    hello: () => ({ versions }),
    setup: async ({ op, args, threads }) => {
      work = await prepare(op, args, threads);
      return work === undefined ? { ok: false, reason: 'unknown' } : {};
    },
    run: async ({ n }) => {
      const { once, finish } = work;
      const begun = performance.now();
      for (let i = 0; i < n; i++) {
        const result = once();
        if (result instanceof Promise) await result;
      }
      await finish?.();
      return { seconds: (performance.now() - begun) / 1e3 };
    },
    drop: () => {
      work?.dispose?.();
      work = undefined;
      globalThis.gc?.();
      return {};
    },
    report: () => work.report(),
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
