/**
 * The schema of an operation with a kernel. From one value come validation, the call frame, the gradient record, the
 * cost report and the test row; see docs/adding_an_op.md. Operations without a kernel are plain functions of others.
 *
 * @module
 */
import { DTypeError, StateError } from '../errors.js';
import { kernelId } from '../runtime/kernels.js';
import { submit, type View } from '../runtime/queue.js';
import { allocate } from '../runtime/storage.js';
import { isFloating, isInteger, itemSize, type DType } from '../tensor/dtype.js';
import { contiguousStrides, sizeOf, type Shape } from '../tensor/shape.js';
import { isGradEnabled, needsRecord, record, setRecording, type Node, type RuleResults } from '../tensor/tape.js';
import { Tensor } from '../tensor/tensor.js';
import { formatValue } from '../util/format.js';

export type InputKind = 'float' | 'integer' | 'bool' | 'any';

export interface InputSpec {
  readonly name: string;
  readonly kind: InputKind;
  readonly optional?: boolean;
}

/** Shape and dtype of a result; `strides` for one that is not row-major; null for an output that is not wanted. */
export interface OutputSpec {
  readonly shape: Shape;
  readonly dtype: DType;
  readonly strides?: readonly number[];
}

export type Inputs = readonly (Tensor | null)[];
export type Gradients = readonly (Tensor | null | undefined)[];

/** What a gradient rule sees. */
export interface BackwardContext<A> {
  /** Gradient of the first output, in its shape (zeros if none came). */
  readonly grad: Tensor;
  /** Gradients of all outputs; null where none came. */
  readonly grads: readonly (Tensor | null)[];
  /** What `saves` returned, in that order. */
  readonly saved: Inputs;
  readonly attrs: A;
  /** Whether the i-th input needs a gradient. */
  needs(index: number): boolean;
}

/** Cost of one call, for the cost report and for choosing between the queue and an inline call. */
export interface Cost {
  readonly flops: number;
  readonly bytes: number;
}

export interface OpSchema<A> {
  readonly name: string;
  readonly inputs: readonly InputSpec[];
  /** Entry of native/kernels.def. Default: the op's name. */
  readonly kernel?: string;
  /** Attribute slots of the kernel. Default 0. */
  readonly attrCount?: number;
  /** Outputs of the kernel. Default 1. */
  readonly outputCount?: number;
  /** Checks shapes and says what comes out. */
  output(inputs: Inputs, attrs: A): OutputSpec | readonly (OutputSpec | null)[];
  /** Operands as the kernel wants them (broadcast, reordered); views made here cost nothing. Default: as they are. */
  operands?(inputs: Inputs, attrs: A, outputs: readonly (Tensor | null)[]): readonly (View | null)[];
  /** Outputs as the kernel wants them, likewise. Default: as they are. */
  results?(inputs: Inputs, attrs: A, outputs: readonly (Tensor | null)[]): readonly (View | null)[];
  /** Attributes as numbers. Default: none. */
  encode?(attrs: A, inputs: Inputs): readonly number[];
  /**
   * Tensors that `backward` needs, of the inputs and the outputs that were made, integer ones included. Default: nothing (or
   * all inputs, when the gradient comes from `definition`).
   */
  saves?(inputs: Inputs, outputs: readonly Tensor[], attrs: A): Inputs;
  /** Gradients of the inputs, in their order, made of operations. Without it, `definition` is differentiated. */
  backward?(context: BackwardContext<A>): RuleResults;
  /** The operation in terms of simpler ones: oracle of the tests and source of higher derivatives. */
  definition?(inputs: Inputs, attrs: A): Tensor | readonly Tensor[];
  /** Default: one flop an output element; all operands read and written once. */
  cost?(inputs: Inputs, outputs: readonly (Tensor | null)[], attrs: A): Cost;
}

/** A defined operation. */
export interface Op<A> {
  readonly schema: OpSchema<A>;
  /** Runs it; the first output. */
  call(inputs: Inputs, attrs: A): Tensor;
  /** Runs it; all outputs (null where the schema wanted none). */
  callAll(inputs: Inputs, attrs: A): (Tensor | null)[];
}

/** Every op with a kernel, by name: what the tests and the cost report walk over. */
export const registry = new Map<string, Op<never>>();

type DefinitionGradient = (
  outputs: readonly Tensor[],
  grads: readonly (Tensor | null)[],
  inputs: readonly Tensor[],
) => Gradients;
let differentiate: DefinitionGradient | null = null;

/** @internal autograd/ installs itself: it lies above this floor. */
export function setDefinitionGradient(gradient: DefinitionGradient): void {
  differentiate = gradient;
}

type CostListener = (name: string, cost: Cost) => void;
let costListener: CostListener | null = null;

/** @internal Called with each call's cost while set. */
export function setCostListener(listener: CostListener | null): void {
  costListener = listener;
}

const kindNames: Readonly<Record<InputKind, string>> = {
  float: 'a floating-point tensor',
  integer: 'an int32 or int64 tensor',
  bool: 'a bool tensor',
  any: 'a tensor',
};

function fitsKind(kind: InputKind, dtype: DType): boolean {
  if (kind === 'float') return isFloating(dtype);
  if (kind === 'integer') return isInteger(dtype);
  return kind === 'any' || dtype === 'bool';
}

function checkInput(op: string, spec: InputSpec, value: Tensor | null | undefined): void {
  if (value === null || value === undefined) {
    if (spec.optional) return;
    throw new DTypeError({ op, argument: spec.name, expected: kindNames[spec.kind], actual: String(value) });
  }
  if (!(value instanceof Tensor)) {
    throw new DTypeError({
      op,
      argument: spec.name,
      expected: kindNames[spec.kind],
      actual: formatValue(value),
      hint: 'Make one with og.tensor',
    });
  }
  value.check(op);
  if (!fitsKind(spec.kind, value.dtype)) {
    throw new DTypeError({
      op,
      argument: spec.name,
      expected: kindNames[spec.kind],
      actual: value.dtype,
      hint: 'Cast it with x.to(dtype)',
    });
  }
}

/** A new tensor with memory but without contents. */
export function makeOutput(shape: Shape, dtype: DType, strides: readonly number[] = contiguousStrides(shape)): Tensor {
  return new Tensor(allocate(sizeOf(shape) * itemSize(dtype)), 0, shape, strides, dtype);
}

function asList<T>(value: T | readonly T[]): readonly T[] {
  return Array.isArray(value) ? (value as readonly T[]) : [value as T];
}

/**
 * Makes an operation of a schema. The kernel's operand counts are checked against the addon's registry at once.
 *
 * @throws BackendError if the addon does not have the kernel as described
 */
export function defineOp<A = Record<string, never>>(schema: OpSchema<A>): Op<A> {
  const { name } = schema;
  const outputCount = schema.outputCount ?? 1;
  const kernel = kernelId(schema.kernel ?? name, schema.inputs.length, outputCount, schema.attrCount ?? 0);
  const noAttrs: readonly number[] = [];

  function run(inputs: Inputs, attrs: A): (Tensor | null)[] {
    for (let i = 0; i < schema.inputs.length; i++) checkInput(name, schema.inputs[i]!, inputs[i]);
    const specs = asList(schema.output(inputs, attrs));
    const outputs: (Tensor | null)[] = [];
    let work = 0;
    for (let i = 0; i < specs.length; i++) {
      const spec = specs[i]!;
      const output = spec === null ? null : makeOutput(spec.shape, spec.dtype, spec.strides);
      if (output !== null && output.size > work) work = output.size;
      outputs.push(output);
    }
    const operands = schema.operands === undefined ? inputs : schema.operands(inputs, attrs, outputs);
    for (let i = 0; i < inputs.length; i++) {
      const size = inputs[i]?.size ?? 0;
      if (size > work) work = size;
    }
    if (schema.cost !== undefined && (work <= 4096 || costListener !== null)) {
      const cost = schema.cost(inputs, outputs, attrs);
      work = Math.max(work, cost.flops / 8);
      costListener?.(name, cost);
    } else if (costListener !== null) {
      costListener(name, defaultCost(inputs, outputs));
    }
    const results = schema.results === undefined ? outputs : schema.results(inputs, attrs, outputs);
    submit(kernel, operands, results, schema.encode === undefined ? noAttrs : schema.encode(attrs, inputs), work);
    if (needsRecord(inputs)) recordCall(inputs, outputs, attrs);
    return outputs;
  }

  function recordCall(inputs: Inputs, outputs: (Tensor | null)[], attrs: A): void {
    const { backward, definition } = schema;
    const present = outputs.filter((output): output is Tensor => output !== null);
    const made = present.filter((output) => isFloating(output.dtype));
    if (made.length === 0) return;
    if (backward !== undefined) {
      const saved = schema.saves?.(inputs, present, attrs) ?? [];
      record(name, inputs, made, saved, (node, grads) => backward(context(node, grads, attrs)));
    } else if (definition !== undefined) {
      record(name, inputs, made, inputs, (node, grads) => definitionGradient(node, grads, definition, attrs));
    }
  }

  const op: Op<A> = { schema, call: (inputs, attrs) => run(inputs, attrs)[0]!, callAll: run };
  registry.set(name, op as unknown as Op<never>);
  return op;
}

function defaultCost(inputs: Inputs, outputs: readonly (Tensor | null)[]): Cost {
  let bytes = 0;
  for (const input of inputs) bytes += input?.bytes ?? 0;
  for (const output of outputs) bytes += output?.bytes ?? 0;
  return { flops: outputs[0]?.size ?? 0, bytes };
}

function context<A>(node: Node, grads: readonly (Tensor | null)[], attrs: A): BackwardContext<A> {
  return { grad: grads[0]!, grads, saved: node.unpack(), attrs, needs: (index) => node.needs(index) };
}

/** Gradient by differentiating the definition on the saved inputs. */
function definitionGradient<A>(
  node: Node,
  grads: readonly (Tensor | null)[],
  definition: NonNullable<OpSchema<A>['definition']>,
  attrs: A,
): Gradients {
  if (differentiate === null) {
    throw new StateError({
      op: node.op,
      expected: 'autograd to be loaded',
      actual: 'ops alone',
      hint: "Import 'omnigrad'",
    });
  }
  const inputs = node.unpack();
  const higher = isGradEnabled();
  setRecording(true);
  try {
    // Own leaves (or, for higher derivatives, pass-through nodes) in place of the inputs that need a gradient.
    const leaves = inputs.map((input, i) => (input !== null && node.needs(i) ? passThrough(input, higher) : input));
    const outputs = asList(definition(leaves, attrs));
    const wanted = leaves.filter((leaf, i): leaf is Tensor => leaf !== null && node.needs(i));
    setRecording(higher);
    const found = differentiate(outputs, grads, wanted);
    let next = 0;
    return inputs.map((input, i) => (input !== null && node.needs(i) ? found[next++] : null));
  } finally {
    setRecording(higher);
  }
}

function passThrough(input: Tensor, higher: boolean): Tensor {
  const copy = input.alias();
  if (higher) record('identity', [input], [copy], [], (_node, grads) => [grads[0]]);
  else copy.requiresGrad = true;
  return copy;
}
