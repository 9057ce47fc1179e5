/**
 * Walking the tape: gradients flow from results to leaves, each node after all its consumers. Tensors that a node saved
 * are released as it is passed, and gradients as they are used up, so memory falls while the walk goes on.
 *
 * @module
 */
import { ShapeError, StateError } from '../errors.js';
import { ones } from '../tensor/create.js';
import { setDefinitionGradient } from '../ops/define.js';
import { keep, scope } from '../tensor/scope.js';
import { sameShape } from '../tensor/shape.js';
import { Addend, setGraphRetained, setRecording, type Edge, type Node } from '../tensor/tape.js';
import type { Tensor } from '../tensor/tensor.js';
import { formatShape } from '../util/format.js';
import { turn } from '../util/turn.js';
import { accumulate, addInto, openGradient, sum } from './accumulate.js';

/** Options of {@link backward}. */
export interface BackwardOptions {
  /** Keep the graph for another walk. Default: `createGraph`. */
  readonly retainGraph?: boolean;
  /** Record the walk itself, so that gradients can be differentiated again. Default false. */
  readonly createGraph?: boolean;
}

interface GradientOptions extends BackwardOptions {
  /**
   * The graph is a part of the one that is being walked, computed again: what reaches leaves that are not among the inputs goes to
   * that walk. Calls recorded before this number do not belong to it.
   */
  readonly partSince?: number;
}

interface Walk {
  /** Leaves (null: all of them) whose gradients are wanted. */
  readonly leaves: ReadonlySet<Tensor> | null;
  /** Results of nodes whose gradients are wanted: node → output index → position. */
  readonly captured: ReadonlyMap<Node, ReadonlyMap<number, number>>;
  readonly onLeaf: (leaf: Tensor, grad: Tensor) => void;
  /** What `onLeaf` would add to, if it may be changed in place. */
  readonly totalOf: (leaf: Tensor) => Tensor | null;
  readonly onCapture: (position: number, grad: Tensor) => void;
  readonly retainGraph: boolean;
  readonly createGraph: boolean;
  /** Least number of a node; 0 for any. */
  readonly since: number;
}

/** The walk under way. */
let current: Walk | null = null;

function outsider(op: string): StateError {
  return new StateError({
    op: 'checkpoint',
    expected: 'a function of its inputs and of parameters',
    actual: `one that also reads a result of ${op} from outside`,
    hint: 'Pass that tensor as an input: checkpoint(f, x, thatTensor)',
  });
}

/** Nodes that lie between the roots and something wanted, in the order of the walk: newest first. */
function nodesToVisit(roots: readonly Node[], walk: Walk): Node[] {
  const wanted = new Map<Node, boolean>();
  const stack: { node: Node; next: number }[] = [];
  const isWantedNow = (node: Node): boolean =>
    node.reachesHiddenLeaves ||
    walk.captured.has(node) ||
    node.edges.some((edge) => edge.leaf !== null && (walk.leaves === null || walk.leaves.has(edge.leaf)));
  for (const root of roots) {
    if (wanted.has(root)) continue;
    wanted.set(root, isWantedNow(root));
    stack.push({ node: root, next: 0 });
    while (stack.length > 0) {
      const top = stack.at(-1)!;
      const child = top.node.edges[top.next++]?.node;
      if (top.next > top.node.edges.length) {
        stack.pop();
        const parent = stack.at(-1);
        if (parent !== undefined && wanted.get(top.node)) wanted.set(parent.node, true);
      } else if (child) {
        if (child.id < walk.since) throw outsider(child.op);
        const known = wanted.get(child);
        if (known === undefined) {
          wanted.set(child, isWantedNow(child));
          stack.push({ node: child, next: 0 });
        } else if (known) {
          wanted.set(top.node, true);
        }
      }
    }
  }
  return [...wanted]
    .filter(([, is]) => is)
    .map(([node]) => node)
    .sort((a, b) => b.id - a.id);
}

/** Gradients that wait at a node, one per output. */
class Pending {
  private readonly waiting = new Map<Node, (Tensor | null)[]>();

  constructor(private readonly createGraph: boolean) {}

  /** Takes ownership of `grad`. */
  add(node: Node, outputIndex: number, grad: Tensor): void {
    let grads = this.waiting.get(node);
    if (grads === undefined) this.waiting.set(node, (grads = new Array<Tensor | null>(node.outputs.length).fill(null)));
    const before = grads[outputIndex];
    const total = before ? sum(before, grad, this.createGraph) : grad;
    // A walk in slices goes on outside the scope in which the sum was made.
    grads[outputIndex] = this.createGraph ? total : keep(total);
  }

  /** What waits there already. */
  peek({ node, outputIndex }: Edge): Tensor | null | undefined {
    return node === null ? null : this.waiting.get(node)?.[outputIndex];
  }

  take(node: Node): (Tensor | null)[] | undefined {
    const grads = this.waiting.get(node);
    this.waiting.delete(node);
    return grads;
  }
}

/** The walk, node by node. Each step must run inside {@link inWalk}. */
function* visit(
  roots: readonly { node: Node; outputIndex: number; grad: Tensor }[],
  walk: Walk,
): Generator<void, void> {
  const pending = new Pending(walk.createGraph);
  const order = nodesToVisit(
    roots.map((root) => root.node),
    walk,
  );
  for (const { node, outputIndex, grad } of roots) pending.add(node, outputIndex, grad.alias(true));
  for (const node of order) {
    const grads = pending.take(node);
    if (grads === undefined) continue;
    const captured = walk.captured.get(node);
    captured?.forEach((position, outputIndex) => {
      const grad = grads[outputIndex];
      if (grad) walk.onCapture(position, connectedAlias(grad, walk.createGraph));
    });
    const results = walk.createGraph
      ? node.backward(node, grads).map((grad) => (grad instanceof Addend ? grad.make() : grad))
      : scope(() => ownResults(node, grads, pending, walk));
    distribute(node, results, pending, walk);
    if (!walk.createGraph) for (const grad of grads) grad?.dispose();
    if (!walk.retainGraph) node.release();
    yield;
  }
}

/** Runs a part of a walk as the one under way. */
function inWalk<T>(walk: Walk, body: () => T): T {
  const outer = current;
  current = walk;
  const before = setRecording(walk.createGraph);
  const retainedBefore = setGraphRetained(walk.retainGraph);
  try {
    return body();
  } finally {
    current = outer;
    setRecording(before);
    setGraphRetained(retainedBefore);
  }
}

function walkTape(roots: Parameters<typeof visit>[0], walk: Walk): void {
  inWalk(walk, () => {
    const steps = visit(roots, walk);
    while (!steps.next().done);
  });
}

/** In a graph that is kept, the tensor itself; else another hold on its memory, since the original is freed. */
function connectedAlias(grad: Tensor, createGraph: boolean): Tensor {
  return createGraph ? grad : grad.alias(true);
}

/**
 * The rule's results as tensors of our own: a rule may hand back the gradient it was given, or one tensor twice. What could be added to
 * where it belongs is there already, and null here.
 */
function ownResults(node: Node, grads: readonly (Tensor | null)[], pending: Pending, walk: Walk): (Tensor | null)[] {
  return node.backward(node, grads).map((grad, i) => {
    if (!grad) return null;
    if (!(grad instanceof Addend)) return grad.alias(true);
    const edge = node.edges[i]!;
    const total = edge.node === null && isWanted(edge.leaf, walk) ? walk.totalOf(edge.leaf) : pending.peek(edge);
    return addInto(total, grad) ? null : grad.make().alias(true);
  });
}

/** Whether a leaf's gradient is asked for. */
function isWanted(leaf: Tensor | null, walk: Walk): leaf is Tensor {
  return leaf !== null && (walk.leaves === null || walk.leaves.has(leaf));
}

function distribute(node: Node, results: readonly (Tensor | null | undefined)[], pending: Pending, walk: Walk): void {
  node.edges.forEach((edge, i) => {
    const grad = results[i];
    if (!grad) return;
    if (edge.node !== null) pending.add(edge.node, edge.outputIndex, grad);
    else if (isWanted(edge.leaf, walk)) walk.onLeaf(edge.leaf, grad);
    else if (!walk.createGraph) grad.dispose();
  });
}

/** Checks (or makes) the gradient that a walk starts with. */
function seed(op: string, output: Tensor, grad: Tensor | null | undefined): Tensor {
  output.check(op);
  if (!output.requiresGrad) {
    throw new StateError({
      op,
      expected: 'a tensor that depends on one with requiresGrad',
      actual: `a constant of shape ${formatShape(output.shape)}`,
      hint: 'Was it computed under noGrad, or from tensors made without { requiresGrad: true }?',
    });
  }
  if (grad) {
    if (!sameShape(grad.shape, output.shape)) {
      throw new ShapeError({
        op,
        argument: 'gradient',
        expected: formatShape(output.shape),
        actual: formatShape(grad.shape),
      });
    }
    return grad;
  }
  if (output.size !== 1) {
    throw new ShapeError({
      op,
      expected: 'a result of one element',
      actual: formatShape(output.shape),
      hint: 'Reduce it with sum() or mean(), or pass the gradient of the result',
    });
  }
  return ones(output.shape, { dtype: output.dtype });
}

/** The walk of {@link backward}: all leaves get what reaches them. */
const intoLeaves = (retainGraph: boolean, createGraph: boolean): Walk => ({
  leaves: null,
  captured: new Map(),
  onLeaf: (leaf, grad) => accumulate(leaf, grad, createGraph),
  totalOf: openGradient,
  onCapture: () => {},
  retainGraph,
  createGraph,
  since: 0,
});

/**
 * Adds to `grad` of every leaf that asks for it the gradient of `output`.
 *
 * @param gradient - gradient of the output; default 1, for an output of one element
 * @throws StateError if nothing asks for a gradient, or the graph was walked before without `retainGraph`
 * @throws ShapeError if the output has more than one element and no gradient is given
 */
export function backward(output: Tensor, gradient?: Tensor | null, options: BackwardOptions = {}): void {
  const { createGraph = false, retainGraph = createGraph } = options;
  const start = seed('backward', output, gradient);
  if (output.node === null) {
    accumulate(output, createGraph ? start : start.alias(true), createGraph);
  } else {
    const root = { node: output.node, outputIndex: output.outputIndex, grad: start };
    walkTape([root], intoLeaves(retainGraph, createGraph));
  }
  if (!gradient) start.dispose();
}

/** A walk in slices is not to take longer at a time, in milliseconds: a frame of an animation has room for two. */
const SLICE = 6;

/** What happens around and between the slices of a walk. */
export interface Pace {
  /** Runs one slice, which is synchronous. */
  run(slice: () => void): void;
  /** Between slices: lets others run. */
  turn(): Promise<void>;
}

const onItsOwn: Pace = { run: (slice) => slice(), turn };

/**
 * {@link backward} in slices of a few milliseconds, between which the event loop turns: a server goes on answering while a large model
 * trains. The gradients have the same bits. Nothing that the graph was made of may be changed before the promise resolves.
 *
 * @param gradient - gradient of the output; default 1, for an output of one element
 * @throws StateError, ShapeError as {@link backward}
 * @example
 * ```ts
 * const loss = og.scope(() => model.loss(ids, targets));
 * await og.backwardInSlices(loss);
 * ```
 */
export async function backwardInSlices(output: Tensor, gradient: Tensor | null = null, pace = onItsOwn): Promise<void> {
  if (output.node === null) {
    backward(output, gradient);
    return;
  }
  const start = seed('backward', output, gradient);
  const walk = intoLeaves(false, false);
  const steps = visit([{ node: output.node, outputIndex: output.outputIndex, grad: start }], walk);
  let isDone = false;
  const slice = (): void => {
    const until = performance.now() + SLICE;
    while (!isDone && performance.now() < until) isDone = steps.next().done === true;
  };
  for (;;) {
    pace.run(() => scope(() => inWalk(walk, slice)));
    if (isDone) break;
    await pace.turn();
  }
  if (gradient === null) start.dispose();
}

/** Gradients of `outputs` with respect to `inputs`, leaves or not; null where there is no path. */
export function gradients(
  op: string,
  outputs: readonly Tensor[],
  inputs: readonly Tensor[],
  seeds: readonly (Tensor | null | undefined)[],
  options: GradientOptions,
): (Tensor | null)[] {
  const { createGraph = false, retainGraph = createGraph, partSince } = options;
  const outer = partSince === undefined ? null : current;
  const found = new Array<Tensor | null>(inputs.length).fill(null);
  const collect = (position: number, grad: Tensor): void => {
    const before = found[position];
    found[position] = before ? sum(before, grad, createGraph) : grad;
  };
  const leaves = new Map<Tensor, number>();
  const captured = new Map<Node, Map<number, number>>();
  inputs.forEach((input, position) => {
    input.check(op);
    if (input.node === null) {
      leaves.set(input.leaf ?? input, position);
    } else {
      let outputsOf = captured.get(input.node);
      if (outputsOf === undefined) captured.set(input.node, (outputsOf = new Map<number, number>()));
      outputsOf.set(input.outputIndex, position);
    }
  });
  const roots: { node: Node; outputIndex: number; grad: Tensor }[] = [];
  const ownSeeds: Tensor[] = [];
  outputs.forEach((output, i) => {
    if (seeds[i] === null || !output.requiresGrad) return;
    const start = seed(op, output, seeds[i]);
    if (seeds[i] === undefined) ownSeeds.push(start);
    const position = output.node === null ? leaves.get(output.leaf ?? output) : undefined;
    if (output.node !== null) roots.push({ node: output.node, outputIndex: output.outputIndex, grad: start });
    else if (position !== undefined) collect(position, connectedAlias(start, createGraph));
  });
  walkTape(roots, {
    leaves: outer === null ? new Set(leaves.keys()) : outer.leaves && new Set([...outer.leaves, ...leaves.keys()]),
    captured,
    onLeaf: (leaf, grad) => {
      const position = leaves.get(leaf);
      if (position === undefined) outer!.onLeaf(leaf, grad);
      else collect(position, grad);
    },
    totalOf: (leaf) => {
      const position = leaves.get(leaf);
      return position === undefined ? outer!.totalOf(leaf) : found[position]!;
    },
    onCapture: collect,
    retainGraph,
    createGraph,
    since: partSince ?? 0,
  });
  if (createGraph) return found;
  for (const start of ownSeeds) start.dispose();
  return found.map((grad) => (grad === null || grad.owner !== null ? grad : handOver(grad)));
}

/** A gradient that outlived the scope of its rule, as a tensor of whoever asked for it: freed by the scope that is open. */
function handOver(grad: Tensor): Tensor {
  const mine = grad.alias();
  grad.dispose();
  return mine;
}

setDefinitionGradient((outputs, grads, inputs) => {
  const createGraph = setRecording(false);
  setRecording(createGraph);
  return gradients('backward', outputs, inputs, grads, { createGraph });
});
