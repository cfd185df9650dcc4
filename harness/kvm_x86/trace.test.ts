// SPDX-License-Identifier: GPL-2.0-only
/** Trace events of a small guest, word by word. Expected: the TP_printk() formats of arch/x86/kvm/trace.h, 6.12. */
import { expect, it } from 'vitest';
import { R } from '../../lib/asm/operands.ts';
import { guestAsm } from '../../lib/guest/index.ts';
import { vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { withVm } from './small_vm.ts';

it('a guest of six instructions leaves the lines that ftrace would show', () => {
  const code = guestAsm('guest_code', (a) => {
    a.emit('out', 0x42, R.ax);
    a.emit('mov', R.eax, 0x4000_0001);
    a.emit('cpuid');
    a.emit('mov', R.ecx, MSR.TSC_AUX);
    a.emit('rdmsr');
    a.emit('hlt');
  });
  withVm(
    code,
    function* ({ host, vcpu }) {
      const { fd } = vcpu;
      fd.setMsrs([{ index: MSR.TSC_AUX, data: 0xabn }]);
      const { rip } = fd.getRegs();
      fd.setRegs({ ...fd.getRegs(), rax: 0x1234n, rcx: 0n });
      const { trace } = host.module;
      trace.enable(/^kvm_(entry|exit|pio|cpuid|msr|userspace_exit)$/);
      yield* vcpuRun(vcpu);
      yield* vcpuRun(vcpu);
      const text = (at: number): string => `0x${(rip + BigInt(at)).toString(16)}`;
      const entry = (at: number): string =>
        `kvm_entry: vcpu 0, rip ${text(at)} intr_info 0x00000000 error_code 0x00000000`;
      const exit = (reason: string, at: number, info1 = 0): string =>
        `kvm_exit: vcpu 0 reason ${reason} rip ${text(at)} info1 0x${info1.toString(16).padStart(16, '0')} info2 0x${'0'.repeat(16)} intr_info 0x00000000 error_code 0x00000000`;
      const lines = trace.text().map((line) => line.replace(/^.*?\d: /, ''));
      // The first touch of each page is an EPT violation, whose qualification is the machine's business.
      const rest = lines.filter((line) => !line.includes('EPT_VIOLATION'));
      const seen = rest.filter((line, i) => line !== rest[i - 1]);
      // SDM, "Exit Qualification for I/O Instructions": size 2, immediate operand, port 42H.
      const ioQualification = (0x42 << 16) | 0x40 | 1;
      expect(seen).toEqual([
        entry(0),
        exit('IO_INSTRUCTION', 0, ioQualification),
        'kvm_pio: pio_write at 0x42 size 2 count 1 val 0x1234 ',
        'kvm_userspace_exit: reason KVM_EXIT_IO (2)',
        entry(3),
        exit('CPUID', 8),
        'kvm_cpuid: func 40000001 idx 0 rax 0 rbx 0 rcx 0 rdx 0, cpuid entry found',
        entry(10),
        exit('MSR_READ', 15),
        'kvm_msr: msr_read c0000103 = 0xab',
        entry(17),
        exit('HLT', 17),
        'kvm_userspace_exit: reason KVM_EXIT_HLT (5)',
      ]);
    },
    { irqchip: 'none' },
  );
});
