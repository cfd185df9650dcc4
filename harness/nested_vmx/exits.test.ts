// SPDX-License-Identifier: GPL-2.0-only
/**
 * Exits of L2 that L1 asks for, and L2 where L1 does not ask: NMIs, windows, monitor trap flag, ports, MSRs, control registers,
 * SIPIs. Expected: SDM, "Other Causes of VM Exits", "Monitor Trap Flag", "VM-Execution Control Fields"; KVM's
 * nested_vmx_l1_wants_exit() and vmx_check_nested_events().
 */
import { describe, expect, it } from 'vitest';
import {
  at,
  cpu_relax,
  cpuid,
  type Expr,
  ExRegs,
  type FnLinkable,
  GUEST_ASSERT_EQ,
  GUEST_SYNC,
  type GuestCode,
  guestFn,
  guestGlobal,
  hlt,
  inb,
  type Operand,
  outb,
  type Place,
  ptr,
  rdmsr,
  READ_ONCE,
  set_cr0,
  set_cr3,
  set_cr4,
  set_cr8,
  sti_nop,
  u64,
  u8,
  vmcall,
  vmcs_set_bits,
  vmreadz,
  vmresume,
  vmwrite,
  get_cr0,
  get_cr3,
  get_cr4,
  get_cr8,
  wrmsr,
} from '../../lib/guest/index.ts';
import { vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { KVM_MP_STATE } from '../../lib/uapi/vcpu_state.ts';
import { APIC_DM } from '../../lib/x86/apic.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { CR0, CR4 } from '../../lib/x86/registers.ts';
import { CPU_BASED, PIN_BASED } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { GUEST_ACTIVITY } from '../../lib/x86/vmx/guest_state.ts';
import { INTR_INFO, INTR_TYPE } from '../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';
import { vcpuApic } from '../../vmm/kvm/x86/lapic.ts';
import { exitName, nextSync, type SmallVm } from '../kvm_x86/small_vm.ts';
import type { Steps } from '../../lib/kvm_util/backend.ts';
import { l2Code, launchTo, runL1, skipL2 } from './l1_vm.ts';

const l2_ran = guestGlobal('l2_ran', u64);
const nmis = guestGlobal('nmis', u64);
const nmi_handler = guestFn('nmi_handler', [ptr(ExRegs)], (g) => g.set(nmis, '+=', 1));

const expectField = (g: GuestCode, field: number, value: Operand): void =>
  GUEST_ASSERT_EQ(g, vmreadz(g, field), value);
const pin = (g: GuestCode, bits: number): void =>
  void vmcs_set_bits(g, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL, bits);
const cpu = (g: GuestCode, bits: number): void =>
  void vmcs_set_bits(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, bits);

/** L2 that tells userspace, then leaves a mark and calls. */
const syncing = l2Code((g) => {
  GUEST_SYNC(g, 3);
  g.set(l2_ran, 1);
  g.loop(() => vmcall(g));
});
const marking = l2Code((g) => {
  g.set(l2_ran, 1);
  g.loop(() => vmcall(g));
});

function* nmiDuringL2({ vcpu }: SmallVm): Steps<void> {
  expect(yield* nextSync(vcpu)).toEqual([3n, 0n, 0n, 0n, 0n]);
  vcpu.fd.nmi();
  expect(yield* nextSync(vcpu)).toEqual([]);
}

describe('an NMI while L2 is active', () => {
  it('is an exit if L1 wants it, and blocks NMIs in L1', () => {
    runL1(
      (g) => {
        pin(g, PIN_BASED.NMI_EXITING);
        launchTo(g, EXIT_REASON.EXCEPTION_NMI);
        expectField(
          g,
          VMCS_INFO.VM_EXIT_INTR_INFO,
          (INTR_INFO.VALID_MASK | INTR_TYPE.NMI_INTR | VECTOR.NMI) >>> 0,
        );
        GUEST_ASSERT_EQ(g, READ_ONCE(l2_ran), 0);
        GUEST_ASSERT_EQ(g, READ_ONCE(nmis), 0);
      },
      {
        l2: syncing,
        handlers: { [VECTOR.NMI]: nmi_handler },
        *drive(small) {
          yield* nmiDuringL2(small);
          expect(small.vcpu.fd.getVcpuEvents().nmi.masked).toBe(1);
        },
      },
    );
  });

  it("is L2's if L1 does not want it: L2's IDT is that of L1 here", () => {
    runL1(
      (g) => {
        launchTo(g, EXIT_REASON.VMCALL);
        GUEST_ASSERT_EQ(g, READ_ONCE(nmis), 1);
      },
      { l2: syncing, handlers: { [VECTOR.NMI]: nmi_handler }, drive: nmiDuringL2 },
    );
  });
});

describe('a window that L1 asks for', () => {
  it('for interrupts opens after the instruction that follows STI', () => {
    runL1(
      (g) => {
        cpu(g, CPU_BASED.INTR_WINDOW_EXITING);
        launchTo(g, EXIT_REASON.INTERRUPT_WINDOW);
        GUEST_ASSERT_EQ(g, READ_ONCE(l2_ran), 1);
      },
      {
        l2: l2Code((g) => {
          g.set(l2_ran, 1);
          sti_nop(g);
          g.set(l2_ran, 2);
          g.loop(() => vmcall(g));
        }),
      },
    );
  });

  it('for NMIs is open at the first instruction, in a halt too', () => {
    for (const state of [GUEST_ACTIVITY.ACTIVE, GUEST_ACTIVITY.HLT]) {
      runL1(
        (g) => {
          pin(g, PIN_BASED.NMI_EXITING | PIN_BASED.VIRTUAL_NMIS);
          cpu(g, CPU_BASED.NMI_WINDOW_EXITING);
          vmwrite(g, VMCS_GUEST.ACTIVITY_STATE, state);
          launchTo(g, EXIT_REASON.NMI_WINDOW);
          GUEST_ASSERT_EQ(g, READ_ONCE(l2_ran), 0);
        },
        { l2: marking },
      );
    }
  });
});

describe('the monitor trap flag', () => {
  it.each<[string, (g: GuestCode) => void]>([
    ['that the processor executes', (g) => cpu_relax(g)],
    ['that L0 emulates', (g) => void rdmsr(g, MSR.IA32_MISC_ENABLE)],
  ])('exits after one instruction %s', (_what, insn) => {
    runL1(
      (g) => {
        cpu(g, CPU_BASED.USE_MSR_BITMAPS);
        launchTo(g, EXIT_REASON.VMCALL);
        skipL2(g);
        cpu(g, CPU_BASED.MONITOR_TRAP_FLAG);
        const steps = g.local(u64, 0);
        g.doWhile(
          () => {
            GUEST_ASSERT_EQ(g, vmresume(g), 0);
            g.set(steps, '+=', 1);
          },
          () => vmreadz(g, VMCS_INFO.VM_EXIT_REASON).eq(EXIT_REASON.MONITOR_TRAP_FLAG),
        );
        expectField(g, VMCS_INFO.VM_EXIT_REASON, EXIT_REASON.VMCALL);
        // At least the instruction, what leads to the call, and the call itself, each of them alone.
        g.if(steps.lt(3), () => GUEST_ASSERT_EQ(g, steps, 3));
      },
      {
        l2: l2Code((g) => {
          vmcall(g);
          insn(g);
          g.loop(() => vmcall(g));
        }),
      },
    );
  });

  it('can be injected as an event, whatever the control says', () => {
    runL1(
      (g) => {
        vmwrite(g, VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD, (INTR_INFO.VALID_MASK | INTR_TYPE.OTHER_EVENT) >>> 0);
        launchTo(g, EXIT_REASON.MONITOR_TRAP_FLAG);
        GUEST_ASSERT_EQ(g, READ_ONCE(l2_ran), 0);
      },
      { l2: marking },
    );
  });
});

describe("L1's bitmaps", () => {
  it('of ports: a set bit is an exit to L1, a clear one is userspace business', () => {
    runL1(
      (g, vmx) => {
        cpu(g, CPU_BASED.USE_IO_BITMAPS);
        vmwrite(g, VMCS_CTRL.IO_BITMAP_A, vmx.f.vmread_gpa);
        vmwrite(g, VMCS_CTRL.IO_BITMAP_B, vmx.f.vmwrite_gpa);
        const byte = (page: Expr, n: number): Place => at(u8, page.cast(u64).add(n));
        g.set(byte(vmx.f.vmread, 0x80 >> 3), 1);
        g.set(byte(vmx.f.vmwrite, 0x100 >> 3), 2);
        launchTo(g, EXIT_REASON.IO_INSTRUCTION);
        // SDM, "Exit Qualification for I/O Instructions": one byte, OUT, the port in bits 31:16.
        expectField(g, VMCS_INFO.EXIT_QUALIFICATION, 0x80_0000);
        skipL2(g);
        GUEST_ASSERT_EQ(g, vmresume(g), 0);
        expectField(g, VMCS_INFO.VM_EXIT_REASON, EXIT_REASON.IO_INSTRUCTION);
        expectField(g, VMCS_INFO.EXIT_QUALIFICATION, 0x8101_0008);
      },
      {
        l2: l2Code((g) => {
          outb(g, 1, 0x81);
          outb(g, 1, 0x80);
          const first = inb(g, 0x8100);
          GUEST_ASSERT_EQ(g, first, 0x5a);
          inb(g, 0x8101);
        }),
        *drive({ vcpu }) {
          yield* vcpuRun(vcpu);
          expect([exitName(vcpu), vcpu.fd.run.io.port]).toEqual(['IO', 0x81]);
          yield* vcpuRun(vcpu);
          expect([exitName(vcpu), vcpu.fd.run.io.port]).toEqual(['IO', 0x8100]);
          vcpu.fd.run.pio_data[0] = 0x5a;
          expect(yield* nextSync(vcpu)).toEqual([]);
        },
      },
    );
  });

  it.each<[string, number, number, number, FnLinkable, number]>([
    [
      'low MSRs that are read',
      0,
      0,
      MSR.IA32_MISC_ENABLE,
      l2Code((g) => void rdmsr(g, MSR.IA32_MISC_ENABLE)),
      EXIT_REASON.MSR_READ,
    ],
    [
      'high MSRs that are written',
      0xc00,
      0xc000_0000,
      MSR.KERNEL_GS_BASE,
      l2Code((g) => wrmsr(g, MSR.KERNEL_GS_BASE, 5)),
      EXIT_REASON.MSR_WRITE,
    ],
  ])('of %s: a set bit is an exit', (_what, part, base, msr, l2, reason) => {
    runL1(
      (g, vmx) => {
        cpu(g, CPU_BASED.USE_MSR_BITMAPS);
        const index = msr - base;
        g.set(at(u8, vmx.f.msr.cast(u64).add(part + (index >> 3))), 1 << (index & 7));
        launchTo(g, reason);
      },
      { l2 },
    );
  });

  it('do not cover MSRs outside of their ranges: those are exits', () => {
    runL1(
      (g) => {
        cpu(g, CPU_BASED.USE_MSR_BITMAPS);
        launchTo(g, EXIT_REASON.MSR_READ);
      },
      { l2: l2Code((g) => void rdmsr(g, 0x2000)) },
    );
  });
});

describe('CR0 of L2', () => {
  it('exits only if a bit changes that L1 keeps for itself; else L2 reads what it wrote', () => {
    runL1(
      (g) => {
        vmwrite(g, VMCS_CTRL.CR0_GUEST_HOST_MASK, CR0.CD >>> 0);
        launchTo(g, EXIT_REASON.CPUID);
        skipL2(g);
        const cr0 = vmreadz(g, VMCS_GUEST.CR0);
        GUEST_ASSERT_EQ(g, cr0.and(CR0.AM), CR0.AM);
        GUEST_ASSERT_EQ(g, vmresume(g), 0);
        expectField(g, VMCS_INFO.VM_EXIT_REASON, EXIT_REASON.CR_ACCESS);
      },
      {
        l2: l2Code((g) => {
          set_cr0(g, get_cr0(g).or(CR0.AM | CR0.MP));
          GUEST_ASSERT_EQ(g, get_cr0(g).and(CR0.AM), CR0.AM);
          cpuid(g, 0);
          set_cr0(g, get_cr0(g).or(CR0.CD >>> 0));
        }),
      },
    );
  });
});

describe('an access of L2 to a control register', () => {
  const { CR3_LOAD_EXITING, CR3_STORE_EXITING, CR8_LOAD_EXITING, CR8_STORE_EXITING } = CPU_BASED;
  const insn = (name: 'clts' | 'mov cr4'): FnLinkable =>
    l2Code((g) => {
      if (name === 'clts') g.asm({ emit: (a) => a.emit('clts') });
      else set_cr4(g, get_cr4(g).xor(CR4.DE));
      vmcall(g);
    });
  const set3 = l2Code((g) => {
    set_cr3(g, get_cr3(g));
    vmcall(g);
  });
  const set8 = l2Code((g) => {
    set_cr8(g, get_cr8(g));
    vmcall(g);
  });
  // SDM, "Exit Qualification for Control-Register Accesses": the register in bits 3:0, 1 in bits 5:4 is a read, 2 is CLTS.
  it.each<[string, FnLinkable, number, number, number]>([
    ['MOV to CR3', set3, CR3_LOAD_EXITING, 0, 0x03],
    ['MOV from CR3', set3, CR3_STORE_EXITING, 0, 0x13],
    ['MOV to CR8', set8, CR8_LOAD_EXITING, 0, 0x08],
    ['MOV from CR8', set8, CR8_STORE_EXITING, 0, 0x18],
    ['CLTS of a TS that L1 keeps set', insn('clts'), 0, CR0.TS, 0x20],
    ['MOV to CR4', insn('mov cr4'), 0, 0, 0x04],
  ])('is an exit if L1 asks for it: %s', (what, l2, controls, ts, qualification) => {
    for (const asked of [true, false]) {
      runL1(
        (g) => {
          // SDM: some processors, and KVM, let CR3 be accessed without an exit.
          const before = vmreadz(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL);
          const cr3 = CR3_LOAD_EXITING | CR3_STORE_EXITING;
          vmwrite(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, before.and(~BigInt(cr3)).or(asked ? controls : 0));
          if (asked && ts !== 0) {
            vmwrite(g, VMCS_CTRL.CR0_GUEST_HOST_MASK, ts);
            vmwrite(g, VMCS_CTRL.CR0_READ_SHADOW, vmreadz(g, VMCS_GUEST.CR0).or(ts));
          }
          if (asked && what === 'MOV to CR4') vmwrite(g, VMCS_CTRL.CR4_GUEST_HOST_MASK, CR4.DE);
          launchTo(g, asked ? EXIT_REASON.CR_ACCESS : EXIT_REASON.VMCALL);
          if (asked) {
            const qual = vmreadz(g, VMCS_INFO.EXIT_QUALIFICATION);
            GUEST_ASSERT_EQ(g, qual.and(0x3f), qualification);
          }
        },
        { l2 },
      );
    }
  });
});

describe('the wait-for-SIPI state of L2', () => {
  it('ends with a SIPI, which is an exit with its vector', () => {
    runL1(
      (g) => {
        vmwrite(g, VMCS_GUEST.ACTIVITY_STATE, GUEST_ACTIVITY.WAIT_SIPI);
        launchTo(g, EXIT_REASON.SIPI_SIGNAL);
        expectField(g, VMCS_INFO.EXIT_QUALIFICATION, 0x9a);
        expectField(g, VMCS_GUEST.ACTIVITY_STATE, GUEST_ACTIVITY.WAIT_SIPI);
        GUEST_ASSERT_EQ(g, READ_ONCE(l2_ran), 0);
      },
      {
        l2: l2Code((g) => {
          hlt(g);
          g.set(l2_ran, 1);
        }),
        *drive({ host, vcpu }) {
          const l1 = host.threads.spawn('l1', function* () {
            expect(yield* nextSync(vcpu)).toEqual([]);
          });
          yield* host.threads.sleepNs(1_000_000);
          const l0 = host.module.vmList[0]!.vcpus[0]!;
          expect(l0.arch.mpState).toBe(KVM_MP_STATE.INIT_RECEIVED);
          vcpuApic(l0).apic.receive(APIC_DM.STARTUP, 0x9a, 0);
          yield* host.threads.join(l1);
        },
      },
    );
  });
});
