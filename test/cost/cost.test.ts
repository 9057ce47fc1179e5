/** Dollars a million tokens: by hand, from both ways to have a machine. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { defaults, hardware, perMillionTokens } from '../../src/cost/index.js';

const near = (a: number, b: number): void => assert.ok(Math.abs(a / b - 1) < 1e-12, `${a} is not ${b}`);

test('a machine of one’s own: what it costs to have, over the busy hours, and its power', () => {
  const cost = hardware({ price: 1800, lifeYears: 4, watts: 120, utilization: 0.5, tariff: 0.2, pue: 1 });
  near(cost.parts.capital, 1800 / (4 * 365.25 * 24 * 0.5));
  near(cost.parts.power, 0.12 * 0.2);
  near(cost.perBusyHour, cost.parts.capital + cost.parts.power);
  const idle = hardware({ price: 0, watts: 100, idleWatts: 40, utilization: 0.25, tariff: 0.1, pue: 1.5 });
  near(idle.perBusyHour, (0.1 + 0.04 * 3) * 1.5 * 0.1); // three idle hours for each busy one
});

test('a rented machine, and tokens', () => {
  const machine = hardware({ hourly: 0.36, utilization: 0.5 });
  near(machine.perBusyHour, 0.72);
  const { input, output } = perMillionTokens({ prefill: 1000, decode: 50 }, machine);
  near(input!, 0.2);
  near(output!, 4);
  assert.deepEqual(perMillionTokens({ decode: 50 }, machine).input, null);
});

test('defaults are filled in, reported, and have sources with dates', () => {
  const { assumptions } = hardware({ price: 1000, watts: 100 });
  assert.deepEqual(assumptions, {
    price: 1000,
    watts: 100,
    idleWatts: 0,
    lifeYears: defaults.lifeYears.value,
    utilization: defaults.utilization.value,
    tariff: defaults.tariff.value,
    pue: defaults.pue.value,
  });
  for (const { source, date } of Object.values(defaults)) {
    assert.ok(source.length > 10);
    assert.match(date, /^\d{4}-\d{2}-\d{2}$/);
  }
});

test('numbers that cannot be are refused by name', () => {
  assert.throws(() => hardware({ price: -1, watts: 1 }), /price/);
  assert.throws(() => hardware({ price: 1, watts: NaN }), /watts/);
  assert.throws(() => hardware({ price: 1, watts: 1, utilization: 0 }), /utilization/);
  assert.throws(() => hardware({ price: 1, watts: 1, utilization: 1.5 }), /utilization/);
  assert.throws(() => hardware({ price: 1, watts: 1, pue: 0.9 }), /pue/);
  assert.throws(() => hardware({ price: 1, watts: 1, lifeYear: 3 } as never), /lifeYears/);
  assert.throws(() => perMillionTokens({ decode: 0 }, hardware({ hourly: 1 })), /decode/);
  assert.throws(() => perMillionTokens({}, hardware({ hourly: 1 })), /neither/);
});
