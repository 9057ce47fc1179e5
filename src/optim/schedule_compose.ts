/**
 * Schedules made of schedules.
 *
 * @module
 */
import { AttributeError, StateError } from '../errors.js';
import { checkInteger } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { isObserving, type ObservingSchedule, type ScheduleState } from './plateau.js';
import type { Schedule } from './schedule.js';

function checkSchedules(op: string, schedules: readonly Schedule[]): void {
  const wrong = schedules.findIndex((schedule) => typeof schedule !== 'function');
  if (schedules.length > 0 && wrong < 0) return;
  const actual = wrong < 0 ? 'none' : formatValue(schedules[wrong]);
  throw new AttributeError({ op, argument: 'schedules', expected: 'schedules, at least one', actual });
}

/**
 * Schedules one after the other, the i-th from `starts[i]` on, each counting its own steps, of which there are as many as until
 * the next start. `starts[0]` must be 0 (torch's SequentialLR leaves it out).
 *
 * @throws AttributeError unless there is one start a schedule, rising from 0, and for `reduceOnPlateau`, which belongs into `chain`
 */
export function sequence(schedules: readonly Schedule[], starts: readonly number[]): Schedule {
  checkSchedules('sequence', schedules);
  const rising = Array.isArray(starts) && starts.every((start, i) => i === 0 || start > starts[i - 1]!);
  if (!rising || schedules.length !== starts.length || starts[0] !== 0) {
    throw new AttributeError({
      op: 'sequence',
      argument: 'starts',
      expected: 'one start a schedule, rising from 0',
      actual: formatValue(starts),
    });
  }
  for (const start of starts) checkInteger('sequence', 'starts', start, 0);
  if (schedules.some(isObserving)) {
    throw new AttributeError({
      op: 'sequence',
      argument: 'schedules',
      expected: 'schedules of the step alone',
      actual: 'one that observes the loss',
      hint: 'Use chain to multiply it with the others',
    });
  }
  return (step, total) => {
    const i = starts.findLastIndex((start) => step >= start);
    const next = starts[i + 1] ?? total;
    return schedules[i]!(step - starts[i]!, next - starts[i]!);
  };
}

/**
 * The product of the factors of several schedules (torch's ChainedScheduler). What is observed, each part that observes is told.
 *
 * @throws AttributeError unless there is at least one schedule
 */
export function chain(...schedules: readonly [ObservingSchedule, ...Schedule[]]): ObservingSchedule;
export function chain(...schedules: readonly Schedule[]): Schedule;
export function chain(...schedules: readonly Schedule[]): Schedule {
  checkSchedules('chain', schedules);
  const product: Schedule = (step, total) => schedules.reduce((factor, schedule) => factor * schedule(step, total), 1);
  if (!schedules.some(isObserving)) return product;
  const observing = schedules.map((schedule) => (isObserving(schedule) ? schedule : null));
  return Object.assign(product, {
    observe: (metric: number): void => observing.forEach((part) => part?.observe(metric)),
    stateDict: (): ScheduleState => observing.map((part) => part?.stateDict() ?? null),
    loadStateDict: (state: ScheduleState): void => {
      const fits = Array.isArray(state) && state.length === observing.length;
      if (!fits || !observing.every((part, i) => (part === null) === (state[i] === null))) {
        throw new StateError({
          op: 'chain',
          argument: 'state',
          expected: `states of ${observing.length} schedules`,
          actual: formatValue(state),
        });
      }
      observing.forEach((part, i) => part?.loadStateDict(state[i] as ScheduleState));
    },
  });
}
