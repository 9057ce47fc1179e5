/**
 * Weight decay towards the starting point.
 */
import type { Module } from '../../nn/module.js';
import { add, mul } from '../../ops/arithmetic.js';
import { scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkKeys, checkNumber } from '../../util/assert.js';
import { copyState, disposeState } from '../copies.js';
import { matcher, type Target } from '../../nn/surgery.js';
import { distanceTo, sizeSquared, trainedOf } from './anchor.js';

/** Options of {@link L2Sp}. */
export interface L2SpOptions {
  /** Weight of the distance to the start (α). Default 0.01. */
  readonly strength?: number;
  /** Parameters that the task brings along, by path: they decay towards zero. Default: none. */
  readonly fresh?: Target;
  /** Weight of their size (β). Default `strength`. */
  readonly freshStrength?: number;
}

/**
 * L²-SP: α/2 · ‖θ − θ⁰‖² over what trains, θ⁰ the values at the time of construction, and β/2 · ‖θ‖² over the layers that are new. For
 * `withPenalty`; set the optimiser's own weight decay to zero. Holds a copy of what trains: {@link dispose} frees it.
 *
 * @throws AttributeError if an option cannot be
 * @source Li et al. 2018, arXiv 1802.01483, eq. 3
 */
export class L2Sp {
  readonly strength: number;
  readonly freshStrength: number;
  private readonly anchors: Readonly<Record<string, Tensor>>;
  private readonly isFresh: (path: string) => boolean;

  constructor(model: Module, options: L2SpOptions = {}) {
    const op = 'L2Sp';
    checkKeys(op, options, ['strength', 'fresh', 'freshStrength']);
    this.strength = checkNumber(op, 'strength', options.strength ?? 0.01, 0, Number.MAX_VALUE);
    this.freshStrength = checkNumber(op, 'freshStrength', options.freshStrength ?? this.strength, 0, Number.MAX_VALUE);
    const matches = options.fresh === undefined ? (): boolean => false : matcher(op, 'fresh', options.fresh);
    // a name means the parameters of that module, too
    this.isFresh = (path) => path.split('.').some((_, i, parts) => matches(parts.slice(0, i + 1).join('.')));
    this.anchors = copyState(trainedOf(model).filter(([path]) => !this.isFresh(path)));
  }

  /** The penalty now, a scalar. @throws StateError if the model lacks a parameter that it was made of */
  value(model: Module): Tensor {
    return scope(() => {
      const drift = mul(
        distanceTo('L2Sp', model, this.anchors, () => null),
        this.strength / 2,
      );
      const fresh = trainedOf(model).flatMap(([path, tensor]) => (this.isFresh(path) ? [tensor] : []));
      return fresh.length === 0 ? drift : add(drift, mul(sizeSquared(fresh), this.freshStrength / 2));
    });
  }

  /** Frees the copy of the starting point. */
  dispose(): void {
    disposeState(this.anchors);
  }
}
