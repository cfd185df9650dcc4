// SPDX-License-Identifier: GPL-2.0-only
/**
 * What Bochs 2.7 does otherwise than the manual, as far as the corpus meets it: lines of a program that are not compared,
 * each with the reason. What the corpus leaves out for the same cause is in LEFT_OUT, for the documentation.
 */

/** Lines of one program on which Bochs is not believed. */
export interface BochsFault {
  /** The program's name. */
  readonly program: string;
  /** Matches our line. */
  readonly line: RegExp;
  /** What Bochs does, and the section of the manual that says otherwise. */
  readonly reason: string;
}

export const BOCHS_FAULTS: readonly BochsFault[] = [
  {
    program: 'vmx_errors',
    line: /^invvpid_type_high:/,
    reason: 'takes bits 31:0 of the type; SDM, "INVVPID": the register operand has 64 bits in 64-bit mode',
  },
  {
    program: 'vmx_exits',
    line: /^rep_outsb_zero:/,
    reason: 'exits though RCX is 0; SDM, "REP": the string instruction is then not executed',
  },
  {
    program: 'vmx_exits',
    line: /^rdrand16:/,
    reason:
      'says 32 bits; SDM, "Format of the VM-Exit Instruction-Information Field as Used for RDRAND": bits 12:11 are 0',
  },
  {
    program: 'vmx_ept',
    line: /_ept_table_r_accessed_clear:/,
    reason:
      'sets an accessed flag in a table that EPT makes read-only; SDM, "EPT Violations": such a write is a violation',
  },
  {
    program: 'vmx_ept',
    line: /^read_ept_table_rx?_ad:/,
    reason:
      'clears bit 0 of the qualification; SDM, "Exit Qualification for EPT Violations": with accessed and dirty flags, ' +
      'accesses to paging structures set bits 0 and 1',
  },
  {
    program: 'vmx_controls',
    line: /^timer_0_if_mov_ss:/,
    reason:
      'lets one instruction go first; SDM, "VMX-Preemption Timer": a timer that expires during VM entry exits before ' +
      'execution of any instruction',
  },
  {
    program: 'vmx_state',
    line: /^ {2}index below 511 1, data logged 1, offset 0$/,
    reason: 'logs bits 11:0 of the address; SDM, "Page-Modification Logging": they are 0',
  },
  {
    program: 'vmx_controls',
    line: /^interrupt_exits_if_clear:/,
    reason: 'lets RFLAGS.IF hold an external interrupt that exits; SDM, "Event Blocking": it does not',
  },
  {
    program: 'vmx_controls',
    line: /^interrupt_exits_hlt:/,
    reason:
      'saves the active state; SDM, "Architectural State Before a VM Exit": the return to it comes after the exit',
  },
  {
    program: 'vmx_ept',
    line: /^large_(2m|1g)_reserved_bit_12:/,
    reason:
      'allows bit 12 of an entry for a large page, as if it were PAT; SDM, "Format of an EPT Page-Directory Entry That ' +
      'Maps a 2-MByte Page": it is reserved',
  },
];

/** Known faults that no program of the corpus shows. */
export const LEFT_OUT: readonly string[] = [
  'CALL to a non-canonical address stores the return address before the general-protection fault; SDM, "CALL", checks first',
  'ENTER stores the saved frame pointer before the page fault of its new stack; SDM, "ENTER", faults without a trace',
  'VMCALL in root operation with a current VMCS ends the emulator; SDM, "VMCALL", gives VM-instruction error 1',
  'an instruction fetch from the APIC-access page ends the emulator; SDM, "APIC-Access VM Exits"',
  'a virtual interrupt does not wake L2 from the HLT state; SDM, "Virtual-Interrupt Delivery"',
  'the interrupt-window exit does not come in the HLT state; SDM, "Activity State"',
  'an injected MTF VM exit ends the emulator; its CPU model has no monitor trap flag',
  'a pending debug exception does not wake L2 from the HLT state; SDM, "Activity State"',
  'a self-IPI with NMI delivery is lost',
  'IA32_PERF_GLOBAL_CTRL is not loaded from the host-state area',
  'TSC values that MSR areas store and load are off by what the exit takes',
  'IA32_VMX_VMCS_ENUM names no highest index',
];

/** The reason why a line is not compared, or undefined. */
export function bochsFaultOf(program: string, line: string): string | undefined {
  return BOCHS_FAULTS.find((fault) => fault.program === program && fault.line.test(line))?.reason;
}
