// SPDX-License-Identifier: GPL-2.0-only
/**
 * L0's functions on a loaded vCPU, where a guest alone does not lead: exceptions on exceptions, events taken back, MOV to CR3,
 * flushes by kind. Expected: SDM, "Double Fault Exception", "MOV - Move to/from Control Registers"; KVM's x86.c and vmx.c.
 */
import { describe, expect, it } from 'vitest';
import { GUEST_DONE } from '../../lib/guest/index.ts';
import { KVM_EXIT, KVM_INTERNAL_ERROR } from '../../lib/uapi/run.ts';
import { KVM_X86_SHADOW_INT } from '../../lib/uapi/vcpu_state.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { CR4, DR6 } from '../../lib/x86/registers.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { INTR_INFO, INTR_TYPE } from '../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMX_RESULT } from '../../vmm/machine/vmx/vmx_unit.ts';
import { vmread32 } from '../../vmm/machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../../vmm/kvm/kvm_host.ts';
import { vcpuLoad, vcpuPut } from '../../vmm/kvm/kvm_main.ts';
import { KVM_REQ } from '../../vmm/kvm/request_numbers.ts';
import { kvmCheckRequest, kvmClearRequest, kvmTestRequest } from '../../vmm/kvm/requests.ts';
import { kvmSetCr3, kvmSetCr4 } from '../../vmm/kvm/x86/cr.ts';
import {
  kvmCheckAndInjectEvents,
  kvmQueueDebugException,
  kvmQueueException,
  kvmQueueExceptionE,
} from '../../vmm/kvm/x86/events.ts';
import { toVmx, vmxCpu } from '../../vmm/kvm/vmx/vcpu_vmx.ts';
import { VpidAllocator } from '../../vmm/kvm/vmx/vpid_allocator.ts';
import { guest, withVm } from './small_vm.ts';

/** The vCPU of an idle VM, loaded on the current pCPU. */
function loaded(body: (vcpu: Vcpu) => void): void {
  withVm(
    guest((g) => GUEST_DONE(g)),
    function* ({ host }) {
      const vcpu = host.module.vmList[0]!.vcpus[0]!;
      vcpuLoad(vcpu);
      body(vcpu);
      vcpuPut(vcpu);
    },
  );
}

const { DE, PF, GP, UD, DF, BP, NP } = VECTOR;

describe('an exception on top of another', () => {
  it.each<[string, number, number, number]>([
    ['contributory on contributory is DF', DE, GP, DF],
    ['contributory on PF is DF', PF, NP, DF],
    ['PF on PF is DF', PF, PF, DF],
    ['PF on contributory replaces it', GP, PF, PF],
    ['benign on contributory replaces it', GP, UD, UD],
    ['benign on PF replaces it', PF, UD, UD],
  ])('%s', (_what, first, second, result) => {
    loaded((vcpu) => {
      kvmQueueExceptionE(vcpu, first, 0);
      kvmQueueException(vcpu, second);
      expect([vcpu.arch.exception.vector, vcpu.arch.exception.pending]).toEqual([result, true]);
      expect(kvmTestRequest(KVM_REQ.TRIPLE_FAULT, vcpu)).toBe(false);
    });
  });

  it('does not inherit what was to go to DR6', () => {
    loaded((vcpu) => {
      kvmQueueDebugException(vcpu, DR6.BS);
      kvmQueueException(vcpu, VECTOR.DB);
      expect([vcpu.arch.exception.hasPayload, vcpu.arch.exception.payloadLo]).toEqual([false, 0]);
    });
  });

  it('after DF is a triple fault', () => {
    loaded((vcpu) => {
      kvmQueueExceptionE(vcpu, DF, 0);
      kvmQueueException(vcpu, UD);
      expect(kvmTestRequest(KVM_REQ.TRIPLE_FAULT, vcpu)).toBe(true);
    });
  });
});

describe('an injection', () => {
  const info = (vcpu: Vcpu): number => vmread32(vmxCpu(vcpu), VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD) >>> 0;

  it.each<[string, (vcpu: Vcpu) => void, number, (vcpu: Vcpu) => boolean]>([
    [
      'of a fault',
      (v) => kvmQueueExceptionE(v, GP, 8),
      GP | INTR_TYPE.HARD_EXCEPTION | INTR_INFO.DELIVER_CODE_MASK,
      (v) => v.arch.exception.injected,
    ],
    [
      'of a software exception',
      (v) => kvmQueueException(v, BP),
      BP | INTR_TYPE.SOFT_EXCEPTION,
      (v) => v.arch.exception.injected,
    ],
    [
      'of an NMI',
      (v) => {
        v.arch.nmiPending = 2;
      },
      VECTOR.NMI | INTR_TYPE.NMI_INTR,
      (v) => v.arch.nmiInjected,
    ],
    [
      'of a software interrupt',
      (v) => {
        Object.assign(v.arch.interrupt, { injected: true, soft: true, nr: 0x80 });
      },
      0x80 | INTR_TYPE.SOFT_INTR,
      (v) => v.arch.interrupt.injected,
    ],
  ])('%s is what the VMCS says, and can be taken back', (_what, queue, expected, flag) => {
    loaded((vcpu) => {
      const { ops, trace } = vcpu.kvm.module;
      trace.enable();
      queue(vcpu);
      kvmCheckAndInjectEvents(vcpu);
      expect(info(vcpu)).toBe((expected | INTR_INFO.VALID_MASK) >>> 0);
      ops.cancelInjection(vcpu);
      expect([info(vcpu), flag(vcpu)]).toEqual([0, true]);
      kvmCheckAndInjectEvents(vcpu);
      expect(info(vcpu)).toBe((expected | INTR_INFO.VALID_MASK) >>> 0);
    });
  });

  it('of an NMI behind STI waits for the window of interrupts', () => {
    loaded((vcpu) => {
      const { ops } = vcpu.kvm.module;
      ops.setInterruptShadow(vcpu, KVM_X86_SHADOW_INT.STI);
      vcpu.arch.nmiPending = 1;
      kvmCheckAndInjectEvents(vcpu);
      expect([info(vcpu), vcpu.arch.nmiPending]).toEqual([0, 1]);
      const controls = vmread32(vmxCpu(vcpu), VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL);
      // SDM, "Primary Processor-Based VM-Execution Controls": bit 2 is interrupt-window exiting, bit 22 NMI-window exiting.
      expect([(controls >>> 2) & 1, (controls >>> 22) & 1]).toEqual([1, 0]);
    });
  });
});

describe('MOV to CR3 and CR4', () => {
  it('flush what the SDM says, and no more', () => {
    loaded((vcpu) => {
      const flushes = (act: () => number): [number, boolean, boolean] => {
        kvmClearRequest(KVM_REQ.TLB_FLUSH_GUEST, vcpu);
        kvmClearRequest(KVM_REQ.TLB_FLUSH_CURRENT, vcpu);
        const r = act();
        return [
          r,
          kvmCheckRequest(KVM_REQ.TLB_FLUSH_GUEST, vcpu),
          kvmCheckRequest(KVM_REQ.TLB_FLUSH_CURRENT, vcpu),
        ];
      };
      const cr3 = BigInt(vcpu.arch.cr3);
      const cr4 = BigInt(vcpu.arch.cr4);
      expect(flushes(() => kvmSetCr3(vcpu, cr3))).toEqual([0, true, false]);
      expect(flushes(() => kvmSetCr3(vcpu, cr3 | (1n << 63n)))[0]).toBe(1);
      expect(flushes(() => kvmSetCr3(vcpu, 1n << 52n))[0]).toBe(1);
      expect(flushes(() => kvmSetCr4(vcpu, cr4 | BigInt(CR4.PCIDE)))).toEqual([0, false, false]);
      expect(flushes(() => kvmSetCr3(vcpu, cr3 | (1n << 63n)))).toEqual([0, false, false]);
      expect(flushes(() => kvmSetCr4(vcpu, cr4))).toEqual([0, true, false]);
      expect(flushes(() => kvmSetCr4(vcpu, cr4 | BigInt(CR4.SMEP)))).toEqual([0, false, true]);
      expect(flushes(() => kvmSetCr4(vcpu, cr4))).toEqual([0, false, false]);
      expect(flushes(() => kvmSetCr4(vcpu, cr4 ^ BigInt(CR4.PGE)))).toEqual([0, true, false]);
      vcpu.arch.cr3 = Number(cr3) | 1;
      expect(flushes(() => kvmSetCr4(vcpu, cr4 | BigInt(CR4.PCIDE)))[0]).toBe(1);
    });
  });
});

describe('an exit that L0 does not know', () => {
  const handled = (vcpu: Vcpu): unknown => vcpu.kvm.module.ops.handleExit(vcpu, 0);

  it('goes to userspace as an internal error with its reason', () => {
    loaded((vcpu) => {
      toVmx(vcpu).exit.reason = 0x77;
      expect(handled(vcpu)).toBe(0);
      const { run } = vcpu;
      expect([run.exit_reason, run.internal.suberror, run.internal.data[0]]).toEqual([
        KVM_EXIT.INTERNAL_ERROR,
        KVM_INTERNAL_ERROR.UNEXPECTED_EXIT_REASON,
        0x77n,
      ]);
    });
  });

  it('in the middle of a delivery is one too, and a second exception is SIMUL_EX', () => {
    loaded((vcpu) => {
      const vmx = toVmx(vcpu);
      vmx.exit.reason = EXIT_REASON.CPUID;
      vmx.exit.idtVectoring = INTR_INFO.VALID_MASK | 0x20;
      expect([handled(vcpu), vcpu.run.internal.suberror]).toEqual([0, KVM_INTERNAL_ERROR.DELIVERY_EV]);
      vmx.exit.reason = EXIT_REASON.EXCEPTION_NMI;
      expect([handled(vcpu), vcpu.run.internal.suberror]).toEqual([0, KVM_INTERNAL_ERROR.SIMUL_EX]);
      expect(vcpu.run.internal.data[0]).toBe(0x8000_0020n);
    });
  });

  it('or an entry that failed in VMX itself gives the error number', () => {
    loaded((vcpu) => {
      toVmx(vcpu).fail = VMX_RESULT.FAIL_VALID;
      expect([handled(vcpu), vcpu.run.exit_reason]).toEqual([0, KVM_EXIT.FAIL_ENTRY]);
      expect(vcpu.run.fail_entry.cpu).toBe(-1);
    });
  });
});

describe('the vendor operations', () => {
  it('flush by VPID only if there are VPIDs, and know capability MSRs', () => {
    loaded((vcpu) => {
      const { ops } = vcpu.kvm.module;
      const basic = { index: MSR.IA32_FEAT_CTL, data: 0n };
      expect(ops.getMsrFeature(basic)).toBeLessThan(0);
      const vmxBasic = { index: 0x480, data: 0n };
      expect([ops.getMsrFeature(vmxBasic), vmxBasic.data !== 0n]).toEqual([0, true]);
      ops.flushTlbGuest(vcpu);
      ops.flushTlbGva(vcpu, 0x40_0000, 0);
      ops.flushTlbAll(vcpu);
      ops.flushTlbCurrent(vcpu);
      expect(toVmx(vcpu).vpid).toBeGreaterThan(0);
    });
  });

  it('run out of VPIDs without failing', () => {
    const vpids = new VpidAllocator();
    for (let i = 1; i < 0x1_0000; i++) vpids.allocate();
    expect(vpids.allocate()).toBe(0);
    vpids.free(7);
    vpids.free(0);
    expect([vpids.allocate(), vpids.allocate()]).toEqual([7, 0]);
  });
});
