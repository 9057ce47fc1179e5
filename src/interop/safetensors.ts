/**
 * safetensors files in and out. Reading maps the file: opening a large one costs no memory until its pages are used.
 *
 * @module
 */
import { open, readFile, stat } from 'node:fs/promises';
import { AttributeError, DTypeError, FormatError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { to } from '../ops/copy.js';
import { fromFloat8, type Float8Format } from '../ops/float8.js';
import { all } from '../ops/reduce.js';
import { isFinite } from '../ops/unary.js';
import { allocate, borrow, mapFile, type Storage } from '../runtime/storage.js';
import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import { dtypeId, isFloating, itemSize, type DType } from '../tensor/dtype.js';
import { data, dataSync, item } from '../tensor/read.js';
import { scope } from '../tensor/scope.js';
import { contiguousStrides, MAX_RANK, sizeOf } from '../tensor/shape.js';
import { Tensor } from '../tensor/tensor.js';
import { tensor } from '../tensor/create.js';
import { checkOneOf } from '../util/assert.js';
import { writeFileAtomically } from '../util/atomic_file.js';
import { headerLength, parseHeader, type SafetensorsHeader, type TensorEntry } from './safetensors_header.js';

const fileDTypes: Readonly<Record<string, DType>> = {
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
  F64: 'float64',
  I8: 'int8',
  U8: 'uint8',
  I32: 'int32',
  I64: 'int64',
  BOOL: 'bool',
};
const namesOf = Object.fromEntries(Object.entries(fileDTypes).map(([file, own]) => [own, file])) as Record<
  DType,
  string
>;
const float8Formats: Readonly<Record<string, Float8Format>> = { F8_E4M3: 'e4m3fn', F8_E5M2: 'e5m2' };
const float8Names: Readonly<Record<Float8Format, string>> = { e4m3fn: 'F8_E4M3', e5m2: 'F8_E5M2' };
const copyKernel = kernelId('copy', 1, 1, 0);

/** Options of {@link openSafetensors}. */
export interface SafetensorsOptions {
  /** Map the file instead of reading it. The file must not shrink while its tensors live. Default true. */
  readonly map?: boolean;
  /** What F8_E4M3 and F8_E5M2 become: float32 copies, or their bit patterns as uint8, in place. Default `float32`. */
  readonly float8?: 'float32' | 'bits';
}

/** Options of {@link saveSafetensors}. */
export interface SaveSafetensorsOptions {
  /** Tensors of uint8 that hold 8-bit floats, by name: they are written as F8_E4M3 or F8_E5M2. */
  readonly float8?: Readonly<Record<string, Float8Format>>;
}

/** An open file. Tensors are made when asked for. */
export class SafetensorsFile {
  readonly path: string;
  private readonly header: SafetensorsHeader;
  private readonly storage: Storage;
  private readonly keepsBits: boolean;

  /** @internal */
  constructor(path: string, header: SafetensorsHeader, storage: Storage, keepsBits = false) {
    this.path = path;
    this.keepsBits = keepsBits;
    this.header = header;
    this.storage = storage;
  }

  /** Free text of the file's author. */
  get metadata(): ReadonlyMap<string, string> {
    return this.header.metadata;
  }

  /** Names of the tensors, in the order of the file. */
  get names(): string[] {
    return [...this.header.tensors.keys()];
  }

  /** Whether the file has a tensor of that name. */
  has(name: string): boolean {
    return this.header.tensors.has(name);
  }

  /** Shape and dtype (in the file's spelling) of a tensor, without touching its data. */
  info(name: string): { readonly shape: readonly number[]; readonly dtype: string; readonly bytes: number } {
    const { shape, dtype, begin, end } = this.entry(name);
    return { shape, dtype, bytes: end - begin };
  }

  private entry(name: string): TensorEntry {
    const entry = this.header.tensors.get(name);
    if (entry !== undefined) return entry;
    throw new AttributeError({
      op: 'safetensors',
      argument: 'name',
      expected: `a tensor of ${this.path}`,
      actual: JSON.stringify(name),
    });
  }

  /**
   * A tensor of the file, sharing its pages; what is written to it stays in this process. I16 and U16 become int32, U32
   * int64, 8-bit floats float32 (unless their bits were asked for): copies.
   *
   * @throws DTypeError if the file's dtype has no counterpart
   */
  tensor(name: string): Tensor {
    const entry = this.entry(name);
    if (entry.shape.length > MAX_RANK) {
      throw new FormatError({
        op: 'safetensors',
        argument: name,
        expected: `at most ${MAX_RANK} axes`,
        actual: String(entry.shape.length),
      });
    }
    const isBits = this.keepsBits && float8Formats[entry.dtype] !== undefined;
    const dtype = isBits ? 'uint8' : fileDTypes[entry.dtype];
    if (dtype === undefined) return this.converted(name, entry);
    const at = this.header.dataStart + entry.begin;
    if (at % itemSize(dtype) === 0) {
      return new Tensor(this.storage, at / itemSize(dtype), entry.shape, contiguousStrides(entry.shape), dtype);
    }
    return this.copied(entry, dtype); // the format does not align its data; kernels want whole elements
  }

  /** The bytes of an entry in memory of their own, as a tensor of `dtype`. */
  private copied(entry: TensorEntry, dtype: DType, shape: readonly number[] = entry.shape): Tensor {
    const storage = allocate(entry.end - entry.begin);
    this.copyBytes(entry, storage);
    return new Tensor(storage, 0, shape, contiguousStrides(shape), dtype);
  }

  private copyBytes(entry: TensorEntry, target: Storage): void {
    const shape = [entry.end - entry.begin];
    const geometry = { shape, strides: [1], dtypeId: dtypeId('uint8'), itemBytes: 1 };
    const from = { ...geometry, storage: this.storage, offset: this.header.dataStart + entry.begin };
    submit(copyKernel, [from], [{ ...geometry, storage: target, offset: 0 }], [], shape[0]!);
  }

  private converted(name: string, entry: TensorEntry): Tensor {
    const format = float8Formats[entry.dtype];
    if (format !== undefined) return scope(() => noGrad(() => fromFloat8(this.copied(entry, 'uint8'), format)));
    const arrays = { I16: Int16Array, U16: Uint16Array, U32: Uint32Array } as const;
    const View = arrays[entry.dtype as keyof typeof arrays] as typeof Uint16Array | undefined;
    if (View === undefined) {
      throw new DTypeError({
        op: 'safetensors',
        argument: name,
        expected: 'a dtype that tensors have',
        actual: entry.dtype,
      });
    }
    const bytes = scope(() => dataSync(this.copied(entry, 'uint8', [entry.end - entry.begin])) as Uint8Array);
    const values = Array.from(new View(bytes.buffer as ArrayBuffer, bytes.byteOffset, sizeOf(entry.shape)));
    return entry.dtype === 'U32'
      ? tensor(BigInt64Array.from(values, BigInt), { shape: entry.shape })
      : tensor(Int32Array.from(values), { shape: entry.shape });
  }
}

/**
 * Opens a file and checks its header completely; no tensor data is read.
 *
 * @throws FormatError if the file is malformed in any way
 */
export async function openSafetensors(path: string, options: SafetensorsOptions = {}): Promise<SafetensorsFile> {
  const size = (await stat(path)).size;
  const handle = await open(path, 'r');
  let header: SafetensorsHeader;
  try {
    const start = new Uint8Array(8);
    const { bytesRead } = await handle.read(start, 0, 8, 0);
    const length = headerLength(path, start.subarray(0, bytesRead), size);
    const json = new Uint8Array(length);
    for (let done = 0; done < length;) {
      const read = (await handle.read(json, done, length - done, 8 + done)).bytesRead;
      if (read === 0)
        throw new FormatError({
          op: 'safetensors',
          argument: path,
          expected: 'a whole header',
          actual: 'the end of the file',
        });
      done += read;
    }
    header = parseHeader(path, json, size - 8 - length);
  } finally {
    await handle.close();
  }
  const mapped = (options.map ?? true) ? mapFile(path) : 'not asked for';
  const storage = typeof mapped === 'string' ? borrow(new Uint8Array(await readFile(path))) : mapped;
  if (storage.bytes !== size) {
    throw new FormatError({
      op: 'safetensors',
      argument: path,
      expected: `${size} bytes`,
      actual: `${storage.bytes}: it changed while opening`,
    });
  }
  return new SafetensorsFile(path, header, storage, options.float8 === 'bits');
}

/** Options of {@link loadSafetensors}. */
export interface LoadSafetensorsOptions extends SafetensorsOptions {
  /** Cast floating-point tensors. Default: as they are in the file. */
  readonly dtype?: DType;
  /** Refuse NaN and infinities. Default false. */
  readonly checkFinite?: boolean;
}

/** Whatever holds tensors by name. */
export interface TensorSource {
  readonly path: string;
  readonly names: readonly string[];
  tensor(name: string): Tensor;
}

/** @internal All tensors of a source. */
export async function loadAll(source: TensorSource, options: LoadSafetensorsOptions): Promise<Record<string, Tensor>> {
  const { dtype } = options;
  const entries = source.names.map((name): [string, Tensor] => {
    const value = source.tensor(name);
    return [name, dtype !== undefined && isFloating(value.dtype) ? noGrad(() => to(value, dtype)) : value];
  });
  if (options.checkFinite) {
    for (const [name, value] of entries) {
      if (!isFloating(value.dtype)) continue;
      const finite = scope(() => noGrad(() => all(isFinite(value))));
      const isGood = await item(finite).finally(() => finite.dispose());
      if (!isGood) {
        const argument = `${source.path}: ${name}`;
        throw new FormatError({ op: 'safetensors', argument, expected: 'finite numbers', actual: 'NaN or infinity' });
      }
    }
  }
  return Object.fromEntries(entries);
}

/**
 * All tensors of a file, by name.
 *
 * @throws FormatError if the file is malformed, or holds NaN or infinities and `checkFinite` is set
 */
export async function loadSafetensors(
  path: string,
  options: LoadSafetensorsOptions = {},
): Promise<Record<string, Tensor>> {
  return loadAll(await openSafetensors(path, options), options);
}

/** All data of a tensor as bytes in file order. */
async function bytesOf(value: Tensor): Promise<Uint8Array> {
  const array = await data(value);
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/**
 * Writes tensors to a file, atomically: the file is complete or what it was before. One tensor at a time is copied out, so do not
 * change them until the promise resolves.
 *
 * @param metadata - free text, string to string
 * @throws DTypeError if `float8` names what is not uint8
 * @throws ResourceError if the file cannot be written
 */
export async function saveSafetensors(
  path: string,
  tensors: Readonly<Record<string, Tensor>>,
  metadata: Readonly<Record<string, string>> = {},
  options: SaveSafetensorsOptions = {},
): Promise<void> {
  const { float8 = {} } = options;
  for (const [name, format] of Object.entries(float8)) {
    const argument = `float8.${name}`;
    checkOneOf('saveSafetensors', argument, format, ['e4m3fn', 'e5m2']);
    if (tensors[name]?.dtype === 'uint8') continue;
    const actual = tensors[name]?.dtype ?? 'no tensor of that name';
    throw new DTypeError({ op: 'saveSafetensors', argument, expected: 'a uint8 tensor', actual });
  }
  // Wide elements first keeps every tensor aligned to its own size.
  const entries = Object.entries(tensors).sort(([a, x], [b, y]) => y.itemBytes - x.itemBytes || (a < b ? -1 : 1));
  let at = 0;
  const described = entries.map(([name, value]): [string, object] => {
    if (name === '__metadata__')
      throw new AttributeError({
        op: 'saveSafetensors',
        argument: 'tensors',
        expected: 'names of tensors',
        actual: name,
      });
    const begin = at;
    at += value.bytes;
    const dtype = Object.hasOwn(float8, name) ? float8Names[float8[name]!] : namesOf[value.dtype];
    return [name, { dtype, shape: value.shape, data_offsets: [begin, at] }];
  });
  const head = Object.keys(metadata).length > 0 ? [['__metadata__', metadata] as [string, object]] : [];
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries([...head, ...described])));
  const padded = Math.ceil(json.byteLength / 8) * 8;
  const header = new Uint8Array(8 + padded).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true);
  header.set(json, 8);
  await writeFileAtomically(path, async (write) => {
    await write(header);
    for (const [, value] of entries) await write(await bytesOf(value));
  });
}
