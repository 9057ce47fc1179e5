/** The loaded addon. Importing this file loads it; src/runtime/load.ts says from where. */
import { loadAddon } from './load.js';

export const addon = loadAddon();
