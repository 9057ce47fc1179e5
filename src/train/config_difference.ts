/**
 * Configurations as lists of single settings, so that they can be shown and compared.
 *
 * @module
 */

/** A single setting. */
export type Setting = string | number | boolean;

/** { optimizer: { lr: 1 } } → { 'optimizer.lr': 1 }. Lists are written as one setting; what JSON does not hold is left out. */
export function flattenConfig(config: unknown): Record<string, Setting> {
  const result: Record<string, Setting> = {};
  const visit = (name: string, value: unknown): void => {
    if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') result[name] = value;
    else if (Array.isArray(value)) result[name] = JSON.stringify(value);
    else if (typeof value === 'object' && value !== null)
      for (const [key, entry] of Object.entries(value)) visit(name === '' ? key : `${name}.${key}`, entry);
  };
  visit('', config);
  return result;
}

/** A setting in which configurations differ; undefined where one does not have it. */
export interface ConfigDifference {
  readonly name: string;
  /** One for each configuration. */
  readonly values: readonly (Setting | undefined)[];
}

/** The settings in which configurations differ, in the order in which they first appear. */
export function configDifferences(configs: readonly unknown[]): ConfigDifference[] {
  const flat = configs.map(flattenConfig);
  const names = [...new Set(flat.flatMap((settings) => Object.keys(settings)))];
  return names
    .map((name) => ({ name, values: flat.map((settings) => settings[name]) }))
    .filter(({ values }) => new Set(values).size > 1);
}
