// SPDX-License-Identifier: GPL-2.0-only
/**
 * The guest library on the machine: ucalls, assertions, exceptions with fix-ups, privileged instructions, the local APIC. What is
 * expected comes from tools/testing/selftests/kvm (ucall) and from the SDM (everything else).
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { mem } from '../../lib/asm/operands.ts';
import {
  __GUEST_ASSERT,
  apic_disable,
  APIC_DEFAULT_GPA,
  at,
  atomic_add,
  atomic_and,
  atomic_inc,
  atomic_or,
  atomic_store,
  atomic_sub,
  cli,
  cmpxchg,
  cpuid,
  ExRegs,
  type FnLinkable,
  get_bsp_flag,
  get_cr0,
  get_cr2,
  get_cr3,
  get_cr4,
  get_cr8,
  get_cs,
  get_ds,
  get_es,
  get_fs,
  get_gdt,
  get_gs,
  get_idt,
  get_ss,
  get_tr,
  GUEST_ASSERT,
  GUEST_ASSERT_ARG,
  GUEST_ASSERT_EQ,
  GUEST_ASSERT_NE,
  GUEST_DONE,
  GUEST_FAIL,
  GUEST_PRINTF,
  GUEST_SYNC,
  GUEST_SYNC_ARGS,
  guest_tsc_khz,
  GUEST_UCALL_NONE,
  guestFn,
  guestGlobal,
  guestUnit,
  idt_handlers,
  inb,
  invlpg,
  KVM_ASM_SAFE,
  kvm_hypercall,
  lfence,
  lidt,
  linkImage,
  mfence,
  outl,
  ptr,
  rdmsr,
  READ_ONCE,
  rdmsr_safe,
  rdtsc,
  rdtscp,
  set_cr0,
  set_cr3,
  set_cr4,
  set_cr8,
  sfence,
  sti_nop,
  this_cpu_has,
  u32,
  u64,
  UCALL,
  ucall_alloc,
  ucall_pool,
  ud2,
  udelay,
  wrmsr,
  wrmsr_safe,
  x2apic_enable,
  x2apic_read_reg,
  x2apic_write_reg,
  x2apic_write_reg_safe,
  WRITE_ONCE,
  xapic_enable,
  xapic_read_reg,
  xapic_write_reg,
  xchg,
  xgetbv,
  xsetbv,
  xsetbv_safe,
} from '../../lib/guest/index.ts';
import { APIC_REG, APICBASE } from '../../lib/x86/apic.ts';
import { X86_FEATURE } from '../../lib/x86/cpuid.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { CR0, CR4 } from '../../lib/x86/registers.ts';
import { PROFILES } from '../../vmm/machine/cost/profiles.ts';
import { BOX_IMAGE_BASE, GuestBox } from './guest_box.ts';

const RUNTIME = [idt_handlers, guest_tsc_khz, ucall_pool];

const sourceLines = (): string[] => readFileSync(new URL(import.meta.url), 'utf8').split('\n');

function boxOf(entry: FnLinkable, ...roots: FnLinkable[]): GuestBox {
  return new GuestBox(linkImage({ base: BOX_IMAGE_BASE, entry, roots: [...RUNTIME, ...roots] }));
}

/** Runs a function in a box of its own. */
function run(fn: FnLinkable, ...args: bigint[]): { result: bigint; box: GuestBox } {
  const box = boxOf(fn);
  return { result: box.call(fn, args), box };
}

describe('ucalls', () => {
  it('reach the host with command and arguments, in order', () => {
    const fn = guestFn('guest_code', [u64], (g, x) => {
      GUEST_SYNC(g, 1);
      GUEST_SYNC_ARGS(g, 2, x, x.add(1), 3, -1);
      GUEST_UCALL_NONE(g);
      GUEST_DONE(g);
    });
    const { box } = run(fn, 40n);
    expect(box.ucalls.map(({ cmd }) => cmd)).toEqual([UCALL.SYNC, UCALL.SYNC, UCALL.NONE, UCALL.DONE]);
    const [first, second] = box.ucalls;
    expect(first!.args.slice(1, 3)).toEqual([1n, 0n]);
    expect(box.image.cstring(first!.args[0]!)).toBe('hello');
    expect(second!.args.slice(1, 6)).toEqual([2n, 40n, 41n, 3n, 2n ** 64n - 1n]);
  });

  it('print with the guest as formatter', () => {
    const fn = guestFn('guest_code', [u64], (g, x) => GUEST_PRINTF(g, 'x=%#lx %d\n', x, -3));
    const { box } = run(fn, 0xabcn);
    expect(box.ucalls).toHaveLength(1);
    expect(box.ucalls[0]!.cmd).toBe(UCALL.PRINTF);
    expect(box.ucalls[0]!.buffer).toBe('x=0xabc -3\n');
  });

  it('give their struct back', () => {
    const i = guestGlobal('i', u32);
    const fn = guestFn('guest_code', [], (g) => g.forRange(i, 0, 600, 1, () => GUEST_SYNC(g, i)));
    const { box } = run(fn);
    expect(box.ucalls).toHaveLength(600);
    expect(box.ucalls.at(-1)!.args[1]).toBe(599n);
  });

  it('report it if there is no pool', () => {
    const fn = guestFn('guest_code', [], (g) => {
      g.set(ucall_pool, 0);
      ucall_alloc(g);
    });
    const { box } = run(fn);
    expect(box.ucalls.map(({ cmd }) => cmd)).toEqual([-1]);
  });
});

describe('guest assertions', () => {
  const strings = ['ERROR_STRING', 'FILE', 'LEVEL'] as const;

  it('say nothing if they hold', () => {
    const fn = guestFn('guest_code', [u64], (g, x) => {
      GUEST_ASSERT(g, x.eq(5));
      GUEST_ASSERT_EQ(g, x, 5);
      GUEST_ASSERT_NE(g, x, 6);
      __GUEST_ASSERT(g, x.ne(6), 'x is %lu', x);
    });
    expect(run(fn, 5n).box.ucalls).toEqual([]);
  });

  it('report expression, file, line, level and both operands', () => {
    const fn = guestUnit('L2').fn('l2_guest_code', [u64], (g, x) => {
      GUEST_ASSERT_EQ(g, x.add(1), 5);
    });
    const { box } = run(fn, 0x10n);
    const { cmd, args, buffer } = box.ucalls[0]!;
    expect(cmd).toBe(UCALL.ABORT);
    expect(strings.map((name) => box.image.cstring(args[GUEST_ASSERT_ARG[name]]!))).toEqual([
      'x.add(1) == 5',
      'harness/guest_dsl/guest_library.test.ts',
      'L2',
    ]);
    expect(buffer).toBe('0x11 != 0x5 (x.add(1) != 5)');
    const line = Number(args[GUEST_ASSERT_ARG.LINE]);
    expect(sourceLines()[line - 1]).toContain('GUEST_ASSERT_EQ(g, x.add(1), 5)');
  });

  it('report each kind with its own text', () => {
    const fn = guestFn('guest_code', [u64], (g, x) => {
      GUEST_ASSERT(g, x.eq(6));
      GUEST_ASSERT_NE(g, x, 5);
      __GUEST_ASSERT(g, x.gt(7), 'x is %lu', x);
      GUEST_FAIL(g, 'reason %d', 7);
    });
    const { box } = run(fn, 5n);
    const seen = box.ucalls.map(({ args, buffer }) => [box.image.cstring(args[0]!), buffer]);
    expect(seen).toEqual([
      ['x.eq(6)', ''],
      ['x != 5', '0x5 == 0x5 (x == 5)'],
      ['x.gt(7)', 'x is 5'],
      ['Unconditional guest failure', 'reason 7'],
    ]);
  });
});

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

describe('processor macros', () => {
  it('read and write model-specific registers', () => {
    const fn = guestFn('guest_code', [u64], u64, (g, x) => {
      wrmsr(g, MSR.KERNEL_GS_BASE, x);
      g.return(rdmsr(g, MSR.KERNEL_GS_BASE));
    });
    expect(run(fn, 0x7f12_3456_789an).result).toBe(0x7f12_3456_789an);
  });

  it('read the TSC, which grows', () => {
    const fn = guestFn('guest_code', [], u64, (g) => {
      const first = rdtsc(g);
      const { tsc, aux } = rdtscp(g);
      g.return(tsc.gt(first).land(aux.eq(0)).cast(u64));
    });
    expect(run(fn).result).toBe(1n);
  });

  it('wait by the TSC', () => {
    const fn = guestFn('guest_code', [u64], u64, (g, usec) => {
      const start = rdtsc(g);
      udelay(g, usec);
      g.return(rdtsc(g).sub(start));
    });
    const cycles = BigInt(Math.floor(PROFILES.skylake.tscKhz / 1000)) * 20n;
    const { result } = run(fn, 20n);
    expect(result).toBeGreaterThanOrEqual(cycles);
    expect(result).toBeLessThan(cycles * 2n);
  });

  it('ask CPUID, which takes rbx', () => {
    const fn = guestFn('guest_code', [u64], u64, (g, keep) => {
      const { ebx, edx, ecx } = cpuid(g, 0);
      // "GenuineIntel" in ebx, edx, ecx.
      g.return(ebx.cast(u64).xor(edx.cast(u64).shl(16)).xor(ecx.cast(u64).shl(32)).add(keep));
    });
    const name = [0x756e_6547n, 0x4965_6e69n, 0x6c65_746en] as const;
    expect(run(fn, 5n).result).toBe((name[0] ^ (name[1] << 16n) ^ (name[2] << 32n)) + 5n);
    const has = guestFn('has', [], u64, (g) => g.return(this_cpu_has(g, X86_FEATURE.VMX).cast(u64)));
    expect(run(has).result).toBe(1n);
  });

  it('read and write control registers', () => {
    const fn = guestFn('guest_code', [], u64, (g) => {
      const cr4 = g.let(get_cr4(g));
      set_cr4(g, cr4.or(CR4.TSD));
      GUEST_ASSERT_EQ(g, get_cr4(g), cr4.or(CR4.TSD));
      set_cr0(g, get_cr0(g).or(CR0.TS));
      GUEST_ASSERT(g, get_cr0(g).and(CR0.TS).ne(0));
      set_cr3(g, get_cr3(g));
      set_cr8(g, 5);
      GUEST_ASSERT_EQ(g, get_cr8(g), 5);
      GUEST_ASSERT_EQ(g, get_cr2(g), 0);
      g.return(get_cs(g).cast(u64).or(get_ds(g).cast(u64).shl(16)).or(get_tr(g).cast(u64).shl(32)));
    });
    const { result, box } = run(fn);
    expect(box.ucalls).toEqual([]);
    expect(result).toBe(0x10_0008n);
  });

  it('read descriptor tables', () => {
    const fn = guestFn('guest_code', [], u64, (g) => {
      const [gdt, idt] = [get_gdt(g), get_idt(g)];
      GUEST_ASSERT_EQ(g, gdt.f.size, 0x3f);
      g.return(idt.f.size.cast(u64).add(idt.f.address.and(0).add(0)));
    });
    const { result, box } = run(fn);
    expect(box.ucalls).toEqual([]);
    expect(result).toBe(0xfffn);
  });

  it('talk to ports', () => {
    const fn = guestFn('guest_code', [], u64, (g) => {
      outl(g, 0x1234_5678, 0x2000);
      g.return(inb(g, 0x3000).cast(u64));
    });
    const box = boxOf(fn);
    const written: number[] = [];
    box.machine.io.ports.add({
      base: 0x2000,
      length: 4,
      read: () => undefined,
      write: (_o, size, lo) => written.push(size, lo),
    });
    expect(box.call(fn)).toBe(0xffn);
    expect(written).toEqual([4, 0x1234_5678]);
  });

  it('read selectors', () => {
    const fn = guestFn('guest_code', [], u64, (g) => {
      const all = [get_cs(g), get_ds(g), get_es(g), get_ss(g), get_fs(g), get_gs(g)].map((x) => x.cast(u64));
      g.return(all.reduce((sum, selector) => sum.shl(8).or(selector)));
    });
    expect(run(fn).result).toBe(0x0810_1010_1010n);
  });

  it('read and write extended control registers', () => {
    const fn = guestFn('guest_code', [], u64, (g) => {
      set_cr4(g, get_cr4(g).or(CR4.OSXSAVE));
      xsetbv(g, 0, 3);
      GUEST_ASSERT_EQ(g, xsetbv_safe(g, 0, 0), VECTOR.GP);
      g.return(xgetbv(g, 0));
    });
    const { result, box } = run(fn);
    expect(box.ucalls).toEqual([]);
    expect(result).toBe(3n);
  });

  it('make hypercalls, which are undefined without a hypervisor', () => {
    const fn = guestFn('guest_code', [], (g) => {
      kvm_hypercall(g, 5, 1, 2, 3, 4);
    });
    const box = boxOf(fn);
    expect(() => box.call(fn, [], 100_000)).toThrow('stopped');
    expect(box.ucalls[0]!.buffer).toContain("Unhandled exception '0x6'");
  });

  it('load the IDT register', () => {
    const fn = guestFn('guest_code', [], u64, (g) => {
      const idt = get_idt(g);
      g.set(idt.f.size, 0xff);
      lidt(g, idt.addr());
      g.return(get_idt(g).f.size.cast(u64));
    });
    expect(run(fn).result).toBe(0xffn);
  });

  it('execute without operands', () => {
    const fn = guestFn('guest_code', [u64], (g, address) => {
      cli(g);
      sti_nop(g);
      cli(g);
      for (const fence of [mfence, lfence, sfence]) fence(g);
      invlpg(g, address);
    });
    expect(() => run(fn, 0x1000n)).not.toThrow();
  });
});

describe('atomic operations', () => {
  it('change the place and give the old value where there is one', () => {
    const cell = guestGlobal('cell', u32, 0xf0);
    const fn = guestFn('guest_code', [], u64, (g) => {
      atomic_add(g, cell, 0x10); // 0x100
      atomic_inc(g, cell); // 0x101
      atomic_sub(g, cell, 2); // 0xff
      atomic_and(g, cell, 0x3c); // 0x3c
      atomic_or(g, cell, 0x80); // 0xbc
      const old = xchg(g, cell, 1);
      atomic_store(g, cell, 7);
      WRITE_ONCE(g, cell, READ_ONCE(cell).add(1));
      g.return(old.cast(u64).shl(32).or(cell.cast(u64)));
    });
    expect(run(fn).result).toBe(0xbc_0000_0008n);
  });

  it('work on pointers, and on scalars only', () => {
    const pointer = guestGlobal('pointer', ptr(u64));
    const fn = guestFn('guest_code', [], u64, (g) => {
      const old = cmpxchg(g, pointer, 0, 0x1234);
      g.return(old.add(pointer.cast(u64)));
    });
    expect(run(fn).result).toBe(0x1234n);
    const bad = guestFn('bad', [], (g) => atomic_inc(g, g.local(ExRegs)));
    expect(() => bad.body()).toThrow('atomic operation on struct ex_regs');
  });
});

describe('the local APIC', () => {
  it('is enabled in xAPIC mode', () => {
    const fn = guestFn('guest_code', [], u64, (g) => {
      xapic_enable(g);
      xapic_write_reg(g, APIC_REG.TASKPRI, 0x40);
      GUEST_ASSERT_EQ(g, at(u32, APIC_DEFAULT_GPA + APIC_REG.TASKPRI), 0x40);
      GUEST_ASSERT(g, get_bsp_flag(g));
      g.return(xapic_read_reg(g, APIC_REG.SPIV).cast(u64));
    });
    const { result, box } = run(fn);
    expect(box.ucalls.map(({ buffer }) => buffer)).toEqual([]);
    expect(result & 0x100n).toBe(0x100n);
  });

  it('is enabled in x2APIC mode, and comes back through the disabled state', () => {
    const fn = guestFn('guest_code', [], u64, (g) => {
      x2apic_enable(g);
      x2apic_write_reg(g, APIC_REG.TASKPRI, 0x30);
      GUEST_ASSERT_EQ(g, x2apic_read_reg(g, APIC_REG.TASKPRI), 0x30);
      GUEST_ASSERT_EQ(g, x2apic_write_reg_safe(g, APIC_REG.TASKPRI, 1n << 40n), VECTOR.GP);
      xapic_enable(g);
      const mode = rdmsr(g, MSR.IA32_APICBASE).and(APICBASE.ENABLE | APICBASE.EXTD);
      GUEST_ASSERT_EQ(g, mode, APICBASE.ENABLE);
      apic_disable(g);
      g.return(rdmsr(g, MSR.IA32_APICBASE).and(APICBASE.ENABLE));
    });
    const { result, box } = run(fn);
    expect(box.ucalls.map(({ buffer }) => buffer)).toEqual([]);
    expect(result).toBe(0n);
  });
});
