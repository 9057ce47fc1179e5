/**
 * Runs the reference vectors in test/fixtures/reference (format `ref-vectors/1`): values and gradients that PyTorch and others
 * computed in float64. A case loads its inputs as leaves, applies views without copying, calls the operation, compares the
 * results, sends the given gradients back, and compares the gradients of the leaves.
 *
 * The reader of safetensors here is deliberately not the library's own.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { add, mul } from '../../src/ops/arithmetic.js';
import { backward } from '../../src/autograd/backward.js';
import { expand } from '../../src/ops/broadcast.js';
import { to } from '../../src/ops/copy.js';
import { sum } from '../../src/ops/reduce.js';
import { flip, permute, reshape, slice, squeeze, transpose, unsqueeze } from '../../src/ops/views.js';
import { tensor } from '../../src/tensor/create.js';
import type { DType, TensorData } from '../../src/tensor/dtype.js';
import { scope } from '../../src/tensor/scope.js';
import { Tensor } from '../../src/tensor/tensor.js';
import { assertClose, type Tolerance } from './allclose.js';

export type ViewStep = readonly [name: string, ...args: (number | readonly number[])[]];

export interface ReferenceInput {
  readonly name: string;
  readonly tensor: string;
  readonly requires_grad?: boolean;
  readonly bool?: boolean;
  readonly view?: readonly ViewStep[];
}

export interface ReferenceOutput {
  readonly name: string;
  readonly tensor: string;
  readonly grad_output?: string;
  readonly bool?: boolean;
}

/** Whatever the manifest says, typed as JSON.parse types it. */
export type Attributes = Readonly<Record<string, ReturnType<JSON['parse']>>>;

export interface ReferenceCase {
  readonly name: string;
  readonly op: string;
  readonly inputs: readonly ReferenceInput[];
  readonly attrs: Attributes;
  readonly outputs: readonly ReferenceOutput[];
  readonly tol: Required<Tolerance> & { readonly q_off_by_one_fraction?: number };
  readonly grads?: Readonly<Record<string, string>>;
  readonly grad_tol?: Required<Tolerance>;
  readonly note?: string;
}

/** What a safetensors file holds of one tensor. */
export interface StoredTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Elements; 16-bit floats as bit patterns. */
  readonly data: TensorData | Int16Array;
}

export type StoredTensors = ReadonlyMap<string, StoredTensor>;

const arrays = {
  F64: Float64Array,
  F32: Float32Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I64: BigInt64Array,
  I32: Int32Array,
  I16: Int16Array,
  U16: Uint16Array,
  I8: Int8Array,
  U8: Uint8Array,
} as const;

const dtypes: Readonly<Record<string, DType>> = {
  F64: 'float64',
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
  I64: 'int64',
  I32: 'int32',
  I16: 'int32',
  U16: 'int32',
  I8: 'int8',
  U8: 'uint8',
};

/** All tensors of a safetensors file. */
export function readSafetensors(path: string | URL): StoredTensors {
  const file = readFileSync(path);
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<
    string,
    { dtype: keyof typeof arrays; shape: number[]; data_offsets: [number, number] }
  >;
  const found = new Map<string, StoredTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const [from, to] = entry.data_offsets;
    const bytes = Uint8Array.from(file.subarray(8 + length + from, 8 + length + to)); // a copy, so that it is aligned
    found.set(name, { dtype: entry.dtype, shape: entry.shape, data: new arrays[entry.dtype](bytes.buffer) });
  }
  return found;
}

/** A stored tensor as one of ours. Booleans are stored as U8. */
export function load(stored: StoredTensors, name: string, bool = false): Tensor {
  const entry = stored.get(name);
  assert.ok(entry, `fixture has no tensor ${name}`);
  const dtype = bool ? 'bool' : dtypes[entry.dtype]!;
  const data = entry.dtype === 'U16' || entry.dtype === 'I16' ? Int32Array.from(entry.data as Int16Array) : entry.data;
  return tensor(data as TensorData, { shape: entry.shape, dtype });
}

/** A view as the manifest names it. */
export function applyView(x: Tensor, [name, ...args]: ViewStep): Tensor {
  const number = (i: number): number => args[i] as number;
  const list = (i: number): readonly number[] => args[i] as readonly number[];
  switch (name) {
    case 'transpose':
      return transpose(x, number(0), number(1));
    case 'permute':
      return permute(x, list(0));
    case 'slice':
      return slice(x, number(0), number(1), number(2), number(3));
    case 'expand':
      return expand(x, list(0));
    case 'reshape':
      return reshape(x, list(0));
    case 'squeeze':
      return squeeze(x, number(0));
    case 'unsqueeze':
      return unsqueeze(x, number(0));
    case 'flip':
      return flip(x, list(0));
    default:
      return assert.fail(`unknown view ${name}`);
  }
}

/** The operation of a case: inputs by name, results by name (or the only one). */
export type Operation = (
  inputs: Readonly<Record<string, Tensor>>,
  attrs: Attributes,
  reference: ReferenceCase,
) => Tensor | Readonly<Record<string, Tensor>>;

export interface Group {
  readonly cases: readonly ReferenceCase[];
  readonly stored: StoredTensors;
}

/** Loads `test/fixtures/reference/<path>.json` and its safetensors. */
export function readGroup(path: string): Group {
  const at = (extension: string): URL => new URL(`../fixtures/reference/${path}.${extension}`, import.meta.url);
  const { cases } = JSON.parse(readFileSync(fileURLToPath(at('json')), 'utf8')) as { cases: ReferenceCase[] };
  return { cases, stored: readSafetensors(at('safetensors')) };
}

/** Runs one case. */
export function runCase(reference: ReferenceCase, stored: StoredTensors, operation: Operation): void {
  const { inputs, outputs, grads, tol, grad_tol: gradTolerance = tol } = reference;
  const leaves: Record<string, Tensor> = {};
  const operands: Record<string, Tensor> = {};
  for (const input of inputs) {
    const leaf = load(stored, input.tensor, input.bool);
    if (input.requires_grad && grads !== undefined) leaf.requiresGrad_();
    leaves[input.name] = leaf;
    operands[input.name] = (input.view ?? []).reduce(applyView, leaf);
    const shared = operands[input.name]!.storage === leaf.storage;
    assert.ok(shared, `${input.name}: a view copied`);
  }
  const result = operation(operands, reference.attrs, reference);
  const got = result instanceof Tensor ? { [outputs[0]!.name]: result } : result;
  for (const output of outputs) {
    const value = got[output.name];
    assert.ok(value instanceof Tensor, `no output ${output.name}`);
    assertClose(value, load(stored, output.tensor, output.bool), tol, `output ${output.name}`);
  }
  if (grads === undefined) return;
  sendBack(outputs, got, stored);
  for (const [name, leaf] of Object.entries(leaves)) {
    const want = grads[name];
    if (want === undefined) assert.equal(leaf.grad, null, `${name} has a gradient although it is detached`);
    else {
      assert.ok(leaf.grad, `${name} has no gradient`);
      assertClose(leaf.grad, load(stored, want), gradTolerance, `gradient of ${name}`);
    }
  }
}

/** Backward from all outputs at once: from Σ ⟨output, its gradient⟩. One output takes its gradient directly. */
function sendBack(
  outputs: readonly ReferenceOutput[],
  got: Readonly<Record<string, Tensor>>,
  stored: StoredTensors,
): void {
  const roots = outputs.filter((output) => output.grad_output !== undefined);
  if (roots.length === 1) {
    backward(got[roots[0]!.name]!, load(stored, roots[0]!.grad_output!));
    return;
  }
  const total = roots
    .map((output) => sum(mul(got[output.name]!, load(stored, output.grad_output!))))
    .reduce((a, b) => add(a, to(b, a.dtype)));
  backward(total);
}

/**
 * Registers a test for every case of a group. A case whose operation is not in the table fails, so none is forgotten.
 */
export function testGroup(path: string, operations: Readonly<Record<string, Operation>>): void {
  const { cases, stored } = readGroup(path);
  for (const reference of cases) {
    test(`${path} ${reference.name}`, () => {
      const operation = operations[reference.op];
      assert.ok(operation, `no operation ${reference.op} in the table of this test`);
      scope(() => runCase(reference, stored, operation));
    });
  }
}
