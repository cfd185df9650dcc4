// SPDX-License-Identifier: GPL-2.0-only
/**
 * vCPUs in 64-bit mode, ready to run guest code: after tools/testing/selftests/kvm/lib/x86/processor.c. Flat segments,
 * a GDT, an IDT and a TSS in guest memory, a stack, and the registers that KVM_SET_SREGS and KVM_SET_REGS take.
 */
import type { Gva } from '../../x86/addr.ts';
import { CR0, CR4, EFER } from '../../x86/registers.ts';
import { kvmSegment, type KvmRegs, type KvmSegment, type KvmSregs } from '../../uapi/regs.ts';
import { KVM_MP_STATE } from '../../uapi/vcpu_state.ts';
import type { Steps } from '../backend.ts';
import { KVM_UTIL_MIN_VADDR, type KvmVcpu, type KvmVm } from '../kvm_util.ts';
import { TEST_ASSERT } from '../test_util.ts';
import { writeGuestGlobal } from '../guest_global.ts';
import { vmPgd, vmVaddrAlloc, writeGuest } from './page_table.ts';

/** Selectors as upstream lays out its GDT. */
export const KERNEL_CS = 0x8;
export const KERNEL_DS = 0x10;
export const KERNEL_TSS = 0x18;
const DEFAULT_STACK_PGS = 5;
const PAGE = 4096;

/** A flat 64-bit code or data segment at ring 0. SDM, "Segment Descriptors". */
function flatSegment(selector: number, code: 'code' | 'data'): KvmSegment {
  return {
    ...kvmSegment(),
    selector,
    limit: 0xffff_ffff,
    s: 1,
    type: code === 'code' ? 0x8 | 0x2 | 0x1 : 0x2 | 0x1,
    present: 1,
    g: 1,
    l: code === 'code' ? 1 : 0,
  };
}

/** The eight bytes of a code or data descriptor, low word first. */
function descriptor(seg: KvmSegment): [number, number] {
  const limit = seg.g === 1 ? seg.limit >>> 12 : seg.limit;
  const base = Number(seg.base & 0xffff_ffffn);
  const low = (limit & 0xffff) | ((base & 0xffff) << 16);
  const access = seg.type | (seg.s << 4) | (seg.dpl << 5) | (seg.present << 7);
  const flags = seg.avl | (seg.l << 1) | (seg.db << 2) | (seg.g << 3);
  const high =
    ((base >>> 16) & 0xff) |
    (access << 8) |
    (((limit >>> 16) & 0xf) << 16) |
    (flags << 20) |
    (base & 0xff00_0000);
  return [low >>> 0, high >>> 0];
}

function putDescriptor(view: DataView, seg: KvmSegment): void {
  const [low, high] = descriptor(seg);
  view.setUint32(seg.selector, low, true);
  view.setUint32(seg.selector + 4, high, true);
}

const tssSegment = (tss: Gva): KvmSegment => ({
  ...kvmSegment(),
  base: tss,
  limit: 0x67,
  selector: KERNEL_TSS,
  type: 0xb,
  present: 1,
});

/** vm_init_descriptor_tables(): GDT, IDT and TSS of the VM; every vCPU uses the same. */
export function vmInitDescriptorTables(vm: KvmVm): void {
  vm.arch.gdt = vmVaddrAlloc(vm, PAGE, KVM_UTIL_MIN_VADDR);
  vm.arch.idt = vmVaddrAlloc(vm, PAGE, KVM_UTIL_MIN_VADDR);
  vm.arch.tss = vmVaddrAlloc(vm, PAGE, KVM_UTIL_MIN_VADDR);
  const gdt = new Uint8Array(PAGE);
  const view = new DataView(gdt.buffer);
  putDescriptor(view, flatSegment(KERNEL_CS, 'code'));
  putDescriptor(view, flatSegment(KERNEL_DS, 'data'));
  putDescriptor(view, tssSegment(vm.arch.tss));
  view.setUint32(KERNEL_TSS + 8, Number(vm.arch.tss >> 32n), true);
  writeGuest(vm, vm.arch.gdt, gdt);
}

/** vcpu_init_sregs(): 64-bit mode with the VM's page tables and descriptor tables. */
export function vcpuInitSregs(vcpu: KvmVcpu): void {
  vcpu.fd.setSregs(initSregs(vcpu.vm, vcpu.fd.getSregs()));
}

function initSregs(vm: KvmVm, sregs: KvmSregs): KvmSregs {
  const la57 = vm.arch.pgtableLevels === 5 ? BigInt(CR4.LA57) : 0n;
  return {
    ...sregs,
    idt: { base: vm.arch.idt, limit: 0xfff },
    gdt: { base: vm.arch.gdt, limit: 0xfff },
    cr0: BigInt(CR0.PE | CR0.NE) | BigInt(CR0.PG),
    cr3: BigInt(vmPgd(vm)),
    cr4: sregs.cr4 | BigInt(CR4.PAE | CR4.OSFXSR) | la57,
    efer: sregs.efer | BigInt(EFER.LME | EFER.LMA | EFER.NXE),
    ldt: { ...kvmSegment(), unusable: 1 },
    cs: flatSegment(KERNEL_CS, 'code'),
    ds: flatSegment(KERNEL_DS, 'data'),
    es: flatSegment(KERNEL_DS, 'data'),
    ss: flatSegment(KERNEL_DS, 'data'),
    fs: { ...kvmSegment(), unusable: 1 },
    gs: flatSegment(KERNEL_DS, 'data'),
    tr: tssSegment(vm.arch.tss),
  };
}

/** __vm_vcpu_add(): a vCPU in its reset state. */
export function* __vmVcpuAdd(vm: KvmVm, id: number): Steps<KvmVcpu> {
  const vcpu: KvmVcpu = { id, vm, fd: yield* vm.fd.createVcpu(id) };
  vm.vcpus.push(vcpu);
  return vcpu;
}

/** vm_vcpu_add(): a vCPU that starts at `entry` on a stack of its own. */
export function* vmVcpuAdd(vm: KvmVm, id: number, entry: Gva): Steps<KvmVcpu> {
  const vcpu = yield* __vmVcpuAdd(vm, id);
  const { fd } = vcpu;
  fd.setCpuid2(vm.backend.kvm.getSupportedCpuid());
  // kvm_arch_vm_post_create(): udelay() in the guest counts by it. An image without the library has no such symbol.
  if (vm.symbols.has('guest_tsc_khz')) writeGuestGlobal(vm, 'guest_tsc_khz', BigInt(fd.getTscKhz()), 4);
  const stack =
    vmVaddrAlloc(vm, DEFAULT_STACK_PGS * PAGE, KVM_UTIL_MIN_VADDR) + BigInt(DEFAULT_STACK_PGS * PAGE);
  TEST_ASSERT(stack % 16n === 0n, 'the stack allocator did not provide a page-aligned stack');
  vcpuInitSregs(vcpu);
  // SysV: (rsp + 8) is a multiple of 16 at a function's entry.
  fd.setRegs({ ...fd.getRegs(), rflags: 2n, rsp: stack - 8n, rip: entry });
  fd.setMpState({ mp_state: KVM_MP_STATE.RUNNABLE });
  return vcpu;
}

/** vcpu_args_set(): up to six integer arguments by the SysV ABI. */
export function vcpuArgsSet(vcpu: KvmVcpu, ...args: (number | bigint)[]): void {
  const names = ['rdi', 'rsi', 'rdx', 'rcx', 'r8', 'r9'] as const;
  TEST_ASSERT(
    args.length >= 1 && args.length <= names.length,
    `Unsupported number of args, num: ${args.length}`,
  );
  const regs: KvmRegs = vcpu.fd.getRegs();
  args.forEach((value, i) => {
    regs[names[i]!] = BigInt.asUintN(64, BigInt(value));
  });
  vcpu.fd.setRegs(regs);
}
