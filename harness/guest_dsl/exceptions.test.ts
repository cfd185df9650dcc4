// SPDX-License-Identifier: GPL-2.0-only
/**
 * Exceptions in guest code: handlers, fix-ups of marked instructions, and what has neither. Expected: SDM, "Interrupt and
 * Exception Handling".
 */
import { describe, expect, it } from 'vitest';
import { mem } from '../../lib/asm/operands.ts';
import {
  ExRegs,
  guestFn,
  guestGlobal,
  KVM_ASM_SAFE,
  ptr,
  rdmsr_safe,
  u64,
  UCALL,
  ud2,
  wrmsr_safe,
} from '../../lib/guest/index.ts';
import { APICBASE } from '../../lib/x86/apic.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { boxOf, run } from './library_box.ts';

describe('exceptions', () => {
  it('reach their handler, which may move RIP', () => {
    const seen = guestGlobal('seen', u64);
    const handler = guestFn('handle_ud', [ptr(ExRegs)], (g, regs) => {
      g.set(seen, regs.f.vector.shl(32).or(regs.f.error_code));
      g.set(regs.f.rip, '+=', 2);
    });
    const fn = guestFn('guest_code', [u64], u64, (g, x) => {
      ud2(g);
      g.return(seen.add(x));
    });
    const box = boxOf(fn, handler);
    box.installHandler(VECTOR.UD, handler);
    expect(box.call(fn, [7n])).toBe((BigInt(VECTOR.UD) << 32n) + 7n);
  });

  it('leave all registers as they were', () => {
    const handler = guestFn('handle_bp', [ptr(ExRegs)], (g, regs) => {
      g.set(regs.f.rflags, '|=', 0);
      g.asm({
        clobbers: [
          'rax',
          'rcx',
          'rdx',
          'rbx',
          'rbp',
          'rsi',
          'rdi',
          'r8',
          'r9',
          'r10',
          'r11',
          'r12',
          'r13',
          'r14',
          'r15',
        ],
        emit: (a) => a.emit('cpuid'),
      });
    });
    const fn = guestFn('guest_code', [u64, u64, u64], u64, (g, a, b, c) => {
      const d = g.local(u64, a.mul(3));
      const e = g.local(u64, b.mul(5));
      g.insn('int3');
      g.return(a.add(b.mul(10)).add(c.mul(100)).add(d.mul(1000)).add(e.mul(10000)));
    });
    const box = boxOf(fn, handler);
    box.installHandler(VECTOR.BP, handler);
    expect(box.call(fn, [1n, 2n, 3n])).toBe(1n + 20n + 300n + 3000n + 100_000n);
  });

  it('without a handler end the test with vector and RIP', () => {
    const fn = guestFn('guest_code', [], (g) => ud2(g));
    const box = boxOf(fn);
    // The failed guest goes on to the same instruction: one report after the other until time is up.
    expect(() => box.call(fn, [], 100_000)).toThrow('guest_code stopped');
    const { cmd, buffer } = box.ucalls[0]!;
    expect(cmd).toBe(UCALL.ABORT);
    const rip = box.image.addressOf(fn).toString(16);
    expect(buffer).toMatch(new RegExp(`^Unhandled exception '0x6' at guest RIP '0x${rip.slice(0, -1)}`));
  });

  it('of a marked instruction are reported with vector and error code', () => {
    const value = guestGlobal('value', u64, 77);
    const bad = guestFn('bad', [], u64, (g) => g.return(rdmsr_safe(g, 0xdead_beef, value).cast(u64)));
    expect(run(bad).result).toBe(BigInt(VECTOR.GP));
    const good = guestFn('good', [], u64, (g) => {
      g.if(rdmsr_safe(g, MSR.IA32_APICBASE, value).ne(0), () => g.return(0));
      g.return(value);
    });
    expect(run(good).result & BigInt(APICBASE.ENABLE)).toBe(BigInt(APICBASE.ENABLE));
    const write = guestFn('write', [u64], u64, (g, x) => g.return(wrmsr_safe(g, MSR.EFER, x).cast(u64)));
    expect(run(write, 1n << 63n).result).toBe(BigInt(VECTOR.GP));
    const fault = guestFn('fault', [u64], u64, (g, address) => {
      const { vector, error_code } = KVM_ASM_SAFE(g, {
        in: { address },
        emit: (a, r) => a.emit('mov', mem(64, { base: r.reg64('address') }), 1),
      });
      g.return(vector.cast(u64).shl(32).or(error_code));
    });
    // Not present, write, supervisor.
    expect(run(fault, 0x4000_0000_0000n).result).toBe((BigInt(VECTOR.PF) << 32n) | 2n);
  });

  it('of a marked instruction with vector 0 are not taken for success', () => {
    const fn = guestFn('guest_code', [u64], (g, x) => {
      KVM_ASM_SAFE(g, {
        in: { x },
        clobbers: ['rax', 'rdx'],
        emit: (a, r) => a.emit('div', r.reg64('x')),
      });
    });
    const box = boxOf(fn);
    expect(() => box.call(fn, [0n], 100_000)).toThrow('stopped');
    expect(box.ucalls[0]!.buffer).toContain("Unhandled exception '0x0'");
  });
});
