/**
 * The step `quantize`.
 *
 * @module
 */
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

const whole = ['embeddings', 'cacheDType'] as const;

/** What decides which layers become codes, without what chooses the codes. */
const quick = ({ scheme, groupSize }: Partial<LayerQuantization>): object => ({
  ...(scheme === undefined ? {} : { scheme }),
  ...(groupSize === undefined ? {} : { groupSize }),
});

registerStep<QuantizeModelOptions>({
  name: 'quantize',
  takesTarget: () => true,
  parse(op, settings) {
    checkKeys(op, settings, ['target', 'overrides', ...whole, ...layerQuantizationKeys], 'settings');
    const general = without(settings, 'target', 'overrides', ...whole) as unknown as LayerQuantization;
    resolveQuantization(op, general);
    const check = (at: string, own: Settings): void => {
      const isOther = own['scheme'] !== undefined && own['scheme'] !== general.scheme;
      resolveQuantization(at, (isOther ? own : { ...general, ...own }) as unknown as LayerQuantization);
    };
    const overrides = overridesOf(op, settings['overrides'], layerQuantizationKeys, check);
    const own = Object.fromEntries(
      Object.entries(settings).filter(([key]) => (whole as readonly string[]).includes(key)),
    );
    return { ...general, ...own, ...targetSetting(op, settings), overrides };
  },
  needsCalibration({ target: _1, overrides, embeddings: _2, cacheDType: _3, ...general }) {
    if (needsCalibration(resolveQuantization('quantize', general as LayerQuantization))) return true;
    return (overrides ?? []).some(({ method, activations }) => (method ?? 'rtn') !== 'rtn' || activations === 'static');
  },
  rehearse: (model, options) => checkQuantization(model, options),
  standIn(model, { target, overrides = [], embeddings, ...general }) {
    const own = overrides.map((override) => ({
      target: override.target,
      ...(override.skip === undefined ? {} : { skip: override.skip }),
      ...quick(override),
    }));
    return quantize(model, {
      ...(quick(general) as LayerQuantization),
      ...(target === undefined ? {} : { target }),
      ...(embeddings === undefined ? {} : { embeddings }),
      overrides: own,
    });
  },
  describe(settings) {
    const { scheme, method = 'rtn', groupSize, embeddings } = settings;
    const more = [
      ...(typeof groupSize === 'number' ? [`groups of ${groupSize}`] : []),
      ...(typeof embeddings === 'string' ? [`embeddings ${embeddings}`] : []),
    ];
    return [`quantize ${String(scheme)} ${String(method)}`, ...more].join(', ');
  },
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
