// SPDX-License-Identifier: GPL-2.0-only
/**
 * One line for a VM entry: VMfail with its number, or the VM exit with all that the SDM defines for its reason ("Recording
 * VM-Exit Information and Updating VM-entry Control Fields"): what is undefined there is not printed.
 */
import {
  array,
  type Expr,
  type GuestCode,
  guestFn,
  guestGlobal,
  lit,
  type Operand,
  type Place,
  ptr,
  s32,
  str,
  u32,
  u64,
  u8,
  vm_instruction_error,
  vmreadz,
  vmx_l2_regs,
  VMX_STATUS,
} from '../../../lib/guest/index.ts';
import type { IntType } from '../../../lib/guest/index.ts';
import { EPT_VIOLATION, INSN_INFO, IO_QUAL } from '../../../lib/x86/vmx/exit_quals.ts';
import { EXIT_REASON } from '../../../lib/x86/vmx/exit_reasons.ts';
import { INTR_INFO, INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';
import { e9_printf, e9_puts } from '../e9.ts';
import { pageVa, vx_place } from './areas.ts';
import { l2_event, L2_STACK_TOP, l2_vectors } from './l2_idt.ts';

const R = EXIT_REASON;
const REASONS = 80;

/** Reasons whose exits are due to an instruction, and so have a length. */
const WITH_LENGTH: readonly number[] = [
  ...[R.TASK_SWITCH, R.CPUID, R.GETSEC, R.HLT, R.INVD, R.INVLPG, R.RDPMC, R.RDTSC, R.VMCALL, R.VMCLEAR],
  ...[R.VMLAUNCH, R.VMPTRLD, R.VMPTRST, R.VMREAD, R.VMRESUME, R.VMWRITE, R.VMOFF, R.VMON, R.CR_ACCESS],
  ...[R.DR_ACCESS, R.IO_INSTRUCTION, R.MSR_READ, R.MSR_WRITE, R.MWAIT_INSTRUCTION, R.MONITOR_INSTRUCTION],
  ...[R.PAUSE_INSTRUCTION, R.GDTR_IDTR, R.LDTR_TR, R.INVEPT, R.RDTSCP, R.INVVPID, R.WBINVD, R.XSETBV],
  ...[R.RDRAND, R.INVPCID, R.VMFUNC, R.RDSEED],
];

const I = INSN_INFO;
/** The bits of the instruction information that describe a memory operand. */
const MEMORY = (3 | (7 << I.ADDR_SIZE_SHIFT) | (7 << I.SEG_SHIFT) | (0xf << I.INDEX_SHIFT) | I.INDEX_INVALID |
  (0xf << I.BASE_SHIFT) | I.BASE_INVALID) >>> 0; // prettier-ignore
const REG1 = 0xf << I.REG1_SHIFT;
const REG2 = (0xf << I.REG2_SHIFT) >>> 0;
const IDENTITY = 3 << I.IDENTITY_SHIFT;
const POINTER = MEMORY | I.REG_OPERAND;

/** Defined bits of the instruction information by reason. SDM, "Information for VM Exits Due to Instruction Execution". */
const INFO_BITS: readonly (readonly [reason: number, bits: number])[] = [
  ...[R.VMCLEAR, R.VMPTRLD, R.VMPTRST, R.VMON].map((reason) => [reason, POINTER] as const),
  ...[R.INVEPT, R.INVPCID, R.INVVPID].map((reason) => [reason, (POINTER | REG2) >>> 0] as const),
  ...[R.VMREAD, R.VMWRITE].map((reason) => [reason, (POINTER | REG1 | REG2) >>> 0] as const),
  [R.GDTR_IDTR, POINTER | IDENTITY],
  [R.LDTR_TR, POINTER | REG1 | IDENTITY],
  [R.RDRAND, REG1 | (3 << I.OPERAND_SIZE_SHIFT)],
  [R.RDSEED, REG1 | (3 << I.OPERAND_SIZE_SHIFT)],
];

const table = (rows: readonly (readonly [number, number])[]): number[] => {
  const values = new Array<number>(REASONS).fill(0);
  for (const [reason, value] of rows) values[reason] = value;
  return values;
};

const info_bits = guestGlobal('vx_info_bits', array(u32, REASONS), table(INFO_BITS));
const has_length = guestGlobal(
  'vx_has_length',
  array(u8, REASONS),
  table(WITH_LENGTH.map((reason) => [reason, 1] as const)),
);

/** The instruction information without the bits that are undefined for this operand. */
const insn_info = guestFn('vx_insn_info', [u64], u64, (g, reason) => {
  const bits = g.let(info_bits.at(reason).cast(u64));
  const info = g.local(u64, vmreadz(g, VMCS_INFO.VMX_INSTRUCTION_INFO).and(bits));
  g.if(bits.and(I.REG_OPERAND).eq(0), () => g.return(info));
  g.if(info.and(I.REG_OPERAND), () => g.return(info.and(~BigInt(MEMORY))));
  g.set(info, info.and(~BigInt(REG1)));
  g.if(info.and(I.INDEX_INVALID), () => g.set(info, info.and(~BigInt((0xf << I.INDEX_SHIFT) | 3))));
  g.if(info.and(I.BASE_INVALID), () => g.set(info, info.and(~BigInt(0xf << I.BASE_SHIFT))));
  g.return(info);
});

/** ` name=value` if the value is not 0. */
const say = guestFn('vx_say', [ptr(u8), u64], (g, name, value) => {
  g.if(value.ne(0), () => e9_printf(g, ' %s=%lx', name, value));
});

const sayField = (g: GuestCode, name: string, field: number): void => say(g, str(name), vmreadz(g, field));

const sayPlace = (g: GuestCode, name: string, field: number): void =>
  vx_place(g, str(name), vmreadz(g, field));

/** Whether an event is due to an instruction, and the exit therefore has a length. */
const isSoftware = (info: Place<IntType>): Expr =>
  info.and(INTR_INFO.VALID_MASK).ne(0).land(info.and(INTR_INFO.TYPE_MASK).ge(INTR_TYPE.SOFT_INTR));

/** An event's information and error code. */
const say_event = guestFn('vx_say_event', [ptr(u8), u64, u64], (g, name, info, error) => {
  g.if(info.and(INTR_INFO.VALID_MASK).eq(0), () => g.return());
  e9_printf(g, ' %s=%lx', name, info);
  g.if(info.and(INTR_INFO.DELIVER_CODE_MASK), () => e9_printf(g, ':%lx', error));
});

/** What only some reasons have: operand of string I/O, addresses of EPT exits. */
function sayAddresses(g: GuestCode, reason: Expr, qual: Place<IntType>): void {
  g.if(reason.eq(R.IO_INSTRUCTION).land(qual.and(IO_QUAL.STRING).ne(0)), () => {
    const info = g.local(
      u64,
      vmreadz(g, VMCS_INFO.VMX_INSTRUCTION_INFO).and((7 << I.ADDR_SIZE_SHIFT) | (7 << I.SEG_SHIFT)),
    );
    // The segment of INS is always ES.
    g.if(qual.and(IO_QUAL.IN), () => g.set(info, info.and(7 << I.ADDR_SIZE_SHIFT)));
    e9_printf(g, ' info=%lx', info);
    sayPlace(g, 'gla', VMCS_INFO.GUEST_LINEAR_ADDRESS);
  });
  g.if(reason.eq(R.EPT_VIOLATION).lor(reason.eq(R.EPT_MISCONFIG)), () =>
    sayPlace(g, 'gpa', VMCS_INFO.GUEST_PHYSICAL_ADDRESS),
  );
  g.if(reason.eq(R.EPT_VIOLATION).land(qual.and(EPT_VIOLATION.GVA_IS_VALID).ne(0)), () =>
    sayPlace(g, 'gla', VMCS_INFO.GUEST_LINEAR_ADDRESS),
  );
}

/** Where L2 was: its RIP, or the event that its IDT has taken it to. */
function sayRip(g: GuestCode, start: Operand): void {
  const rip = vmreadz(g, VMCS_GUEST.RIP);
  g.if(
    rip.eq(lit(l2_event).cast(u64)),
    () => {
      const rsp = vmreadz(g, VMCS_GUEST.RSP);
      const depth = g.let(pageVa('stack').add(L2_STACK_TOP).sub(rsp));
      const frame = g.local(ptr(u64), rsp.cast(ptr(u64)));
      e9_printf(g, ' event %lx depth=%lx', vmx_l2_regs.f.rax, depth);
      // With an error code, the frame has six quadwords.
      g.if(depth.and(0xf).eq(0), () => {
        e9_printf(g, ' err=%lx', frame.deref());
        g.inc(frame);
      });
      sayCode(g, 'at', frame.deref(), start);
      e9_printf(g, ' flags=%lx', frame.at(2));
    },
    () => sayCode(g, 'rip', rip, start),
  );
}

/** An address of L2's code from its beginning; others by their page. */
function sayCode(g: GuestCode, name: string, address: Expr, start: Operand): void {
  const offset = g.let(address.sub(start));
  const stub = g.let(address.sub(lit(l2_vectors).cast(u64)));
  g.if(offset.lt(0x1000), () => e9_printf(g, ` ${name}=%lx`, offset));
  g.if(offset.ge(0x1000).land(stub.lt(0x2000)), () => e9_printf(g, ` ${name}=stubs+%lx`, stub));
  g.if(offset.ge(0x1000).land(stub.ge(0x2000)), () => vx_place(g, str(name), address));
}

/** The VM exit that has just happened; `start` is where L2's code begins. */
const report_exit = guestFn('vx_report_exit', [u64], (g, start) => {
  const full = g.let(vmreadz(g, VMCS_INFO.VM_EXIT_REASON));
  const reason = g.let(full.and(0xff));
  const qual = g.let(vmreadz(g, VMCS_INFO.EXIT_QUALIFICATION));
  e9_printf(g, ' exit %lx', full);
  say(g, str('q'), qual);
  // An entry that failed has no more: the rest keeps its values.
  g.if(full.and(0x8000_0000), () => g.return());
  const info = g.let(vmreadz(g, VMCS_INFO.VM_EXIT_INTR_INFO));
  const idt = g.let(vmreadz(g, VMCS_INFO.IDT_VECTORING_INFO_FIELD));
  say_event(g, str('intr'), info, vmreadz(g, VMCS_INFO.VM_EXIT_INTR_ERROR_CODE));
  say_event(g, str('idt'), idt, vmreadz(g, VMCS_INFO.IDT_VECTORING_ERROR_CODE));
  g.if(has_length.at(reason).ne(0).lor(isSoftware(info)).lor(isSoftware(idt)), () =>
    sayField(g, 'len', VMCS_INFO.VM_EXIT_INSTRUCTION_LEN),
  );
  g.if(info_bits.at(reason).ne(0), () => e9_printf(g, ' info=%lx', insn_info(g, reason)));
  sayAddresses(g, reason, qual);
  sayRip(g, start);
  sayField(g, 'int', VMCS_GUEST.INTERRUPTIBILITY_INFO);
  sayField(g, 'act', VMCS_GUEST.ACTIVITY_STATE);
  sayField(g, 'dbg', VMCS_GUEST.PENDING_DBG_EXCEPTIONS);
});

/** How VMLAUNCH or VMRESUME ended, without the end of the line. */
export const vx_report = guestFn('vx_report', [ptr(u8), s32, u64], (g, name, status, start) => {
  e9_printf(g, '%s:', name);
  g.if(status.eq(VMX_STATUS.SUCCEED), () => {
    report_exit(g, start);
    g.return();
  });
  g.if(
    status.eq(VMX_STATUS.FAIL_INVALID),
    () => e9_puts(g, str(' VMfailInvalid')),
    () => e9_printf(g, ' VMfailValid %ld', vm_instruction_error(g)),
  );
});

/** ` text=value`, also if it is 0. */
export const vx_show = (g: GuestCode, text: string, value: Operand): void =>
  e9_printf(g, ` ${text}=%lx`, lit(value).cast(u64));

/** Ends a line. */
export const vx_line = (g: GuestCode): void => e9_puts(g, str('\n'));
