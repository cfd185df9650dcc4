// SPDX-License-Identifier: GPL-2.0-only
/**
 * Instructions on memory that no memslot backs: what userspace sees of each, and registers and flags after it. Expected: SDM,
 * "Instruction Set Reference"; Documentation/virt/kvm/api.rst, KVM_EXIT_MMIO; x86_emulate_instruction().
 */
import { describe, expect, it } from 'vitest';
import { lab, mem, m16, m32, m64, m8, R } from '../../lib/asm/operands.ts';
import type { RawAsm } from '../../lib/guest/dsl/function.ts';
import type { Steps } from '../../lib/kvm_util/backend.ts';
import { addrGva2hva, virtMap, vmGetPageTableEntry } from '../../lib/kvm_util/x86/page_table.ts';
import { writeGpaU64, type KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { ExRegs, guestAsm, guestFn, guestGlobal, ptr, u64 } from '../../lib/guest/index.ts';
import { KVM_EXIT, KVM_INTERNAL_ERROR } from '../../lib/uapi/run.ts';
import type { KvmRegs } from '../../lib/uapi/regs.ts';
import { gpa } from '../../lib/x86/addr.ts';
import { PTE } from '../../lib/x86/paging.ts';
import { PFERR, VECTOR } from '../../lib/x86/exceptions.ts';
import { CR0, RFLAGS } from '../../lib/x86/registers.ts';
import { vmVaddrAlloc } from '../../lib/kvm_util/x86/page_table.ts';
import { readGuestGlobal } from '../../lib/kvm_util/guest_global.ts';
import { exitName, withVm, type SmallVm } from './small_vm.ts';

const MMIO = 0xd000_0000;
const A = RFLAGS;
const ARITH = A.CF | A.PF | A.AF | A.ZF | A.SF | A.OF;

interface Case {
  readonly name: string;
  readonly emit: (a: RawAsm) => void;
  /** Registers before; RDI is the device's address unless given. */
  readonly before?: Partial<KvmRegs>;
  /** Answers to the reads, in order. */
  readonly answers?: readonly bigint[];
  /** `r` or `w`, offset in the device, length, and the data of a write. */
  readonly exits: readonly string[];
  readonly after?: Partial<KvmRegs>;
  /** Arithmetic flags after. */
  readonly flags?: number;
}

const at = (size: (address: { base: typeof R.rdi; disp?: number }) => ReturnType<typeof m8>, disp = 0) =>
  size({ base: R.rdi, disp });
const ONES = 0xffff_ffff_ffff_ffffn;

// prettier-ignore
const CASES: readonly Case[] = [
  { name: 'mov al, [m8]', emit: (a) => a.emit('mov', R.al, at(m8)), before: { rax: ONES }, answers: [0x12n], exits: ['r 0 1'], after: { rax: 0xffff_ffff_ffff_ff12n } },
  { name: 'mov ah, [m8]', emit: (a) => a.emit('mov', R.ah, at(m8)), before: { rax: 0n }, answers: [0x12n], exits: ['r 0 1'], after: { rax: 0x1200n } },
  { name: 'mov ax, [m16]', emit: (a) => a.emit('mov', R.ax, at(m16)), before: { rax: ONES }, answers: [0x1234n], exits: ['r 0 2'], after: { rax: 0xffff_ffff_ffff_1234n } },
  { name: 'mov eax, [m32]', emit: (a) => a.emit('mov', R.eax, at(m32)), before: { rax: ONES }, answers: [0x8765_4321n], exits: ['r 0 4'], after: { rax: 0x8765_4321n } },
  { name: 'mov rax, [m64]', emit: (a) => a.emit('mov', R.rax, at(m64)), answers: [0x1122_3344_5566_7788n], exits: ['r 0 8'], after: { rax: 0x1122_3344_5566_7788n } },
  { name: 'mov [m8], ch', emit: (a) => a.emit('mov', at(m8, 3), R.ch), before: { rcx: 0xabcdn }, exits: ['w 3 1 ab'] },
  { name: 'mov [m16], cx', emit: (a) => a.emit('mov', at(m16), R.cx), before: { rcx: 0x1_abcdn }, exits: ['w 0 2 abcd'] },
  { name: 'mov [m32], imm', emit: (a) => a.emit('mov', at(m32), 0x1234_5678), exits: ['w 0 4 12345678'] },
  { name: 'mov [m64], imm sign-extended', emit: (a) => a.emit('mov', at(m64), -2), exits: ['w 0 8 fffffffffffffffe'] },
  { name: 'mov across a page is two exits', emit: (a) => a.emit('mov', at(m64, 0xffd), R.rcx), before: { rcx: 0x1122_3344_5566_7788n }, exits: ['w ffd 3 667788', 'w 1000 5 1122334455'] },
  { name: 'a load across a page is two exits', emit: (a) => a.emit('mov', R.eax, at(m32, 0xffe)), answers: [0x2211n, 0x4433n], exits: ['r ffe 2', 'r 1000 2'], after: { rax: 0x4433_2211n } },
  { name: 'movzx eax, [m8]', emit: (a) => a.emit('movzx', R.eax, at(m8)), before: { rax: ONES }, answers: [0x80n], exits: ['r 0 1'], after: { rax: 0x80n } },
  { name: 'movzx eax, [m16]', emit: (a) => a.emit('movzx', R.eax, at(m16)), answers: [0x8001n], exits: ['r 0 2'], after: { rax: 0x8001n } },
  { name: 'movsx rax, [m8]', emit: (a) => a.emit('movsx', R.rax, at(m8)), answers: [0x80n], exits: ['r 0 1'], after: { rax: 0xffff_ffff_ffff_ff80n } },
  { name: 'movsx eax, [m16]', emit: (a) => a.emit('movsx', R.eax, at(m16)), answers: [0x8001n], exits: ['r 0 2'], after: { rax: 0xffff_8001n } },
  { name: 'movsxd rax, [m32]', emit: (a) => a.emit('movsxd', R.rax, at(m32)), answers: [0x8000_0000n], exits: ['r 0 4'], after: { rax: 0xffff_ffff_8000_0000n } },
  { name: 'add [m32], eax', emit: (a) => a.emit('add', at(m32), R.eax), before: { rax: 1n }, answers: [0xffff_ffffn], exits: ['r 0 4', 'w 0 4 0'], flags: A.CF | A.ZF | A.PF | A.AF },
  { name: 'add eax, [m32]', emit: (a) => a.emit('add', R.eax, at(m32)), before: { rax: 0x7fff_ffffn }, answers: [1n], exits: ['r 0 4'], after: { rax: 0x8000_0000n }, flags: A.OF | A.SF | A.AF | A.PF },
  { name: 'adc [m8], al', emit: (a) => { a.emit('stc'); a.emit('adc', at(m8), R.al); }, before: { rax: 1n }, answers: [1n], exits: ['r 0 1', 'w 0 1 3'], flags: A.PF },
  { name: 'sub [m16], imm', emit: (a) => a.emit('sub', at(m16), 1), answers: [0n], exits: ['r 0 2', 'w 0 2 ffff'], flags: A.CF | A.SF | A.AF | A.PF },
  { name: 'sbb eax, [m32]', emit: (a) => { a.emit('stc'); a.emit('sbb', R.eax, at(m32)); }, before: { rax: 5n }, answers: [3n], exits: ['r 0 4'], after: { rax: 1n }, flags: 0 },
  { name: 'cmp [m64], imm reads only', emit: (a) => a.emit('cmp', at(m64), 7), answers: [7n], exits: ['r 0 8'], flags: A.ZF | A.PF },
  { name: 'cmp eax, [m32]', emit: (a) => a.emit('cmp', R.eax, at(m32)), before: { rax: 0x8000_0000n }, answers: [1n], exits: ['r 0 4'], after: { rax: 0x8000_0000n }, flags: A.OF | A.AF | A.PF },
  { name: 'test [m8], imm reads only', emit: (a) => a.emit('test', at(m8), 0x80), answers: [0xffn], exits: ['r 0 1'], flags: A.SF },
  { name: 'and [m32], eax', emit: (a) => a.emit('and', at(m32), R.eax), before: { rax: 0xf0n }, answers: [0x3cn], exits: ['r 0 4', 'w 0 4 30'], flags: A.PF },
  { name: 'lock or [m32], eax', emit: (a) => a.emit('lock or', at(m32), R.eax), before: { rax: 1n }, answers: [2n], exits: ['r 0 4', 'w 0 4 3'], flags: A.PF },
  { name: 'xor [m64], rax', emit: (a) => a.emit('xor', at(m64), R.rax), before: { rax: 5n }, answers: [5n], exits: ['r 0 8', 'w 0 8 0'], flags: A.ZF | A.PF },
  { name: 'not [m32] keeps the flags', emit: (a) => { a.emit('stc'); a.emit('not', at(m32)); }, answers: [0xffn], exits: ['r 0 4', 'w 0 4 ffffff00'] },
  { name: 'neg [m8]', emit: (a) => a.emit('neg', at(m8)), answers: [1n], exits: ['r 0 1', 'w 0 1 ff'], flags: A.CF | A.SF | A.AF | A.PF },
  { name: 'inc [m8] keeps CF', emit: (a) => { a.emit('stc'); a.emit('inc', at(m8)); }, answers: [0x7fn], exits: ['r 0 1', 'w 0 1 80'], flags: A.CF | A.OF | A.SF | A.AF },
  { name: 'dec [m32] keeps CF', emit: (a) => { a.emit('stc'); a.emit('dec', at(m32)); }, answers: [1n], exits: ['r 0 4', 'w 0 4 0'], flags: A.CF | A.ZF | A.PF },
  { name: 'xchg [m32], eax', emit: (a) => a.emit('xchg', at(m32), R.eax), before: { rax: 0x11n }, answers: [0x22n], exits: ['r 0 4', 'w 0 4 11'], after: { rax: 0x22n } },
  { name: 'mov [rdi + rcx*4 + 8], eax', emit: (a) => a.emit('mov', m32({ base: R.rdi, index: R.rcx, scale: 4, disp: 8 }), R.eax), before: { rax: 9n, rcx: 2n }, exits: ['w 10 4 9'] },
  { name: 'stosd', emit: (a) => a.emit('stosd'), before: { rax: 0x77n }, exits: ['w 0 4 77'], after: { rdi: BigInt(MMIO + 4) } },
  { name: 'rep stosb', emit: (a) => a.emit('rep stosb'), before: { rax: 0x55n, rcx: 3n }, exits: ['w 0 1 55', 'w 1 1 55', 'w 2 1 55'], after: { rdi: BigInt(MMIO + 3), rcx: 0n } },
  { name: 'rep stosb with RCX 0 does nothing', emit: (a) => a.emit('rep stosb'), before: { rcx: 0n }, exits: [], after: { rdi: BigInt(MMIO), rcx: 0n } },
  { name: 'stosw downwards', emit: (a) => { a.emit('std'); a.emit('stosw'); a.emit('cld'); }, before: { rax: 0x1234n, rdi: BigInt(MMIO + 8) }, exits: ['w 8 2 1234'], after: { rdi: BigInt(MMIO + 6) } },
  { name: 'movsq within the device', emit: (a) => a.emit('movsq'), before: { rsi: BigInt(MMIO), rdi: BigInt(MMIO + 0x40) }, answers: [0x99n], exits: ['r 0 8', 'w 40 8 99'], after: { rsi: BigInt(MMIO + 8), rdi: BigInt(MMIO + 0x48) } },
];

const start = guestAsm('guest_code', (a) => {
  for (const c of CASES) {
    c.emit(a);
    a.emit('hlt');
  }
});

/** Run to the next exit that is not MMIO, answering reads; the exits as text. */
function* mmioExits(vcpu: KvmVcpu, answers: readonly bigint[]): Steps<string[]> {
  const seen: string[] = [];
  const left = [...answers];
  for (;;) {
    yield* vcpuRun(vcpu);
    const { run } = vcpu.fd;
    if (run.exit_reason !== KVM_EXIT.MMIO) return seen;
    const { phys_addr, len, is_write, data } = run.mmio;
    const view = new DataView(data.buffer, data.byteOffset);
    const where = `${(phys_addr - MMIO).toString(16)} ${len}`;
    const bytes = [...data.subarray(0, len)].reduceRight((sum, b) => (sum << 8n) | BigInt(b), 0n);
    seen.push(is_write !== 0 ? `w ${where} ${bytes.toString(16)}` : `r ${where}`);
    if (is_write === 0) view.setBigUint64(0, left.shift() ?? 0n, true);
  }
}

const mapDevice = ({ vm }: SmallVm): void => virtMap(vm, BigInt(MMIO), gpa(MMIO), 2);

describe('the emulator', () => {
  it.each([['kvm.mmio_caching=1'], ['kvm.mmio_caching=0']])(
    'carries out each instruction with %s',
    (param) => {
      withVm(
        start,
        function* (small) {
          mapDevice(small);
          const { fd } = small.vcpu;
          for (const c of CASES) {
            fd.setRegs({ ...fd.getRegs(), rdi: BigInt(MMIO), rflags: 2n, ...c.before });
            const exits = yield* mmioExits(small.vcpu, c.answers ?? []);
            const regs = fd.getRegs();
            const after = Object.fromEntries(
              Object.keys(c.after ?? {}).map((name) => [name, regs[name as keyof KvmRegs]]),
            );
            expect({ name: c.name, exits, after }).toEqual({
              name: c.name,
              exits: c.exits,
              after: c.after ?? {},
            });
            if (c.flags !== undefined)
              expect({ name: c.name, flags: Number(regs.rflags) & ARITH }).toEqual({
                name: c.name,
                flags: c.flags,
              });
            expect(exitName(small.vcpu)).toBe('HLT');
          }
        },
        { irqchip: 'none', params: [param] },
      );
    },
  );

  it('reports an instruction that it does not know, with its bytes, and the guest goes on with UD', () => {
    const ud = guestFn('ud_handler', [ptr(ExRegs)], (g, regs) => g.set(regs.f.rip, regs.f.rip.add(4)));
    const code = guestAsm('guest_code', (a) => {
      // 0F B3 /r: BTR is four bytes here, with its displacement.
      a.emit('btr', m32({ base: R.rdi, disp: 4 }), R.ecx);
      a.emit('hlt');
    });
    withVm(
      code,
      function* (small) {
        mapDevice(small);
        const { fd } = small.vcpu;
        fd.setRegs({ ...fd.getRegs(), rdi: BigInt(MMIO) });
        yield* mmioExits(small.vcpu, [0n]);
        expect(exitName(small.vcpu)).toBe('INTERNAL_ERROR');
        expect(fd.run.internal.suberror).toBe(KVM_INTERNAL_ERROR.EMULATION);
        yield* vcpuRun(small.vcpu);
        expect(exitName(small.vcpu)).toBe('HLT');
      },
      { irqchip: 'none', handlers: { [VECTOR.UD]: ud } },
    );
  });

  it('reports an instruction fetch from nowhere, with flags and without bytes', () => {
    const code = guestAsm('guest_code', (a) => a.emit('jmp', R.rdi));
    withVm(
      code,
      function* (small) {
        mapDevice(small);
        const { fd } = small.vcpu;
        fd.setRegs({ ...fd.getRegs(), rdi: BigInt(MMIO) });
        yield* vcpuRun(small.vcpu);
        expect(exitName(small.vcpu)).toBe('INTERNAL_ERROR');
        expect(fd.run.emulation_failure.insn_size).toBe(0);
        // The flags and the five words about the exit.
        expect(fd.run.emulation_failure.ndata).toBe(6);
        expect(fd.run.internal.data[0]).toBe(0n);
      },
      { irqchip: 'none' },
    );
  });
});

describe('operands', () => {
  it('are found by FS and by 32-bit addresses, and the instruction may cross a page', () => {
    const code = guestAsm('guest_code', (a) => {
      a.emit('mov', R.eax, m32({ base: R.rdi, seg: R.fs }));
      a.emit('mov', R.eax, m32({ base: R.edi }));
      // 4094 bytes into a page, so that the next instruction crosses it.
      a.emit('jmp', lab('crossing'));
      a.align(4096);
      for (let i = 0; i < 4094; i++) a.emit('nop');
      a.label('crossing');
      a.emit('mov', m32({ base: R.rdi, disp: 0x100 }), 0x1122_3344);
      a.emit('hlt');
    });
    withVm(
      code,
      function* (small) {
        mapDevice(small);
        const { fd } = small.vcpu;
        const sregs = fd.getSregs();
        fd.setSregs({ ...sregs, fs: { ...sregs.ds, base: 0x20n } });
        fd.setRegs({ ...fd.getRegs(), rdi: BigInt(MMIO) });
        expect(yield* mmioExits(small.vcpu, [1n, 2n])).toEqual(['r 20 4', 'r 0 4', 'w 100 4 11223344']);
        expect(exitName(small.vcpu)).toBe('HLT');
      },
      { irqchip: 'none', params: ['kvm_intel.vpid=0'] },
    );
  });
});

describe('MOVS from a device to RAM', () => {
  const cr2 = guestGlobal('seen_cr2', u64);
  const error = guestGlobal('seen_error', u64);
  const pf = guestFn('pf_handler', [ptr(ExRegs)], (g, regs) => {
    g.set(error, regs.f.error_code);
    g.set(cr2, g.asm({ out: { v: u64 }, emit: (a, r) => a.emit('mov', r.reg('v'), R.cr2) }).v);
    g.set(regs.f.rip, regs.f.rip.add(1));
  });
  const code = guestAsm('guest_code', (a) => {
    a.emit('movsb');
    a.emit('hlt');
    a.emit('movsb');
    a.emit('hlt');
  });

  it('sets accessed and dirty bits, and faults on a read-only page with CR0.WP', () => {
    withVm(
      code,
      function* (small) {
        mapDevice(small);
        const { vm, vcpu } = small;
        const { fd } = vcpu;
        const page = vmVaddrAlloc(vm, 4096, 0x10_0000n);
        const entry0 = fd.getRegs().rip;
        const regs = { rsi: BigInt(MMIO), rdi: page };
        fd.setRegs({ ...fd.getRegs(), ...regs });
        expect(yield* mmioExits(vcpu, [0x5an])).toEqual(['r 0 1']);
        expect(vm.backend.memory.read(addrGva2hva(vm, page), 1)[0]).toBe(0x5a);
        const { at: entryAt, entry } = vmGetPageTableEntry(vm, page);
        expect(entry & BigInt(PTE.A | PTE.D)).toBe(BigInt(PTE.A | PTE.D));
        writeGpaU64(vm, entryAt, entry & ~BigInt(PTE.RW));
        const sregs = fd.getSregs();
        fd.setSregs({ ...sregs, cr0: sregs.cr0 | BigInt(CR0.WP) });
        fd.setRegs({ ...fd.getRegs(), ...regs });
        expect(yield* mmioExits(vcpu, [0x77n])).toEqual(['r 0 1']);
        expect(readGuestGlobal(vm, 'seen_cr2')).toBe(page);
        expect(readGuestGlobal(vm, 'seen_error')).toBe(BigInt(PFERR.PRESENT | PFERR.WRITE));
        expect(vm.backend.memory.read(addrGva2hva(vm, page), 1)[0]).toBe(0x5a);
        // SDM, "Canonical Addressing": GP, found before the destination is translated.
        fd.setRegs({ ...fd.getRegs(), rip: entry0, rsi: BigInt(MMIO), rdi: 1n << 47n });
        expect(yield* mmioExits(vcpu, [0x77n])).toEqual(['r 0 1']);
        expect(readGuestGlobal(vm, 'seen_error')).toBe(0n);
      },
      { irqchip: 'none', handlers: { [VECTOR.PF]: pf, [VECTOR.GP]: pf } },
    );
  });
});

describe('the xAPIC page', () => {
  const read = (a: RawAsm, offset: number, reg = R.eax): void =>
    a.emit('mov', reg, mem(reg.size, { base: R.rdi, disp: offset }));

  it('answers aligned 32-bit accesses; in x2APIC mode it is a hole that reads as ones', () => {
    const code = guestAsm('guest_code', (a) => {
      read(a, 0x30);
      a.emit('mov', m32({ base: R.rdi, disp: 0x80 }), 0x20);
      a.emit('mov', m8({ base: R.rdi, disp: 0x80 }), 0x70);
      a.emit('mov', R.ebx, m32({ base: R.rdi, disp: 0x80 }));
      a.emit('mov', R.dx, 0x80);
      a.emit('in', R.al, R.dx);
      read(a, 0x30);
      a.emit('mov', m32({ base: R.rdi, disp: 0x80 }), 0x30);
      a.emit('in', R.al, R.dx);
    });
    withVm(code, function* ({ vm, vcpu }) {
      virtMap(vm, 0xfee0_0000n, gpa(0xfee0_0000), 1);
      vcpu.fd.setRegs({ ...vcpu.fd.getRegs(), rdi: 0xfee0_0000n });
      yield* vcpuRun(vcpu);
      const regs = vcpu.fd.getRegs();
      // SDM, "Local APIC Version Register": 1xH is an integrated APIC.
      expect(regs.rax & 0xf0n).toBe(0x10n);
      expect(regs.rbx).toBe(0x20n);
      const sregs = vcpu.fd.getSregs();
      vcpu.fd.setSregs({ ...sregs, apic_base: sregs.apic_base | 0x400n });
      vcpu.fd.run.pio_data[0] = 0;
      yield* vcpuRun(vcpu);
      expect(vcpu.fd.getRegs().rax).toBe(0xffff_ffffn);
      expect(vcpu.fd.getSregs().cr8).toBe(2n);
    });
  });
});
