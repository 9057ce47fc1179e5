/**
 * Learning-rate schedules: `og.schedules`.
 *
 * @module
 */
export * from './plateau.js';
export * from './schedule.js';
export * from './schedule_compose.js';
