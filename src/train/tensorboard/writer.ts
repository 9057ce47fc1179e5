/**
 * TensorBoard's event files.
 *
 * @module
 */
import { mkdirSync } from 'node:fs';
import { hostname } from 'node:os';
import path from 'node:path';
import { checkInteger, checkKeys } from '../../util/assert.js';
import { AppendFile } from '../append_file.js';
import { histogramOf } from './histogram.js';
import {
  experimentValue,
  histogramValue,
  restartEvent,
  scalarValue,
  sessionEndValue,
  sessionStartValue,
  summaryEvent,
  textValue,
  versionEvent,
  type HparamValue,
} from './messages.js';
import { frameRecord } from './tfrecord.js';

export type { HparamValue } from './messages.js';

/** Options of {@link TensorBoardWriter}. */
export interface TensorBoardOptions {
  /** What earlier files of the folder say of this step and later ones no longer counts. Default: all of it counts. */
  readonly purgeStep?: number;
}

let files = 0;

/**
 * Writes one event file, which `tensorboard --logdir` shows beside the others of its folder. Each record is one write with its
 * checksums, so a process that is killed leaves at most one torn record at the end, which readers pass over.
 *
 * @example
 * ```ts
 * const writer = new og.TensorBoardWriter('runs/demo/tensorboard');
 * writer.addScalar('train/loss', 3.2, 1);
 * writer.addText('sample', 'once upon a time', 1);
 * writer.close();
 * ```
 *
 * @throws ResourceError if the file cannot be written
 */
export class TensorBoardWriter {
  /** The event file. */
  readonly path: string;
  private readonly file: AppendFile;

  constructor(dir: string, options: TensorBoardOptions = {}) {
    checkKeys('TensorBoardWriter', options, ['purgeStep']);
    const { purgeStep } = options;
    if (purgeStep !== undefined) checkInteger('TensorBoardWriter', 'purgeStep', purgeStep, 0);
    const seconds = String(Math.floor(Date.now() / 1000)).padStart(10, '0');
    const host = hostname().replaceAll(/[^\w.-]/g, '_') || 'host';
    // Files are read in the order of their names: the count keeps that of one process.
    const name = `events.out.tfevents.${seconds}.${host}.${process.pid}.${String(files++).padStart(4, '0')}`;
    this.path = path.join(dir, name);
    this.file = new AppendFile(this.path, () => mkdirSync(dir, { recursive: true }));
    this.record(versionEvent(this.now()));
    if (purgeStep !== undefined) this.restart(purgeStep);
  }

  /** What was written so far of this step and later ones, in this file and in earlier ones, no longer counts. */
  restart(step: number): void {
    checkInteger('TensorBoardWriter.restart', 'step', step, 0);
    this.record(restartEvent(this.now(), step));
  }

  /** One number at a step. Numbers are stored with 32 bits. */
  addScalar(tag: string, value: number, step: number): void {
    this.addScalars({ [tag]: value }, step);
  }

  /** Several numbers at a step, in one record. */
  addScalars(values: Readonly<Record<string, number>>, step: number): void {
    checkInteger('TensorBoardWriter.addScalars', 'step', step, 0);
    const encoded = Object.entries(values).map(([tag, value]) => scalarValue(tag, value));
    if (encoded.length > 0) this.record(summaryEvent(this.now(), step, encoded));
  }

  /** A text at a step; TensorBoard renders it as Markdown. */
  addText(tag: string, text: string, step: number): void {
    checkInteger('TensorBoardWriter.addText', 'step', step, 0);
    this.record(summaryEvent(this.now(), step, [textValue(tag, text)]));
  }

  /** The distribution of values at a step; those that are not finite are left out. */
  addHistogram(tag: string, values: ArrayLike<number>, step: number): void {
    checkInteger('TensorBoardWriter.addHistogram', 'step', step, 0);
    const histogram = histogramOf(values);
    if (histogram !== null) this.record(summaryEvent(this.now(), step, [histogramValue(tag, histogram)]));
  }

  /**
   * What describes this run among others, for the HPARAMS dashboard.
   *
   * @param metrics tags of the scalars by which runs are compared
   */
  addHparams(hparams: Readonly<Record<string, HparamValue>>, metrics: readonly string[]): void {
    const now = this.now();
    this.record(summaryEvent(now, 0, [experimentValue(hparams, metrics)]));
    this.record(summaryEvent(now, 0, [sessionStartValue(hparams, now)]));
  }

  /** How the run ended, for the HPARAMS dashboard. */
  endHparams(status: 'success' | 'failure'): void {
    const now = this.now();
    this.record(summaryEvent(now, 0, [sessionEndValue(status, now)]));
  }

  /** Makes what was written survive a loss of power. */
  sync(): void {
    this.file.sync();
  }

  /** Closes the file; nothing can be added afterwards. */
  close(): void {
    this.file.close();
  }

  private now(): number {
    return Date.now() / 1000;
  }

  private record(event: Uint8Array): void {
    this.file.append(frameRecord(event));
  }
}
