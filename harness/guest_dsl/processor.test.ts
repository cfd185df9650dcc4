// SPDX-License-Identifier: GPL-2.0-only
/** The privileged instructions of the guest library. Expected: SDM, "Instruction Set Reference". */
import { describe, expect, it } from 'vitest';
import {
  cli,
  cpuid,
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
  GUEST_ASSERT_EQ,
  guestFn,
  inb,
  invlpg,
  kvm_hypercall,
  lfence,
  lidt,
  mfence,
  outl,
  rdmsr,
  rdtsc,
  rdtscp,
  set_cr0,
  set_cr3,
  set_cr4,
  set_cr8,
  sfence,
  sti_nop,
  this_cpu_has,
  u64,
  udelay,
  wrmsr,
  xgetbv,
  xsetbv,
  xsetbv_safe,
} from '../../lib/guest/index.ts';
import { X86_FEATURE } from '../../lib/x86/cpuid.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { CR0, CR4 } from '../../lib/x86/registers.ts';
import { PROFILES } from '../../vmm/machine/cost/profiles.ts';
import { boxOf, run } from './library_box.ts';

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
