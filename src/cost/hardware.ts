/**
 * What an hour of a machine costs, bought or rented.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { checkKeys, checkNumber } from '../util/assert.js';

/** A figure that is used where none is given: its value, and where and when it comes from. */
export interface SourcedValue {
  readonly value: number;
  readonly unit: string;
  readonly source: string;
  /** ISO date of the figure. */
  readonly date: string;
}

/** Every default of this module. */
export const defaults: Readonly<Record<'tariff' | 'pue' | 'lifeYears' | 'utilization' | 'rent', SourcedValue>> = {
  tariff: {
    value: 0.1146,
    unit: 'USD/kWh',
    source:
      'US Energy Information Administration, Electricity Monthly Update: average revenue of the median state, all sectors',
    date: '2024-01-31',
  },
  pue: {
    value: 1.58,
    unit: 'kWh drawn by the site for each kWh of the machine',
    source: 'Uptime Institute, Global Data Center Survey 2023: industry average power usage effectiveness',
    date: '2023-07-31',
  },
  lifeYears: {
    value: 4,
    unit: 'years',
    source:
      'a planning assumption, the life that product documents of this library use; servers are written off over 3 to 6 years',
    date: '2026-11-26',
  },
  utilization: {
    value: 0.5,
    unit: 'share of the time in which tokens are made',
    source: 'a planning assumption: half of each day is busy',
    date: '2026-11-26',
  },
  rent: {
    value: 0.0816,
    unit: 'USD/h for 2 virtual processors and 8 GiB (m7g.large, us-east-1, Linux, on demand)',
    source: 'Amazon EC2 on-demand price list, as quoted in a survey of June 2026',
    date: '2026-06-17',
  },
};

/** A machine of one's own. */
export interface OwnedHardware {
  /** Purchase price, USD. */
  readonly price: number;
  /** Power drawn while busy, watts. */
  readonly watts: number;
  /** Power drawn while idle, watts. Default: none counted. */
  readonly idleWatts?: number;
  /** Years until it is written off. Default 4. */
  readonly lifeYears?: number;
  /** Share of the time in which it makes tokens. Default 0.5. */
  readonly utilization?: number;
  /** Price of electricity, USD a kWh. Default 0.1146. */
  readonly tariff?: number;
  /** Site power for each unit of the machine's. Default 1.58; 1 where there is no data centre around it. */
  readonly pue?: number;
}

/** A machine by the hour; power is in the price. */
export interface RentedHardware {
  /** USD an hour. */
  readonly hourly: number;
  /** Share of the paid time in which it makes tokens. Default 0.5. */
  readonly utilization?: number;
}

/** What an hour costs in which tokens are made, and of what that is made up. USD. */
export interface HardwareCost {
  readonly perBusyHour: number;
  readonly parts: Readonly<{ capital: number; power: number; rent: number }>;
  /** The inputs, defaults filled in. */
  readonly assumptions: Readonly<Record<string, number>>;
}

const HOURS_A_YEAR = 24 * 365.25;

/**
 * The cost of an hour in which the machine is busy: what it costs to own or rent over all hours, divided by the share of them that is used, and
 * the power it draws.
 *
 * @throws AttributeError naming a number that cannot be
 */
export function hardware(machine: OwnedHardware | RentedHardware): HardwareCost {
  const op = 'cost.hardware';
  const positive = (name: string, value: number): number => {
    checkNumber(op, name, value, 0);
    if (value > 0) return value;
    throw new AttributeError({ op, argument: name, expected: 'a number above 0', actual: String(value) });
  };
  const utilization = positive('utilization', machine.utilization ?? defaults.utilization.value);
  checkNumber(op, 'utilization', utilization, 0, 1);
  if ('hourly' in machine) {
    checkKeys(op, machine, ['hourly', 'utilization']);
    const rent = checkNumber(op, 'hourly', machine.hourly, 0) / utilization;
    return {
      perBusyHour: rent,
      parts: { capital: 0, power: 0, rent },
      assumptions: { hourly: machine.hourly, utilization },
    };
  }
  checkKeys(op, machine, ['price', 'watts', 'idleWatts', 'lifeYears', 'utilization', 'tariff', 'pue']);
  const price = checkNumber(op, 'price', machine.price, 0);
  const watts = checkNumber(op, 'watts', machine.watts, 0);
  const idleWatts = checkNumber(op, 'idleWatts', machine.idleWatts ?? 0, 0);
  const lifeYears = positive('lifeYears', machine.lifeYears ?? defaults.lifeYears.value);
  const tariff = checkNumber(op, 'tariff', machine.tariff ?? defaults.tariff.value, 0);
  const pue = checkNumber(op, 'pue', machine.pue ?? defaults.pue.value, 1);
  const capital = price / (lifeYears * HOURS_A_YEAR * utilization);
  const idleHours = (1 - utilization) / utilization; // for each busy one
  const power = ((watts + idleWatts * idleHours) / 1000) * pue * tariff;
  return {
    perBusyHour: capital + power,
    parts: { capital, power, rent: 0 },
    assumptions: { price, watts, idleWatts, lifeYears, utilization, tariff, pue },
  };
}
