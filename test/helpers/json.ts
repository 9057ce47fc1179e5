/** JSON files of the repository. */
import { read } from './source_tree.js';

export const readJson = (file: string): unknown => JSON.parse(read(file));
