// SPDX-License-Identifier: GPL-2.0-only
/**
 * Exits of a VM without in-kernel APIC: port I/O, HLT, control and debug registers, shutdown, failed entry, injection by
 * userspace. Expected: Documentation/virt/kvm/api.rst; SDM, "MOV - Move to/from Control Registers", "VM-Entry Failures".
 */
import { describe, expect, it } from 'vitest';
import { R } from '../../lib/asm/operands.ts';
import {
  KVM_ASM_SAFE,
  DescPtr,
  lidt,
  ExRegs,
  GUEST_DONE,
  GUEST_SYNC,
  GUEST_SYNC_ARGS,
  get_cr4,
  get_cr8,
  guestAsm,
  guestFn,
  guestGlobal,
  kvm_hypercall,
  ptr,
  READ_ONCE,
  set_cr0,
  set_cr4,
  set_cr8,
  get_cr0,
  u64,
  xgetbv,
  xsetbv,
  xsetbv_safe,
} from '../../lib/guest/index.ts';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { errnoName } from '../../lib/uapi/errno.ts';
import { KVM_EXIT_IO } from '../../lib/uapi/run.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { CR0, CR4, DR6, DR7, RFLAGS } from '../../lib/x86/registers.ts';
import { tryVcpuRun, vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { readGuestGlobal } from '../../lib/kvm_util/guest_global.ts';
import type { Operand } from '../../lib/asm/operands.ts';
import type { GuestCode } from '../../lib/guest/index.ts';
import { exitName, guest, nextSync, withVm } from './small_vm.ts';

const bare = { irqchip: 'none' } as const;

describe('port I/O', () => {
  const code = guestAsm('guest_code', (a) => {
    a.emit('mov', R.edx, 0x123);
    a.emit('out', R.dx, R.al);
    a.emit('out', R.dx, R.ax);
    a.emit('out', R.dx, R.eax);
    a.emit('in', R.al, R.dx);
    a.emit('in', R.ax, R.dx);
    a.emit('in', R.eax, R.dx);
    a.emit('hlt');
  });

  it('goes to userspace with port, size and data; IN merges as a write of that size', () => {
    withVm(
      code,
      function* ({ vcpu }) {
        const { fd } = vcpu;
        fd.setRegs({ ...fd.getRegs(), rax: 0x1122_3344_8899_aabbn });
        for (const [size, data] of [
          [1, [0xbb]],
          [2, [0xbb, 0xaa]],
          [4, [0xbb, 0xaa, 0x99, 0x88]],
        ] as const) {
          yield* vcpuRun(vcpu);
          expect(fd.run.io).toEqual({
            direction: KVM_EXIT_IO.OUT,
            size,
            port: 0x123,
            count: 1,
            data_offset: 4096,
          });
          expect([...fd.run.pio_data.subarray(0, size)]).toEqual(data);
        }
        const results: bigint[] = [];
        for (let i = 0; i < 3; i++) {
          yield* vcpuRun(vcpu);
          expect(fd.run.io.direction).toBe(KVM_EXIT_IO.IN);
          if (i > 0) results.push(fd.getRegs().rax);
          fd.run.pio_data.set([0x01, 0x02, 0x03, 0xf4]);
        }
        yield* vcpuRun(vcpu);
        results.push(fd.getRegs().rax);
        expect(results).toEqual([0x1122_3344_8899_aa01n, 0x1122_3344_8899_0201n, 0xf403_0201n]);
        expect(exitName(vcpu)).toBe('HLT');
      },
      bare,
    );
  });

  it('leaves RIP at the instruction until the next KVM_RUN, but for port 0x7e, and not if userspace moved it', () => {
    const ports = guestAsm('guest_code', (a) => {
      a.emit('out', 0x80, R.al);
      a.emit('out', 0x7e, R.al);
      a.emit('out', 0x80, R.al);
      a.emit('hlt');
      a.emit('mov', R.ebx, 1);
      a.emit('hlt');
    });
    withVm(
      ports,
      function* ({ vcpu }) {
        const { fd } = vcpu;
        const entry = fd.getRegs().rip;
        yield* vcpuRun(vcpu);
        expect(fd.getRegs().rip - entry).toBe(0n);
        yield* vcpuRun(vcpu);
        expect(fd.getRegs().rip - entry).toBe(4n);
        yield* vcpuRun(vcpu);
        expect(fd.getRegs().rip - entry).toBe(4n);
        fd.setRegs({ ...fd.getRegs(), rbx: 0n, rip: entry + 7n });
        yield* vcpuRun(vcpu);
        expect([exitName(vcpu), fd.getRegs().rbx]).toEqual(['HLT', 1n]);
      },
      bare,
    );
  });

  it('ends early on immediate_exit, with the last exit completed', () => {
    withVm(
      code,
      function* ({ vcpu }) {
        const { fd } = vcpu;
        yield* vcpuRun(vcpu);
        const { rip } = fd.getRegs();
        fd.run.immediate_exit = 1;
        expect(errnoName(yield* tryVcpuRun(vcpu))).toBe('EINTR');
        expect(fd.getRegs().rip).toBe(rip + 1n);
        fd.run.immediate_exit = 0;
        yield* vcpuRun(vcpu);
        expect(fd.run.io.size).toBe(2);
      },
      bare,
    );
  });
});

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
      { ...bare, handlers: { 0x55: irq } },
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
      { ...bare, handlers: { 0x55: irq } },
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
      bare,
    );
  });
});

describe('a guest that breaks', () => {
  it('beyond a double fault shuts down', () => {
    const code = guest((g) => {
      const desc = g.local(DescPtr);
      g.set(desc.f.size, 0);
      lidt(g, desc.addr());
      g.asm({ emit: (a) => a.emit('ud2') });
    });
    withVm(code, function* ({ vcpu }) {
      yield* vcpuRun(vcpu);
      expect(exitName(vcpu)).toBe('SHUTDOWN');
    });
  });

  it('by a request of userspace shuts down, too', () => {
    withVm(
      guest((g) => GUEST_SYNC(g, 1)),
      function* ({ vm, vcpu }) {
        yield* vm.fd.enableCap({ cap: KVM_CAP.X86_TRIPLE_FAULT_EVENT, flags: 0, args: [1n, 0n, 0n, 0n] });
        yield* nextSync(vcpu);
        const events = vcpu.fd.getVcpuEvents();
        vcpu.fd.setVcpuEvents({ ...events, triple_fault: { pending: 1 } });
        expect(vcpu.fd.getVcpuEvents().triple_fault.pending).toBe(1);
        vcpu.fd.setVcpuEvents({ ...events, triple_fault: { pending: 0 } });
        expect(vcpu.fd.getVcpuEvents().triple_fault.pending).toBe(0);
        vcpu.fd.setVcpuEvents({ ...events, triple_fault: { pending: 1 } });
        yield* vcpuRun(vcpu);
        expect(exitName(vcpu)).toBe('SHUTDOWN');
      },
    );
  });
});

describe('control registers', () => {
  const faultOf = (g: GuestCode, emit: Parameters<typeof KVM_ASM_SAFE>[1]['emit'], value: bigint) =>
    KVM_ASM_SAFE(g, { in: { v: value }, emit }).vector;
  const toCr =
    (cr: 'cr0' | 'cr3' | 'cr4' | 'cr8') =>
    (a: { emit(i: 'mov', ...o: Operand[]): void }, r: { reg64(n: string): Operand }) =>
      a.emit('mov', R[cr], r.reg64('v'));

  it('refuse what the SDM forbids with GP', () => {
    const good0 = BigInt((CR0.PE | CR0.NE | CR0.PG) >>> 0);
    const code = guest((g) => {
      const bad: [Parameters<typeof toCr>[0], bigint][] = [
        ['cr0', good0 | BigInt(CR0.NW)],
        ['cr0', good0 & ~BigInt(CR0.PE)],
        ['cr0', good0 & ~BigInt(CR0.PG >>> 0)],
        ['cr0', good0 | (1n << 32n)],
        ['cr4', BigInt(CR4.OSFXSR)],
        ['cr4', BigInt(CR4.PAE | CR4.LA57)],
        ['cr4', BigInt(CR4.PAE | CR4.VMXE)],
        ['cr4', BigInt(CR4.PAE) | (1n << 32n)],
        ['cr8', 16n],
      ];
      for (const [cr, value] of bad) GUEST_SYNC(g, faultOf(g, toCr(cr), value));
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      for (let i = 0; i < 9; i++) expect([i, (yield* nextSync(vcpu))[0]]).toEqual([i, BigInt(VECTOR.GP)]);
      expect(yield* nextSync(vcpu)).toEqual([]);
    });
  });

  it('take what it allows, and the guest reads back what it wrote', () => {
    const code = guest((g) => {
      const old0 = g.let(get_cr0(g));
      set_cr0(g, old0.or(CR0.WP | CR0.AM | CR0.TS));
      const new0 = g.let(get_cr0(g));
      set_cr0(g, old0);
      const old4 = g.let(get_cr4(g));
      set_cr4(g, old4.or(CR4.PCIDE | CR4.OSXSAVE | CR4.PGE));
      const new4 = g.let(get_cr4(g));
      xsetbv(g, 0, 3);
      const xcr0 = g.let(xgetbv(g, 0));
      GUEST_SYNC_ARGS(
        g,
        new0.xor(old0).and(~BigInt(CR0.ET)),
        new4.xor(old4),
        xcr0,
        xsetbv_safe(g, 0, 2),
        xsetbv_safe(g, 0, 5),
      );
      // SDM, "MOV - Move to/from Control Registers": PCIDs go only while CR3's low bits allow it.
      set_cr4(g, old4);
      GUEST_SYNC_ARGS(g, get_cr4(g).xor(old4), 0, 0, 0, 0);
      GUEST_SYNC_ARGS(g, xsetbv_safe(g, 1, 1), 0, 0, 0, 0);
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      const cr4 = BigInt(CR4.PCIDE | CR4.OSXSAVE | CR4.PGE);
      const gp = BigInt(VECTOR.GP);
      const got = yield* nextSync(vcpu);
      expect(got).toEqual([BigInt(CR0.WP | CR0.AM | CR0.TS), cr4, 3n, gp, gp]);
      expect((yield* nextSync(vcpu))[0]).toBe(0n);
      // Without OSXSAVE the instruction itself is undefined.
      expect((yield* nextSync(vcpu))[0]).toBe(BigInt(VECTOR.UD));
      expect(vcpu.fd.getXcrs().xcrs).toEqual([{ xcr: 0, value: 3n }]);
    });
  });
});

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
      { ...bare, handlers: { [VECTOR.DB]: db } },
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
      { ...bare, handlers: { [VECTOR.DB]: db } },
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

describe('instructions that L0 answers', () => {
  it('VMCALL says ENOSYS, MWAIT is nothing by a quirk, RDPMC and VMXOFF fault', () => {
    const code = guest((g) => {
      const fault = (insn: 'mwait' | 'rdpmc' | 'vmxoff') =>
        KVM_ASM_SAFE(g, { clobbers: ['rax', 'rcx', 'rdx'], emit: (a) => a.emit(insn as 'rdpmc') }).vector;
      GUEST_SYNC_ARGS(
        g,
        kvm_hypercall(g, 77),
        kvm_hypercall(g, 1),
        fault('mwait'),
        fault('rdpmc'),
        fault('vmxoff'),
      );
      g.asm({ emit: (a) => (['wbinvd', 'invd'] as const).forEach((insn) => a.emit(insn)) });
      GUEST_SYNC(g, fault('mwait'));
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vm, vcpu }) {
      // Documentation/virt/kvm/x86/hypercalls.rst: -KVM_ENOSYS is -1000.
      const got = yield* nextSync(vcpu);
      expect(got.map((v) => BigInt.asIntN(64, v))).toEqual([
        -1000n,
        0n,
        0n,
        BigInt(VECTOR.GP),
        BigInt(VECTOR.UD),
      ]);
      yield* vm.fd.enableCap({ cap: KVM_CAP.DISABLE_QUIRKS2, flags: 0, args: [0x40n, 0n, 0n, 0n] });
      expect((yield* nextSync(vcpu))[0]).toBe(BigInt(VECTOR.UD));
    });
  });
});
