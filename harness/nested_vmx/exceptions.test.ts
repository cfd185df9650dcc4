// SPDX-License-Identifier: GPL-2.0-only
/**
 * Exceptions of L2: whose they are, and in what state L1 finds an event whose delivery they cut short. Expected: SDM, "Exception
 * Bitmap", "Information for VM Exits During Event Delivery", "Double Fault Exception"; KVM's kvm_multiple_exception() and
 * vmcs12_save_pending_event().
 */
import { describe, expect, it } from 'vitest';
import {
  GUEST_ASSERT_EQ,
  GUEST_SYNC,
  type Operand,
  type GuestCode,
  ud2,
  vmcall,
  vmreadz,
  vmwrite,
} from '../../lib/guest/index.ts';
import { PFERR, VECTOR } from '../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../lib/x86/registers.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { INTR_INFO, INTR_TYPE } from '../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';
import { vcpuLoad, vcpuPut } from '../../vmm/kvm/kvm_main.ts';
import { kvmQueueExceptionE } from '../../vmm/kvm/x86/events.ts';
import { nextSync } from '../kvm_x86/small_vm.ts';
import { l2Code, launchTo, runL1 } from './l1_vm.ts';

const { VALID_MASK, DELIVER_CODE_MASK } = INTR_INFO;
const fault = (vector: number): number =>
  (VALID_MASK | DELIVER_CODE_MASK | INTR_TYPE.HARD_EXCEPTION | vector) >>> 0;
/** A guest virtual address that nothing is at. */
const NOWHERE = 0x7000_0000_0000n;

const expectField = (g: GuestCode, field: number, value: Operand): void =>
  GUEST_ASSERT_EQ(g, vmreadz(g, field), value);

describe('a fault on top of a fault of L2', () => {
  it('is a double fault, which L1 may intercept alone', () => {
    runL1(
      (g) => {
        vmwrite(g, VMCS_CTRL.EXCEPTION_BITMAP, 1 << VECTOR.DF);
        launchTo(g, EXIT_REASON.EXCEPTION_NMI);
        expectField(g, VMCS_INFO.VM_EXIT_INTR_INFO, fault(VECTOR.DF));
        expectField(g, VMCS_INFO.VM_EXIT_INTR_ERROR_CODE, 0);
        expectField(g, VMCS_INFO.IDT_VECTORING_INFO_FIELD, 0);
      },
      {
        l2: l2Code((g) => {
          GUEST_SYNC(g, 7);
          g.loop(() => vmcall(g));
        }),
        *drive({ host, vcpu }) {
          expect(yield* nextSync(vcpu)).toEqual([7n, 0n, 0n, 0n, 0n]);
          const l0 = host.module.vmList[0]!.vcpus[0]!;
          vcpuLoad(l0);
          kvmQueueExceptionE(l0, VECTOR.GP, 0);
          kvmQueueExceptionE(l0, VECTOR.GP, 0);
          vcpuPut(l0);
          expect(yield* nextSync(vcpu)).toEqual([]);
        },
      },
    );
  });
});

describe('an event that L1 injects and whose delivery faults', () => {
  it.each<[string, number, number]>([
    ['external interrupt', INTR_TYPE.EXT_INTR | 0x41, 0],
    ['NMI', INTR_TYPE.NMI_INTR | VECTOR.NMI, 0],
    ['fault with an error code', INTR_TYPE.HARD_EXCEPTION | DELIVER_CODE_MASK | VECTOR.GP, 0x18],
    ['software interrupt', INTR_TYPE.SOFT_INTR | 0x80, 0],
  ])('is in the IDT-vectoring information: %s', (_what, event, error) => {
    const info = (VALID_MASK | event) >>> 0;
    runL1(
      (g) => {
        vmwrite(g, VMCS_CTRL.EXCEPTION_BITMAP, 1 << VECTOR.PF);
        vmwrite(g, VMCS_GUEST.IDTR_BASE, NOWHERE);
        vmwrite(g, VMCS_GUEST.RFLAGS, RFLAGS.FIXED | RFLAGS.IF);
        vmwrite(g, VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD, info);
        vmwrite(g, VMCS_CTRL.VM_ENTRY_EXCEPTION_ERROR_CODE, error);
        vmwrite(g, VMCS_CTRL.VM_ENTRY_INSTRUCTION_LEN, 2);
        const rip = vmreadz(g, VMCS_GUEST.RIP);
        launchTo(g, EXIT_REASON.EXCEPTION_NMI);
        expectField(g, VMCS_INFO.VM_EXIT_INTR_INFO, fault(VECTOR.PF));
        expectField(g, VMCS_INFO.VM_EXIT_INTR_ERROR_CODE, 0);
        expectField(g, VMCS_INFO.IDT_VECTORING_INFO_FIELD, info);
        if (error !== 0) expectField(g, VMCS_INFO.IDT_VECTORING_ERROR_CODE, error);
        expectField(g, VMCS_GUEST.RIP, rip);
        // SDM, "VM-Entry Control Fields": the exit clears the valid bit, so that the event is not injected twice.
        expectField(g, VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD, event >>> 0);
      },
      { l2: l2Code((g) => g.loop(() => vmcall(g))) },
    );
  });

  it('ends as a triple fault of L2, and not of L1, if no handler can be reached', () => {
    runL1(
      (g) => {
        vmwrite(g, VMCS_GUEST.IDTR_LIMIT, 0);
        launchTo(g, EXIT_REASON.TRIPLE_FAULT);
        expectField(g, VMCS_INFO.IDT_VECTORING_INFO_FIELD, 0);
      },
      { l2: l2Code((g) => ud2(g)) },
    );
  });
});

describe('a page fault of L2', () => {
  // SDM, "Exception Bitmap": bit 14 is inverted where error code & mask differs from match.
  it.each<[string, number, number, number, number]>([
    ['exits if the bit is set and the error code matches', 1, 0, 0, EXIT_REASON.EXCEPTION_NMI],
    [
      'exits if the bit is clear and the error code does not match',
      0,
      0,
      PFERR.WRITE,
      EXIT_REASON.EXCEPTION_NMI,
    ],
    [
      'does not exit if the bit is set and the error code does not match',
      1,
      0,
      PFERR.WRITE,
      EXIT_REASON.TRIPLE_FAULT,
    ],
    [
      'does not exit if the bit is clear and the error code matches',
      0,
      PFERR.WRITE,
      0,
      EXIT_REASON.TRIPLE_FAULT,
    ],
  ])('%s', (_what, bit, mask, match, reason) => {
    runL1(
      (g) => {
        vmwrite(g, VMCS_CTRL.EXCEPTION_BITMAP, bit << VECTOR.PF);
        vmwrite(g, VMCS_CTRL.PAGE_FAULT_ERROR_CODE_MASK, mask);
        vmwrite(g, VMCS_CTRL.PAGE_FAULT_ERROR_CODE_MATCH, match);
        vmwrite(g, VMCS_GUEST.IDTR_LIMIT, 0);
        vmwrite(g, VMCS_GUEST.RIP, NOWHERE);
        launchTo(g, reason);
        if (reason === EXIT_REASON.EXCEPTION_NMI) expectField(g, VMCS_INFO.EXIT_QUALIFICATION, NOWHERE);
      },
      { l2: l2Code((g) => g.loop(() => vmcall(g))) },
    );
  });
});
