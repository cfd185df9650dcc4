// SPDX-License-Identifier: GPL-2.0-only
/**
 * The VM of the nested fuzzer, as it is before each case: L1 in VMX operation, about to load its VMCS; a valid vmcs12 to
 * begin with; pages that a case may fill. What a case did to memory and registers is undone before the next.
 */
import { gpa, hva, PAGE_SIZE, type Gpa, type Gva } from '../../lib/x86/addr.ts';
import type { Steps } from '../../lib/kvm_util/backend.ts';
import { addrGpa2hva, kvmVmFree, type KvmVcpu, type KvmVm } from '../../lib/kvm_util/kvm_util.ts';
import { tryVcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../../lib/kvm_util/vm_create.ts';
import { addrGva2gpa, readGuest, vmVaddrAlloc } from '../../lib/kvm_util/x86/page_table.ts';
import { vcpuArgsSet } from '../../lib/kvm_util/x86/processor.ts';
import { vcpuLoadState, vcpuSaveState, type KvmX86State } from '../../lib/kvm_util/x86/state.ts';
import { tdpIdentityMapDefaultMemslots, vmEnableTdp } from '../../lib/kvm_util/x86/tdp.ts';
import { vcpuAllocVmx } from '../../lib/kvm_util/x86/vmx.ts';
import { linkGuest } from '../../lib/guest/index.ts';
import { VmxPages } from '../../lib/guest/vmx_pages.ts';
import { KVM_EXIT } from '../../lib/uapi/run.ts';
import type { KvmLapicState } from '../../lib/uapi/vcpu_state.ts';
import { KVM_NESTED_NO_PA, KVM_NESTED_STATE_SIZE, type KvmNestedState } from '../../lib/uapi/nested_state.ts';
import type { EmulatedHost } from '../../vmm/emulated.ts';
import { toVmx } from '../../vmm/kvm/vmx/vcpu_vmx.ts';
import { FOLL } from '../../vmm/host/mm/fault.ts';
import type { MmStruct } from '../../vmm/host/mm/mm_struct.ts';
import { userHpa } from '../../vmm/host/mm/user_access.ts';
import type { NestedVmx } from '../../vmm/kvm/vmx/nested/nested_vmx.ts';
import { FUZZ_PORT, FUZZ_RECORD, fuzz_l1, fuzz_record } from './guest_code.ts';
import type { AddressSpace } from './values.ts';

const ARENA_PAGES = 12;
const MIN_VADDR = 0x2000n;

/** A page of guest memory; nothing migrates, so it stays where it is. */
interface MemoryPage {
  readonly live: Buffer;
  readonly wanted: Buffer;
}

export interface World extends AddressSpace {
  readonly host: EmulatedHost;
  readonly vm: KvmVm;
  readonly vcpu: KvmVcpu;
  /** The page of L2's code: an arena page too, as are those of its operands. */
  readonly l2: Gva;
  /** Where the VMCS of L1 lies. */
  readonly vmcsGpa: Gpa;
  readonly vmcsRoom: Gpa;
  /** A valid vmcs12 that uses EPT. */
  readonly vmcs12: Uint8Array;
  /** L0's side of L1's VMX. */
  readonly nested: NestedVmx;
  readonly state: KvmX86State;
  readonly lapic: KvmLapicState;
  readonly pages: readonly MemoryPage[];
}

/** What the vCPU's last exit was a report of; undefined: it was no report. */
export function reported(world: Pick<World, 'vm' | 'vcpu'>): readonly bigint[] | undefined {
  const { run } = world.vcpu.fd;
  if (run.exit_reason !== KVM_EXIT.IO || run.io.port !== FUZZ_PORT) return undefined;
  const bytes = readGuest(world.vm, world.vm.symbols.get(fuzz_record.symbol)!, 24);
  const view = new DataView(bytes.buffer);
  return [0, 8, 16].map((at) => view.getBigUint64(at, true));
}

const areaGpa = (vm: KvmVm, vmx: Gva, field: string): Gpa => {
  const bytes = readGuest(vm, vmx + BigInt(VmxPages.offsetof(field)), 8);
  return gpa(Number(new DataView(bytes.buffer).getBigUint64(0, true)));
};

/** Create the VM and run L1 up to its first report. */
export function* createWorld(host: EmulatedHost): Steps<World> {
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(host, { image: linkGuest(fuzz_l1), extraPages: 96 });
  const linear = vmVaddrAlloc(vm, ARENA_PAGES * PAGE_SIZE, MIN_VADDR);
  const arena = Array.from({ length: ARENA_PAGES }, (_, i) => {
    const page = linear + BigInt(i * PAGE_SIZE);
    return { linear: page, physical: BigInt(addrGva2gpa(vm, page)) };
  });
  vmEnableTdp(vm);
  const vmx = vcpuAllocVmx(vm);
  tdpIdentityMapDefaultMemslots(vm);
  vcpuArgsSet(vcpu, vmx, linear);
  if ((yield* tryVcpuRun(vcpu)) !== 0 || reported({ vm, vcpu })?.[0] !== FUZZ_RECORD.READY)
    throw new Error('L1 of the fuzzer did not get ready');
  const state = yield* vcpuSaveState(vcpu);
  const memoryBytes = vm.regions.get(0).npages * PAGE_SIZE;
  const kvm = host.module.vmList.at(-1)!;
  return {
    host,
    vm,
    vcpu,
    arena,
    memoryBytes,
    l2: linear,
    vmcsGpa: areaGpa(vm, vmx, 'vmcs_gpa'),
    vmcsRoom: areaGpa(vm, vmx, 'vmxon_gpa'),
    vmcs12: state.nested!.data.vmx.vmcs12.slice(),
    nested: toVmx(kvm.vcpus.find((v) => v.vcpuId === vcpu.id)!).nested,
    state: { ...state, nested: undefined },
    lapic: vcpu.fd.getLapic(),
    pages: memoryPages(host, vm, kvm.mm),
  };
}

/** The nested state of L1 in VMX operation without a current VMCS. */
export function vmxonState(world: World): KvmNestedState {
  const { hdr } = emptyState();
  return { ...emptyState(), hdr: { ...hdr, vmx: { ...hdr.vmx, vmxon_pa: BigInt(world.vmcsRoom) } } };
}

function emptyState(): KvmNestedState {
  return {
    flags: 0,
    format: 0,
    size: KVM_NESTED_STATE_SIZE,
    hdr: {
      vmx: {
        vmxon_pa: KVM_NESTED_NO_PA,
        vmcs12_pa: KVM_NESTED_NO_PA,
        smm: { flags: 0 },
        flags: 0,
        preemption_timer_deadline: 0n,
      },
      svm: { vmcb_pa: 0n },
    },
    data: { vmx: { vmcs12: new Uint8Array(4096), shadow_vmcs12: new Uint8Array(4096) } },
  };
}

/** Everything as createWorld() left it, with L1 outside of VMX operation. */
export function resetWorld(world: World): void {
  const { fd } = world.vcpu;
  // The capability MSRs can be set, and the guest's memory be trusted, only outside of VMX operation.
  fd.setNestedState(emptyState());
  restoreMemory(world);
  vcpuLoadState(world.vcpu, world.state);
  fd.setLapic(world.lapic);
}

function restoreMemory({ vm, host, pages }: World): void {
  const { hostMem } = vm.regions.get(0);
  for (const [i, { live, wanted }] of pages.entries())
    if (!live.equals(wanted)) host.memory.write(hva(hostMem + i * PAGE_SIZE), wanted);
}

/** Each page of slot 0 where it lies in the machine's memory, and what it held. */
function memoryPages(host: EmulatedHost, vm: KvmVm, mm: MmStruct): MemoryPage[] {
  const { hostMem, npages } = vm.regions.get(0);
  const { buffer } = host.machine.mem.u8;
  return Array.from({ length: npages }, (_, i) => {
    const at = userHpa(mm, hostMem + i * PAGE_SIZE, FOLL.READ);
    const live = Buffer.from(buffer, at, PAGE_SIZE);
    return { live, wanted: Buffer.from(live) };
  });
}

/** Write to guest-physical memory. */
export const pokeGpa = (world: World, at: number, bytes: Uint8Array): void =>
  world.host.memory.write(addrGpa2hva(world.vm, gpa(at)), bytes);

/** The VM goes, and what belonged to it. */
export const closeWorld = (world: World): Steps<void> => kvmVmFree(world.vm);
