/** Options and data that cannot be: refused before any work, or named with the examples. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { temporaryFolders } from '../helpers/folders.js';
import { eventsOf, lineData, lineTrainer, type LineBatch, type LineModel } from '../helpers/line_run.js';

const folder = temporaryFolders();

test('options that cannot be are refused before any work, with the nearest name', async () => {
  const valid = lineData();
  const dir = await folder();
  const cases: [Partial<og.TrainerOptions<LineModel, LineBatch>>, RegExp][] = [
    [{ earlyStopping: {} }, /valid: expected a validation set, for early stopping/],
    [{ valid, earlyStopping: { metric: 'los' } }, /Did you mean loss/],
    [{ valid, earlyStopping: { patiance: 3 } as never }, /Did you mean patience/],
    [{ valid, earlyStopping: { restoreBest: true } }, /restoreBest: expected checkpoint/],
    [
      { valid, metrics: { accuracy: () => 1 }, earlyStopping: { metric: 'valid.acuracy' } },
      /Did you mean valid.accuracy/,
    ],
    [{ valid, metrics: { loss: () => 1 } }, /a name other than loss/],
    [{ valid, checkpoint: { dir, keeep: 2 } as never }, /Did you mean keep/],
    [{ valid, checkpoint: { dir, best: { mod: 'max' } as never } }, /Did you mean mode/],
    [{ valid, evalEvery: { token: 5 } as never }, /Did you mean tokens/],
    [{ valid, evalEvery: 0 }, /evalEvery: expected an integer of at least 1/],
    [{ valid: {} }, /valid: expected at least one set/],
    [{ valid: { a: { length: 0, batch: valid.batch } } as never }, /valid\.a: expected at least one example/],
    [{ train: { length: 0, batch: valid.batch } as never }, /train: expected at least one example, got none/],
    [{ train: [1, 2, 3] as never }, /Wrap it/],
    [{ train: { length: 3, batch: valid.batch } as never }, /at least one batch of 4, got 3 examples/],
    [{ lossSpikes: {} }, /lossSpikes: expected checkpoint/],
    [{ lossSpikes: { windw: 5 } as never, checkpoint: { dir } }, /Did you mean window/],
    [{ optimizer: {} as never }, /optimizer: expected a function from parameters to an optimizer, got an object/],
    [{ loss: 3 as never }, /loss: expected a function, got 3/],
    [{ callbacks: {} as never }, /callbacks: expected a list of callbacks/],
    [{ valid, earlyStopping: true as never }, /earlyStopping: expected an object, got true/],
    [{ evalEvry: 5 } as never, /Did you mean evalEvery/],
  ];
  for (const [options, message] of cases) {
    assert.throws(() => lineTrainer(options as never), (error: unknown) => error instanceof og.AttributeError && message.test(error.message), String(message)); // prettier-ignore
  }
  assert.throws(() => new og.TextDataset([1, 2, 3], { contxt: 2 } as never), /Did you mean context/);
  await assert.rejects(eventsOf(lineTrainer({}), { timelimit: 3 } as never), /Did you mean timeLimit/);
  await assert.rejects(eventsOf(lineTrainer({}), { handleSignals: ['SIGKILL'] }), /handleSignals: expected/);
});

test('an error of the data set names the examples and leaves the trainer where it was', async () => {
  const train: og.Dataset<never> = {
    length: 8,
    batch: () => {
      throw new RangeError('ragged');
    },
  };
  const trainer = lineTrainer({ train });
  await assert.rejects(eventsOf(trainer), (error: unknown) => {
    assert.ok(error instanceof og.StateError && error.cause instanceof RangeError);
    return /a batch of examples \d, \d, \d, \d of epoch 0, got an error: ragged/.test(error.message);
  });
});

test('sequences of mixed lengths, and tokens that the model does not know: the step and the examples are named', async () => {
  const run = (batch: (indices: readonly number[]) => og.Batch): Promise<unknown> => {
    const model = new og.GPT({ vocabSize: 8, context: 4, layers: 1, heads: 1, width: 8 });
    const optimizer = (parameters: og.Tensor[]): og.optim.SGD => new og.optim.SGD(parameters, { lr: 0.1 });
    return eventsOf(new og.Trainer(model, { train: { length: 4, batch }, batchSize: 2, optimizer }));
  };
  const ids = (rows: number[][]): og.Tensor => og.tensor(rows, { dtype: 'int32' });
  const both = (x: og.Tensor): og.Batch => ({ x, y: x });
  await assert.rejects(run((indices) => both(ids(indices.map((i) => Array<number>(2 + (i % 3)).fill(1))))), /a batch of examples \d, \d of epoch 0, got an error: /); // prettier-ignore
  await assert.rejects(run((indices) => ({ x: ids(indices.map(() => [1, 2, 3])), y: ids(indices.map(() => [1, 2])) })), /\(step 1, examples \d, \d of epoch 0\)$/); // prettier-ignore
  await assert.rejects(run((indices) => both(ids(indices.map(() => [1, 2, 3, 4, 5])))), /\(step 1, examples \d, \d of epoch 0\)$/); // prettier-ignore
  await assert.rejects(
    run((indices) => both(ids(indices.map(() => [1, 99])))),
    (error: unknown) => {
      assert.ok(error instanceof og.OmniError && error.stack!.includes(error.message));
      return /99.*\(step 1, examples \d, \d of epoch 0\)$/.test(error.message);
    },
  );
});
