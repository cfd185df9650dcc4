// SPDX-License-Identifier: GPL-2.0-only
/** L1, and L2's code that L1 writes, of nested_emulation_test. After x86/nested_emulation_test.c of the KVM selftests. */
import {
  __GUEST_ASSERT,
  array,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  type GuestCode,
  guestFn,
  guestGlobal,
  type GuestImage,
  linkGuest,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  u64,
  u8,
  vmcs_clear_bits,
  vmcs_set_bits,
  vmlaunch,
  vmreadz,
  vmresume,
  vmwrite,
  VmxPages,
} from '../../lib/guest/index.ts';
import { CPU_BASED } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';

interface EmulatedInstruction {
  readonly name: string;
  readonly opcode: readonly number[];
  readonly exit_reason: number;
}

const PAUSE: EmulatedInstruction = {
  name: 'pause',
  opcode: [0xf3, 0x90],
  exit_reason: EXIT_REASON.PAUSE_INSTRUCTION,
};
const HLT: EmulatedInstruction = { name: 'hlt', opcode: [0xf4], exit_reason: EXIT_REASON.HLT };

/** UD2 and "kvm". */
const KVM_FEP = [0x0f, 0x0b, 0x6b, 0x76, 0x6d] as const;
const MAX_OPCODE = 15;
const INT3 = 0xcc;
const VMCALL = [0x0f, 0x01, 0xc1] as const;
const L2_GUEST_STACK_SIZE = 64;

const l2_guest_code = guestGlobal('l2_guest_code', array(u8, KVM_FEP.length + MAX_OPCODE));
const l2_instruction = l2_guest_code.at(KVM_FEP.length).addr();

/** Writes L2's code: what is left of it ends in a triple fault, since L2 has no IDT. */
function writeCode(g: GuestCode, opcode: readonly number[]): void {
  const padding = new Array<number>(MAX_OPCODE - opcode.length).fill(INT3);
  [...KVM_FEP, ...opcode, ...padding].forEach((byte, i) => g.set(l2_guest_code.at(i), byte));
}

function expectExit(g: GuestCode, insn: EmulatedInstruction): void {
  const reason = vmreadz(g, VMCS_INFO.VM_EXIT_REASON);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.RIP), l2_instruction.cast(u64));
  const format = `Wanted exit_reason '0x%x' for '${insn.name}', got '0x%x'`;
  __GUEST_ASSERT(g, reason.eq(insn.exit_reason), format, insn.exit_reason, reason);
  const length = vmreadz(g, VMCS_INFO.VM_EXIT_INSTRUCTION_LEN);
  const wanted = `Wanted insn_len '%u' for '${insn.name}', got '%u'`;
  __GUEST_ASSERT(g, length.eq(insn.opcode.length), wanted, insn.opcode.length, length);
  vmwrite(g, VMCS_GUEST.RIP, l2_guest_code);
}

/** Added: PAUSE is not intercepted, and L2 goes on to a VMCALL. */
function pauseGoesOn(g: GuestCode): void {
  vmcs_clear_bits(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.PAUSE_EXITING);
  writeCode(g, [...PAUSE.opcode, ...VMCALL]);
  GUEST_ASSERT_EQ(g, vmresume(g), 0);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.VMCALL);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.RIP), l2_instruction.cast(u64).add(PAUSE.opcode.length));
}

const guest_code = guestFn('guest_code', [ptr(VmxPages)], (g, vmx) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
  GUEST_ASSERT(g, load_vmcs(g, vmx));
  prepare_vmcs(g, vmx, l2_guest_code, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  GUEST_ASSERT_EQ(g, vmwrite(g, VMCS_GUEST.IDTR_LIMIT, 0), 0);
  GUEST_ASSERT_EQ(g, vmwrite(g, VMCS_CTRL.EXCEPTION_BITMAP, 0), 0);
  const controls = CPU_BASED.PAUSE_EXITING | CPU_BASED.HLT_EXITING;
  vmcs_set_bits(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, controls);
  [PAUSE, HLT].forEach((insn, i) => {
    writeCode(g, insn.opcode);
    GUEST_ASSERT_EQ(g, i === 0 ? vmlaunch(g) : vmresume(g), 0);
    expectExit(g, insn);
  });
  pauseGoesOn(g);
  GUEST_DONE(g);
});

export const linkEmulation = (): GuestImage => linkGuest(guest_code);
