// SPDX-License-Identifier: GPL-2.0-only
/** The VMX programs of the corpus. */
import type { DifferentialProgram } from '../program.ts';
import { APIC_CASES } from './apic.ts';
import { CONTROL_CASES } from './controls.ts';
import { ENTRY_CHECK_PROGRAMS } from './entry_checks.ts';
import { EPT_CASES } from './ept.ts';
import { vmxErrors } from './errors.ts';
import { EVENT_CASES } from './events.ts';
import { EXIT_CASES } from './exits.ts';
import { STATE_CASES } from './state.ts';
import { vmxProgram } from './program.ts';

export const VMX_PROGRAMS: readonly DifferentialProgram[] = [
  vmxProgram({
    name: 'vmx_errors',
    summary: 'VMX instructions in root operation and their error numbers',
    cases: [],
    more: (g, vmx) => vmxErrors(g, vmx),
  }),
  ...ENTRY_CHECK_PROGRAMS,
  vmxProgram({ name: 'vmx_exits', summary: 'exits due to instructions of L2', cases: EXIT_CASES }),
  vmxProgram({
    name: 'vmx_events',
    summary: 'exceptions, their interception, and event injection',
    cases: EVENT_CASES,
  }),
  vmxProgram({ name: 'vmx_apic', summary: 'APIC virtualization of L2', cases: APIC_CASES }),
  vmxProgram({
    name: 'vmx_controls',
    summary: 'monitor trap flag, preemption timer, windows, external interrupts, activity states',
    cases: CONTROL_CASES,
  }),
  vmxProgram({
    name: 'vmx_state',
    summary: 'MSR areas, loaded and saved state, EPTP switching, PML, VMCS shadowing',
    cases: STATE_CASES,
  }),
  vmxProgram({ name: 'vmx_ept', summary: 'L2 with EPT and VPID', cases: EPT_CASES }),
];
