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
];

/** Known faults that no program of the corpus shows. */
export const LEFT_OUT: readonly string[] = [
  'CALL to a non-canonical address stores the return address before the general-protection fault; SDM, "CALL", checks first',
  'ENTER stores the saved frame pointer before the page fault of its new stack; SDM, "ENTER", faults without a trace',
  'VMCALL in root operation with a current VMCS ends the emulator; SDM, "VMCALL", gives VM-instruction error 1',
  'an instruction fetch from the APIC-access page ends the emulator; SDM, "APIC-Access VM Exits"',
  'a virtual interrupt does not wake L2 from the HLT state; SDM, "Virtual-Interrupt Delivery"',
  'a self-IPI with NMI delivery is lost',
  'IA32_PERF_GLOBAL_CTRL is not loaded from the host-state area',
  'TSC values that MSR areas store and load are off by what the exit takes',
  'IA32_VMX_VMCS_ENUM names no highest index',
];

/** The reason why a line is not compared, or undefined. */
export function bochsFaultOf(program: string, line: string): string | undefined {
  return BOCHS_FAULTS.find((fault) => fault.program === program && fault.line.test(line))?.reason;
}
