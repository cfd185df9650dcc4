// SPDX-License-Identifier: GPL-2.0-only
/**
 * Exception handlers of guest code: the IDT filled from the image's entry stubs, and vm_install_exception_handler(). After
 * lib/x86/processor.c of tools/testing/selftests/kvm.
 */
import { NUM_INTERRUPTS } from '../../guest/exceptions.ts';
import { KVM_UTIL_MIN_VADDR, type KvmVm } from '../kvm_util.ts';
import { TEST_ASSERT } from '../test_util.ts';
import { symbolAddress, writeGuestGlobal } from '../guest_global.ts';
import { readGuest, vmVaddrAlloc, writeGuest } from './page_table.ts';
import { KERNEL_CS } from './processor.ts';

/** A present 64-bit interrupt gate at DPL 0. SDM, "64-Bit IDT Gate Descriptors". */
function gate(view: DataView, at: number, handler: bigint): void {
  view.setUint16(at, Number(handler & 0xffffn), true);
  view.setUint16(at + 2, KERNEL_CS, true);
  view.setUint16(at + 4, 0x8e00, true);
  view.setUint16(at + 6, Number((handler >> 16n) & 0xffffn), true);
  view.setUint32(at + 8, Number((handler >> 32n) & 0xffff_ffffn), true);
}

/** vm_init_descriptor_tables(), the part about exceptions. */
export function vmInstallExceptionTables(vm: KvmVm): void {
  const stubs = new DataView(readGuest(vm, symbolAddress(vm, 'idt_handlers'), 8 * NUM_INTERRUPTS).buffer);
  const idt = new Uint8Array(16 * NUM_INTERRUPTS);
  const view = new DataView(idt.buffer);
  for (let vector = 0; vector < NUM_INTERRUPTS; vector++)
    gate(view, 16 * vector, stubs.getBigUint64(8 * vector, true));
  writeGuest(vm, vm.arch.idt, idt);
  writeGuestGlobal(vm, 'exception_handlers', vmVaddrAlloc(vm, 8 * NUM_INTERRUPTS, KVM_UTIL_MIN_VADDR));
}

/** vm_install_exception_handler(): `handler` is the name of a guest function in the image. */
export function vmInstallExceptionHandler(vm: KvmVm, vector: number, handler: string): void {
  TEST_ASSERT(vector >= 0 && vector < NUM_INTERRUPTS, `no interrupt vector ${vector}`);
  const table = new DataView(readGuest(vm, symbolAddress(vm, 'exception_handlers'), 8).buffer).getBigUint64(
    0,
    true,
  );
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, symbolAddress(vm, handler), true);
  writeGuest(vm, table + BigInt(8 * vector), bytes);
}
