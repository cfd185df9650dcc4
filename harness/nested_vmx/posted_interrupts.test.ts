// SPDX-License-Identifier: GPL-2.0-only
/**
 * Posted interrupts that L1 gives L2: found at entry, sent by another vCPU while L2 runs or halts, and descriptors that are no
 * memory. Expected: SDM, "Posted-Interrupt Processing" and "Virtual-Interrupt Delivery".
 */
import { describe, expect, it } from 'vitest';
import {
  array,
  at,
  cpu_relax,
  ExRegs,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  type FnLinkable,
  type GuestCode,
  guestFn,
  guestGlobal,
  guestUnit,
  linkGuest,
  lit,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  READ_ONCE,
  safe_halt,
  sti_nop,
  u64,
  vmcall,
  vmcs_set_bits,
  vmlaunch,
  vmreadz,
  VmxPages,
  vmwrite,
  WRITE_ONCE,
  wrmsr,
  x2apic_enable,
  x2apic_read_reg,
  x2apic_write_reg,
} from '../../lib/guest/index.ts';
import type { Operand } from '../../lib/guest/dsl/rvalue.ts';
import { UCALL } from '../../lib/guest/ucall.ts';
import { kvmVmFree, type KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { getUcall, reportGuestAssert, vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { vmCreateWithVcpus } from '../../lib/kvm_util/vm_create.ts';
import { vmInstallExceptionHandler } from '../../lib/kvm_util/x86/exceptions.ts';
import { addrGva2gpa, vmVaddrAlloc } from '../../lib/kvm_util/x86/page_table.ts';
import { vcpuArgsSet } from '../../lib/kvm_util/x86/processor.ts';
import { vcpuAllocVmx } from '../../lib/kvm_util/x86/vmx.ts';
import { KVM_EXIT, KVM_INTERNAL_ERROR } from '../../lib/uapi/run.ts';
import { APIC_DEST, APIC_DM, APIC_REG } from '../../lib/x86/apic.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC, VM_EXIT } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL as C } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../lib/x86/vmx/vmcs_info.ts';
import { smallHost } from '../kvm_x86/small_vm.ts';

/** What L1 posts, and the vector that notifies. */
const POSTED = 0x51;
const NOTIFICATION = 0xf2;
const PIR_WORD = Math.floor(POSTED / 64) * 8;
const PIR_BIT = 1n << BigInt(POSTED % 64);
const ON_OFFSET = 32;
const STACK_WORDS = 64;
const DESC_AT = 64;
const X2APIC_ICR = 0x800 + (APIC_REG.ICR >> 4);
/** A guest-physical address without memory. */
const NO_MEMORY = 0x7_0000_0000n;

const received = guestGlobal('received', u64);
const running = guestGlobal('running', u64);

const posted_handler = guestFn('posted_handler', [ptr(ExRegs)], (g) => {
  g.set(received, '+=', 1);
  x2apic_write_reg(g, APIC_REG.EOI, 0);
});

const L2 = guestUnit('L2').fn;
const l2_enable = L2('l2_enable', [], (g) => {
  sti_nop(g);
  vmcall(g);
});
const l2_spin = L2('l2_spin', [], (g) => {
  sti_nop(g);
  WRITE_ONCE(g, running, 1);
  g.while(READ_ONCE(received).eq(0), () => cpu_relax(g));
  vmcall(g);
});
const l2_halt = L2('l2_halt', [], (g) => {
  WRITE_ONCE(g, running, 1);
  safe_halt(g);
  vmcall(g);
});

/** The request, then the notification that it is there. */
function request(g: GuestCode, desc: Operand, apicId: number | 'self'): void {
  const base = g.let(lit(desc).cast(u64));
  WRITE_ONCE(g, at(u64, base.add(PIR_WORD)), PIR_BIT);
  WRITE_ONCE(g, at(u64, base.add(ON_OFFSET)), 1);
  if (apicId === 'self') wrmsr(g, X2APIC_ICR, APIC_DEST.SELF | APIC_DM.FIXED | NOTIFICATION);
  else wrmsr(g, X2APIC_ICR, (BigInt(apicId) << 32n) | BigInt(APIC_DM.FIXED | NOTIFICATION));
}

function useApicVirtualization(g: GuestCode, vapicGpa: Operand, descGpa: Operand): void {
  const { EXT_INTR_MASK, POSTED_INTR } = PIN_BASED;
  const { VIRTUAL_INTR_DELIVERY, APIC_REGISTER_VIRT, VIRTUALIZE_X2APIC_MODE } = SECONDARY_EXEC;
  vmcs_set_bits(g, C.PIN_BASED_VM_EXEC_CONTROL, EXT_INTR_MASK | POSTED_INTR);
  vmcs_set_bits(g, C.VM_EXIT_CONTROLS, VM_EXIT.ACK_INTR_ON_EXIT);
  const primary =
    (CPU_BASED.TPR_SHADOW | CPU_BASED.USE_MSR_BITMAPS | CPU_BASED.ACTIVATE_SECONDARY_CONTROLS) >>> 0;
  vmcs_set_bits(g, C.CPU_BASED_VM_EXEC_CONTROL, primary);
  vmcs_set_bits(
    g,
    C.SECONDARY_VM_EXEC_CONTROL,
    VIRTUAL_INTR_DELIVERY | APIC_REGISTER_VIRT | VIRTUALIZE_X2APIC_MODE,
  );
  vmwrite(g, C.VIRTUAL_APIC_PAGE_ADDR, vapicGpa);
  vmwrite(g, C.POSTED_INTR_DESC_ADDR, descGpa);
  vmwrite(g, C.POSTED_INTR_NV, NOTIFICATION);
  for (const field of [C.EOI_EXIT_BITMAP0, C.EOI_EXIT_BITMAP1, C.EOI_EXIT_BITMAP2, C.EOI_EXIT_BITMAP3])
    vmwrite(g, field, 0);
}

/** L1, with the descriptor's addresses; vCPU 1 has no struct vmx_pages, and posts once L2 runs. */
const l1 = (l2: FnLinkable, who: 'self' | 'other', expected: number): FnLinkable =>
  guestFn('guest_code', [ptr(VmxPages), u64, u64, u64], (g, vmx, desc, descGpa, vapicGpa) => {
    const stack = g.local(array(u64, STACK_WORDS));
    x2apic_enable(g);
    g.if(vmx.cast(u64).eq(0), () => {
      g.while(READ_ONCE(running).eq(0), () => cpu_relax(g));
      request(g, desc, 0);
      GUEST_DONE(g);
    });
    GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
    GUEST_ASSERT(g, load_vmcs(g, vmx));
    prepare_vmcs(g, vmx, l2, stack.at(STACK_WORDS).addr());
    useApicVirtualization(g, vapicGpa, descGpa);
    if (who === 'self') request(g, desc, 'self');
    GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
    GUEST_ASSERT_EQ(g, vmreadz(g, I.VM_EXIT_REASON), EXIT_REASON.VMCALL);
    GUEST_ASSERT_EQ(g, received, expected);
    GUEST_ASSERT_EQ(g, at(u64, desc.add(PIR_WORD)), 0);
    GUEST_ASSERT_EQ(g, at(u64, desc.add(ON_OFFSET)), 0);
    GUEST_ASSERT_EQ(g, vmreadz(g, G.INTR_STATUS), 0);
    // The notification was consumed: it is not left for L1.
    GUEST_ASSERT_EQ(g, x2apic_read_reg(g, APIC_REG.IRR + 16 * (NOTIFICATION >> 5)), 0);
    GUEST_DONE(g);
  });

/** Where the descriptor and the virtual-APIC page lie in L1's memory; elsewhere if an option says so. */
interface Places {
  readonly desc?: bigint;
  readonly vapic?: bigint;
}

function run(code: FnLinkable, nrVcpus: number, after: (vcpu: KvmVcpu) => void, places: Places = {}): void {
  const host = smallHost();
  host.runMain(function* () {
    const vm = yield* vmCreateWithVcpus(host, nrVcpus, { image: linkGuest(code, posted_handler) });
    vmInstallExceptionHandler(vm, POSTED, posted_handler.symbol);
    const [descPage, vapicPage] = [vmVaddrAlloc(vm, 4096, 0x80_0000n), vmVaddrAlloc(vm, 4096, 0x80_0000n)];
    const desc = descPage + BigInt(DESC_AT);
    const addresses = [
      desc,
      places.desc ?? BigInt(addrGva2gpa(vm, desc)),
      places.vapic ?? BigInt(addrGva2gpa(vm, vapicPage)),
    ];
    const [first, second] = vm.vcpus;
    vcpuArgsSet(first!, vcpuAllocVmx(vm), ...addresses);
    if (second !== undefined) vcpuArgsSet(second, 0, ...addresses);
    const threads = vm.vcpus.map((vcpu) => host.threads.spawn(`vcpu${vcpu.id}`, () => vcpuRun(vcpu)));
    for (const thread of threads) yield* host.threads.join(thread);
    after(first!);
    yield* kvmVmFree(vm);
  });
}

const done = (vcpu: KvmVcpu): void => {
  const uc = getUcall(vcpu);
  if (uc.cmd === UCALL.ABORT) reportGuestAssert(vcpu, uc);
  expect(uc.cmd).toBe(UCALL.DONE);
};

describe('a posted interrupt for L2', () => {
  it('is delivered at entry if its notification waits', () => run(l1(l2_enable, 'self', 1), 1, done));

  it('sent by another vCPU reaches an L2 that runs, without an exit to L1', () =>
    run(l1(l2_spin, 'other', 1), 2, done));

  it('sent by another vCPU wakes an L2 that halts', () => run(l1(l2_halt, 'other', 1), 2, done));

  it('in a descriptor without memory ends in an internal error', () => {
    run(
      l1(l2_enable, 'self', 1),
      1,
      ({ fd }) => {
        expect(fd.run.exit_reason).toBe(KVM_EXIT.INTERNAL_ERROR);
        expect(fd.run.internal.suberror).toBe(KVM_INTERNAL_ERROR.EMULATION);
      },
      { desc: NO_MEMORY },
    );
  });
});
