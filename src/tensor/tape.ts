/**
 * Recording: which operation made a tensor, what its gradient rule needs, and when that may be let go. Walking the record
 * is the business of autograd/, above the operations; this file knows none of them.
 */
import { StateError } from '../errors.js';
import { onDispose, type Tensor } from './tensor.js';

/**
 * A gradient that costs less to add to one that is there already than to make: few rows of a large table. The walk does the one or the
 * other, before the rule's own gradient is freed.
 */
export class Addend {
  constructor(
    readonly dtype: Tensor['dtype'],
    /** As a tensor of its own. */
    readonly make: () => Tensor,
    /** Adds it to a contiguous tensor of its shape and dtype, in place. */
    readonly addTo: (total: Tensor) => void,
  ) {}
}

/** What a rule gives for its inputs, in order; nothing for those that need no gradient. */
export type RuleResults = readonly (Tensor | Addend | null | undefined)[];

/** Gradient rule of one recorded call: gradients of the outputs in (null: none came), gradients of the inputs out. */
export type Backward = (node: Node, grads: readonly (Tensor | null)[]) => RuleResults;

/** Where the gradient of an input goes: to the node that made it, to a leaf, or nowhere. */
export interface Edge {
  readonly node: Node | null;
  readonly outputIndex: number;
  readonly leaf: Tensor | null;
}

/** What the walk needs to know of an output that may be gone. */
export interface OutputInfo {
  readonly shape: readonly number[];
  readonly dtype: Tensor['dtype'];
}

let nextId = 0;

/** The number that the next recorded call gets. */
export function nextNodeId(): number {
  return nextId;
}

/** One recorded call. Held by its outputs and by the nodes that consumed them; saved tensors go when nobody holds it. */
export class Node {
  readonly id = nextId++;
  readonly op: string;
  readonly edges: readonly Edge[];
  readonly outputs: readonly OutputInfo[];
  readonly backward: Backward;
  /** Its rule reaches leaves that are not among the edges (a recomputed part). */
  reachesHiddenLeaves = false;
  private saved: readonly (Tensor | null)[] | null;
  private readonly versions: readonly number[];
  private holders: number;

  constructor(
    op: string,
    edges: readonly Edge[],
    outputs: readonly OutputInfo[],
    saved: readonly (Tensor | null)[],
    backward: Backward,
  ) {
    this.op = op;
    this.edges = edges;
    this.outputs = outputs.map(({ shape, dtype }) => ({ shape, dtype })); // not the tensors: they hold us
    this.saved = saved;
    this.versions = saved.map((tensor) => tensor?.storage.version ?? 0);
    this.backward = backward;
    this.holders = outputs.length;
    for (const edge of edges) if (edge.node !== null) edge.node.holders++;
  }

  /** Whether the i-th input takes part in differentiation. */
  needs(index: number): boolean {
    const edge = this.edges[index];
    return edge !== undefined && (edge.node !== null || edge.leaf !== null);
  }

  /**
   * The tensors kept for the gradient rule.
   *
   * @throws StateError if the graph was walked before without `retainGraph`, or one of them was overwritten since
   */
  unpack(): readonly (Tensor | null)[] {
    if (this.saved === null) {
      throw new StateError({
        op: 'backward',
        expected: 'a graph that has not been walked yet',
        actual: `one whose saved tensors were released (at ${this.op})`,
        hint: 'Pass { retainGraph: true } to the first backward',
      });
    }
    this.saved.forEach((tensor, i) => {
      if (tensor !== null && tensor.storage.version !== this.versions[i]) {
        throw new StateError({
          op: 'backward',
          expected: `the operands of ${this.op} as they were in the forward pass`,
          actual: 'one that was changed in place since',
          hint: 'Change it after backward, or clone it first',
        });
      }
    });
    return this.saved;
  }

  /** Lets the saved tensors go; the node cannot be walked again. */
  release(): void {
    if (this.saved === null) return;
    for (const tensor of this.saved) tensor?.dispose();
    this.saved = null;
  }

  /** One holder less. When the last goes, so do the saved tensors and this node's hold on the nodes before it. */
  drop(): void {
    const stack: Node[] = [this];
    for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
      if (--node.holders > 0) continue;
      node.release();
      for (const edge of node.edges) if (edge.node !== null) stack.push(edge.node);
    }
  }
}

let recording = true;

/** Whether calls are being recorded. */
export function isGradEnabled(): boolean {
  return recording;
}

export function setRecording(on: boolean): boolean {
  const before = recording;
  recording = on;
  return before;
}

let retained = false;

/** Whether the walk under way leaves the graph for another one. If not, a rule may change what it saved. */
export function isGraphRetained(): boolean {
  return retained;
}

export function setGraphRetained(on: boolean): boolean {
  const before = retained;
  retained = on;
  return before;
}

/** While somebody asks whether a part of the program, run without recording, would be recorded. */
let noticing: { needed: boolean } | null = null;

/** Whether a call on these inputs has to be recorded. */
export function needsRecord(inputs: readonly (Tensor | null)[]): boolean {
  if (!recording && noticing === null) return false;
  for (let i = 0; i < inputs.length; i++) {
    if (!inputs[i]?.requiresGrad) continue;
    if (noticing !== null) noticing.needed = true;
    return recording;
  }
  return false;
}

/** Whether a call on these inputs is recorded now, or will be when a part that runs without recording is computed again. */
export function willRecord(inputs: readonly (Tensor | null)[]): boolean {
  return needsRecord(inputs) || (noticing !== null && inputs.some((input) => input?.requiresGrad));
}

/** Runs `body` without recording, and tells whether any call in it would have been recorded. */
export function withoutRecording<T>(body: () => T): [result: T, needed: boolean] {
  const outer = noticing;
  const own = (noticing = { needed: false });
  const before = setRecording(false);
  try {
    return [body(), own.needed];
  } finally {
    setRecording(before);
    noticing = outer;
    if (outer !== null && own.needed) outer.needed = true;
  }
}

const nowhere: Edge = { node: null, outputIndex: 0, leaf: null };

/**
 * Records that `outputs` came from `inputs`.
 *
 * @param saved - what the gradient rule will unpack; aliases are kept, so the originals may be disposed of
 */
export function record(
  op: string,
  inputs: readonly (Tensor | null)[],
  outputs: readonly Tensor[],
  saved: readonly (Tensor | null)[],
  backward: Backward,
): Node {
  const edges = inputs.map((tensor): Edge => {
    if (tensor === null || !tensor.requiresGrad) return nowhere;
    return {
      node: tensor.node,
      outputIndex: tensor.outputIndex,
      leaf: tensor.node === null ? (tensor.leaf ?? tensor) : null,
    };
  });
  const kept = saved.map((tensor) => (tensor === null ? null : tensor.alias(true)));
  const node = new Node(op, edges, outputs, kept, backward);
  saved.forEach((tensor, i) => {
    // A rule that is itself recorded (second derivatives) must see what its operands depend on.
    if (tensor === null) return;
    const output = outputs.indexOf(tensor);
    const edge = output >= 0 ? null : edges[inputs.indexOf(tensor)];
    if (output >= 0) kept[i]!.connect(node, output, null);
    else if (edge !== undefined && edge !== null) kept[i]!.connect(edge.node, edge.outputIndex, edge.leaf);
  });
  outputs.forEach((output, i) => output.attach(node, i));
  return node;
}

onDispose((tensor) => {
  if (!tensor.borrowsNode) tensor.node?.drop();
});
