/** Students of a quarter of their teacher's parameters. */
import * as og from '../../src/index.js';

const SHARE = 0.25;

function parametersOf(config: og.GPTConfig): number {
  const model = new og.GPT(config);
  const count = model.parameterCount();
  model.dispose();
  return count;
}

/** As many layers as a number of parameters allows at this width. */
function layersWithin(config: og.GPTConfig, parameters: number): number {
  const [one, two] = [1, 2].map((layers) => parametersOf({ ...config, layers })) as [number, number];
  return Math.floor((parameters - one) / (two - one)) + 1;
}

/**
 * The geometry of a student of at most a quarter of a model's parameters: as many layers as that allows, as wide as the model if one fits,
 * else half as wide, with half of the heads.
 */
export function studentConfig({ config }: og.GPT, parameters: number): og.GPTConfig {
  const layers = layersWithin(config, SHARE * parameters);
  if (layers > 0) return { ...config, layers };
  const narrow = { ...config, width: config.width / 2, heads: config.heads / 2, kvHeads: config.kvHeads / 2 };
  return { ...narrow, layers: layersWithin(narrow, SHARE * parameters) };
}
