// SPDX-License-Identifier: GPL-2.0-only
/**
 * The machine's physical memory: one WebAssembly.Memory whose byte offsets are host physical addresses. Pages that
 * nobody touched cost nothing.
 */
import { BugError } from '../errors.ts';
import { RAM_BASE, RAM_LIMIT } from '../layout.ts';

const WASM_PAGE = 0x1_0000;

/** What is used of WebAssembly.Memory: the library files of the project's target do not declare it. */
export interface WasmMemory {
  readonly buffer: ArrayBuffer;
}
interface WasmNamespace {
  readonly Memory: new (descriptor: { initial: number; maximum: number }) => WasmMemory;
}

/** Views are plain typed arrays so that hot code indexes them without a call. */
export class PhysMem {
  readonly memory: WasmMemory;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly i32: Int32Array;
  readonly u64: BigUint64Array;
  readonly view: DataView;
  /** Exclusive end of RAM in bytes; addresses from here on are devices or nothing. */
  readonly size: number;

  /**
   * `ramBytes`: RAM above the firmware-reserved area, rounded up to 64 KiB. `behindBytes`: machine state that lies
   * behind RAM, where no physical address leads to.
   */
  constructor(ramBytes: number, behindBytes = 0) {
    const size = RAM_BASE + Math.ceil(ramBytes / WASM_PAGE) * WASM_PAGE;
    if (!(ramBytes > 0) || size > RAM_LIMIT) throw new BugError(`RAM of ${ramBytes} bytes is out of range`);
    const pages = (size + behindBytes) / WASM_PAGE;
    const { Memory } = (globalThis as unknown as { WebAssembly: WasmNamespace }).WebAssembly;
    this.memory = new Memory({ initial: pages, maximum: pages });
    const buffer = this.memory.buffer;
    this.size = size;
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.i32 = new Int32Array(buffer);
    this.u64 = new BigUint64Array(buffer);
    this.view = new DataView(buffer);
  }
}
