// SPDX-License-Identifier: GPL-2.0-only
/** Globals of the guest image, by symbol: sync_global_to_guest() and sync_global_from_guest() of kvm_util.h. */
import type { KvmVm } from './kvm_util.ts';
import { TEST_FAIL } from './test_util.ts';
import { readGuest, writeGuest } from './x86/page_table.ts';

/** Eight bytes, low first. */
export function u64Bytes(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  return bytes;
}

/** Write a global of the image: sync_global_to_guest(). Eight bytes unless `size` says otherwise. */
export function writeGuestGlobal(vm: KvmVm, symbol: string, value: bigint, size = 8): void {
  writeGuest(vm, symbolAddress(vm, symbol), u64Bytes(value).subarray(0, size));
}

/** Read a global of the image: sync_global_from_guest(). */
export function readGuestGlobal(vm: KvmVm, symbol: string, size = 8): bigint {
  const bytes = new Uint8Array(8);
  bytes.set(readGuest(vm, symbolAddress(vm, symbol), size));
  return new DataView(bytes.buffer).getBigUint64(0, true);
}

/** The guest virtual address of a symbol; fails the test if the image has none of that name. */
export function symbolAddress(vm: KvmVm, symbol: string): bigint {
  return vm.symbols.get(symbol) ?? TEST_FAIL(`the guest image has no symbol '${symbol}'`);
}
