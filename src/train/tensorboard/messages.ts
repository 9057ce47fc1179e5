/**
 * TensorBoard's messages, as far as they are written here. The numbers of fields are those of tensorboard/compat/proto
 * (event.proto, summary.proto, tensor.proto) and tensorboard/plugins/hparams (plugin_data.proto, api.proto).
 *
 * @module
 */
import type { Histogram } from './histogram.js';
import {
  bytesField,
  doubleField,
  doublesField,
  floatField,
  integerField,
  message,
  textField,
  type Encoded,
} from './protobuf.js';

/** What an hparam may be. */
export type HparamValue = string | number | boolean;

/** Event with what happened: `wall_time`, `step`, and one more field. */
const event = (seconds: number, step: number, ...what: Encoded[]): Encoded =>
  message(doubleField(1, seconds), ...(step > 0 ? [integerField(2, step)] : []), ...what);

/** The first event of a file. */
export const versionEvent = (seconds: number): Encoded => event(seconds, 0, textField(3, 'brain.Event:2'));

/** Says that what was written of this step and later ones does not count: the run went on from before. */
export const restartEvent = (seconds: number, step: number): Encoded =>
  event(seconds, step, bytesField(7, integerField(1, 1)));

/** An event of several values. */
export const summaryEvent = (seconds: number, step: number, values: readonly Encoded[]): Encoded =>
  event(seconds, step, bytesField(5, message(...values.map((value) => bytesField(1, value)))));

export const scalarValue = (tag: string, value: number): Encoded => message(textField(1, tag), floatField(2, value));

const metadata = (plugin: string, content: Encoded): Encoded =>
  bytesField(9, bytesField(1, message(textField(1, plugin), bytesField(2, content))));

/** A tensor of strings: dtype DT_STRING, shape [1]. */
const strings = (value: string): Encoded =>
  message(integerField(1, 7), bytesField(2, bytesField(2, integerField(1, 1))), textField(8, value));

export const textValue = (tag: string, text: string): Encoded =>
  message(textField(1, tag), bytesField(8, strings(text)), metadata('text', message()));

export const histogramValue = (tag: string, histogram: Histogram): Encoded => {
  const { min, max, count, sum, sumOfSquares, limits, counts } = histogram;
  const fields = [
    ...[min, max, count, sum, sumOfSquares].map((value, i) => doubleField(i + 1, value)),
    doublesField(6, limits),
    doublesField(7, counts),
  ];
  return message(textField(1, tag), bytesField(5, message(...fields)));
};

/** google.protobuf.Value */
function valueOf(value: HparamValue): Encoded {
  if (typeof value === 'number') return doubleField(2, value);
  return typeof value === 'string' ? textField(3, value) : integerField(4, value);
}

const dataTypes = { string: 1, boolean: 2, number: 3 } as const;
const typeOf = (value: HparamValue): number => dataTypes[typeof value as keyof typeof dataTypes];

/** A value for the hparams dashboard, which reads what its metadata hold. */
const hparamsData = (tag: string, field: number, content: Encoded): Encoded =>
  message(textField(1, tag), metadata('hparams', bytesField(field, content)));

/** What is varied and what is compared: names of hparams with their types, tags of scalars. */
export function experimentValue(hparams: Readonly<Record<string, HparamValue>>, metrics: readonly string[]): Encoded {
  const infos = Object.entries(hparams).map(([name, value]) =>
    bytesField(4, message(textField(1, name), integerField(4, typeOf(value)))),
  );
  const tags = metrics.map((tag) => bytesField(5, bytesField(1, textField(2, tag))));
  return hparamsData('_hparams_/experiment', 2, message(...infos, ...tags));
}

/** The hparams of this run. */
export function sessionStartValue(hparams: Readonly<Record<string, HparamValue>>, seconds: number): Encoded {
  const entries = Object.entries(hparams).map(([name, value]) =>
    bytesField(1, message(textField(1, name), bytesField(2, valueOf(value)))),
  );
  return hparamsData('_hparams_/session_start_info', 3, message(...entries, doubleField(5, seconds)));
}

/** How the run ended. */
export function sessionEndValue(status: 'success' | 'failure', seconds: number): Encoded {
  const content = message(integerField(1, status === 'success' ? 1 : 2), doubleField(2, seconds));
  return hparamsData('_hparams_/session_end_info', 4, content);
}
