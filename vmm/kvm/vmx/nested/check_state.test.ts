// SPDX-License-Identifier: GPL-2.0-only
/**
 * The checks on vmcs12's host-state and guest-state areas: for each rule a vmcs12 that just keeps it and one that just
 * breaks it. Expected values: SDM, "Checks on the Host-State Area", "Checking and Loading Guest State", as far as
 * nested_vmx_check_host_state() and nested_vmx_check_guest_state() of arch/x86/kvm/vmx/nested.c, 6.12, make them.
 */
import { describe, expect, it } from 'vitest';
import { ERRNO } from '../../../../lib/uapi/errno.ts';
import { CR0, CR4, EFER } from '../../../../lib/x86/registers.ts';
import { SECONDARY_EXEC, VM_ENTRY, VM_EXIT } from '../../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST as H } from '../../../../lib/x86/vmx/vmcs_host.ts';
import { nestedVmxCheckGuestState } from './check_guest.ts';
import { nestedVmxCheckAddressSpaceSize, nestedVmxCheckHostState } from './check_host.ts';
import { all, clear, nothing, or, row, set, type Change, type CheckRow } from './testing/vmcs12_changes.ts';
import { checkVcpu, vmcs12Fixture, writeGuestWord } from './testing/vmcs12_fixture.ts';
import { VMCS12_REVISION } from './vmcs12_layout.ts';

const exit = (bits: number): Change => or(C.VM_EXIT_CONTROLS, bits);
const entry = (bits: number): Change => or(C.VM_ENTRY_CONTROLS, bits);
/** The last canonical address of the lower half, and the first that is none. */
const CANONICAL = 0x7fff_ffff_ffffn;
const NONCANONICAL = 0x8000_0000_0000n;

const canonical = (rule: string, field: number): CheckRow[] => [
  row(rule, set(field, CANONICAL), set(field, NONCANONICAL)),
  row(rule, set(field, 0xffff_8000_0000_0000n), set(field, 0xffff_7fff_ffff_ffffn)),
];
const selector = (name: 'CS' | 'SS' | 'DS' | 'ES' | 'FS' | 'GS' | 'TR'): CheckRow[] =>
  [1, 2, 4].map((bit) =>
    row(
      `host ${name} selector: RPL and TI`,
      set(H[`${name}_SELECTOR`], 0xfff8),
      set(H[`${name}_SELECTOR`], 0x40 | bit),
    ),
  );
const pat = (rule: string, use: Change, field: number): CheckRow[] => [
  row(rule, all(use, set(field, 0x0706_0504_0100_0706n)), all(use, set(field, 0x02n << 56n))),
  row(rule, set(field, 0x02), all(use, set(field, 0x03))),
  row(rule, all(use, set(field, 0x07n << 32n)), all(use, set(field, 0x08n << 32n))),
];
/** A 32-bit host, which only L1 outside of long mode could have: the kernel asks that elsewhere. */
const host32 = all(
  clear(C.VM_EXIT_CONTROLS, VM_EXIT.HOST_ADDR_SPACE_SIZE),
  clear(C.VM_ENTRY_CONTROLS, VM_ENTRY.IA32E_MODE),
  set(H.RIP, 0x1000),
  set(H.SS_SELECTOR, 0x10),
);
const loadEfer = exit(VM_EXIT.LOAD_IA32_EFER);
const loadGuestEfer = entry(VM_ENTRY.LOAD_IA32_EFER);
const LONG = EFER.LME | EFER.LMA;

const HOST_ROWS: readonly CheckRow[] = [
  row('host CR0: fixed bits', or(H.CR0, CR0.TS), clear(H.CR0, CR0.NE)),
  row('host CR0: fixed bits', nothing, clear(H.CR0, CR0.PG)),
  row('host CR0: fixed bits', nothing, set(H.CR0, 0x1_8000_0031n)),
  row('host CR4: fixed or reserved bits', or(H.CR4, CR4.PGE), clear(H.CR4, CR4.VMXE)),
  row('host CR4: fixed or reserved bits', or(H.CR4, CR4.SMEP), or(H.CR4, CR4.SMXE)),
  row('host CR4: fixed or reserved bits', nothing, set(H.CR4, 0x1_0000_2020n)),
  row('host CR4: fixed or reserved bits', or(H.CR4, CR4.PKE), ({ vcpu, vmcs12 }) => {
    vmcs12.set32(H.CR4, vmcs12.lo(H.CR4) | CR4.PKE);
    vcpu.arch.cr4GuestRsvdBits |= CR4.PKE;
  }),
  row('host CR3: physical-address width', set(H.CR3, 2n ** 46n - 1n), set(H.CR3, 2n ** 46n)),
  row('host CR3: physical-address width', nothing, set(H.CR3, 1n << 63n)),
  ...canonical('host IA32_SYSENTER_ESP: canonical', H.IA32_SYSENTER_ESP),
  ...canonical('host IA32_SYSENTER_EIP: canonical', H.IA32_SYSENTER_EIP),
  ...pat('host IA32_PAT', exit(VM_EXIT.LOAD_IA32_PAT), H.IA32_PAT),
  row(
    'host IA32_PERF_GLOBAL_CTRL',
    set(H.IA32_PERF_GLOBAL_CTRL, 1),
    all(exit(VM_EXIT.LOAD_IA32_PERF_GLOBAL_CTRL), set(H.IA32_PERF_GLOBAL_CTRL, 1)),
  ),
  row('host CR4.PAE of an IA-32e mode host', nothing, clear(H.CR4, CR4.PAE)),
  row('IA-32e mode guest of a 32-bit host', host32, all(host32, entry(VM_ENTRY.IA32E_MODE))),
  row('host CR4.PCIDE of a 32-bit host', or(H.CR4, CR4.PCIDE), all(host32, or(H.CR4, CR4.PCIDE))),
  row(
    'host RIP of a 32-bit host: bits 63:32',
    all(host32, set(H.RIP, 0xffff_ffff)),
    all(host32, set(H.RIP, 2n ** 32n)),
  ),
  ...(['CS', 'SS', 'DS', 'ES', 'FS', 'GS', 'TR'] as const).flatMap(selector),
  row('host CS selector is null', set(H.CS_SELECTOR, 8), set(H.CS_SELECTOR, 0)),
  row('host TR selector is null', set(H.TR_SELECTOR, 8), set(H.TR_SELECTOR, 0)),
  row('host SS selector of a 32-bit host is null', set(H.SS_SELECTOR, 0), all(host32, set(H.SS_SELECTOR, 0))),
  ...canonical('host FS base: canonical', H.FS_BASE),
  ...canonical('host GS base: canonical', H.GS_BASE),
  ...canonical('host GDTR base: canonical', H.GDTR_BASE),
  ...canonical('host IDTR base: canonical', H.IDTR_BASE),
  ...canonical('host TR base: canonical', H.TR_BASE),
  ...canonical('host RIP: canonical', H.RIP),
  row(
    'host RIP: canonical',
    all(
      ({ vcpu }) => {
        vcpu.arch.cr4 = CR4.LA57;
      },
      set(H.RIP, NONCANONICAL),
    ),
    ({ vcpu, vmcs12 }) => {
      vcpu.arch.cr4 = CR4.LA57;
      vmcs12.set64(H.RIP, 1n << 56n);
    },
  ),
  row(
    'host IA32_EFER: reserved bits',
    all(loadEfer, or(H.IA32_EFER, EFER.NXE)),
    all(loadEfer, or(H.IA32_EFER, EFER.SVME)),
  ),
  row(
    'host IA32_EFER: reserved bits',
    set(H.IA32_EFER, 1n << 32n),
    all(loadEfer, set(H.IA32_EFER, (1n << 32n) | 0x500n)),
  ),
  row(
    'host IA32_EFER.LMA against host address-space size',
    set(H.IA32_EFER, EFER.LME),
    all(loadEfer, set(H.IA32_EFER, EFER.LME)),
  ),
  row(
    'host IA32_EFER.LME against host address-space size',
    all(host32, loadEfer, set(H.IA32_EFER, 0)),
    all(host32, loadEfer, set(H.IA32_EFER, EFER.LME)),
  ),
];

const LINK = 0x5000;
const linked =
  (address: number, header: number): Change =>
  ({ vcpu, vmcs12 }) => {
    writeGuestWord(vcpu, LINK, header);
    vmcs12.set64(G.VMCS_LINK_POINTER, BigInt(address));
  };
const shadow = or(C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.SHADOW_VMCS);
const unrestricted = or(C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.UNRESTRICTED_GUEST);

const debug = entry(VM_ENTRY.LOAD_DEBUG_CONTROLS);

const GUEST_ROWS: readonly CheckRow[] = [
  row('guest CR0: fixed bits', or(G.CR0, CR0.TS), clear(G.CR0, CR0.NE)),
  row(
    'guest CR0: fixed bits',
    all(unrestricted, clear(C.VM_ENTRY_CONTROLS, VM_ENTRY.IA32E_MODE), clear(G.CR0, CR0.PG)),
    clear(G.CR0, CR0.PG),
  ),
  row('guest CR0: fixed bits', nothing, set(G.CR0, 0x1_8000_0031n)),
  row('guest CR4: fixed or reserved bits', or(G.CR4, CR4.OSXSAVE), clear(G.CR4, CR4.VMXE)),
  row('guest CR4: fixed or reserved bits', or(G.CR4, CR4.PCIDE), or(G.CR4, CR4.CET)),
  row('guest DR7: bits 63:32', all(debug, set(G.DR7, 0xffff_ffff)), all(debug, set(G.DR7, 2n ** 32n))),
  row('guest DR7: bits 63:32', set(G.DR7, 2n ** 32n), all(debug, set(G.DR7, 2n ** 63n))),
  row('guest IA32_DEBUGCTL', all(debug, set(G.IA32_DEBUGCTL, 3)), all(debug, set(G.IA32_DEBUGCTL, 4))),
  row('guest IA32_DEBUGCTL', set(G.IA32_DEBUGCTL, 4), all(debug, set(G.IA32_DEBUGCTL, 2n ** 32n))),
  ...pat('guest IA32_PAT', entry(VM_ENTRY.LOAD_IA32_PAT), G.IA32_PAT),
  row(
    'guest IA32_PERF_GLOBAL_CTRL',
    set(G.IA32_PERF_GLOBAL_CTRL, 1n << 32n),
    all(entry(VM_ENTRY.LOAD_IA32_PERF_GLOBAL_CTRL), set(G.IA32_PERF_GLOBAL_CTRL, 1n << 32n)),
  ),
  row(
    'guest CR0: PG without PE',
    all(unrestricted, or(G.CR0, CR0.PE)),
    all(unrestricted, clear(G.CR0, CR0.PE)),
  ),
  row('guest CR4.PAE of an IA-32e mode guest', nothing, clear(G.CR4, CR4.PAE)),
  row(
    'guest CR0.PG of an IA-32e mode guest',
    all(unrestricted, clear(C.VM_ENTRY_CONTROLS, VM_ENTRY.IA32E_MODE), clear(G.CR0, CR0.PG)),
    all(unrestricted, clear(G.CR0, CR0.PG)),
  ),
  row(
    'guest IA32_EFER: reserved bits',
    all(loadGuestEfer, or(G.IA32_EFER, EFER.NXE)),
    all(loadGuestEfer, or(G.IA32_EFER, EFER.SVME)),
  ),
  row(
    'guest IA32_EFER: reserved bits',
    all(
      ({ nested }) => {
        nested.nestedRunPending = false;
      },
      loadGuestEfer,
      set(G.IA32_EFER, -1),
    ),
    all(loadGuestEfer, set(G.IA32_EFER, (1n << 32n) | 0x500n)),
  ),
  row(
    'guest IA32_EFER.LMA against IA-32e mode guest',
    all(loadGuestEfer, set(G.IA32_EFER, LONG)),
    all(loadGuestEfer, set(G.IA32_EFER, EFER.LME)),
  ),
  row(
    'guest IA32_EFER.LME against IA-32e mode guest',
    all(
      unrestricted,
      loadGuestEfer,
      clear(C.VM_ENTRY_CONTROLS, VM_ENTRY.IA32E_MODE),
      clear(G.CR0, CR0.PG),
      set(G.IA32_EFER, EFER.LME),
    ),
    all(loadGuestEfer, set(G.IA32_EFER, EFER.LMA)),
  ),
  row('guest activity state', set(G.ACTIVITY_STATE, 1), set(G.ACTIVITY_STATE, 2)),
  row('guest activity state', set(G.ACTIVITY_STATE, 3), set(G.ACTIVITY_STATE, 4)),
];

const LINK_ROWS: readonly CheckRow[] = [
  row('VMCS link pointer: page address', set(G.VMCS_LINK_POINTER, -1), set(G.VMCS_LINK_POINTER, -2)),
  row('VMCS link pointer: page address', linked(LINK, VMCS12_REVISION), linked(LINK + 8, VMCS12_REVISION)),
  row('VMCS link pointer: no memory', linked(LINK, VMCS12_REVISION), linked(0x4000_0000, VMCS12_REVISION)),
  row(
    'VMCS link pointer: revision identifier',
    linked(LINK, VMCS12_REVISION),
    linked(LINK, VMCS12_REVISION ^ 1),
  ),
  row(
    'VMCS link pointer: shadow-VMCS indicator',
    all(shadow, linked(LINK, VMCS12_REVISION | 0x8000_0000)),
    linked(LINK, VMCS12_REVISION | 0x8000_0000),
  ),
  row(
    'VMCS link pointer: shadow-VMCS indicator',
    linked(LINK, VMCS12_REVISION),
    all(shadow, linked(LINK, VMCS12_REVISION)),
  ),
];

const titled = (rows: readonly CheckRow[]) => rows.map((r, i) => [`${i}: ${r.rule}`, r] as const);

describe('nested_vmx_check_host_state()', () => {
  const vcpu = checkVcpu();

  it.each(titled(HOST_ROWS))('%s', (_title, r) => {
    const good = vmcs12Fixture(vcpu);
    r.valid(good);
    expect([nestedVmxCheckHostState(vcpu, good.vmcs12), good.nested.failedCheck]).toEqual([0, '']);
    const bad = vmcs12Fixture(vcpu);
    r.invalid(bad);
    expect([nestedVmxCheckHostState(vcpu, bad.vmcs12), bad.nested.failedCheck]).toEqual([
      -ERRNO.EINVAL,
      r.rule,
    ]);
  });

  it('leaves the size of the address space to nested_vmx_check_address_space_size()', () => {
    const f = vmcs12Fixture(vcpu);
    expect(nestedVmxCheckAddressSpaceSize(vcpu, f.vmcs12)).toBe(0);
    host32(f);
    expect([nestedVmxCheckAddressSpaceSize(vcpu, f.vmcs12), f.nested.failedCheck]).toEqual([
      -ERRNO.EINVAL,
      'host address-space size against EFER.LMA',
    ]);
    vcpu.arch.efer = 0;
    expect(nestedVmxCheckAddressSpaceSize(vcpu, f.vmcs12)).toBe(0);
  });
});

describe('nested_vmx_check_guest_state()', () => {
  const vcpu = checkVcpu();

  const check = (rows: readonly CheckRow[], code: number): void => {
    it.each(titled(rows))('%s', (_title, r) => {
      const out = { code: -1 };
      const good = vmcs12Fixture(vcpu);
      r.valid(good);
      expect([nestedVmxCheckGuestState(vcpu, good.vmcs12, out), good.nested.failedCheck]).toEqual([0, '']);
      const bad = vmcs12Fixture(vcpu);
      r.invalid(bad);
      const result = nestedVmxCheckGuestState(vcpu, bad.vmcs12, out);
      expect([result, out.code, bad.nested.failedCheck]).toEqual([-ERRNO.EINVAL, code, r.rule]);
    });
  };

  describe('fails with qualification 0', () => check(GUEST_ROWS, 0));
  describe('fails with qualification 4 on the VMCS link pointer', () => check(LINK_ROWS, 4));
});
