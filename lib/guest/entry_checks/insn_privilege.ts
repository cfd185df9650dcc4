// SPDX-License-Identifier: GPL-2.0-only
/**
 * Instruction cases: every VMX instruction at CPL 3 of L1, and in L2 at both ends of privilege. SDM, "VMX Instruction Reference"
 * (UD, then the VM exit, then GP) and "Instructions That Cause VM Exits Unconditionally".
 */
import { mem, R } from '../../asm/operands.ts';
import { VECTOR } from '../../x86/exceptions.ts';
import { CR4 } from '../../x86/registers.ts';
import { SECONDARY_EXEC } from '../../x86/vmx/controls.ts';
import { EXIT_REASON } from '../../x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../x86/vmx/vmcs_guest.ts';
import type { GuestCode } from '../dsl/builder.ts';
import { guestAsm } from '../dsl/function.ts';
import { get_cr4, set_cr4 } from '../processor.ts';
import { vmwrite, vmreadz } from '../vmx_insns.ts';
import { exitWith, faultWith, HYPERCALL, inGuest, type InsnCase, VMX_STATE as STATE } from './insn_case.ts';
import { hasSecondary } from './row.ts';
import { atCpl3 } from './user_mode.ts';

const UD = faultWith(VECTOR.UD);
const GP = faultWith(VECTOR.GP);

/** Code that executes one instruction, then VMCALL. */
const stub = (name: string, emit: Parameters<typeof guestAsm>[1]) =>
  guestAsm(`entry_check_stub_${name}`, (a) => {
    emit(a);
    a.emit('vmcall');
  });
const AT_RSP = mem(64, { base: R.rsp });
const DESCRIPTOR = mem(128, { base: R.rsp });

const INSTRUCTIONS = (
  [
    ['VMCALL', EXIT_REASON.VMCALL, (a) => a.emit('vmcall')],
    ['VMCLEAR', EXIT_REASON.VMCLEAR, (a) => a.emit('vmclear', AT_RSP)],
    ['VMLAUNCH', EXIT_REASON.VMLAUNCH, (a) => a.emit('vmlaunch')],
    ['VMPTRLD', EXIT_REASON.VMPTRLD, (a) => a.emit('vmptrld', AT_RSP)],
    ['VMPTRST', EXIT_REASON.VMPTRST, (a) => a.emit('vmptrst', AT_RSP)],
    ['VMREAD', EXIT_REASON.VMREAD, (a) => a.emit('vmread', R.rax, R.rcx)],
    ['VMRESUME', EXIT_REASON.VMRESUME, (a) => a.emit('vmresume')],
    ['VMWRITE', EXIT_REASON.VMWRITE, (a) => a.emit('vmwrite', R.rax, R.rcx)],
    ['VMXOFF', EXIT_REASON.VMOFF, (a) => a.emit('vmxoff')],
    ['VMXON', EXIT_REASON.VMON, (a) => a.emit('vmxon', AT_RSP)],
    ['INVEPT', EXIT_REASON.INVEPT, (a) => a.emit('invept', R.rax, DESCRIPTOR)],
    ['INVVPID', EXIT_REASON.INVVPID, (a) => a.emit('invvpid', R.rax, DESCRIPTOR)],
    // UD, which L1 intercepts, since the function is not enabled.
    ['VMFUNC', EXIT_REASON.EXCEPTION_NMI, (a) => a.emit('vmfunc')],
  ] satisfies readonly (readonly [string, number, Parameters<typeof guestAsm>[1]])[]
).map(([section, reason, emit]) => ({
  section,
  reason,
  code: stub(section.toLowerCase(), emit),
}));

/** L2 at CPL 3: what it executes exits all the same, before its privilege is judged. */
function user(g: GuestCode): void {
  for (const field of [VMCS_GUEST.CS_SELECTOR, VMCS_GUEST.SS_SELECTOR])
    vmwrite(g, field, vmreadz(g, field).or(3));
  vmwrite(g, VMCS_GUEST.CS_AR_BYTES, 0xa0fb);
  vmwrite(g, VMCS_GUEST.SS_AR_BYTES, 0xc0f3);
}

const L2_CASES: readonly InsnCase[] = INSTRUCTIONS.flatMap(({ section, reason, code }) => [
  {
    section,
    name: `${section}: in L2`,
    state: STATE.CURRENT,
    expected: exitWith(reason),
    code: inGuest(code),
  },
  {
    section,
    name: `${section}: in L2 at CPL 3`,
    state: STATE.CURRENT,
    expected: exitWith(reason),
    code: inGuest(code, user),
  },
]);

/** VMFUNC never gives GP: it is there for applications. */
const hypercall = (section: string): Partial<InsnCase> => (section === 'VMCALL' ? { kvm: HYPERCALL } : {});
const USER_CASES: readonly InsnCase[] = INSTRUCTIONS.flatMap(({ section, code }) => {
  const inRoot = section === 'VMFUNC' ? UD : GP;
  const off = section === 'VMXON' ? GP : UD;
  const one = (where: string, state: number, expected: InsnCase['expected']): InsnCase => ({
    section,
    name: `${section}: at CPL 3 ${where}`,
    state,
    expected,
    code: atCpl3(code),
    ...hypercall(section),
  });
  return [
    one('outside of VMX operation', STATE.OFF, off),
    one('without a current VMCS', STATE.ROOT, inRoot),
    one('with a current VMCS', STATE.CURRENT, inRoot),
  ];
});

const VMXON_STUB = INSTRUCTIONS.find(({ section }) => section === 'VMXON')!.code;
const VMXON_USER: InsnCase = {
  section: 'VMXON',
  name: 'VMXON: at CPL 3 with CR4.VMXE 0',
  state: STATE.OFF,
  expected: UD,
  code: (g, out) => {
    const cr4 = g.let(get_cr4(g));
    set_cr4(g, cr4.and(~BigInt(CR4.VMXE)));
    atCpl3(VMXON_STUB)(g, out);
    set_cr4(g, cr4);
  },
};

const VMFUNC_ON = hasSecondary(SECONDARY_EXEC.ENABLE_VMFUNC);
const vmfuncOf = (n: number, reason: number): InsnCase => ({
  section: 'VMFUNC',
  name: `VMFUNC: function ${n} in L2, not enabled by the VM-function controls`,
  state: STATE.CURRENT,
  needs: [VMFUNC_ON],
  expected: exitWith(reason),
  code: inGuest(
    stub(`vmfunc_${n}`, (a) => {
      a.emit('mov', R.eax, n);
      a.emit('vmfunc');
    }),
    (g) => vmwrite(g, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.ENABLE_VMFUNC),
  ),
});

/** Cases of this file. */
export const PRIVILEGE_CASES: readonly InsnCase[] = [
  ...L2_CASES,
  ...USER_CASES,
  VMXON_USER,
  vmfuncOf(0, EXIT_REASON.VMFUNC),
  vmfuncOf(63, EXIT_REASON.VMFUNC),
  vmfuncOf(64, EXIT_REASON.EXCEPTION_NMI),
];
