// SPDX-License-Identifier: GPL-2.0-only
/**
 * Entry-check rows: RIP, RFLAGS and non-register state. SDM, "Checks on Guest RIP, RFLAGS, and SSP" and "Checks on Guest
 * Non-Register State". A guest that would not run leaves by the VMX-preemption timer.
 */
import { RFLAGS } from '../../x86/registers.ts';
import { VMX_MISC, VMX_MSR } from '../../x86/vmx/capability_msrs.ts';
import { PIN_BASED } from '../../x86/vmx/controls.ts';
import { GUEST_ACTIVITY, GUEST_INTR_STATE, PENDING_DBG } from '../../x86/vmx/guest_state.ts';
import { INTR_TYPE } from '../../x86/vmx/intr_info.ts';
import { VMCS_GUEST as G } from '../../x86/vmx/vmcs_guest.ts';
import {
  by,
  ENTERED,
  type EntryRow,
  has,
  hasPin,
  lacks,
  NEEDS_TIMER,
  or,
  pin,
  set,
  TIMER,
  type Write,
} from './row.ts';
import { guestRow, INVALID_GUEST } from './rows_guest.ts';
import { inject, NEEDS_MTF, NO_OTHER_EVENTS } from './rows_inject.ts';

const RIP = 'Checks on Guest RIP, RFLAGS, and SSP';
const STATE = 'Checks on Guest Non-Register State';
const IF = set(G.RFLAGS, RFLAGS.FIXED | RFLAGS.IF);
const NO_IF = set(G.RFLAGS, RFLAGS.FIXED);
const STEP = set(G.RFLAGS, RFLAGS.FIXED | RFLAGS.IF | RFLAGS.TF);
const act = (state: number): Write => set(G.ACTIVITY_STATE, state);
const blocked = (state: number): Write => set(G.INTERRUPTIBILITY_INFO, state);
const debug = (pending: number | bigint): Write => set(G.PENDING_DBG_EXCEPTIONS, pending);
const { HLT, SHUTDOWN, WAIT_SIPI } = GUEST_ACTIVITY;
const { STI, MOV_SS, SMI, NMI, ENCLAVE_INTR } = GUEST_INTR_STATE;

/** KVM runs L2 in the active state and makes no check of its own. */
const kvmEnters = (row: EntryRow): EntryRow => ({
  ...row,
  invalid: {
    ...row.invalid!,
    kvm: {
      where: 'nested_check_guest_non_reg_state()',
      why: 'vmcs02 is in the active state',
      outcome: ENTERED,
    },
  },
});
const notInBochs = (row: EntryRow, why: string): EntryRow => ({
  ...row,
  invalid: { ...row.invalid!, bochs: { where: 'VMenterLoadCheckGuestState()', why } },
});

const RIP_ROWS: readonly EntryRow[] = [
  notInBochs(
    guestRow(RIP, 'RIP: bits 63:48 are identical', [set(G.RIP, 0x7fff_ffff_fff0n)], [set(G.RIP, 1n << 48n)]),
    'RIP is checked outside of 64-bit mode only',
  ),
  notInBochs(
    guestRow(RIP, 'RIP: bit 63 equals bit 48', [set(G.RIP, 0xffff_8000_0000_0000n)], [set(G.RIP, 1n << 63n)]),
    'RIP is checked outside of 64-bit mode only',
  ),
  guestRow(RIP, 'RFLAGS: bit 1 is 1', [], [set(G.RFLAGS, 0)]),
  ...[3, 5, 15, 22, 31].map((bit) =>
    guestRow(
      RIP,
      `RFLAGS: bit ${bit} is 0`,
      [set(G.RFLAGS, RFLAGS.FIXED | RFLAGS.ID)],
      [or(G.RFLAGS, (1 << bit) >>> 0)],
    ),
  ),
  guestRow(RIP, 'RFLAGS: bit 63 is 0', [], [or(G.RFLAGS, 1n << 63n)]),
  guestRow(RIP, 'RFLAGS.VM is 0 in IA-32e mode', [], [or(G.RFLAGS, RFLAGS.VM)]),
  guestRow(RIP, 'RFLAGS.IF is 1 for an external interrupt', inject(INTR_TYPE.EXT_INTR | 0x30), [
    ...inject(INTR_TYPE.EXT_INTR | 0x30),
    NO_IF,
  ]),
];

const MISC = VMX_MSR.IA32_VMX_MISC;
const HAS_HLT = [has(MISC, VMX_MISC.ACTIVITY_HLT), NEEDS_TIMER];
const HAS_SHUTDOWN = [has(MISC, VMX_MISC.ACTIVITY_SHUTDOWN), NEEDS_TIMER];
const USER: readonly Write[] = [
  or(G.CS_SELECTOR, 3),
  or(G.SS_SELECTOR, 3),
  set(G.CS_AR_BYTES, 0xa0fb),
  set(G.SS_AR_BYTES, 0xc0f3),
];
const NMI_EVENT = inject(INTR_TYPE.NMI_INTR | 2);
const EXTERNAL = inject(INTR_TYPE.EXT_INTR | 0x30);
const exception = (vector: number): readonly Write[] => inject(INTR_TYPE.HARD_EXCEPTION | vector);

const ACTIVITY_ROWS: readonly EntryRow[] = [
  guestRow(STATE, 'activity state 4 does not exist', [...TIMER, act(HLT)], [act(4)], HAS_HLT),
  guestRow(
    STATE,
    'activity state FFFFFFFFH does not exist',
    [...TIMER, act(HLT)],
    [act(0xffff_ffff)],
    HAS_HLT,
  ),
  guestRow(
    STATE,
    'shutdown only if supported',
    [],
    [act(SHUTDOWN)],
    [lacks(MISC, VMX_MISC.ACTIVITY_SHUTDOWN)],
  ),
  guestRow(
    STATE,
    'wait-for-SIPI only if supported',
    [],
    [act(WAIT_SIPI)],
    [lacks(MISC, VMX_MISC.ACTIVITY_WAIT_SIPI)],
  ),
  guestRow(STATE, 'shutdown if supported', [...TIMER, act(SHUTDOWN)], [act(4)], HAS_SHUTDOWN),
  kvmEnters(
    guestRow(STATE, 'HLT needs SS.DPL 0', [...TIMER, act(HLT)], [...USER, ...TIMER, act(HLT)], HAS_HLT),
  ),
  kvmEnters(
    guestRow(
      STATE,
      'HLT and blocking by STI do not go together',
      [blocked(STI), IF],
      [blocked(STI), IF, ...TIMER, act(HLT)],
      HAS_HLT,
    ),
  ),
  kvmEnters(
    guestRow(
      STATE,
      'HLT and blocking by MOV SS do not go together',
      [blocked(MOV_SS)],
      [blocked(MOV_SS), ...TIMER, act(HLT)],
      HAS_HLT,
    ),
  ),
  ...(
    [
      ['an external interrupt', EXTERNAL],
      ['an NMI', NMI_EVENT],
      ['DB', exception(1)],
      ['MC', exception(18)],
    ] as const
  ).map(([name, event]) =>
    kvmEnters(
      notInBochs(
        guestRow(
          STATE,
          `HLT: ${name} can be injected, UD not`,
          [...event, ...TIMER, act(HLT)],
          [...exception(6), ...TIMER, act(HLT)],
          HAS_HLT,
        ),
        'what can be injected in HLT is not checked',
      ),
    ),
  ),
  {
    ...guestRow(STATE, 'HLT: another event can be injected', [], [act(4)], [...HAS_HLT, NEEDS_MTF]),
    valid: { ...by(...inject(INTR_TYPE.OTHER_EVENT), ...TIMER, act(HLT)), bochs: NO_OTHER_EVENTS },
  },
  guestRow(
    STATE,
    'shutdown: an NMI can be injected, an external interrupt not',
    [...NMI_EVENT, ...TIMER, act(SHUTDOWN)],
    [...EXTERNAL, ...TIMER, act(SHUTDOWN)],
    HAS_SHUTDOWN,
  ),
  guestRow(
    STATE,
    'shutdown: MC can be injected, DB not',
    [...exception(18), ...TIMER, act(SHUTDOWN)],
    [...exception(1), ...TIMER, act(SHUTDOWN)],
    HAS_SHUTDOWN,
  ),
];

const VIRTUAL_NMIS = pin(PIN_BASED.NMI_EXITING | PIN_BASED.VIRTUAL_NMIS);
const NEEDS_VIRTUAL = [hasPin(PIN_BASED.NMI_EXITING | PIN_BASED.VIRTUAL_NMIS)];
const INTERRUPTIBILITY_ROWS: readonly EntryRow[] = [
  ...[5, 16, 31].map((bit) =>
    guestRow(STATE, `interruptibility: bit ${bit} is 0`, [blocked(0)], [blocked((1 << bit) >>> 0)]),
  ),
  guestRow(
    STATE,
    'interruptibility: not blocked by both STI and MOV SS',
    [blocked(MOV_SS), IF],
    [blocked(MOV_SS | STI), IF],
  ),
  guestRow(
    STATE,
    'interruptibility: blocking by STI needs RFLAGS.IF',
    [blocked(STI), IF],
    [blocked(STI), NO_IF],
  ),
  guestRow(
    STATE,
    'interruptibility: blocking by MOV SS does not need RFLAGS.IF',
    [blocked(MOV_SS), NO_IF],
    [blocked(STI), NO_IF],
  ),
  guestRow(STATE, 'interruptibility: blocking by SMI is 0 outside of SMM', [], [blocked(SMI)]),
  guestRow(
    STATE,
    'interruptibility: no enclave interruption under blocking by MOV SS',
    [],
    [blocked(ENCLAVE_INTR | MOV_SS)],
  ),
  guestRow(STATE, 'interruptibility: no external interrupt while blocked by STI', EXTERNAL, [
    ...EXTERNAL,
    blocked(STI),
  ]),
  guestRow(STATE, 'interruptibility: no external interrupt while blocked by MOV SS', EXTERNAL, [
    ...EXTERNAL,
    blocked(MOV_SS),
  ]),
  guestRow(
    STATE,
    'interruptibility: an exception while blocked by STI, no external interrupt',
    [...exception(6), blocked(STI)],
    [...EXTERNAL, blocked(STI)],
  ),
  guestRow(STATE, 'interruptibility: no NMI while blocked by MOV SS', NMI_EVENT, [
    ...NMI_EVENT,
    blocked(MOV_SS),
  ]),
  {
    ...notInBochs(
      guestRow(
        STATE,
        'interruptibility: no virtual NMI while they are blocked',
        [VIRTUAL_NMIS, ...NMI_EVENT],
        [VIRTUAL_NMIS, ...NMI_EVENT, blocked(NMI)],
        NEEDS_VIRTUAL,
      ),
      'blocking of virtual NMIs is not checked',
    ),
  },
  {
    ...guestRow(
      STATE,
      'interruptibility: an NMI while NMIs are blocked, but not virtual ones',
      [],
      [blocked(1 << 5)],
    ),
    valid: {
      ...by(...NMI_EVENT, blocked(NMI)),
      kvm: { where: 'prepare_vmcs02_early()', why: 'vmcs02 always has virtual NMIs', outcome: INVALID_GUEST },
    },
  },
];

const NO_BS = 'the BS flag is not checked';
const { BS, BLD, RTM, ENABLED_BREAKPOINT } = PENDING_DBG;
const DEBUG_ROWS: readonly EntryRow[] = [
  ...[4, 10, 13, 15, 17, 31].map((bit) =>
    guestRow(STATE, `pending debug exceptions: bit ${bit} is 0`, [debug(0)], [debug((1 << bit) >>> 0)]),
  ),
  notInBochs(
    guestRow(
      STATE,
      'pending debug exceptions: bit 63 is 0',
      [debug(ENABLED_BREAKPOINT | 1)],
      [debug(1n << 63n)],
    ),
    'bits 63:32 are not looked at',
  ),
  guestRow(STATE, 'pending debug exceptions: bus locks only if supported', [], [debug(BLD)]),
  guestRow(STATE, 'pending debug exceptions: RTM only if supported', [], [debug(RTM)]),
  ...(
    [
      ['STI', STI],
      ['MOV SS', MOV_SS],
    ] as const
  ).flatMap(([name, state]) => [
    notInBochs(
      guestRow(
        STATE,
        `pending debug exceptions: BS is 1 with TF under blocking by ${name}`,
        [blocked(state), STEP, debug(BS)],
        [blocked(state), STEP],
      ),
      NO_BS,
    ),
    notInBochs(
      guestRow(
        STATE,
        `pending debug exceptions: BS is 0 without TF under blocking by ${name}`,
        [blocked(state), IF],
        [blocked(state), IF, debug(BS)],
      ),
      NO_BS,
    ),
    notInBochs(
      guestRow(
        STATE,
        `pending debug exceptions: BS is 0 with BTF under blocking by ${name}`,
        [blocked(state), STEP, set(G.IA32_DEBUGCTL, 2)],
        [blocked(state), STEP, set(G.IA32_DEBUGCTL, 2), debug(BS)],
      ),
      NO_BS,
    ),
  ]),
  kvmEnters(
    notInBochs(
      guestRow(
        STATE,
        'pending debug exceptions: BS is 0 without TF in HLT',
        [IF, ...TIMER, act(HLT)],
        [IF, ...TIMER, act(HLT), debug(BS)],
        HAS_HLT,
      ),
      NO_BS,
    ),
  ),
];

/** Rows of this file. */
export const NON_REGISTER_ROWS: readonly EntryRow[] = [
  ...RIP_ROWS,
  ...ACTIVITY_ROWS,
  ...INTERRUPTIBILITY_ROWS,
  ...DEBUG_ROWS,
];
