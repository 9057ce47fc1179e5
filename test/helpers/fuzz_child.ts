/**
 * Throws random calls at the addon's whole surface, in a process of its own: whatever happens, the process must not crash, and no
 * kernel may write outside the memory that its frame names. Run by test/runtime/fuzz.test.ts as
 * `fuzz_child.ts <seed> <seconds> <file>`; the file holds the call in progress, so that a crash can be traced.
 */
import { openSync, writeSync } from 'node:fs';
import { addon } from '../../src/runtime/addon.js';

const [seed, seconds] = [Number(process.argv[2]), Number(process.argv[3])];
const log = openSync(process.argv[4]!, 'w');

let state = seed >>> 0;
/** A uniform integer in [0, n). Mulberry32. */
function below(n: number): number {
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * n);
}
const pick = <T>(list: readonly T[]): T => list[below(list.length)]!;
const chance = (percent: number): boolean => below(100) < percent;

/** Control words of native/core/queue.h. */
const [HEAD, ERROR, WORDS] = [0, 80, 96];
const RING = 8192;
const STAGING = (RING / 4) * 3;
const ring = new Float64Array(new SharedArrayBuffer(RING * 8));
const control = new Int32Array(new SharedArrayBuffer(WORDS * 4));

/** What every function does before there is a queue: refuse. */
function beforeAttach(): void {
  for (const name of [
    'wake',
    'runInline',
    'waitFor',
    'holdOpen',
    'register',
    'release',
    'alignment',
    'mapFile',
    'takeError',
  ]) {
    refused(name, [0]);
  }
  for (const args of [[], [ring], [ring, control], [ring, control, 3], [control, ring, () => {}], [new Float64Array(8), control, () => {}],
    [ring, new Int32Array(4), () => {}], [null, undefined, () => {}]]) refused('attach', args); // prettier-ignore
}

function refused(name: string, args: readonly unknown[]): void {
  let threw = false;
  try {
    (addon as unknown as Record<string, (...args: readonly unknown[]) => unknown>)[name]!(...args);
  } catch {
    threw = true;
  }
  if (!threw) throw new Error(`${name}(${args.map(String).join(', ')}) was taken`);
}

beforeAttach();
addon.attach(ring, control, () => {});
refused('attach', [ring, control, () => {}]);

/** Memory with guards around it. Handles of several sizes and contents. */
const GUARD = 4096;
interface Block {
  readonly handle: number;
  readonly bytes: number;
  readonly all: Uint8Array;
}

function makeBlock(bytes: number, fillWith: (view: DataView) => void): Block {
  const all = new Uint8Array(bytes + 2 * GUARD).fill(0xa5);
  const inner = new Uint8Array(all.buffer, GUARD, bytes);
  fillWith(new DataView(all.buffer, GUARD, bytes));
  return { handle: addon.register(inner), bytes, all };
}

const small = (view: DataView): void => {
  for (let i = 0; i + 8 <= view.byteLength; i += 8) view.setBigInt64(i, BigInt(below(5)), true);
};
const smallInts = (view: DataView): void => {
  for (let i = 0; i + 4 <= view.byteLength; i += 4) view.setInt32(i, below(5), true);
};
const floats = (view: DataView): void => {
  for (let i = 0; i + 4 <= view.byteLength; i += 4) view.setFloat32(i, (below(2000) - 1000) / 100, true);
};
const anything = (view: DataView): void => {
  for (let i = 0; i < view.byteLength; i++) view.setUint8(i, below(256));
};
const blocks: Block[] = [
  makeBlock(0, anything),
  makeBlock(1, anything),
  makeBlock(7, anything),
  makeBlock(64, floats),
  ...[small, smallInts, floats, anything].flatMap((fill) => [makeBlock(4096, fill), makeBlock(65536, fill)]),
];

function checkGuards(what: string): void {
  for (const { all, bytes } of blocks) {
    for (let i = 0; i < GUARD; i++) {
      if (all[i] !== 0xa5 || all[GUARD + bytes + i] !== 0xa5) {
        throw new Error(`memory around a block of ${bytes} bytes was written, after ${what}`);
      }
    }
  }
}

const itemBytes = [4, 2, 2, 8, 1, 1, 4, 8, 1];
const wild = [
  NaN,
  Infinity,
  -Infinity,
  -1,
  0.5,
  2 ** 31,
  -(2 ** 31),
  2 ** 53,
  2 ** 53 - 1,
  -(2 ** 53),
  1e18,
  1e308,
  5e-324,
];
const tame = [0, 0, 1, 1, 2, 3, 4, 5, 8, 0.1, 0.9];
const kernels = addon.kernels();

/** Shapes with few elements, so that no call lasts; now and then one that cannot be. */
function shapeNear(base: readonly number[]): number[] {
  if (chance(70)) return [...base];
  if (chance(50)) {
    const shape = [...base];
    if (shape.length > 0) shape[below(shape.length)] = below(4);
    return shape;
  }
  return Array.from({ length: below(9) }, () => below(4));
}

function stridesFor(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = strides[i + 1]! * Math.max(1, shape[i + 1]!);
  if (chance(15)) strides.reverse();
  for (let i = 0; i < strides.length; i++) if (chance(5)) strides[i] = pick([0, 0, -1, 1, 2, 7, -(2 ** 40), 2 ** 52]);
  return strides;
}

function writeView(words: number[], base: readonly number[], dtype: number): void {
  if (chance(6)) {
    words.push(-1, 0, 0, 0); // absent
    return;
  }
  const shape = shapeNear(base);
  if (chance(1)) shape[0] = pick([2 ** 31, 2 ** 40, 2 ** 53 - 1]);
  const strides = stridesFor(shape);
  // A huge axis over one element is legal and merely long; ask only for what ends.
  shape.forEach((length, i) => length > 65536 && strides[i] === 0 && (strides[i] = 1));
  const type = chance(85) ? dtype : below(9);
  const offset = chance(80) ? 0 : itemBytes[type]! * below(64);
  const block = chance(90) ? blocks[4 + below(blocks.length - 4)]! : pick(blocks);
  words.push(block.handle, offset, type, shape.length, ...shape, ...strides);
}

function randomFrame(): number[] {
  const id = below(kernels.length);
  const { inputs, outputs, attrs } = kernels[id]!;
  const counts = [inputs, outputs, attrs].map((count) => (chance(97) ? count : below(9)));
  const base = Array.from({ length: pick([1, 2, 2, 3, 3, 4, 4, 5, 8]) }, () => pick([0, 1, 2, 3, 4, 5, 17]));
  while (base.reduce((product, length) => product * length, 1) > 4096) base.pop();
  const dtype = chance(75) ? below(4) : below(9);
  const words = [id, 0, ...counts];
  for (let i = 0; i < counts[0]! + counts[1]!; i++) {
    // Second operands are often indices, last ones often reduced.
    writeView(words, i > 0 && chance(25) ? base.slice(0, -1) : base, i > 0 && chance(20) ? pick([6, 7]) : dtype);
  }
  for (let i = 0; i < counts[2]!; i++) words.push(chance(75) ? pick(tame) : pick(wild));
  words[1] = words.length;
  return words;
}

type Operand = readonly [shape: readonly number[], dtype: number];

/** Operands that fit each other, for kernels that random ones would never satisfy. */
function fitting(name: string): { operands: readonly (Operand | null)[]; attrs: readonly number[] } | undefined {
  const float = below(4);
  const [b, h, t, s, d, n, v] = Array.from({ length: 7 }, () => pick([0, 1, 1, 2, 3, 5, 8, 17])) as [number, number, number, number, number, number, number]; // prettier-ignore
  const f = (...shape: number[]): Operand => [shape, float];
  const int = (...shape: number[]): Operand => [shape, pick([6, 7])];
  const maybe = (operand: Operand): Operand | null => (chance(50) ? operand : null);
  const number = (): number => (chance(85) ? pick(tame) : pick(wild));
  const statistic: Operand = [[n], float === 3 ? 3 : 0];
  switch (name) {
    case 'attention':
    case 'attention_backward': {
      const mask: Operand | null = maybe([[b, 2 * h, t, s], pick([float, 8])]);
      const [q, k, value] = [f(b, 2 * h, t, d), f(b, h, s, d), f(b, h, s, v)];
      const [y, lse]: Operand[] = [f(b, 2 * h, t, v), [[b, 2 * h, t], float === 3 ? 3 : 0]];
      const attrs = [number(), below(2), number()];
      if (name === 'attention') return { operands: [q, k, value, mask, y!, lse!], attrs };
      return { operands: [q, k, value, mask, y!, lse!, y!, q, k, value, maybe(f(b, 2 * h, t, s))], attrs };
    }
    case 'rope':
      return {
        operands: [f(b, h, t, 2 * d), f(b, h, t, d), f(b, h, t, d), f(b, h, t, 2 * d)],
        attrs: [below(2), below(2)],
      };
    case 'matmul': {
      if (chance(25))
        return { operands: [[[b, t, d], pick([4, 5])], [[b, d, s], 4], maybe([[s], 6]), null, null, [[b, t, s], 6], null], attrs: [0] }; // prettier-ignore
      const [packed, y]: Operand[] = [[[(s + 63) * pick([d, Math.ceil(d / 2)]) + 16], 0], f(b, t, s)];
      const operands = [f(b, t, d), f(b, d, s), maybe(f(s)), maybe(y!), maybe(packed!), y!, maybe(y!)];
      return { operands, attrs: [chance(85) ? below(7) : number()] };
    }
    case 'matmul_pack': {
      const [dtype, steps] = chance(50) ? [2, Math.ceil(d / 2)] : [0, d];
      return { operands: [[[d, s], dtype], [[(s + 63) * steps + 16], 0]], attrs: [] }; // prettier-ignore
    }
    case 'layer_norm':
      return {
        operands: [f(n, v), maybe(f(v)), maybe(f(v)), f(n, v), maybe(statistic), maybe(statistic)],
        attrs: [number()],
      };
    case 'rms_norm':
      return { operands: [f(n, v), maybe(f(v)), f(n, v), maybe(statistic)], attrs: [number()] };
    case 'layer_norm_backward':
      return {
        operands: [f(n, v), maybe(f(v)), statistic, statistic, f(n, v), maybe(f(n, v)), maybe(f(v)), maybe(f(v))],
        attrs: [],
      };
    case 'rms_norm_backward':
      return { operands: [f(n, v), maybe(f(v)), statistic, f(n, v), maybe(f(n, v)), maybe(f(v))], attrs: [] };
    case 'cross_entropy':
      return { operands: [f(n, v), int(n), maybe(f(v)), statistic, statistic], attrs: [number(), number()] };
    case 'cross_entropy_backward':
      return { operands: [f(n, v), int(n), maybe(f(v)), statistic, statistic, f(n, v)], attrs: [number(), number()] };
    case 'where':
      return { operands: [[[n, v], 8], f(n, v), f(n, v), f(n, v)], attrs: [] };
    case 'unfold':
    case 'fold': {
      const size = (length: number, k: number, stride: number, padding: number, dilation: number): number =>
        Math.max(0, Math.floor((length + 2 * padding - dilation * (k - 1) - 1) / stride) + 1);
      const pairs = Array.from({ length: 4 }, (_, i) => [
        i === 2 ? below(3) : 1 + below(3),
        i === 2 ? below(3) : 1 + below(3),
      ]);
      const [[kh, kw], [sh, sw], [ph, pw], [dh, dw]] = pairs as [number[], number[], number[], number[]];
      const image = f(b, h, t, s);
      const columns = f(b, h * kh! * kw!, size(t, kh!, sh!, ph!, dh!) * size(s, kw!, sw!, pw!, dw!));
      const attrs = pairs.flat().map((value) => (chance(3) ? pick(wild) : value));
      return { operands: name === 'unfold' ? [image, columns] : [columns, image], attrs };
    }
    case 'float8_encode':
      return {
        operands: [
          [[n, v], 0],
          [[n, v], 5],
        ],
        attrs: [number()],
      };
    case 'float8_decode':
      return {
        operands: [
          [[n, v], 5],
          [[n, v], 0],
        ],
        attrs: [number()],
      };
    case 'index_select':
      return { operands: [f(b, h, t), int(n), f(b, n, t)], attrs: [1] };
    case 'index_add':
      return { operands: [int(n), f(b, n, t), f(b, h, t)], attrs: [1] };
    case 'gather':
      return { operands: [f(b, h, t), int(b, n, t), f(b, n, t)], attrs: [1] };
    case 'scatter':
      return { operands: [int(b, n, t), f(b, n, t), f(b, h, t)], attrs: [1, below(2)] };
    case 'sort':
      return { operands: [f(n, v), f(n, v), [[n, v], 7]], attrs: [below(2)] };
    case 'topk':
      return { operands: [f(n, v + s), f(n, v), [[n, v], 7]], attrs: [below(2), below(2)] };
    default:
      return undefined;
  }
}

function writeFitting(words: number[], operand: Operand | null): void {
  if (operand === null || chance(1)) words.push(-1, 0, 0, 0);
  else if (chance(3)) writeView(words, operand[0], operand[1]);
  else {
    const [shape, dtype] = operand;
    // Indices mostly come from blocks of small ones.
    const block = blocks[dtype === 6 ? pick([6, 7]) : dtype === 7 ? pick([4, 5]) : 4 + below(blocks.length - 4)]!;
    words.push(block.handle, 0, dtype, shape.length, ...shape, ...stridesFor(shape));
  }
}

const demanding = kernels.flatMap(({ name }, id) => (fitting(name) === undefined ? [] : [id]));

function fittingFrame(): number[] {
  const id = pick(demanding);
  const { name, inputs, outputs } = kernels[id]!;
  const { operands, attrs } = fitting(name)!;
  const words = [id, 0, inputs, outputs, attrs.length];
  for (const operand of operands) writeFitting(words, operand);
  words.push(...attrs.map((value) => (chance(2) ? pick(wild) : value)));
  words[1] = words.length;
  return words;
}

const anyFrame = (): number[] => (chance(30) ? fittingFrame() : randomFrame());

/** A few words replaced by what no caller writes. */
function damage(words: number[]): number[] {
  for (let n = 1 + below(3); n > 0; n--) words[below(words.length)] = chance(50) ? pick(wild) : below(40);
  return words.slice(0, chance(20) ? below(words.length + 1) : words.length);
}

function note(text: string): void {
  writeSync(log, `${text.padEnd(400)}\n`, 0);
}

const describe = (words: readonly number[]): string => `${kernels[words[0]!]?.name ?? 'no kernel'} ${words.join(' ')}`;

function inline(): void {
  const words = chance(85) ? anyFrame() : damage(anyFrame());
  note(`inline ${describe(words)}`);
  const at = chance(97) ? STAGING : below(RING);
  const room = Math.min(words.length, RING - at);
  for (let i = 0; i < room; i++) ring[at + i] = words[i]!;
  const status = addon.runInline(at);
  if (status === undefined) okays.set(words[0]!, (okays.get(words[0]!) ?? 0) + 1);
  if (status !== undefined && addon.takeError(true)!.message.length === 0)
    throw new Error('a failure without a message');
}

const okays = new Map<number, number>();
let head = 0;
let write = 0;
/** Several frames through the executor. A malformed length would lose its place, so frames keep theirs. */
function queued(): void {
  for (let n = 1 + below(8); n > 0; n--) {
    const words = anyFrame();
    if (words.length > 400) continue;
    if (write + words.length + 1 > STAGING) {
      if (write < STAGING) ring[write] = -1;
      write = 0;
    }
    if (chance(10)) words[5 + below(words.length - 5)] = pick(wild); // anything but kernel, length and counts
    note(`queued ${describe(words)}`);
    ring.set(words, write);
    write += words.length;
    head = (head + 1) | 0;
    Atomics.store(control, HEAD, head);
    addon.wake();
    if (chance(50)) addon.waitFor(head);
  }
  addon.waitFor(head);
  if (Atomics.load(control, ERROR) !== 0 && addon.takeError(false)!.message.length === 0) throw new Error('no message');
}

const oddities = [undefined, null, true, -1, 0, 1.5, NaN, Infinity, 2 ** 53, 2 ** 60, 1n, '', 'x', 'x'.repeat(5000), '\0', Symbol('s'), {}, [],
  () => {}, new Float64Array(4), new Uint8Array(0), new Uint8Array(3), new ArrayBuffer(0), new SharedArrayBuffer(8), new Date(),
  new Proxy({}, { get: () => { throw new Error('trap'); } }), new DataView(new ArrayBuffer(2))]; // prettier-ignore

/** Wrong arguments. `waitFor` must not be given the future: it refuses. `shutdown` comes last, `attach` was tested. */
function wrongArguments(): void {
  const name = pick(['wake', 'runInline', 'waitFor', 'holdOpen', 'register', 'release', 'alignment', 'mapFile', 'takeError', 'configure', 'kernels']); // prettier-ignore
  const args = Array.from({ length: below(4) }, () => pick(oddities));
  note(`${name} ${args.map((value) => typeof value).join(' ')}`);
  let made: unknown;
  try {
    made = (addon as unknown as Record<string, (...args: unknown[]) => unknown>)[name]!(...args);
  } catch {
    return;
  }
  if (name === 'register' && (made as number) >= 0) addon.release(made as number);
  if (name === 'holdOpen') addon.holdOpen(false);
}

const { isas } = addon.configure();
const end = performance.now() + seconds * 1000;
let calls = 0;
while (performance.now() < end) {
  addon.configure({ isa: pick(isas), threads: 1 + below(3) });
  for (let i = 0; i < 200; i++, calls++) {
    const way = below(100);
    if (way < 70) inline();
    else if (way < 95) queued();
    else wrongArguments();
  }
  checkGuards('the last 200 calls');
}
// The slot of a released block may not be found again.
const gone = makeBlock(64, floats);
addon.release(gone.handle);
ring.set([kernels.findIndex(({ name }) => name === 'fill'), 12, 0, 1, 1, gone.handle, 0, 0, 1, 4, 1, 1], STAGING);
if (addon.runInline(STAGING) === undefined) throw new Error('released memory was written');
addon.shutdown();
ring.set([kernels.findIndex(({ name }) => name === 'fill'), 12, 0, 1, 1, blocks[4]!.handle, 0, 0, 1, 4, 1, 1], STAGING);
if (addon.runInline(STAGING) === undefined) throw new Error('a kernel ran after shutdown');
process.stdout.write(
  JSON.stringify({ calls, ran: Object.fromEntries(kernels.map(({ name }, i) => [name, okays.get(i) ?? 0])) }),
);
