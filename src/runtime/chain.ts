/**
 * Chains of element-wise calls. A call that reads the result of the one before is held back with it, and the next, until
 * something else is to run; then one frame computes them all in one pass over memory (native/cpu/chain.h), with the
 * bits of the single calls. Results that only the chain itself reads are not written: see pending.ts.
 */
import { isContiguous, sizeOf } from '../util/layout.js';
import { addon } from './addon.js';
import { deferValue } from './pending.js';
import {
  MAX_ATTRS,
  MAX_INPUTS,
  MAX_OUTPUTS,
  MAX_STEPS,
  send,
  sendSingle,
  type Matrix,
  type Program,
  type Step,
} from './program.js';
import { holdError, submitted, type Operands, type View } from './ring.js';
import type { Storage } from './storage.js';

/** Elements from which on a chain pays: below, the operands stay in the cache from one call to the next anyway, and making one costs more. */
const DEFAULT_LEAST_SIZE = 32768;
const FLOAT32 = 0;
const FLOAT64 = 3;

const entries = addon.kernels();
/** Operands of each kernel that may be a step; 0 for the others. */
const operandCount = Uint8Array.from(entries, ({ elementwise, inputs }) => (elementwise ? inputs : 0));
const matmul = entries.findIndex(({ name }) => name === 'matmul');
/** Steps that number the elements start their rectangles at multiples of four. */
const countsElements = entries.findIndex(({ name }) => name === 'dropout');

let leastSize = DEFAULT_LEAST_SIZE;

/** @internal For tests: elements from which on calls are chained; Infinity for never. Returns the value before. */
export function setLeastChainSize(size = DEFAULT_LEAST_SIZE): number {
  const before = leastSize;
  leastSize = size;
  return before;
}

let steps: Step[] = [];
let operands: Matrix[] = [];
let size = 0;
let [rows, cols] = [0, 0];
let attrCount = 0;
let unread = 0;
let hasProduct = false;

const isDense = ({ shape, strides }: View): boolean => isContiguous(shape, strides);

/** Merges axes until two are left; null where that is not enough, or the last would be read with gaps. */
function toMatrix(view: View): Matrix | null {
  const { shape, strides, storage } = view;
  const { generation } = storage;
  if (isDense(view)) return { view, generation, rows: 0, cols: 0, rowStride: 0, colStride: 1 };
  let [outer, outerStride, inner, innerStride, merged] = [1, 0, 1, 0, 0];
  for (let i = shape.length - 1; i >= 0; i--) {
    const [length, stride] = [shape[i]!, strides[i]!];
    if (length === 1) continue;
    if (merged === 0) {
      [inner, innerStride, merged] = [length, stride, 1];
    } else if (merged === 1 && stride === innerStride * inner) {
      inner *= length;
    } else if (merged === 1) {
      [outer, outerStride, merged] = [length, stride, 2];
    } else if (stride === outerStride * outer) {
      outer *= length;
    } else {
      return null;
    }
  }
  if (innerStride > 1 || innerStride < 0) return null;
  if (innerStride === 0 && outer === 1) return { view, generation, rows: 0, cols: 0, rowStride: 0, colStride: 0 };
  return { view, generation, rows: outer, cols: inner, rowStride: outerStride, colStride: innerStride };
}

/** The step of the open chain that makes this storage's present contents, or -1. */
function makerOf(storage: Storage): number {
  for (let i = steps.length - 1; i >= 0; i--) {
    const { output, generation } = steps[i]!;
    if (output.storage === storage && generation === storage.generation) return i;
  }
  return -1;
}

function sameMatrix(a: Matrix, b: Matrix): boolean {
  return (
    a.view.storage === b.view.storage &&
    a.generation === b.generation &&
    a.view.offset === b.view.offset &&
    a.view.dtypeId === b.view.dtypeId &&
    a.rows === b.rows &&
    a.cols === b.cols &&
    a.rowStride === b.rowStride &&
    a.colStride === b.colStride
  );
}

/** Whether `output`'s block, handed out anew while the chain still reads what it held, may be written in step. */
function isSafeOver(output: View, matrix: Matrix): boolean {
  const { view, rows: fixed, colStride } = matrix;
  return fixed === 0 && colStride === 1 && view.offset === output.offset && view.itemBytes === output.itemBytes;
}

/** Opens a chain with a product of matrices: the steps behind it run on each part of the result while it is in the cache. */
function openWithProduct(inputs: Operands, outputs: Operands, attrs: readonly number[], work: number): boolean {
  const output = outputs[0]!;
  const { storage, shape } = output;
  const elements = sizeOf(output.shape);
  const isPlain = attrs[0] === 0 && inputs[3] === null && outputs[1] === null;
  if (!isPlain || elements < leastSize || !storage.isFresh || output.dtypeId !== FLOAT32 || !isDense(output)) {
    return false;
  }
  if (inputs.some((view) => view !== null && (view.storage === storage || view.dtypeId === FLOAT64))) return false;
  const next = (submitted() + 1) | 0;
  for (const view of inputs) if (view !== null) view.storage.lastUse = next;
  storage.lastUse = next;
  storage.isFresh = false;
  const { generation } = storage;
  steps.push({ kernel: matmul, inputs, sources: [], output, outputs, attrs, work, generation, isRead: false });
  hasProduct = true;
  const width = shape.at(-1)!;
  [size, rows, cols] = [elements, elements / width, width];
  queueMicrotask(sendOffLater);
  return true;
}

/** Whether the product's factors or result lie in this block: it must not be written while they are at work. */
function isOfProduct(storage: Storage): boolean {
  if (!hasProduct) return false;
  const { inputs, output } = steps[0]!;
  return output.storage === storage || inputs.some((view) => view?.storage === storage);
}

/**
 * Adds a call to the open chain, or opens one with it. False if the chain cannot take it (the caller sends the chain off and
 * asks again) or no chain could (then none is open).
 */
export function holdBack(
  kernel: number,
  inputs: Operands,
  outputs: Operands,
  attrs: readonly number[],
  work: number,
): boolean {
  if (kernel === matmul && steps.length === 0) return openWithProduct(inputs, outputs, attrs, work);
  const count = operandCount[kernel]!;
  if (count === 0 || work < leastSize) return false;
  const output = outputs[0]!;
  const { storage } = output;
  const elements = sizeOf(output.shape);
  // Only what was made for this call: the rest of a block that is written in part must not wait.
  if (elements < leastSize || !storage.isFresh || output.dtypeId === FLOAT64) return false;
  const isOpen = steps.length > 0;
  const ownSteps = steps.length - (hasProduct ? 1 : 0);
  if (isOpen && (elements !== size || ownSteps === MAX_STEPS || isOfProduct(storage))) return false;
  if (isOpen && 1 + ownSteps + 1 + attrCount + attrs.length > MAX_ATTRS) return false;
  if (!isDense(output)) return false;
  let [fixedRows, fixedCols] = isOpen ? [rows, cols] : [0, 0];
  const sources: number[] = [];
  const added: Matrix[] = [];
  let [readsChain, newlyRead] = [false, 0];
  for (let i = 0; i < count; i++) {
    const view = inputs[i]!;
    if (view.dtypeId === FLOAT64 || view.storage === storage) return false;
    const maker = makerOf(view.storage);
    if (maker >= 0) {
      const made = steps[maker]!.output;
      if (view.offset !== made.offset || view.dtypeId !== made.dtypeId || !isDense(view)) return false;
      readsChain = true;
      if (!steps[maker]!.isRead) newlyRead++;
      sources.push(~maker);
      continue;
    }
    const matrix = toMatrix(view);
    if (matrix === null) return false;
    if (matrix.rows > 0) {
      if (fixedRows > 0 && (fixedRows !== matrix.rows || fixedCols !== matrix.cols)) return false;
      [fixedRows, fixedCols] = [matrix.rows, matrix.cols];
    }
    const known = [...operands, ...added].findIndex((other) => sameMatrix(other, matrix));
    sources.push(known >= 0 ? known : operands.length + added.push(matrix) - 1);
  }
  if (isOpen && (!readsChain || unread - newlyRead + 1 > MAX_OUTPUTS)) return false;
  if (operands.length + added.length + (hasProduct ? 1 : 0) > MAX_INPUTS) return false;
  if (kernel === countsElements && fixedRows > 0 && fixedCols % 4 !== 0) return false;
  const reused = [...operands, ...added].filter(({ view }) => view.storage === storage);
  if (!reused.every((matrix) => isSafeOver(output, matrix))) return false;
  const next = (submitted() + 1) | 0;
  for (const matrix of added) matrix.view.storage.lastUse = next;
  storage.lastUse = next;
  storage.isFresh = false;
  for (const source of sources) if (source < 0) steps[~source]!.isRead = true;
  const { generation } = storage;
  steps.push({ kernel, inputs, sources, output, outputs, attrs, work, generation, isRead: false });
  operands.push(...added);
  attrCount += attrs.length;
  unread += 1 - newlyRead;
  [size, rows, cols] = [elements, fixedRows, fixedCols];
  if (!isOpen) queueMicrotask(sendOffLater);
  return true;
}

/** Whether calls are being held back. */
export function isHolding(): boolean {
  return steps.length > 0;
}

/** Whether anybody can still ask for a step's result. */
const isAlive = ({ output: { storage }, generation }: Step): boolean =>
  storage.generation === generation && storage.references > 0;

/** At the end of a turn nobody is there to catch what an earlier call did wrong: the next one that waits throws it. */
function sendOffLater(): void {
  try {
    sendOff();
  } catch (error) {
    holdError(error);
  }
}

/** Sends the open chain to the queue. `wanted` are operands of the call that comes next. */
export function sendOff(wanted: Operands = []): void {
  if (steps.length === 0) return;
  const program: Program = { hasProduct, steps, operands, rows: rows || 1, cols: rows === 0 ? size : cols };
  [steps, operands, attrCount, unread, rows, cols, hasProduct] = [[], [], 0, 0, 0, 0, false];
  try {
    sendProgram(program, wanted);
  } catch (error) {
    // An earlier call failed, and this chain was not sent: its results must not pass for computed ones.
    for (const step of program.steps) if (isAlive(step)) step.output.storage.poisoned = true;
    throw error;
  }
}

function sendProgram(program: Program, wanted: Operands): void {
  if (program.steps.length === 1) return sendSingle(program.steps[0]!);
  /** Results that somebody holds by one tensor, and the chain has read: most are never asked for. */
  const left: number[] = [];
  const written: number[] = [];
  program.steps.forEach((step, i) => {
    if (i === 0 && program.hasProduct) written.push(i);
    if ((i === 0 && program.hasProduct) || !isAlive(step)) return;
    const { storage } = step.output;
    const canWait =
      step.isRead &&
      storage.references === 1 &&
      !wanted.some((view) => view?.storage === storage) &&
      canRepeat(program, i);
    (canWait ? left : written).push(i);
  });
  if (written.length > MAX_OUTPUTS + (program.hasProduct ? 1 : 0)) {
    for (const step of program.steps) sendSingle(step);
    return;
  }
  if (written.length > 0) send(program, written);
  for (const i of left) deferValue(program, i, written);
}

/** Whether what a step reads, directly or through others, is still in memory and somebody's: then it can be read later. */
function canRepeat(program: Program, step: number): boolean {
  return program.steps[step]!.sources.every((source) => {
    if (source < 0) {
      return ~source === 0 && program.hasProduct ? isAlive(program.steps[0]!) : canRepeat(program, ~source);
    }
    const { view, generation } = program.operands[source]!;
    return view.storage.references > 0 && view.storage.generation === generation;
  });
}
