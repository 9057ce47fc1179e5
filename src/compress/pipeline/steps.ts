/**
 * The steps that there are.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { cloneModel } from '../../models/saved_model.js';
import { checkKeys } from '../../util/assert.js';
import { checkQuantization, quantize, type QuantizeModelOptions } from '../quantize/quantize_model.js';
import {
  layerQuantizationKeys,
  needsCalibration,
  resolveQuantization,
  type LayerQuantization,
} from '../quantize/scheme.js';
import { overridesOf, targetSetting, without, type Settings } from './settings.js';
import { registerStep } from './step.js';

registerStep<QuantizeModelOptions>({
  name: 'quantize',
  takesTarget: true,
  parse(op, settings) {
    checkKeys(op, settings, ['target', 'overrides', ...layerQuantizationKeys], 'settings');
    const general = without(settings, 'target', 'overrides') as unknown as LayerQuantization;
    resolveQuantization(op, general);
    const check = (at: string, own: Settings): void => {
      const isOther = own['scheme'] !== undefined && own['scheme'] !== general.scheme;
      resolveQuantization(at, (isOther ? own : { ...general, ...own }) as unknown as LayerQuantization);
    };
    const overrides = overridesOf(op, settings['overrides'], layerQuantizationKeys, check);
    return { ...general, ...targetSetting(op, settings), overrides };
  },
  needsCalibration({ target: _1, overrides, ...general }) {
    if (needsCalibration(resolveQuantization('quantize', general as LayerQuantization))) return true;
    return (overrides ?? []).some(({ method, activations }) => (method ?? 'rtn') !== 'rtn' || activations === 'static');
  },
  rehearse: (model, options) => checkQuantization(model, options),
  changesShapes: () => false,
  run(model, options, { calibration, journal, signal, note }) {
    return quantize(model, {
      ...options,
      ...(calibration === null ? {} : { calibration }),
      ...(signal === undefined ? {} : { signal }),
      journal,
      onLayer: (report) => note({ ...report }),
    });
  },
});

registerStep<Settings>({
  name: 'finetune',
  takesTarget: false,
  parse: (_op, settings) => settings,
  needsCalibration: () => false,
  rehearse(_model, _options, { finetune }) {
    if (finetune !== undefined) return;
    const expected = 'a function that trains, for the finetune step';
    throw new AttributeError({ op: 'compress', argument: 'finetune', expected, actual: 'none' });
  },
  changesShapes: () => false,
  async run(model, settings, { finetune, dir, signal }) {
    const copy = cloneModel(model);
    try {
      const result = (await finetune!(copy, settings, { dir, signal })) ?? copy;
      signal?.throwIfAborted(); // a trainer that was told to stop returns; its step is not done
      if (result !== copy) copy.dispose();
      return result;
    } catch (error) {
      copy.dispose();
      throw error;
    }
  },
});
