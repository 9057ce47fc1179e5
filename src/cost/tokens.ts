import { AttributeError } from '../errors.js';
import { checkNumber } from '../util/assert.js';
import type { HardwareCost } from './hardware.js';

/** Tokens a second, as measured on the machine that is paid for. */
export interface Throughput {
  /** Prompt tokens read a second. */
  readonly prefill?: number;
  /** Tokens generated a second, all sequences together. */
  readonly decode?: number;
}

/** USD for a million tokens. */
export interface TokenCost {
  /** Of a prompt; null without a measured prefill. */
  readonly input: number | null;
  /** Generated; null without a measured decode. */
  readonly output: number | null;
}

/**
 * Dollars for a million tokens: the price of a busy hour over the tokens that are made in it.
 *
 * @example
 * ```ts
 * const { output } = perMillionTokens({ decode: 120 }, hardware({ price: 1800, lifeYears: 4, watts: 120 }));
 * ```
 * @throws AttributeError if a throughput is not above 0, or none is given
 */
export function perMillionTokens(measured: Throughput, machine: HardwareCost): TokenCost {
  const op = 'cost.perMillionTokens';
  const cost = (name: 'prefill' | 'decode'): number | null => {
    const rate = measured[name];
    if (rate === undefined) return null;
    checkNumber(op, name, rate, 0);
    if (!(rate > 0))
      throw new AttributeError({ op, argument: name, expected: 'tokens a second', actual: String(rate) });
    return (machine.perBusyHour / 3600 / rate) * 1e6;
  };
  const [input, output] = [cost('prefill'), cost('decode')];
  if (input === null && output === null) {
    throw new AttributeError({ op, argument: 'measured', expected: 'prefill or decode', actual: 'neither' });
  }
  return { input, output };
}
