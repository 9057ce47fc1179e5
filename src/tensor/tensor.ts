/**
 * The tensor: a strided view of a block of memory, with its place in the autograd record.
 *
 * Methods that compute are installed by methods.ts; this file knows no operation.
 *
 * @module
 */
import { inspect } from 'node:util';
import { DTypeError, StateError } from '../errors.js';
import { release, retain, type Storage } from '../runtime/storage.js';
import type { View } from '../runtime/queue.js';
import { formatShape, formatValue } from '../util/format.js';
import { dtypeId, itemSize, type DType } from './dtype.js';
import { currentScope, type Scope } from './scope.js';
import { isContiguous, sizeOf } from './shape.js';
import type { Node } from './tape.js';

/** Where a tensor lives. `cpu` is the device there is today. */
export type Device = 'cpu';

type DisposeListener = (tensor: Tensor) => void;
let onDisposed: DisposeListener = () => {};

/** @internal tape.ts hooks in here, so that this file need not import it. */
export function onDispose(listener: DisposeListener): void {
  onDisposed = listener;
}

type MakeListener = (tensor: Tensor) => void;
let onMade: MakeListener | null = null;

/** @internal For the leak report; null when nobody is looking, which is the fast case. */
export function onMake(listener: MakeListener | null): void {
  onMade = listener;
}

type PrintFunction = (tensor: Tensor) => string;
let print: PrintFunction = (tensor) => tensor.toString();

/** @internal print.ts installs itself. */
export function setPrinter(printer: PrintFunction): void {
  print = printer;
}

let live = 0;

/** Tensors made and not disposed of (those that were collected count until their memory was). */
export function liveTensors(): number {
  return live;
}

/**
 * A strided, typed, n-dimensional array. Made by `og.tensor`, `og.zeros`, … and by operations, never by `new`.
 */
export class Tensor implements View {
  /** @internal */ storage: Storage;
  /** @internal First element, counted in elements from the start of the storage. */
  readonly offset: number;
  /** Lengths of the axes. */
  readonly shape: readonly number[];
  /** Steps between neighbours along each axis, in elements; 0 along broadcast axes. */
  readonly strides: readonly number[];
  readonly dtype: DType;
  /** @internal */ readonly dtypeId: number;
  /** @internal */ readonly itemBytes: number;
  /** Number of elements. */
  readonly size: number;

  /** Whether gradients flow into this tensor. Set it with `requiresGrad_`. */
  requiresGrad = false;
  /** Gradient of a leaf after `backward`, or null. */
  grad: Tensor | null = null;
  /** @internal The call that made this tensor, when it was recorded. */
  node: Node | null = null;
  /** @internal */ outputIndex = 0;
  /** @internal For a saved operand: the leaf it stands for. */
  leaf: Tensor | null = null;
  /** @internal A saved operand refers to its node without holding it: the node that saved it does. */
  borrowsNode = false;
  /** @internal */ owner: Scope | null = null;
  /** @internal Other forms of the same data, as kernels want them: freed with this one. */
  attached: Tensor[] | null = null;
  /** @internal */ scopeIndex = 0;
  private disposed = false;

  /** @internal */
  constructor(
    storage: Storage,
    offset: number,
    shape: readonly number[],
    strides: readonly number[],
    dtype: DType,
    unscoped = false,
  ) {
    this.storage = storage;
    this.offset = offset;
    this.shape = shape;
    this.strides = strides;
    this.dtype = dtype;
    this.dtypeId = dtypeId(dtype);
    this.itemBytes = itemSize(dtype);
    this.size = sizeOf(shape);
    retain(storage);
    live++;
    if (!unscoped) {
      currentScope()?.add(this);
      if (onMade !== null) onMade(this);
    }
  }

  /** Number of axes. */
  get rank(): number {
    return this.shape.length;
  }

  /** Where the elements are. */
  get device(): Device {
    return 'cpu';
  }

  /** Bytes of the elements, without gaps: size × bytes of one element. */
  get bytes(): number {
    return this.size * this.itemBytes;
  }

  /** Whether no recorded operation made this tensor. */
  get isLeaf(): boolean {
    return this.node === null;
  }

  /** Whether the elements lie in row-major order without gaps. */
  get isContiguous(): boolean {
    return isContiguous(this.shape, this.strides);
  }

  /** Whether {@link dispose} was called. */
  get isDisposed(): boolean {
    return this.disposed;
  }

  /**
   * Frees the memory now, if no view shares it. Using the tensor afterwards throws. Calling it twice is fine.
   */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    live--;
    if (this.owner !== null) this.owner.remove(this);
    release(this.storage);
    onDisposed(this);
    this.node = null;
    this.grad?.dispose();
    this.grad = null;
    if (this.attached === null) return;
    for (const form of this.attached) form.dispose();
    this.attached = null;
  }

  /** {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * Asks for (or refuses) a gradient of this leaf. Returns the tensor itself.
   *
   * @throws StateError if an operation made this tensor
   */
  requiresGrad_(on = true): this {
    if (this.node !== null && !on) {
      throw new StateError({
        op: 'requiresGrad_',
        expected: 'a leaf',
        actual: `a result of ${this.node.op}`,
        hint: 'Use detach()',
      });
    }
    if (on && this.dtypeId > 3) {
      throw new StateError({
        op: 'requiresGrad_',
        expected: 'a floating-point tensor',
        actual: this.dtype,
        hint: 'Cast it first',
      });
    }
    this.requiresGrad = on;
    return this;
  }

  /** @internal Another tensor over the same memory and shape, outside the record. */
  alias(unscoped = false): Tensor {
    return this.view(this.offset, this.shape, this.strides, unscoped);
  }

  /** @internal A view of other geometry over the same memory, outside the record. */
  view(offset: number, shape: readonly number[], strides: readonly number[], unscoped = false): Tensor {
    // A view without elements might start beyond the memory: it stays where its base is
    return new Tensor(this.storage, sizeOf(shape) === 0 ? this.offset : offset, shape, strides, this.dtype, unscoped);
  }

  /** @internal Makes a saved operand stand for the tensor it was saved from. */
  connect(node: Node | null, outputIndex: number, leaf: Tensor | null): void {
    this.node = node;
    this.outputIndex = outputIndex;
    this.leaf = leaf;
    this.borrowsNode = true;
    this.requiresGrad = node !== null || leaf !== null;
  }

  /** @internal */
  attach(node: Node, outputIndex: number): void {
    this.node = node;
    this.outputIndex = outputIndex;
    this.requiresGrad = true;
  }

  /** @internal Throws if the tensor may not be used. */
  check(op: string): void {
    if (this.disposed) {
      throw new StateError({
        op,
        expected: 'a live tensor',
        actual: `a disposed one of shape ${formatShape(this.shape)}`,
        hint: 'Return it from its scope, or og.keep it',
      });
    }
  }

  toString(): string {
    return `Tensor ${formatShape(this.shape)} ${this.dtype} ${this.device}`;
  }

  /** @internal */
  [inspect.custom](): string {
    return this.disposed ? `${this.toString()} (disposed)` : print(this);
  }
}

/**
 * @internal Throws unless `value` is a tensor that may be used.
 *
 * @throws DTypeError if it is no tensor
 * @throws StateError if it was disposed of
 */
export function checkTensor(op: string, argument: string, value: unknown): asserts value is Tensor {
  if (!(value instanceof Tensor)) {
    throw new DTypeError({
      op,
      argument,
      expected: 'a tensor',
      actual: formatValue(value),
      hint: 'Make one with og.tensor',
    });
  }
  value.check(op);
}
