/**
 * What a configuration says of stopping early, spikes, memory and the profile: options that the Trainer takes as they are, checked
 * before any work.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { BestCheckpoints } from '../train/best_checkpoints.js';
import { EarlyStopping } from '../train/early_stopping.js';
import { LossScaler } from '../train/loss_scale.js';
import { LossSpikes } from '../train/loss_spikes.js';
import type { Precision } from '../train/precision.js';
import { checkProfile } from '../train/profile.js';
import { checkRecomputation } from '../train/recomputation.js';
import type { TrainerOptions } from '../train/trainer_options.js';
import type { GPT } from '../models/gpt.js';
import { formatValue } from '../util/format.js';
import type { Json, JsonObject } from './train_config.js';

/** Null: as if it were not there. */
export interface Safeguards {
  readonly earlyStopping: JsonObject | null;
  readonly lossSpikes: JsonObject | null;
  readonly lossScale: JsonObject | null;
  readonly activationCheckpointing: boolean | JsonObject;
  readonly profile: boolean | JsonObject;
}

/** Their names in a configuration. */
export const safeguardKeys = [
  'earlyStopping',
  'lossSpikes',
  'lossScale',
  'activationCheckpointing',
  'profile',
] as const satisfies readonly (keyof Safeguards)[];

/** The options, checked by whoever will take them; null if there are none. `true` stands for the defaults. */
function optional(argument: string, value: Json, check: (options: object) => unknown): JsonObject | null {
  if (value === null || value === false) return null;
  const options = value === true ? {} : value;
  if (typeof options !== 'object' || Array.isArray(options)) {
    const expected = 'an object, or true for its defaults';
    throw new AttributeError({ op: 'train', argument, expected, actual: formatValue(value) });
  }
  check(options);
  return options as JsonObject;
}

/** `checkpoint.best`. */
export function checkBest(value: Json): JsonObject | null {
  return optional('checkpoint.best', value, (options) => new BestCheckpoints('', options));
}

/** @throws AttributeError naming the first option that cannot be */
export function resolveSafeguards(get: (name: keyof Safeguards) => Json, precision: Precision): Safeguards {
  const lossScale = optional('lossScale', get('lossScale'), (options) => new LossScaler(options));
  if (lossScale !== null && precision !== 'float16') {
    const expected = 'none without precision float16';
    throw new AttributeError({ op: 'train', argument: 'lossScale', expected, actual: formatValue(lossScale) });
  }
  const activationCheckpointing = (get('activationCheckpointing') ?? false) as boolean | JsonObject;
  checkRecomputation('train', activationCheckpointing);
  const profile = (get('profile') ?? false) as boolean | JsonObject;
  checkProfile(profile);
  return {
    earlyStopping: optional('earlyStopping', get('earlyStopping'), (options) => new EarlyStopping(options)),
    lossSpikes: optional('lossSpikes', get('lossSpikes'), (options) => new LossSpikes(options)),
    lossScale,
    activationCheckpointing,
    profile,
  };
}

type TrainerPart = Pick<TrainerOptions<GPT>, (typeof safeguardKeys)[number]>;

/** The same as options of the Trainer. */
export function trainerSafeguards(config: Safeguards): TrainerPart {
  const given = safeguardKeys.map((name) => [name, config[name]] as const).filter(([, value]) => value !== null);
  return Object.fromEntries(given) as TrainerPart;
}
