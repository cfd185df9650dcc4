// SPDX-License-Identifier: GPL-2.0-only
/** The forced emulation prefix, UD2 and "kvm". Expected: the comment at handle_ud() and kvm.force_emulation_prefix in arch/x86/kvm/x86.c. */
import { describe, expect, it } from 'vitest';
import { ExRegs, guestAsm, guestFn, ptr } from '../../lib/guest/index.ts';
import { vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { exitName, withVm } from './small_vm.ts';

describe('the forced emulation prefix', () => {
  // UD2, "kvm", HLT, and after it HLT again.
  const code = guestAsm('guest_code', (a) => a.u64(0x9090_f46d_766b_0b0fn));
  /** Past the five bytes of the prefix and the HLT; RBX tells that it was here. */
  const ud = guestFn('ud_handler', [ptr(ExRegs)], (g, regs) => {
    g.set(regs.f.rip, regs.f.rip.add(5));
    g.set(regs.f.rbx, 1);
  });
  const run = (params: readonly string[]): { exit: string; rip: bigint; rbx: bigint } => {
    const seen = { exit: '', rip: 0n, rbx: 0n };
    withVm(
      code,
      function* ({ vcpu }) {
        const entry = vcpu.fd.getRegs().rip;
        vcpu.fd.setRegs({ ...vcpu.fd.getRegs(), rbx: 0n });
        yield* vcpuRun(vcpu);
        seen.exit = exitName(vcpu);
        const regs = vcpu.fd.getRegs();
        seen.rip = regs.rip - entry;
        seen.rbx = regs.rbx;
      },
      { irqchip: 'none', params, handlers: { [VECTOR.UD]: ud } },
    );
    return seen;
  };

  it('makes L0 emulate the instruction behind it', () => {
    expect(run(['kvm.force_emulation_prefix=1'])).toEqual({ exit: 'HLT', rip: 6n, rbx: 0n });
  });

  it('is UD for the guest unless the parameter is set', () => {
    expect(run([])).toEqual({ exit: 'HLT', rip: 6n, rbx: 1n });
  });
});
