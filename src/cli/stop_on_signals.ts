/** The statuses of shells for a program that a signal ended. */
const statuses = { SIGINT: 130, SIGTERM: 143 } as const;

/** The first signal asks for a stop at a good place, and sets the exit status; a second one ends the process. */
export function stopOnSignals(): AbortSignal {
  const stop = new AbortController();
  for (const [name, status] of Object.entries(statuses)) {
    process.on(name, () => {
      if (stop.signal.aborted) process.exit(status);
      process.exitCode = status;
      stop.abort();
    });
  }
  return stop.signal;
}
