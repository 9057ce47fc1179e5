/** A run on points of a line, whose examples a test may spoil: for what the loop does about bad data. */
import * as og from '../../src/index.js';

export interface LineBatch {
  readonly x: og.Tensor;
  readonly y: og.Tensor;
}

/** y = 2x + 1 and a little noise, at 64 points; `spoil` changes x and y of an example. */
export function lineData(
  spoil: (i: number) => { x?: number; y?: number } = () => ({}),
  length = 64,
): og.Dataset<LineBatch> {
  return {
    length,
    batch: (indices) => {
      const at = (i: number): number => ((i * 37) % 64) / 64;
      const xs = indices.map((i) => spoil(i).x ?? at(i));
      const ys = indices.map((i) => spoil(i).y ?? 2 * at(i) + 1 + 0.1 * Math.sin(i * 7));
      return { x: og.tensor(xs.map((x) => [x])), y: og.tensor(ys.map((y) => [y])) };
    },
  };
}

/** Two layers and a way to the second that has a name. */
export class LineModel extends og.nn.Module {
  readonly first = new og.nn.Linear(1, 4, { generator: og.generator(3) });
  readonly second = new og.nn.Linear(4, 1, { generator: og.generator(4) });

  forward(x: og.Tensor): og.Tensor {
    return this.second.forward(og.tanh(this.first.forward(x)));
  }

  loss(x: og.Tensor, y: og.Tensor): og.Tensor {
    return og.mean(og.square(og.sub(this.forward(x), y)));
  }
}

/** The run; options given take the place of its own. */
export function lineTrainer<M extends og.nn.Module = LineModel>(
  options: Partial<og.TrainerOptions<M, LineBatch>>,
  model: M = new LineModel() as unknown as M,
): og.Trainer<M, LineBatch> {
  return new og.Trainer<M, LineBatch>(model, {
    train: lineData(),
    batchSize: 4,
    steps: 40,
    optimizer: (parameters) => new og.optim.SGD(parameters, { lr: 0.05, momentum: 0.9 }),
    seed: 1,
    ...options,
  });
}

/** All events of a run. */
export async function eventsOf(
  trainer: { run(options?: og.RunOptions): AsyncGenerator<og.TrainEvent, void, undefined> },
  options: og.RunOptions = {},
): Promise<og.TrainEvent[]> {
  const events: og.TrainEvent[] = [];
  for await (const event of trainer.run(options)) events.push(event);
  return events;
}

/** Events of one type. */
export function ofType<T extends og.TrainEvent['type']>(
  events: readonly og.TrainEvent[],
  type: T,
): Extract<og.TrainEvent, { type: T }>[] {
  return events.filter((event): event is Extract<og.TrainEvent, { type: T }> => event.type === type);
}

/** Parameters as plain numbers. */
export async function weightsOf(model: og.nn.Module): Promise<Record<string, unknown>> {
  const entries = model.namedParameters().map(async ([name, value]) => [name, await value.toArray()] as const);
  return Object.fromEntries(await Promise.all(entries));
}
