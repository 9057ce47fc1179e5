/**
 * Finished layers of a compression that may be interrupted: each is written down when it is done, and put back by the next attempt.
 *
 * @module
 */
import { mkdir, readdir } from 'node:fs/promises';
import path from 'node:path';
import { FormatError } from '../errors.js';
import { loadSafetensors, openSafetensors, saveSafetensors } from '../interop/safetensors.js';
import { formOf, restoreLayer, type LayerForm } from '../nn/layer_forms.js';
import type { Module, StateDict } from '../nn/module.js';
import { LayerNorm, RMSNorm } from '../nn/norm.js';
import { place, sitesOf, type Site } from '../nn/surgery.js';
import { keep, scope } from '../tensor/scope.js';
import { blocksOf } from './block_walk.js';

/** What methods that go through a model layer by layer ask of a journal. */
export interface LayerJournal {
  /** Puts finished layers into a model that is as it was when the method began. @returns their paths */
  restore(model: Module): Promise<ReadonlySet<string>>;
  /** Writes down layers that are done, and the norms around them, which may have changed with them. */
  record(model: Module, paths: readonly string[]): Promise<void>;
}

/** A record's own words, in the metadata of its file. */
interface RecordHead {
  readonly key: string;
  readonly layers: Readonly<Record<string, LayerForm>>;
  readonly norms: readonly string[];
}

const isNorm = (module: Module): module is LayerNorm | RMSNorm =>
  module instanceof LayerNorm || module instanceof RMSNorm;
const isModule = (_module: Module): _module is Module => true;

const fileOf = (number: number): string => `${String(number).padStart(5, '0')}.safetensors`;

/** Tensors of a module under its path; they belong to the scope. */
function tensorsOf(name: string, module: Module): StateDict {
  return Object.fromEntries(Object.entries(module.stateDict()).map(([key, value]) => [`${name}.${key}`, value]));
}

function partOf(state: Readonly<StateDict>, name: string): StateDict {
  const prefix = `${name}.`;
  const entries = Object.entries(state).filter(([key]) => key.startsWith(prefix));
  return Object.fromEntries(entries.map(([key, value]) => [key.slice(prefix.length), value]));
}

/** The norms of the blocks that paths lie in; of the whole model for layers outside of blocks. */
function normsAround(model: Module, paths: readonly string[]): Site[] {
  const blocks = blocksOf(model).map(([name]) => (name === '' ? '' : `${name}.`));
  const prefixes = new Set(paths.map((name) => blocks.find((prefix) => name.startsWith(prefix)) ?? ''));
  return [...sitesOf(model, isNorm).values()].filter(({ path: name }) =>
    [...prefixes].some((prefix) => name.startsWith(prefix)),
  );
}

/**
 * A journal in a folder: one safetensors file for layers that were finished together, complete or not there.
 *
 * @param key - what the layers depend on (a hash of model, method and calibration): records of another key are not taken
 */
export function folderJournal(folder: string, key: string): LayerJournal {
  let count = 0;
  return {
    async restore(model) {
      const files = (await readdir(folder).catch(() => [])).filter((name) => /^\d{5}\.safetensors$/.test(name)).sort();
      const done = new Set<string>();
      for (const name of files) {
        const file = path.join(folder, name);
        const { metadata } = await openSafetensors(file);
        const head = JSON.parse(metadata.get('omnigrad') ?? '{}') as Partial<RecordHead>;
        if (head.key !== key) {
          const expected = 'finished layers of this compression';
          const hint = 'Empty the folder, or use another';
          throw new FormatError({ op: 'compress', argument: file, expected, actual: 'those of another one', hint });
        }
        const state = await loadSafetensors(file);
        const sites = sitesOf(model, isModule);
        for (const [layerPath, form] of Object.entries(head.layers!)) {
          const site = sites.get(layerPath)!;
          const part = partOf(state, layerPath);
          const layer = restoreLayer(layerPath, form, part, site.layer).train(site.layer.training);
          for (const tensor of Object.values(part)) keep(tensor);
          if (layer !== site.layer) {
            place('compress', site, layer);
            site.layer.dispose();
          }
          done.add(layerPath);
        }
        for (const norm of head.norms!) {
          const part = partOf(state, norm);
          sites.get(norm)!.layer.loadStateDict(part);
          for (const tensor of Object.values(part)) tensor.dispose();
        }
      }
      count = files.length;
      return done;
    },
    async record(model, paths) {
      const sites = sitesOf(model, isModule);
      const layers = Object.fromEntries(paths.map((name) => [name, formOf(sites.get(name)!.layer)!]));
      const norms = normsAround(model, paths);
      const state = scope(() => {
        const all = [...paths.map((name) => sites.get(name)!), ...norms].map(({ path: name, layer }) =>
          tensorsOf(name, layer),
        );
        const merged = Object.assign({}, ...all) as StateDict;
        for (const tensor of Object.values(merged)) keep(tensor);
        return merged;
      });
      const head: RecordHead = { key, layers, norms: norms.map(({ path: name }) => name) };
      await mkdir(folder, { recursive: true });
      try {
        await saveSafetensors(path.join(folder, fileOf(count)), state, { omnigrad: JSON.stringify(head) });
      } finally {
        for (const tensor of Object.values(state)) tensor.dispose();
      }
      count++;
    },
  };
}
