// SPDX-License-Identifier: GPL-2.0-only
/**
 * Instruction cases: VMLAUNCH, VMRESUME, VMCALL, VMFUNC in root operation, and all of them in L2. SDM, "VMX
 * Instruction Reference" and "Instructions That Cause VM Exits Unconditionally".
 */
import { mem, R } from '../../asm/operands.ts';
import { VECTOR } from '../../x86/exceptions.ts';
import { SECONDARY_EXEC } from '../../x86/vmx/controls.ts';
import { EXIT_REASON } from '../../x86/vmx/exit_reasons.ts';
import { VMXERR } from '../../x86/vmx/insn_errors.ts';
import { VMCS_CTRL } from '../../x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../x86/vmx/vmcs_guest.ts';
import { guestAsm } from '../dsl/function.ts';
import { vmptrld, vmwrite } from '../vmx_insns.ts';
import {
  ENTERS,
  exitWith,
  FAIL_INVALID,
  failValidWith,
  faultWith,
  inGuest,
  type InsnCase,
  launch,
  plain,
  recordLaunch,
  resume,
  VMX_STATE as STATE,
} from './insn_case.ts';
import { entry_check_launch } from './l2.ts';
import { checkPagePhysical as pa } from './program.ts';
import { hasSecondary } from './row.ts';

const UD = faultWith(VECTOR.UD);
const SHADOWING = hasSecondary(SECONDARY_EXEC.SHADOW_VMCS);
const NO_SHADOW_CHECK = { where: 'VMLAUNCH()', why: 'Bochs enters with a shadow VMCS' } as const;
const ENTRY_CASES: readonly InsnCase[] = [
  ...(['vmlaunch', 'vmresume'] as const).flatMap((insn): InsnCase[] => {
    const section = insn.toUpperCase();
    return [
      {
        section,
        name: `${section}: outside of VMX operation`,
        state: STATE.OFF,
        expected: UD,
        code: plain(insn),
      },
      {
        section,
        name: `${section}: without a current VMCS`,
        state: STATE.ROOT,
        expected: FAIL_INVALID,
        code: plain(insn),
      },
      {
        section,
        name: `${section}: a shadow VMCS`,
        state: STATE.CURRENT,
        needs: [SHADOWING],
        expected: FAIL_INVALID,
        bochs: NO_SHADOW_CHECK,
        code: (g, out) => {
          vmptrld(g, pa('shadow'));
          plain(insn)(g, out);
        },
      },
    ];
  }),
  {
    section: 'VMLAUNCH',
    name: 'VMLAUNCH: a clear VMCS',
    state: STATE.CURRENT,
    expected: ENTERS,
    code: launch,
  },
  {
    section: 'VMRESUME',
    name: 'VMRESUME: a launched VMCS',
    state: STATE.LAUNCHED,
    expected: ENTERS,
    code: resume,
  },
  {
    section: 'VMLAUNCH',
    name: 'VMLAUNCH: a launched VMCS',
    state: STATE.LAUNCHED,
    expected: failValidWith(VMXERR.VMLAUNCH_NONCLEAR_VMCS),
    code: launch,
  },
  {
    section: 'VMRESUME',
    name: 'VMRESUME: a clear VMCS',
    state: STATE.CURRENT,
    expected: failValidWith(VMXERR.VMRESUME_NONLAUNCHED_VMCS),
    code: resume,
  },
  {
    section: 'VMLAUNCH',
    name: 'VMLAUNCH: blocking by MOV SS comes before the launch state',
    state: STATE.LAUNCHED,
    expected: failValidWith(VMXERR.ENTRY_EVENTS_BLOCKED_BY_MOV_SS),
    code: (g, out) => recordLaunch(g, out, g.call(entry_check_launch, 0, 0, 1)),
  },
  {
    section: 'VMLAUNCH',
    name: 'VMLAUNCH: the launch state comes before the controls',
    state: STATE.LAUNCHED,
    expected: failValidWith(VMXERR.VMLAUNCH_NONCLEAR_VMCS),
    code: (g, out) => {
      vmwrite(g, VMCS_CTRL.CR3_TARGET_COUNT, 0xffff_ffff);
      launch(g, out);
    },
  },
  {
    section: 'VMLAUNCH',
    name: 'VMLAUNCH: a failed one leaves the launch state clear',
    state: STATE.CURRENT,
    expected: failValidWith(VMXERR.VMRESUME_NONLAUNCHED_VMCS),
    code: (g, out) => {
      vmwrite(g, VMCS_GUEST.RFLAGS, 0);
      g.call(entry_check_launch, 0, 0, 0);
      vmwrite(g, VMCS_GUEST.RFLAGS, 2);
      resume(g, out);
    },
  },
];

const NO_VMCALL = { where: 'VMCALL()', why: 'Bochs stops at VMCALL in VMX root operation' } as const;
/** KVM takes every VMCALL of L1 as a hypercall. */
const HYPERCALL = {
  where: 'kvm_emulate_hypercall()',
  why: 'VMCALL of L1 is a hypercall, in VMX operation or not',
} as const;
const ROOT_CASES: readonly InsnCase[] = [
  {
    section: 'VMCALL',
    name: 'VMCALL: outside of VMX operation',
    state: STATE.OFF,
    expected: UD,
    kvm: HYPERCALL,
    code: plain('vmcall'),
  },
  {
    section: 'VMCALL',
    name: 'VMCALL: in VMX root operation',
    state: STATE.CURRENT,
    expected: failValidWith(VMXERR.VMCALL_IN_VMX_ROOT_OPERATION),
    bochs: NO_VMCALL,
    kvm: HYPERCALL,
    code: plain('vmcall'),
  },
  {
    section: 'VMCALL',
    name: 'VMCALL: in VMX root operation without a current VMCS',
    state: STATE.ROOT,
    expected: FAIL_INVALID,
    kvm: HYPERCALL,
    code: plain('vmcall'),
  },
  {
    section: 'VMFUNC',
    name: 'VMFUNC: outside of VMX operation',
    state: STATE.OFF,
    expected: UD,
    code: plain('vmfunc'),
  },
  {
    section: 'VMFUNC',
    name: 'VMFUNC: in VMX root operation',
    state: STATE.CURRENT,
    expected: UD,
    code: plain('vmfunc'),
  },
];

/** A guest of L1 that executes one instruction, then VMCALL. */
const l2 = (name: string, emit: Parameters<typeof guestAsm>[1]) =>
  guestAsm(`entry_check_l2_${name}`, (a) => {
    emit(a);
    a.emit('vmcall');
  });
const AT_RSP = mem(64, { base: R.rsp });
const DESCRIPTOR = mem(128, { base: R.rsp });

const GUESTS: readonly (readonly [name: string, reason: number, emit: Parameters<typeof guestAsm>[1]])[] = [
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
];

const GUEST_CASES: readonly InsnCase[] = GUESTS.map(([section, reason, emit]) => ({
  section,
  name: `${section}: in L2`,
  state: STATE.CURRENT,
  expected: exitWith(reason),
  code: inGuest(l2(section.toLowerCase(), emit)),
}));

const VMFUNC_ON = hasSecondary(SECONDARY_EXEC.ENABLE_VMFUNC);
const vmfuncOf = (n: number, reason: number): InsnCase => ({
  section: 'VMFUNC',
  name: `VMFUNC: function ${n} in L2, not enabled by the VM-function controls`,
  state: STATE.CURRENT,
  needs: [VMFUNC_ON],
  expected: exitWith(reason),
  code: inGuest(
    l2(`vmfunc_${n}`, (a) => {
      a.emit('mov', R.eax, n);
      a.emit('vmfunc');
    }),
    (g) => vmwrite(g, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.ENABLE_VMFUNC),
  ),
});

/** Cases of this file. */
export const OTHER_CASES: readonly InsnCase[] = [
  ...ENTRY_CASES,
  ...ROOT_CASES,
  ...GUEST_CASES,
  vmfuncOf(0, EXIT_REASON.VMFUNC),
  vmfuncOf(63, EXIT_REASON.VMFUNC),
  vmfuncOf(64, EXIT_REASON.EXCEPTION_NMI),
];
