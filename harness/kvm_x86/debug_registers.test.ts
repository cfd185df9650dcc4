// SPDX-License-Identifier: GPL-2.0-only
/**
 * Debug registers, set by userspace and by the guest, and the exceptions of their breakpoints. Expected: SDM, "Debug
 * Registers".
 */
import { describe, expect, it } from 'vitest';
import { mem, R } from '../../lib/asm/operands.ts';
import {
  type Expr,
  ExRegs,
  get_cr4,
  set_cr4,
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
import { readGuestGlobal, u64Bytes } from '../../lib/kvm_util/guest_global.ts';
import { writeGuest } from '../../lib/kvm_util/x86/page_table.ts';
import { vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { CR4, DR6, DR7, RFLAGS } from '../../lib/x86/registers.ts';
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

  it('get BS of a step over STI, whose shadow the injected DB finds', () => {
    const code = guest((g) => {
      g.asm({
        clobbers: ['rax'],
        emit: (a) => {
          a.emit('cli');
          a.emit('pushfq');
          a.emit('or', mem(64, { base: R.rsp }), RFLAGS.TF);
          a.emit('popfq');
          // Stepped: DB comes after it, while interrupts are still blocked.
          a.emit('sti');
          a.emit('nop');
        },
      });
      GUEST_SYNC_ARGS(g, READ_ONCE(dr6).and(DR6.BS), 0, 0, 0, 0);
      GUEST_DONE(g);
    });
    withVm(
      code,
      function* ({ vcpu }) {
        expect((yield* nextSync(vcpu))[0]).toBe(BigInt(DR6.BS));
      },
      { handlers: { [VECTOR.DB]: db } },
    );
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

  it('of INT1 report the next instruction: it is a trap, though its exit comes before it', () => {
    const code = guestAsm('guest_code', (a) => {
      a.emit('int1');
      a.emit('hlt');
    });
    withVm(
      code,
      function* ({ vm, vcpu }) {
        const start = vcpu.fd.getRegs().rip;
        yield* vcpuRun(vcpu);
        expect(exitName(vcpu)).toBe('HLT');
        expect(readGuestGlobal(vm, 'seen_rip')).toBe(start + 1n);
      },
      { ...NO_IRQCHIP, handlers: { [VECTOR.DB]: db } },
    );
  });

  it('are no business of CPL 3: the access is a general-protection fault', () => {
    const vector = guestGlobal('seen_vector', u64);
    const handler = guestFn('gp_handler', [ptr(ExRegs)], (g, regs) => {
      g.set(vector, regs.f.vector.shl(8).or(regs.f.error_code));
      g.insn('hlt');
    });
    const code = guestAsm('guest_code', (a) => {
      a.emit('mov', R.rax, R.dr3);
      a.emit('hlt');
    });
    withVm(
      code,
      function* ({ vm, vcpu }) {
        const { fd } = vcpu;
        const sregs = fd.getSregs();
        const user = { dpl: 3 };
        fd.setSregs({
          ...sregs,
          cs: { ...sregs.cs, ...user, selector: sregs.cs.selector | 3 },
          ss: { ...sregs.ss, ...user, selector: sregs.ss.selector | 3 },
        });
        writeGuest(vm, sregs.tr.base + 4n, u64Bytes(fd.getRegs().rsp));
        yield* vcpuRun(vcpu);
        expect(exitName(vcpu)).toBe('HLT');
        expect(readGuestGlobal(vm, 'seen_vector')).toBe(BigInt(VECTOR.GP << 8));
      },
      { ...NO_IRQCHIP, handlers: { [VECTOR.GP]: handler } },
    );
  });

  it('4 and 5 do not exist with CR4.DE', () => {
    const code = guest((g) => {
      const access = (): Expr =>
        KVM_ASM_SAFE(g, { clobbers: ['rax'], emit: (a) => a.emit('mov', R.rax, R.dr4) }).vector;
      const without = g.let(access());
      set_cr4(g, get_cr4(g).or(CR4.DE));
      GUEST_SYNC_ARGS(g, 1, without, access(), 0, 0);
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      expect((yield* nextSync(vcpu)).slice(1, 3)).toEqual([0n, BigInt(VECTOR.UD)]);
    });
  });
});
