// SPDX-License-Identifier: GPL-2.0-only
/**
 * Debug registers, set by userspace and by the guest, and the exceptions of their breakpoints. Expected: SDM, "Debug
 * Registers".
 */
import { describe, expect, it } from 'vitest';
import { R } from '../../lib/asm/operands.ts';
import {
  ExRegs,
  GUEST_DONE,
  GUEST_SYNC,
  GUEST_SYNC_ARGS,
  guestAsm,
  type GuestCode,
  guestFn,
  guestGlobal,
  KVM_ASM_SAFE,
  ptr,
  READ_ONCE,
  u64,
} from '../../lib/guest/index.ts';
import { readGuestGlobal } from '../../lib/kvm_util/guest_global.ts';
import { vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { DR6, DR7, RFLAGS } from '../../lib/x86/registers.ts';
import { exitName, guest, nextSync, NO_IRQCHIP, withVm } from './small_vm.ts';

describe('debug registers', () => {
  const dr6 = guestGlobal('seen_dr6', u64);
  const rip = guestGlobal('seen_rip', u64);
  const db = guestFn('db_handler', [ptr(ExRegs)], (g, regs) => {
    g.set(dr6, g.asm({ out: { v: u64 }, emit: (a, r) => a.emit('mov', r.reg('v'), R.dr6) }).v);
    g.set(rip, regs.f.rip);
    g.set(regs.f.rflags, regs.f.rflags.and(~BigInt(RFLAGS.TF)).or(RFLAGS.RF));
  });
  const read = guest((g) => {
    GUEST_SYNC(g, 1);
    g.asm({ clobbers: ['rax', 'rbx', 'rcx', 'rdx'], emit: (a) => a.emit('cpuid') });
    GUEST_SYNC_ARGS(g, READ_ONCE(dr6), READ_ONCE(rip), 0, 0, 0);
    GUEST_DONE(g);
  });

  it('stop the guest at a code breakpoint', () => {
    const code = guestAsm('guest_code', (a) => {
      a.emit('hlt');
      a.emit('nop');
      a.emit('hlt');
    });
    withVm(
      code,
      function* ({ vm, vcpu }) {
        const { fd } = vcpu;
        yield* vcpuRun(vcpu);
        const target = fd.getRegs().rip;
        fd.setDebugregs({ ...fd.getDebugregs(), db: [0n, target, 0n, 0n], dr7: 0x404n });
        yield* vcpuRun(vcpu);
        expect(exitName(vcpu)).toBe('HLT');
        expect(readGuestGlobal(vm, 'seen_rip')).toBe(target);
        expect(readGuestGlobal(vm, 'seen_dr6') & 0xfn).toBe(BigInt(DR6.B1));
      },
      { ...NO_IRQCHIP, handlers: { [VECTOR.DB]: db } },
    );
  });

  it('report a step over an instruction that L0 emulates', () => {
    const code = guestAsm('guest_code', (a) => {
      a.emit('hlt');
      a.emit('cpuid');
      a.emit('hlt');
    });
    withVm(
      code,
      function* ({ vm, vcpu }) {
        const { fd } = vcpu;
        yield* vcpuRun(vcpu);
        const regs = fd.getRegs();
        fd.setRegs({ ...regs, rflags: regs.rflags | BigInt(RFLAGS.TF) });
        yield* vcpuRun(vcpu);
        expect(readGuestGlobal(vm, 'seen_rip')).toBe(regs.rip + 2n);
        expect(readGuestGlobal(vm, 'seen_dr6') & BigInt(DR6.BS)).toBe(BigInt(DR6.BS));
      },
      { ...NO_IRQCHIP, handlers: { [VECTOR.DB]: db } },
    );
  });

  it('raise DB on access with general detect, once', () => {
    const code = guest((g) => {
      GUEST_SYNC(g, 1);
      const value = g.asm({ out: { v: u64 }, emit: (a, r) => a.emit('mov', r.reg('v'), R.dr3) }).v;
      GUEST_SYNC_ARGS(g, value, READ_ONCE(dr6), 0, 0, 0);
      GUEST_DONE(g);
    });
    withVm(
      code,
      function* ({ vcpu }) {
        yield* nextSync(vcpu);
        const { fd } = vcpu;
        fd.setDebugregs({
          ...fd.getDebugregs(),
          db: [0n, 0n, 0n, 0x1234n],
          dr7: BigInt(DR7.FIXED_1 | DR7.GD),
        });
        const [value, seen] = yield* nextSync(vcpu);
        expect(value).toBe(0x1234n);
        expect(Number(seen) & DR6.BD).toBe(DR6.BD);
        expect(fd.getDebugregs().dr7).toBe(BigInt(DR7.FIXED_1));
      },
      { handlers: { [VECTOR.DB]: db } },
    );
  });

  it('are written by MOV, which refuses upper bits of DR6 and DR7', () => {
    const write = (g: GuestCode, dr: 'dr0' | 'dr6' | 'dr7', value: bigint) =>
      KVM_ASM_SAFE(g, { in: { v: value }, emit: (a, r) => a.emit('mov', R[dr], r.reg64('v')) }).vector;
    const code = guest((g) => {
      GUEST_SYNC_ARGS(
        g,
        write(g, 'dr0', 0x1_0000_0001n),
        write(g, 'dr6', 0n),
        write(g, 'dr7', 0x400n),
        write(g, 'dr6', 1n << 32n),
        write(g, 'dr7', 1n << 63n),
      );
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      const gp = BigInt(VECTOR.GP);
      expect(yield* nextSync(vcpu)).toEqual([0n, 0n, 0n, gp, gp]);
      expect(vcpu.fd.getDebugregs().db[0]).toBe(0x1_0000_0001n);
      // SDM, "Debug Status Register (DR6)": reserved bits read as one.
      expect(vcpu.fd.getDebugregs().dr6).toBe(0xffff_0ff0n);
    });
  });

  it('does not disturb a guest that does not use them', () => {
    withVm(
      read,
      function* ({ vcpu }) {
        yield* nextSync(vcpu);
        expect((yield* nextSync(vcpu))[0]).toBe(0n);
      },
      { handlers: { [VECTOR.DB]: db } },
    );
  });
});
