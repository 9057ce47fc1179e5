/** TensorBoard's event files: their framing by an independent reader, and, where there is one, by TensorBoard itself. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFile, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import * as og from '../../src/index.js';
import { crc32c } from '../../src/train/tensorboard/tfrecord.js';
import { eventsOf, slowCrc32c } from '../helpers/tfrecord.js';

const folders: string[] = [];
async function folder(): Promise<string> {
  const made = await mkdtemp(path.join(tmpdir(), 'omnigrad-tensorboard-'));
  folders.push(made);
  return made;
}
after(async () => {
  for (const made of folders) await rm(made, { recursive: true, force: true });
});

/** What both readers look at. */
function writeEverything(dir: string): string {
  const first = new og.TensorBoardWriter(dir);
  first.addHparams({ lr: 0.5, name: 'zwölf', tied: true }, ['train/loss']);
  for (const step of [1, 2, 3, 4]) first.addScalars({ 'train/loss': 4 / step, 'train/lr': 0.5 }, step);
  first.close();
  // Steps 3 and 4 are done again.
  const second = new og.TensorBoardWriter(dir, { purgeStep: 3 });
  second.addScalar('train/loss', 10, 3);
  second.addText('sample', 'größer **als** alles', 300);
  second.addHistogram('weights', [-2, -1e-13, 0, 0.5, 0.5, 3, Infinity, NaN], 7);
  second.addScalar('far', -1.5, 2 ** 40);
  second.endHparams('success');
  second.sync();
  second.close();
  return second.path;
}

test('CRC-32C agrees with the published check value and with division bit by bit', () => {
  assert.equal(crc32c(Buffer.from('123456789')), 0xe3069283);
  assert.equal(slowCrc32c(Buffer.from('123456789')), 0xe3069283);
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa); // RFC 3720, B.4
  const bytes = Uint8Array.from({ length: 999 }, (_, i) => (i * i) >> 3);
  assert.equal(crc32c(bytes), slowCrc32c(bytes));
});

test('records hold what was added, with right checksums', async () => {
  const file = await readFile(writeEverything(await folder()));
  const events = eventsOf(file);
  assert.equal(events[0]!.version, 'brain.Event:2');
  assert.ok(Math.abs(events[0]!.seconds - Date.now() / 1000) < 60);
  assert.ok(events[1]!.isRestart);
  assert.equal(events[1]!.step, 3);
  assert.deepEqual(events[2]!.values, [{ tag: 'train/loss', scalar: 10 }]);
  assert.equal(events[3]!.step, 300);
  assert.deepEqual(events[3]!.values, [{ tag: 'sample', text: 'größer **als** alles', plugin: 'text' }]);
  const histogram = events[4]!.values[0]!.histogram!;
  assert.deepEqual([histogram.min, histogram.max, histogram.count], [-2, 3, 6]);
  assert.ok(Math.abs(histogram.sum - 2) < 1e-9 && Math.abs(histogram.sumOfSquares - 13.5) < 1e-9);
  assert.deepEqual(
    histogram.limits.filter((_, i) => i > 0 && histogram.limits[i]! <= histogram.limits[i - 1]!),
    [],
    'limits rise',
  );
  /** Values whose bucket holds them: above the limit before, at most their own. */
  const inBucket = (value: number): number => {
    const at = histogram.limits.findIndex((limit) => value <= limit);
    return histogram.counts[at]!;
  };
  assert.deepEqual([-2, 0.5, 3].map(inBucket), [1, 2, 1]);
  assert.equal(
    histogram.counts.reduce((a, b) => a + b),
    6,
  );
  assert.equal(events[5]!.step, 2 ** 40);
  assert.equal(events[6]!.values[0]!.plugin, 'hparams');
  assert.equal(events.length, 7);
});

test('a writer whose file cannot be made says so; a closed one, too', async () => {
  const dir = await folder();
  const file = path.join(dir, 'file');
  await appendFile(file, 'x');
  assert.throws(() => new og.TensorBoardWriter(path.join(file, 'below')), og.ResourceError);
  const writer = new og.TensorBoardWriter(dir);
  assert.throws(() => writer.addScalar('a', 1, -1), /step: expected an integer of at least 0, got -1/);
  writer.close();
  assert.throws(() => writer.addScalar('a', 1, 1), og.StateError);
});

const python = process.env['OG_PYTHON'];
const reader = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
acc = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'histograms': 0, 'tensors': 0}).Reload()
h = acc.Histograms('weights')[0]
def hparams(tag):
    content = acc.SummaryMetadata(tag).plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)
start = hparams('_hparams_/session_start_info').session_start_info
experiment = hparams('_hparams_/experiment').experiment
value = lambda v: getattr(v, v.WhichOneof('kind'))
print(json.dumps({
  'loss': [[e.step, e.value] for e in acc.Scalars('train/loss')],
  'far': [[e.step, e.value] for e in acc.Scalars('far')],
  'text': acc.Tensors('sample')[0].tensor_proto.string_val[0].decode(),
  'histogram': [h.step, h.histogram_value.min, h.histogram_value.max, h.histogram_value.num, sum(h.histogram_value.bucket)],
  'hparams': {name: value(v) for name, v in start.hparams.items()},
  'types': {info.name: info.type for info in experiment.hparam_infos},
  'metrics': [info.name.tag for info in experiment.metric_infos],
  'status': hparams('_hparams_/session_end_info').session_end_info.status,
}))
`;

test('TensorBoard reads them', { skip: python === undefined ? 'OG_PYTHON names no Python' : false }, async (t) => {
  const dir = await folder();
  await appendFile(writeEverything(dir), Buffer.from([9, 0, 0])); // a torn record at the end
  let output: string;
  try {
    output = execFileSync(python!, ['-c', reader, dir], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    if (/No module named 'tensorboard/.test(String((error as { stderr?: string }).stderr)))
      return t.skip('no tensorboard');
    throw error;
  }
  assert.deepEqual(JSON.parse(output), {
    loss: [
      [1, 4],
      [2, 2],
      [3, 10],
    ],
    far: [[2 ** 40, -1.5]],
    text: 'größer **als** alles',
    histogram: [7, -2, 3, 6, 6],
    hparams: { lr: 0.5, name: 'zwölf', tied: true },
    types: { lr: 3, name: 1, tied: 2 },
    metrics: ['train/loss'],
    status: 1,
  });
});
