// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1 of the nested fuzzer: it enters VMX operation, makes one valid VMCS, and then executes VMPTRLD and VMLAUNCH of
 * whatever the host half wrote into that VMCS. What happened is left in a record and announced on a port.
 */
import { VMCS_HOST } from '../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';
import {
  array,
  type GuestCode,
  guestFn,
  guestGlobal,
  outb,
  ptr,
  u64,
  type Operand,
} from '../../lib/guest/index.ts';
import { load_vmcs, prepare_for_vmx_operation } from '../../lib/guest/vmx.ts';
import { vm_instruction_error, vmptrld, vmreadz, vmwrite, VMX_INSN } from '../../lib/guest/vmx_insns.ts';
import { VmxPages } from '../../lib/guest/vmx_pages.ts';
import { prepare_vmcs } from '../../lib/guest/vmx_vmcs.ts';

/** The port on which L1 says that its record is complete. */
export const FUZZ_PORT = 0x99;

/** First word of the record. */
// prettier-ignore
export const FUZZ_RECORD = { READY: 1n, VMPTRLD: 2n, VMLAUNCH: 3n, EXIT: 4n } as const;

export const fuzz_record = guestGlobal('fuzz_record', array(u64, 4));
const l1_exit_stack = guestGlobal('fuzz_l1_exit_stack', array(u64, 512));
const l2_stack = guestGlobal('fuzz_l2_stack', array(u64, 512));

function report(g: GuestCode, kind: bigint, a: Operand, b: Operand): void {
  g.set(fuzz_record.at(0), kind);
  g.set(fuzz_record.at(1), a);
  g.set(fuzz_record.at(2), b);
  outb(g, 0, FUZZ_PORT);
}

/** L2 exited: HOST_RIP. */
const fuzz_l1_exit = guestFn('fuzz_l1_exit', [], (g) => {
  g.loop(() =>
    report(
      g,
      FUZZ_RECORD.EXIT,
      vmreadz(g, VMCS_INFO.VM_EXIT_REASON),
      vmreadz(g, VMCS_INFO.EXIT_QUALIFICATION),
    ),
  );
});

/** L1, with its struct vmx_pages and the place of L2's code. */
export const fuzz_l1 = guestFn('fuzz_l1', [ptr(VmxPages), u64], (g, vmx, l2) => {
  prepare_for_vmx_operation(g, vmx);
  load_vmcs(g, vmx);
  prepare_vmcs(g, vmx, l2.cast(ptr()), l2_stack.at(256).addr());
  vmwrite(g, VMCS_HOST.RIP, fuzz_l1_exit);
  // As after a CALL: the stack pointer is 8 off a multiple of 16.
  vmwrite(g, VMCS_HOST.RSP, l1_exit_stack.at(511).addr());
  report(g, FUZZ_RECORD.READY, 0, 0);
  g.loop(() => {
    const loaded = vmptrld(g, vmx.f.vmcs_gpa);
    g.if(loaded, () => report(g, FUZZ_RECORD.VMPTRLD, loaded, vm_instruction_error(g)));
    const status = VMX_INSN(g, { emit: (a) => a.emit('vmlaunch') });
    report(g, FUZZ_RECORD.VMLAUNCH, status, vm_instruction_error(g));
  });
});
