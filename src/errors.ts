/**
 * Everything omnigrad throws. Each error has a stable `code` for programs and one sentence form for people:
 * `[op] argument: expected X, got Y. Way out`.
 *
 * @module
 */

/** What an error knows about its cause, besides the sentence. */
export interface ErrorFields {
  /** Operation or function that refused. */
  readonly op: string;
  /** Argument at fault, if it is one. */
  readonly argument?: string | undefined;
  readonly expected: string;
  readonly actual: string;
  /** What to do about it, as a sentence without the final period. */
  readonly hint?: string | undefined;
  readonly cause?: unknown;
}

/** Base class of all errors of this library. */
export class OmniError extends Error {
  readonly code: string;
  readonly op: string;
  readonly argument: string | undefined;
  readonly expected: string;
  readonly actual: string;

  constructor(code: string, fields: ErrorFields) {
    const where = fields.argument === undefined ? `[${fields.op}]` : `[${fields.op}] ${fields.argument}:`;
    const hint = fields.hint === undefined ? '' : ` ${fields.hint}.`;
    super(
      `${where} expected ${fields.expected}, got ${fields.actual}.${hint}`,
      fields.cause === undefined ? undefined : { cause: fields.cause },
    );
    this.name = new.target.name;
    this.code = code;
    this.op = fields.op;
    this.argument = fields.argument;
    this.expected = fields.expected;
    this.actual = fields.actual;
  }
}

/** Shapes, axes or ranks that do not fit. Code `OG_SHAPE`. */
export class ShapeError extends OmniError {
  constructor(fields: ErrorFields) {
    super('OG_SHAPE', fields);
  }
}

/** An element type that the operation does not take. Code `OG_DTYPE`. */
export class DTypeError extends OmniError {
  constructor(fields: ErrorFields) {
    super('OG_DTYPE', fields);
  }
}

/** Operands on different devices, or a device that is not there. Code `OG_DEVICE`. */
export class DeviceError extends OmniError {
  constructor(fields: ErrorFields) {
    super('OG_DEVICE', fields);
  }
}

/** An option or argument value outside its domain. Code `OG_ATTRIBUTE`. */
export class AttributeError extends OmniError {
  constructor(fields: ErrorFields) {
    super('OG_ATTRIBUTE', fields);
  }
}

/** A call that is right elsewhere but not now: a disposed tensor, a graph walked twice. Code `OG_STATE`. */
export class StateError extends OmniError {
  constructor(fields: ErrorFields) {
    super('OG_STATE', fields);
  }
}

/** The native library failed or could not be loaded. Code `OG_BACKEND`. */
export class BackendError extends OmniError {
  constructor(fields: ErrorFields) {
    super('OG_BACKEND', fields);
  }
}

/** A file that is not what it claims to be. Code `OG_FORMAT`. */
export class FormatError extends OmniError {
  constructor(fields: ErrorFields) {
    super('OG_FORMAT', fields);
  }
}

/** Memory or another resource could not be had. Code `OG_RESOURCE`. */
export class ResourceError extends OmniError {
  constructor(fields: ErrorFields) {
    super('OG_RESOURCE', fields);
  }
}
