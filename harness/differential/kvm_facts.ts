// SPDX-License-Identifier: GPL-2.0-only
/**
 * What KVM does otherwise than the hardware that it shows to L1, and L0 therefore, too: lines of a program that are compared on
 * the bare machine only. Each with the place in the kernel, 6.12.
 */

/** Lines of one program on which L0 follows KVM. */
export interface KvmFact {
  readonly program: string;
  /** Matches L0's line, the whole of it, so that nothing else hides behind the row. */
  readonly line: RegExp;
  readonly reason: string;
}

export const KVM_FACTS: readonly KvmFact[] = [
  {
    program: 'vmx_errors',
    line: /^vmcall_no_vmcs: succeeds$/,
    reason: 'L1 has a hypervisor under it: its VMCALL is a hypercall, kvm_emulate_hypercall()',
  },
  {
    program: 'vmx_events',
    line: /^int1_then_gp: exit 0 intr=80000b0d:b idt=80000301 rip=1$/,
    reason: 'L0 intercepts DB and skips INT1, so that its DB is a hardware exception: handle_exception_nmi()',
  },
  {
    program: 'vmx_events',
    line: /^inject_nmi_then_gp: exit 0 intr=80000b0d:13 idt=80000202 rip=0$/,
    reason: 'an NMI whose delivery faulted does not leave NMIs blocked: __vmx_complete_interrupts()',
  },
  {
    program: 'vmx_events',
    line: /^inject_nmi_ept_idt: exit 30 q=181 idt=80000202 gpa=idt\+20 gla=idt\+20 rip=0$/,
    reason: 'the same',
  },
  {
    program: 'vmx_events',
    line: /^inject_int1_then_gp: exit 0 intr=80000b0d:b rip=0$/,
    reason:
      'a privileged software exception whose delivery an exit cut short is forgotten: __vmx_complete_interrupts()',
  },
  {
    program: 'vmx_events',
    line: /^inject_int1_ept_idt: exit 12 len=3 rip=10$/,
    reason: 'the same: it is lost when L0 has an EPT violation of its own to handle',
  },
  {
    program: 'vmx_controls',
    line: /^nmi_blocked_iret_faults: exit 0 intr=80001b0d:1238 rip=d int=8$/,
    reason: 'what IRET unblocked is blocked again before L1 is told: vmx_recover_nmi_blocking()',
  },
];

/** The reason why L0's line is not compared, or undefined. */
export function kvmFactOf(program: string, line: string): string | undefined {
  return KVM_FACTS.find((fact) => fact.program === program && fact.line.test(line))?.reason;
}
