/** Generation by steps that are recorded, run again and queued ahead: what a consumer sees is as if each step began when it was asked for. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as og from '../../src/index.js';
import type { GPTConfig } from '../../src/models/gpt.js';

const small: GPTConfig = { vocabSize: 67, context: 40, layers: 2, heads: 4, width: 64 };
const makeModel = (): og.GPT => new og.GPT(small, { generator: og.generator(5) }).eval();

/** Keeps the queue busy, as a long prompt does: meanwhile all steps that will make a program are recorded. */
function keepQueueBusy(): void {
  og.scope(() => {
    const x = og.zeros([900, 900]);
    for (let i = 0; i < 12; i++) og.matmul(x, x);
  });
}

describe('generation with recorded steps', () => {
  test('records while the queue is busy, as far ahead as it is of use', async () => {
    class Counting extends og.GPT {
      calls = 0;
      override watch(): () => boolean {
        return () => true;
      }
      override forward(...args: Parameters<og.GPT['forward']>): og.Tensor {
        this.calls++;
        return super.forward(...args);
      }
    }
    const model = new Counting(small, { generator: og.generator(5) });
    for (const [maxNewTokens, calls] of [
      [1, 1],
      [2, 2],
      [3, 3],
      [30, 4],
    ] as const) {
      await og.synchronize();
      keepQueueBusy();
      model.calls = 0;
      for await (const _ of model.generate([1, 2, 3], { maxNewTokens, temperature: 0 })) break;
      assert.equal(model.calls, calls, `${maxNewTokens} tokens`);
    }
    model.dispose();
  });

  test('queues no more passes than tokens are wanted, though none makes a program', async () => {
    class Slow extends og.GPT {
      calls = 0;
      override watch(): () => boolean {
        return () => true;
      }
      override forward(...args: Parameters<og.GPT['forward']>): og.Tensor {
        this.calls++;
        keepQueueBusy(); // longer than JavaScript takes to go ahead
        return og.add(super.forward(...args), og.mul(og.full([1], Math.random()), 0)); // differs without order
      }
    }
    const model = new Slow(small, { generator: og.generator(5) });
    for (const maxNewTokens of [1, 2, 3, 4, 5, 6]) {
      model.calls = 0;
      let made = 0;
      for await (const _ of model.generate([1, 2, 3], { maxNewTokens, temperature: 0 })) made++;
      assert.deepEqual([made, model.calls], [maxNewTokens, maxNewTokens]);
    }
    model.dispose();
  });

  for (const temperature of [0, 0.8]) {
    test(`continues beyond the context as without them, at temperature ${temperature}`, async () => {
      const model = makeModel();
      const write = async (): Promise<number[]> => {
        const ids: number[] = [];
        const options = { maxNewTokens: 100, temperature, topK: 20, generator: og.generator(11) };
        for await (const { id } of model.generate([1, 2, 3], options)) ids.push(id);
        return ids;
      };
      const recorded = await write();
      model.watch = () => null;
      assert.deepEqual(recorded, await write());
      model.dispose();
    });
  }

  test('sees logits that are not finite', async () => {
    const model = makeModel();
    const write = async (): Promise<void> => {
      for await (const { id } of model.generate([1], { maxNewTokens: 30, temperature: 0 })) {
        assert.ok(id >= 0);
        if (++made === 10) og.noGrad(() => og.copy_(model.norm.weight as og.Tensor, og.full([64], NaN)));
      }
    };
    let made = 0;
    await assert.rejects(write, /finite logits/);
    assert.equal(made, 10);
    model.dispose();
  });

  /** What a consumer does between tokens must show as if each step began when it was asked for. */
  const meddling: Record<string, (model: og.GPT) => void> = {
    'a weight': (model) => og.noGrad(() => og.copy_(model.norm.weight as og.Tensor, og.full([64], 0.7))),
    'a weight of an embedding': (model) =>
      og.noGrad(() => og.copy_(model.tokens.weight, og.mul(model.tokens.weight, -1))),
    'a mode': (model) => void model.train(),
    'a hook': (model) => void model.blocks[1]!.registerForwardHook((_module, _inputs, y) => og.mul(y as og.Tensor, 3)),
  };
  for (const [name, meddle] of Object.entries(meddling)) {
    for (const [at, isBusy] of [1, 2, 3, 5, 12].flatMap((one) => [[one, false] as const, [one, true] as const])) {
      test(`sees ${name} that changes after token ${at}${isBusy ? ', recorded while the queue was busy' : ''}`, async () => {
        const write = async (isWatched: boolean): Promise<number[]> => {
          const model = makeModel();
          if (!isWatched) model.watch = () => null;
          const ids: number[] = [];
          const generator = og.generator(11);
          if (isBusy) keepQueueBusy();
          for await (const { id } of model.generate([1, 2, 3], { maxNewTokens: 20, generator })) {
            ids.push(id);
            if (ids.length === at) meddle(model);
          }
          model.dispose();
          return ids;
        };
        assert.deepEqual(await write(true), await write(false));
      });
    }
  }

  test('leaves streams where they stand without steps ahead: after a stop, a break, a signal', async () => {
    const model = makeModel();
    const first: number[] = [];
    for await (const { id } of model.generate([1, 2], { maxNewTokens: 24, generator: og.generator(3) })) first.push(id);
    const stopAt = first.findIndex((id, i) => i > 8 && first.indexOf(id) === i);
    assert.ok(stopAt > 8);
    const ways: ((generator: og.Generator) => Promise<void>)[] = [
      async (generator) => {
        const options = { maxNewTokens: 24, generator, stopIds: [first[stopAt]!] };
        let made = 0;
        for await (const _ of model.generate([1, 2], options)) made++;
        assert.equal(made, stopAt);
      },
      async (generator) => {
        let made = 0;
        for await (const _ of model.generate([1, 2], { maxNewTokens: 24, generator })) if (++made === 10) break;
      },
      ...[1, 2, 3, 4].map((last) => async (generator: og.Generator) => {
        let made = 0;
        keepQueueBusy();
        for await (const _ of model.generate([1, 2], { maxNewTokens: 24, generator })) if (++made === last) break;
      }),
      async (generator) => {
        const controller = new AbortController();
        const options = { maxNewTokens: 24, generator, signal: controller.signal };
        let made = 0;
        await assert.rejects(async () => {
          for await (const _ of model.generate([1, 2], options)) if (++made === 10) controller.abort();
        }, /abort/i);
      },
    ];
    for (const way of ways) {
      const [ahead, called] = [og.generator(3), og.generator(3)];
      await way(ahead);
      const own = model.watch;
      model.watch = () => null;
      await way(called);
      model.watch = own;
      assert.deepEqual(ahead.state, called.state);
    }
    model.dispose();
  });

  test('holds no memory afterwards', async () => {
    const model = makeModel();
    const write = async (stop: number): Promise<void> => {
      let made = 0;
      for await (const _ of model.generate([1, 2], { maxNewTokens: 30, temperature: 0 })) if (++made === stop) break;
    };
    await write(30);
    const before = og.memory().tensors;
    for (const stop of [1, 2, 3, 4, 5, 17, 30]) {
      await write(stop);
      assert.equal(og.memory().tensors, before, `after ${stop}`);
      keepQueueBusy();
      await write(stop);
      assert.equal(og.memory().tensors, before, `after ${stop}, recorded while the queue was busy`);
    }
    model.dispose();
  });

  test('tells once what fails in a kernel, with a step ahead behind it', async () => {
    class Failing extends og.GPT {
      calls = -100;
      override watch(): () => boolean {
        return () => true;
      }
      override forward(...args: Parameters<og.GPT['forward']>): og.Tensor {
        if (++this.calls === 1)
          og.scope(() => void og.embedding(og.zeros([2, 64]), og.full([5000], 9, { dtype: 'int32' })));
        if (this.calls === 2) og.scope(() => og.zeros([1]).itemSync()); // the failure is seen here, in the step ahead, first
        return super.forward(...args);
      }
    }
    const model = new Failing(small, { generator: og.generator(5) });
    const unhandled: unknown[] = [];
    for await (const _ of model.generate([1, 2, 3], { maxNewTokens: 8, temperature: 0 })); // packs weights
    model.calls = 0;
    const before = og.memory().tensors;
    const note = (reason: unknown): void => void unhandled.push(reason);
    process.on('unhandledRejection', note);
    await assert.rejects(async () => {
      for await (const _ of model.generate([1, 2, 3], { maxNewTokens: 8, temperature: 0 }));
    }, /9/);
    await new Promise((done) => setTimeout(done, 50));
    process.off('unhandledRejection', note);
    assert.deepEqual(unhandled, []);
    assert.equal(og.memory().tensors, before);
    model.dispose();
  });
});
