// SPDX-License-Identifier: GPL-2.0-only
/**
 * Nested VMX by what it costs: an instruction of L2 exits, L0 reflects the exit, L1 reads why, moves L2's RIP on and resumes
 * it; exits of L2 and of L1 that L0 handles by itself; L1's VMREAD and VMWRITE. All of it guest code on an emulated host,
 * as a selftest runs.
 */
import {
  array,
  type GuestCode,
  guestAsm,
  guestFn,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_SYNC,
  linkGuest,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  u64,
  vmlaunch,
  vmcs_set_bits,
  VmxPages,
  vmwrite,
} from '../lib/guest/index.ts';
import type { RawAsm } from '../lib/guest/dsl/function.ts';
import { lab, mem, R } from '../lib/asm/operands.ts';
import { fnType } from '../lib/guest/dsl/types.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { getUcall, vcpuRun } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { vcpuArgsSet } from '../lib/kvm_util/x86/processor.ts';
import { tdpIdentityMapDefaultMemslots, vmEnableTdp } from '../lib/kvm_util/x86/tdp.ts';
import { vcpuAllocVmx } from '../lib/kvm_util/x86/vmx.ts';
import { UCALL } from '../lib/guest/ucall.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO } from '../lib/x86/vmx/vmcs_info.ts';
import { createEmulatedHost } from '../vmm/emulated.ts';

const STACK_WORDS = 64;
/** An MSR that the bitmaps do not cover: its RDMSR always exits. */
const MSR_OUT_OF_BITMAP = 0x2000_0000;

/** What L2 executes in a loop. */
interface Cause {
  readonly emit: (a: RawAsm) => void;
  /** Length of the instruction that exits to L1, and the exit's reason. */
  readonly bytes: number;
  readonly reason: number;
  /** Primary controls that L1 sets for it. */
  readonly controls?: number;
}

// prettier-ignore
export const NESTED_CAUSES = {
  vmcall: { emit: (a) => { a.emit('vmcall'); }, bytes: 3, reason: EXIT_REASON.VMCALL },
  cpuid: { emit: (a) => { a.emit('cpuid'); }, bytes: 2, reason: EXIT_REASON.CPUID },
  rdmsr: { emit: (a) => { a.emit('mov', R.ecx, MSR_OUT_OF_BITMAP); a.emit('rdmsr'); }, bytes: 2, reason: EXIT_REASON.MSR_READ },
  out: { emit: (a) => { a.emit('out', 0x80, R.al); }, bytes: 2, reason: EXIT_REASON.IO_INSTRUCTION, controls: CPU_BASED.UNCOND_IO_EXITING },
  hlt: { emit: (a) => { a.emit('hlt'); }, bytes: 1, reason: EXIT_REASON.HLT, controls: CPU_BASED.HLT_EXITING },
} as const satisfies Record<string, Cause>;

/** What L1 executes in a loop. */
// prettier-ignore
export const L0_LOOPS = {
  cpuid: (a: RawAsm) => { a.emit('cpuid'); },
  vmread: (a: RawAsm) => { a.emit('mov', R.edx, VMCS_GUEST.RIP); a.emit('vmread', R.rax, R.rdx); },
  vmwrite: (a: RawAsm) => { a.emit('mov', R.edx, VMCS_GUEST.RIP); a.emit('vmwrite', R.rdx, R.rax); },
} as const;

const SAVED = [R.rbx, R.rbp, R.r15] as const;

/** A function of L1 that takes the turns to go and returns those that are left. */
function counted(name: string, body: (a: RawAsm, out: string) => void): ReturnType<typeof guestAsm> {
  return guestAsm(
    name,
    (a) => {
      SAVED.forEach((reg) => a.emit('push', reg));
      a.emit('mov', R.r15, R.rdi);
      body(a, `${name}.out`);
      a.label(`${name}.out`);
      a.emit('mov', R.rax, R.r15);
      SAVED.toReversed().forEach((reg) => a.emit('pop', reg));
      a.emit('ret');
    },
    fnType([u64], u64),
  );
}

/** L1's loop as a hypervisor has it: host state is written once; L2 does not touch R15, RBP and RSP. */
const runTrips = ({ reason, bytes }: Cause): ReturnType<typeof guestAsm> =>
  counted('run_trips', (a, out) => {
    a.emit('mov', R.edx, VMCS_HOST.RSP);
    a.emit('vmwrite', R.rdx, R.rsp);
    a.emit('lea', R.rax, mem(0, { label: 'run_trips.exit' }));
    a.emit('mov', R.edx, VMCS_HOST.RIP);
    a.emit('vmwrite', R.rdx, R.rax);
    a.label('run_trips.again');
    a.emit('vmresume');
    a.emit('jmp', lab(out));
    a.label('run_trips.exit');
    a.emit('mov', R.edx, VMCS_INFO.VM_EXIT_REASON);
    a.emit('vmread', R.rax, R.rdx);
    a.emit('cmp', R.eax, reason);
    a.emit('jne', lab(out));
    a.emit('mov', R.edx, VMCS_GUEST.RIP);
    a.emit('vmread', R.rbx, R.rdx);
    a.emit('add', R.rbx, bytes);
    a.emit('vmwrite', R.rdx, R.rbx);
    a.emit('sub', R.r15, 1);
    a.emit('jnz', lab('run_trips.again'));
  });

/** The instruction as often as asked for. */
const runLoop = (emit: (a: RawAsm) => void): ReturnType<typeof guestAsm> =>
  counted('run_loop', (a) => {
    a.label('run_loop.again');
    emit(a);
    a.emit('sub', R.r15, 1);
    a.emit('jnz', lab('run_loop.again'));
  });

const l2Loop = (emit: (a: RawAsm) => void): ReturnType<typeof guestAsm> =>
  guestAsm('l2_guest_code', (a) => {
    a.label('l2_guest_code.again');
    emit(a);
    a.emit('jmp', lab('l2_guest_code.again'));
  });

/** What `batches` of `trips` turns took: the best batch, and cycles of virtual time for one turn. */
export interface NestedResult {
  readonly perSecond: number;
  readonly cyclesPerTrip: number;
  /** How often each cost point was hit in one turn, by its number. */
  readonly counts: readonly number[];
}

/** How much work a figure is made of; module parameters as on the command line. */
export interface NestedWork {
  readonly trips: number;
  readonly batches: number;
  readonly params?: readonly string[];
  /** L1 runs L2 on an EPT of its own. */
  readonly ept?: boolean;
}

/** L1: sets L2 up, then does what it was given between two SYNCs. Without a VPID every entry and exit would flush. */
function l1(l2: ReturnType<typeof guestAsm>, work: ReturnType<typeof guestAsm>, controls: number) {
  return guestFn('l1_guest_code', [ptr(VmxPages), u64], (g: GuestCode, vmx, trips) => {
    const stack = g.local(array(u64, STACK_WORDS));
    GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
    GUEST_ASSERT(g, load_vmcs(g, vmx));
    prepare_vmcs(g, vmx, l2, stack.at(STACK_WORDS).addr());
    vmcs_set_bits(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, controls | CPU_BASED.ACTIVATE_SECONDARY_CONTROLS);
    vmcs_set_bits(g, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.ENABLE_VPID);
    GUEST_ASSERT_EQ(g, vmwrite(g, VMCS_CTRL.VIRTUAL_PROCESSOR_ID, 1), 0);
    GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
    g.loop(() => {
      GUEST_SYNC(g, 0);
      GUEST_ASSERT_EQ(g, g.call(work, trips), 0);
    });
  });
}

function measure(guest: ReturnType<typeof l1>, work: NestedWork): NestedResult {
  const { trips, batches, params = [] } = work;
  const host = createEmulatedHost({ params, nrCpus: 1 });
  let best = Infinity;
  let cycles = 0;
  let counts: number[] = [];
  host.runMain(function* () {
    const [vm, vcpu] = yield* vmCreateWithOneVcpu(host, { image: linkGuest(guest) });
    if (work.ept === true) vmEnableTdp(vm);
    vcpuArgsSet(vcpu, vcpuAllocVmx(vm), BigInt(trips));
    if (work.ept === true) tdpIdentityMapDefaultMemslots(vm);
    yield* vcpuRun(vcpu);
    for (let n = 0; n < batches; n++) {
      const cpu = host.host.machine.cpus[0]!;
      const before = { cycles: cpu.clock[0]!, counts: Array.from(cpu.counts) };
      const began = performance.now();
      yield* vcpuRun(vcpu);
      best = Math.min(best, (performance.now() - began) / 1000);
      const { cmd, args } = getUcall(vcpu);
      if (cmd !== UCALL.SYNC) throw new Error(`nested benchmark: ucall ${cmd} (${args.join(', ')})`);
      cycles = (cpu.clock[0]! - before.cycles) / trips;
      counts = before.counts.map((old, point) => (cpu.counts[point]! - old) / trips);
    }
    yield* kvmVmFree(vm);
  });
  return { perSecond: trips / best, cyclesPerTrip: cycles, counts };
}

const VMCALL = (a: RawAsm): void => {
  a.emit('vmcall');
};

/** An instruction of L2 with an exit to L1 for each. */
export function nestedRoundTrips(name: keyof typeof NESTED_CAUSES, work: NestedWork): NestedResult {
  const cause: Cause = NESTED_CAUSES[name];
  return measure(l1(l2Loop(cause.emit), runTrips(cause), cause.controls ?? 0), work);
}

/** An instruction of L1: L0 emulates it, or the processor executes it on the shadow VMCS. */
export function l1Loop(name: keyof typeof L0_LOOPS, work: NestedWork): NestedResult {
  return measure(l1(l2Loop(VMCALL), runLoop(L0_LOOPS[name]), 0), work);
}
