import type { Module } from './module.js';

/** @internal Runs `body` with a model in evaluation mode, and puts each module's mode back. */
export function inEvaluation<T>(model: Module, body: () => T): T {
  const modes = [...model.namedModules()].map(([, module]) => [module, module.training] as const);
  model.eval();
  try {
    return body();
  } finally {
    for (const [module, training] of modes) module.training = training;
  }
}
