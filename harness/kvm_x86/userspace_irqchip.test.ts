// SPDX-License-Identifier: GPL-2.0-only
/**
 * Interrupts of a VM without in-kernel APIC, which userspace injects, and its TPR. Expected: Documentation/virt/kvm/api.rst; SDM,
 * "VM-Entry Failures".
 */
import { describe, expect, it } from 'vitest';
import {
  ExRegs,
  get_cr8,
  GUEST_DONE,
  GUEST_SYNC,
  guestFn,
  guestGlobal,
  ptr,
  READ_ONCE,
  set_cr8,
  u64,
} from '../../lib/guest/index.ts';
import { tryVcpuRun, vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { errnoName } from '../../lib/uapi/errno.ts';
import { RFLAGS } from '../../lib/x86/registers.ts';
import { exitName, guest, nextSync, NO_IRQCHIP, withVm } from './small_vm.ts';

describe('interrupts of userspace', () => {
  const count = guestGlobal('count', u64);
  const irq = guestFn('irq_handler', [ptr(ExRegs)], (g) => g.set(count, '+=', 1));
  const code = guest((g) => {
    GUEST_SYNC(g, READ_ONCE(count));
    g.asm({ emit: (a) => (['sti', 'nop', 'nop', 'cli'] as const).forEach((insn) => a.emit(insn)) });
    GUEST_SYNC(g, READ_ONCE(count));
    GUEST_DONE(g);
  });

  it('wait for a window that KVM_RUN announces, and arrive once', () => {
    withVm(
      code,
      function* ({ vcpu }) {
        const { run } = vcpu.fd;
        yield* nextSync(vcpu);
        expect([run.if_flag, run.ready_for_interrupt_injection]).toEqual([0, 0]);
        run.request_interrupt_window = 1;
        yield* vcpuRun(vcpu);
        expect(exitName(vcpu)).toBe('IRQ_WINDOW_OPEN');
        expect([run.if_flag, run.ready_for_interrupt_injection]).toEqual([1, 1]);
        run.request_interrupt_window = 0;
        vcpu.fd.interrupt(0x55);
        expect(vcpu.fd.getSregs().interrupt_bitmap[1]).toBe(1n << 0x15n);
        expect((yield* nextSync(vcpu))[0]).toBe(1n);
      },
      { ...NO_IRQCHIP, handlers: { 0x55: irq } },
    );
  });

  it('that ignore the window fail the entry, as IF is clear; userspace can take them back', () => {
    withVm(
      code,
      function* ({ vcpu }) {
        yield* nextSync(vcpu);
        vcpu.fd.interrupt(0x55);
        yield* vcpuRun(vcpu);
        expect(exitName(vcpu)).toBe('FAIL_ENTRY');
        // SDM, "VM-Entry Failures During or After Loading Guest State": reason 33 with bit 31.
        expect(vcpu.fd.run.fail_entry.hardware_entry_failure_reason).toBe(0x8000_0021n);
        const events = vcpu.fd.getVcpuEvents();
        expect(events.interrupt).toEqual({ injected: 1, nr: 0x55, soft: 0, shadow: 0 });
        const regs = vcpu.fd.getRegs();
        vcpu.fd.setRegs({ ...regs, rflags: regs.rflags | BigInt(RFLAGS.IF) });
        expect((yield* nextSync(vcpu))[0]).toBe(1n);
      },
      { ...NO_IRQCHIP, handlers: { 0x55: irq } },
    );
  });

  it('learn of a lowered TPR by KVM_EXIT_SET_TPR', () => {
    const tpr = guest((g) => {
      set_cr8(g, 5);
      set_cr8(g, 2);
      GUEST_SYNC(g, get_cr8(g));
      GUEST_DONE(g);
    });
    withVm(
      tpr,
      function* ({ vcpu }) {
        yield* vcpuRun(vcpu);
        expect([exitName(vcpu), vcpu.fd.run.cr8]).toEqual(['SET_TPR', 2n]);
        vcpu.fd.run.cr8 = 7n;
        expect((yield* nextSync(vcpu))[0]).toBe(7n);
        vcpu.fd.run.cr8 = 16n;
        expect(errnoName(yield* tryVcpuRun(vcpu))).toBe('EINVAL');
      },
      NO_IRQCHIP,
    );
  });
});
