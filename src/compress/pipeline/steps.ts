/**
 * The steps that there are.
 *
 * @module
 */
import './prune_steps.js';
import './quantize_step.js';
import './train_steps.js';
