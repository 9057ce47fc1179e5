/** The library in the form that users get: dist/ where it was built (`npm run bench` builds it). */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type * as Library from '../src/index.js';

export const distUrl = new URL('../dist/index.js', import.meta.url);
const built = existsSync(fileURLToPath(distUrl));

export const og = (await import(built ? distUrl.href : '../src/index.js')) as typeof Library;
