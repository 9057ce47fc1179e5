/**
 * What tokens cost: `omnigrad/cost`. Every default has a source and a date in {@link defaults}; prices are US dollars.
 *
 * @module
 */
export {
  defaults,
  hardware,
  type HardwareCost,
  type OwnedHardware,
  type RentedHardware,
  type SourcedValue,
} from './hardware.js';
export { perMillionTokens, type Throughput, type TokenCost } from './tokens.js';
