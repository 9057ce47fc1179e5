/**
 * Models split over several safetensors files: an index names the file of every tensor. The names of files come from whoever made
 * the model, so they may only name files beside the index.
 *
 * @module
 */
import { readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { AttributeError, FormatError } from '../errors.js';
import type { Tensor } from '../tensor/tensor.js';
import { formatValue } from '../util/format.js';
import {
  loadAll,
  openSafetensors,
  type LoadSafetensorsOptions,
  type SafetensorsFile,
  type SafetensorsOptions,
} from './safetensors.js';

/** Name under which Hugging Face keeps the index of a folder. */
export const INDEX_NAME = 'model.safetensors.index.json';
/** As for the header of one file. */
const MAX_INDEX_BYTES = 100_000_000;

function malformed(argument: string, expected: string, actual: unknown): FormatError {
  return new FormatError({ op: 'safetensors index', argument, expected, actual: formatValue(actual) });
}

/** A plain file name: no folder, drive or scheme, on any platform. */
function checkShardName(where: string, name: unknown): string {
  const isPlain =
    typeof name === 'string' && name.endsWith('.safetensors') && name.length <= 255 && !/[\0-\x1f/\\:]/.test(name);
  if (isPlain) return name;
  throw malformed(where, 'the name of a .safetensors file in the folder of the index', name);
}

async function readIndex(path: string): Promise<ReadonlyMap<string, string>> {
  const { size } = await stat(path);
  if (size > MAX_INDEX_BYTES) throw malformed(path, `an index of at most ${MAX_INDEX_BYTES} bytes`, size);
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(await readFile(path)));
  } catch (cause) {
    throw malformed(path, 'an index in JSON', (cause as Error).message);
  }
  const map =
    typeof parsed === 'object' && parsed !== null ? (parsed as { weight_map?: unknown }).weight_map : undefined;
  if (typeof map !== 'object' || map === null || Array.isArray(map)) throw malformed(path, 'an object weight_map', map);
  return new Map(
    Object.entries(map).map(([name, file]) => [name, checkShardName(`${path}: ${formatValue(name)}`, file)]),
  );
}

/** An open folder of safetensors files under one index. Tensors are made when asked for. */
export class ShardedSafetensors {
  /** Of the index. */
  readonly path: string;
  private readonly shards: ReadonlyMap<string, SafetensorsFile>;

  /** @internal */
  constructor(path: string, shards: ReadonlyMap<string, SafetensorsFile>) {
    this.path = path;
    this.shards = shards;
  }

  /** Names of the tensors of all files. */
  get names(): string[] {
    return [...this.shards.keys()];
  }

  /** Whether one of the files has a tensor of that name. */
  has(name: string): boolean {
    return this.shards.has(name);
  }

  private shard(name: string): SafetensorsFile {
    const shard = this.shards.get(name);
    if (shard !== undefined) return shard;
    const expected = `a tensor of ${this.path}`;
    throw new AttributeError({ op: 'safetensors index', argument: 'name', expected, actual: formatValue(name) });
  }

  /** Shape and dtype (in the file's spelling) of a tensor, without touching its data. */
  info(name: string): ReturnType<SafetensorsFile['info']> {
    return this.shard(name).info(name);
  }

  /**
   * A tensor, as {@link SafetensorsFile.tensor} gives it.
   *
   * @throws DTypeError if the file's dtype has no counterpart
   */
  tensor(name: string): Tensor {
    return this.shard(name).tensor(name);
  }
}

/**
 * Opens all files of a split model and checks that every tensor is where the index says.
 *
 * @param path - the index, or the folder in which it lies as `model.safetensors.index.json`
 * @throws FormatError if the index or a file is malformed, names a file outside its folder, or a file or tensor is missing
 */
export async function openSafetensorsIndex(
  path: string,
  options: SafetensorsOptions = {},
): Promise<ShardedSafetensors> {
  const index = (await stat(path)).isDirectory() ? join(path, INDEX_NAME) : path;
  const places = await readIndex(index);
  const files = new Map<string, SafetensorsFile>();
  for (const file of new Set(places.values())) {
    try {
      files.set(file, await openSafetensors(join(dirname(index), file), options));
    } catch (cause) {
      if (cause instanceof FormatError) throw cause;
      const actual = (cause as Error).message;
      throw new FormatError({
        op: 'safetensors index',
        argument: index,
        expected: `a readable file ${file}`,
        actual,
        cause,
      });
    }
  }
  const shards = new Map<string, SafetensorsFile>();
  for (const [name, file] of places) {
    const shard = files.get(file)!;
    if (!shard.has(name)) throw malformed(`${index}: ${formatValue(name)}`, `a tensor of ${file}`, 'a file without it');
    shards.set(name, shard);
  }
  return new ShardedSafetensors(index, shards);
}

/**
 * All tensors of a split model, by name.
 *
 * @param path - the index, or the folder in which it lies
 * @throws FormatError as {@link openSafetensorsIndex}, or for NaN and infinities if `checkFinite` is set
 */
export async function loadSafetensorsIndex(
  path: string,
  options: LoadSafetensorsOptions = {},
): Promise<Record<string, Tensor>> {
  return loadAll(await openSafetensorsIndex(path, options), options);
}
