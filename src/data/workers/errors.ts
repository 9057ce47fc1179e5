/** Errors across threads: structured cloning keeps neither their class nor their fields. */
import * as errors from '../../errors.js';

/** An error as it travels. */
export interface SentError {
  readonly name: string;
  readonly message: string;
  readonly stack: string | undefined;
  readonly fields?: errors.ErrorFields;
}

/** @internal */
export function sendError(error: unknown): SentError {
  const { name, message, stack } = error instanceof Error ? error : new Error(String(error));
  if (!(error instanceof errors.OmniError)) return { name, message, stack };
  const { op, argument, expected, actual } = error;
  return { name, message, stack, fields: { op, argument, expected, actual } };
}

/** @internal The error again: of its own class if it is one of this library's, else a StateError that quotes it. */
export function receiveError(sent: SentError): Error {
  const type = (errors as unknown as Record<string, new (fields: errors.ErrorFields) => errors.OmniError>)[sent.name];
  if (sent.fields === undefined || type === undefined) {
    const cause = Object.assign(new Error(sent.message), { name: sent.name, stack: sent.stack });
    const actual = `${sent.name}: ${sent.message}`;
    return new errors.StateError({ op: 'worker', expected: 'a task that succeeds', actual, cause });
  }
  const error = new type(sent.fields);
  error.message = sent.message; // with its hint
  if (sent.stack !== undefined) error.stack = sent.stack;
  return error;
}
