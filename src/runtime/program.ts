/** A chain of element-wise calls as one frame of the kernel `chain` (native/cpu/chain.h describes the form). */
import { kernelId } from './kernels.js';
import { enqueue, type Operands, type View } from './ring.js';

/** What chain.h holds: operands, results, steps and attributes of one call. */
export const MAX_INPUTS = 12;
export const MAX_OUTPUTS = 6;
export const MAX_STEPS = 8;
export const MAX_ATTRS = 32;
const FIRST_OUTPUT = MAX_INPUTS;
const FIRST_TEMPORARY = FIRST_OUTPUT + MAX_OUTPUTS;
const NO_REGISTER = 31;

const chainKernel = kernelId('chain', MAX_INPUTS, MAX_OUTPUTS, MAX_ATTRS);
/** Both factors, the bias and the packed right factor, then a chain whose first operand is the product. */
const productChainKernel = kernelId('matmul_chain', 4 + MAX_INPUTS, 1 + MAX_OUTPUTS, MAX_ATTRS);

/** A view as the chain walks it: rows × columns; rows 0 stands for "any", of a view that is dense or one number. */
export interface Matrix {
  readonly view: View;
  readonly generation: number;
  readonly rows: number;
  readonly cols: number;
  readonly rowStride: number;
  readonly colStride: number;
}

/** One held call. */
export interface Step {
  readonly kernel: number;
  readonly inputs: Operands;
  /** Where each input comes from: an index into `operands` (≥ 0), or ~index of the step that makes it. */
  readonly sources: readonly number[];
  readonly output: View;
  /** As the kernel takes them: the output, and absent ones. */
  readonly outputs: Operands;
  readonly attrs: readonly number[];
  readonly work: number;
  /** Of the output's block when it was handed out for this step: a later one means that the result is gone. */
  readonly generation: number;
  isRead: boolean;
}

/** A chain as it was when it was sent off: what recipes refer to. */
export interface Program {
  /** Whether the first step is a product of matrices, on whose result the others work; it is always written. */
  readonly hasProduct: boolean;
  readonly steps: readonly Step[];
  readonly operands: readonly Matrix[];
  readonly rows: number;
  readonly cols: number;
}

/** The steps that some results need, in order; those in `given` are taken from memory. */
export function needed(program: Program, results: readonly number[], given: ReadonlySet<number>): number[] {
  const found = new Set<number>();
  const visit = (step: number): void => {
    if (found.has(step)) return;
    found.add(step);
    for (const source of program.steps[step]!.sources) if (source < 0 && !given.has(~source)) visit(~source);
  };
  results.forEach(visit);
  return [...found].sort((a, b) => a - b);
}

/** A view as a matrix of the chain's geometry. */
function inShape({ view, rows: own, rowStride, colStride }: Matrix, program: Program): View {
  const { storage, offset, dtypeId, itemBytes } = view;
  const outer = own === 0 && colStride === 1 ? program.cols : rowStride;
  return { storage, offset, dtypeId, itemBytes, shape: [program.rows, program.cols], strides: [outer, colStride] };
}

/** One call by itself. */
export function sendSingle({ kernel, inputs, outputs, attrs, work }: Step): void {
  enqueue(kernel, inputs, outputs, attrs, work);
}

function padded(views: Operands, length: number): (View | null)[] {
  return [...views, ...new Array<null>(length - views.length).fill(null)];
}

/** One frame that computes `results`; `given` results of earlier frames are read from memory. */
export function send(program: Program, results: readonly number[], given: ReadonlySet<number> = new Set()): void {
  const all = needed(program, results, given);
  const product = program.hasProduct && all[0] === 0 ? program.steps[0]! : null;
  const wanted = product === null ? all : all.slice(1);
  if (wanted.length === 0) return sendSingle(product!);
  const asMatrix = (step: number): View =>
    inShape(
      { view: program.steps[step]!.output, generation: 0, rows: 0, cols: 0, rowStride: 0, colStride: 1 },
      program,
    );
  const stored = product === null ? results : results.filter((step) => step !== 0);
  const inputs: View[] = [];
  const places = new Map<number, number>();
  if (product !== null) places.set(~0, inputs.push(asMatrix(0)) - 1);
  const place = (source: number): number => {
    let found = places.get(source);
    if (found === undefined && source < 0 && !given.has(~source)) {
      const result = stored.indexOf(~source);
      found = result >= 0 ? FIRST_OUTPUT + result : FIRST_TEMPORARY + wanted.indexOf(~source);
    }
    found ??= inputs.push(source < 0 ? asMatrix(~source) : inShape(program.operands[source]!, program)) - 1;
    places.set(source, found);
    return found;
  };
  const attrs = [wanted.length];
  for (const index of wanted) {
    const { kernel, sources, output } = program.steps[index]!;
    let code = output.dtypeId * 32 + place(~index);
    for (let i = 2; i >= 0; i--) code = code * 32 + (i < sources.length ? place(sources[i]!) : NO_REGISTER);
    attrs.push(code * 512 + kernel);
  }
  for (const index of wanted) attrs.push(...program.steps[index]!.attrs);
  while (attrs.length < MAX_ATTRS) attrs.push(0);
  const operands = padded(inputs, MAX_INPUTS);
  const outputs = padded(stored.map(asMatrix), MAX_OUTPUTS);
  const work = all.reduce((sum, index) => sum + program.steps[index]!.work, 0);
  if (product === null) enqueue(chainKernel, operands, outputs, attrs, work);
  else {
    const [a, b, bias, , packed] = product.inputs as (View | null)[];
    const factors = [a!, b!, bias!, packed!];
    enqueue(productChainKernel, [...factors, ...operands], [product.output, ...outputs], attrs, work);
  }
}
