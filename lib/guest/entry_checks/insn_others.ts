// SPDX-License-Identifier: GPL-2.0-only
/**
 * Instruction cases: VMLAUNCH, VMRESUME, VMCALL and VMFUNC in root operation. SDM, "VMX Instruction Reference".
 */
import { VECTOR } from '../../x86/exceptions.ts';
import { SECONDARY_EXEC } from '../../x86/vmx/controls.ts';
import { VMXERR } from '../../x86/vmx/insn_errors.ts';
import { VMCS_CTRL } from '../../x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../x86/vmx/vmcs_guest.ts';
import { vmptrld, vmwrite } from '../vmx_insns.ts';
import {
  HYPERCALL,
  ENTERS,
  FAIL_INVALID,
  failValidWith,
  faultWith,
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

/** Cases of this file. */
export const OTHER_CASES: readonly InsnCase[] = [...ENTRY_CASES, ...ROOT_CASES];
