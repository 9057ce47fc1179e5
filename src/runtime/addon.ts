import { createRequire } from 'node:module';
import type { NativeAddon } from './native.js';

export const addon = createRequire(import.meta.url)('../../build/Release/omnigrad.node') as NativeAddon;
