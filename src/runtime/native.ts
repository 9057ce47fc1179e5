/** What the addon offers (native/binding/addon.cc). Nothing above src/runtime/ sees it. */
export interface NativeAddon {
  attach(ring: Float64Array, control: Int32Array, onReached: () => void): void;
  wake(): void;
  runInline(word: number): number | undefined;
  waitFor(sequence: number): void;
  holdOpen(hold: boolean): void;
  register(buffer: ArrayBufferLike | Uint8Array): number;
  release(handle: number): boolean;
  alignment(handle: number): number;
  mapFile(path: string): readonly [handle: number, bytes: number] | string;
  takeError(ofInline: boolean): NativeFailure | undefined;
  configure(options?: { threads?: number; isa?: string }): NativeConfiguration;
  kernels(): readonly KernelEntry[];
  shutdown(): void;
}

export interface NativeFailure {
  readonly code: number;
  readonly sequence: number;
  readonly kernel: string;
  readonly message: string;
}

export interface NativeConfiguration {
  readonly isas: readonly string[];
  readonly features: readonly string[];
  readonly isa: string;
  readonly threads: number;
  readonly hardwareThreads: number;
  readonly abi: number;
}

/** One line of native/kernels.def. */
export interface KernelEntry {
  readonly name: string;
  readonly inputs: number;
  readonly outputs: number;
  readonly attrs: number;
  /** Whether it may be a step of the kernel `chain`. */
  readonly elementwise: boolean;
}
