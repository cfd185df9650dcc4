// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1's pages and its vCPU move while it runs L2: whatever the host does to the memory behind a VMCS, bitmaps, MSR areas
 * and the shadow VMCS, L1 sees every entry succeed. Expected: SDM; migration is the host's business.
 */
import { describe, expect, it } from 'vitest';
import type { Steps, Thread } from '../../lib/kvm_util/backend.ts';
import { tdpIdentityMapDefaultMemslots, vmEnableTdp } from '../../lib/kvm_util/x86/tdp.ts';
import type { EmulatedHost } from '../../vmm/emulated.ts';
import type { Hva } from '../../lib/x86/addr.ts';
import { vcpuArgsSet } from '../../lib/kvm_util/x86/processor.ts';
import { addrGva2gpa, addrGva2hva } from '../../lib/kvm_util/x86/page_table.ts';
import { vcpuAllocVmx } from '../../lib/kvm_util/x86/vmx.ts';
import {
  at,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  guestAsm,
  guestFn,
  guestGlobal,
  load_vmcs,
  Page,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  u32,
  u64,
  array,
  vmcs_set_bits,
  vmlaunch,
  vmreadz,
  vmresume,
  vmwrite,
  VmxMsrEntry,
  VmxPages,
} from '../../lib/guest/index.ts';
import { lab, R } from '../../lib/asm/operands.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';
import { nextSync, withVm, type SmallVm } from './small_vm.ts';

const ROUNDS = 150;

const l2_stack = guestGlobal('l2_stack', array(u64, 256));
const entry_msrs = guestGlobal('entry_msrs', Page);
const exit_msrs = guestGlobal('exit_msrs', Page);

const l2 = guestAsm('l2', (a) => {
  a.label('l2.again');
  a.emit('mov', R.ecx, MSR.IA32_SYSENTER_CS);
  a.emit('rdmsr');
  a.emit('vmcall');
  a.emit('jmp', lab('l2.again'));
});

const l1 = guestFn('l1', [ptr(VmxPages), u64, u64], (g, vmx, entryGpa, exitGpa) => {
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
  GUEST_ASSERT(g, load_vmcs(g, vmx));
  prepare_vmcs(g, vmx, l2, l2_stack.at(128).addr());
  vmcs_set_bits(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.USE_MSR_BITMAPS);
  vmcs_set_bits(g, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.SHADOW_VMCS);
  vmwrite(g, VMCS_GUEST.VMCS_LINK_POINTER, vmx.f.shadow_vmcs_gpa);
  for (const [page, gpa, count, address] of [
    [entry_msrs, entryGpa, VMCS_CTRL.VM_ENTRY_MSR_LOAD_COUNT, VMCS_CTRL.VM_ENTRY_MSR_LOAD_ADDR],
    [exit_msrs, exitGpa, VMCS_CTRL.VM_EXIT_MSR_STORE_COUNT, VMCS_CTRL.VM_EXIT_MSR_STORE_ADDR],
  ] as const) {
    const first = at(VmxMsrEntry, page.addr().cast(ptr(VmxMsrEntry)));
    g.set(first.f.index, MSR.KERNEL_GS_BASE);
    g.set(first.f.value, 0x1234_5000);
    vmwrite(g, address, gpa);
    vmwrite(g, count, 1);
  }
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  const i = g.local(u32);
  g.forRange(i, 0, ROUNDS, 1, () => {
    GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.VMCALL);
    vmwrite(g, VMCS_GUEST.RIP, vmreadz(g, VMCS_GUEST.RIP).add(3));
    GUEST_ASSERT_EQ(g, vmresume(g), 0);
  });
  GUEST_DONE(g);
});

/** Run L1 while `disturb` is called again and again with the number of the call. */
function disturbed(
  tdp: 'EPT' | 'no EPT',
  disturb: (small: SmallVm, runner: Thread, pages: readonly Hva[], n: number) => Steps<unknown>,
): EmulatedHost {
  return withVm(
    l1,
    function* (small) {
      const { vm, vcpu, host } = small;
      if (tdp === 'EPT') vmEnableTdp(vm);
      const vmx = vcpuAllocVmx(vm);
      if (tdp === 'EPT') tdpIdentityMapDefaultMemslots(vm);
      const symbols = [entry_msrs, exit_msrs].map((page) => vm.symbols.get(page.symbol)!);
      vcpuArgsSet(vcpu, vmx, ...symbols.map((gva) => BigInt(addrGva2gpa(vm, gva))));
      const areas = [...symbols, ...Array.from({ length: 7 }, (_, n) => vmx + BigInt(n * 4096))];
      const pages = areas.map((gva) => addrGva2hva(vm, gva));
      let done = false;
      const body = function* (): Steps<void> {
        try {
          expect(yield* nextSync(vcpu)).toEqual([]);
        } finally {
          done = true;
        }
      };
      const runner = host.threads.spawn('vcpu', body, { cpu: 1 });
      for (let n = 0; !done; n++) yield* disturb(small, runner, pages, n);
      yield* host.threads.join(runner);
    },
    { nrCpus: 3 },
  );
}

describe('while L1 runs L2', () => {
  it.each(['no EPT', 'EPT'] as const)('its pages may move at any time: %s', (tdp) => {
    const host = disturbed(tdp, ({ host: { memory } }, _runner, pages, n) =>
      memory.migratePage(pages[n % pages.length]!),
    );
    expect(host.host.sched.counters.migrations).toBeGreaterThan(ROUNDS);
  });

  it.each(['no EPT', 'EPT'] as const)('its vCPU may move at any time: %s', (tdp) => {
    let moves = 0;
    disturbed(tdp, function* ({ host: { threads } }, runner, _pages, n) {
      threads.setAffinity(runner, 1 + (n % 2));
      moves = n;
      yield* threads.sleepNs(7_000);
    });
    expect(moves).toBeGreaterThan(ROUNDS / 2);
  });
});
