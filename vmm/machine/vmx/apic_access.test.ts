// SPDX-License-Identifier: GPL-2.0-only
/**
 * Accesses to the APIC-access page. SDM, "Virtualizing Memory-Mapped APIC Accesses" with its sections on read accesses,
 * write accesses and APIC-write emulation; qualification: "Exit Qualification for APIC-Access VM Exits from Linear
 * Accesses and Guest-Physical Accesses".
 */
import { describe, expect, it } from 'vitest';
import { APIC_REG } from '../../../lib/x86/apic.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { INTR_INFO, INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../lib/x86/vmx/vmcs_info.ts';
import { getReg, setReg } from '../cpu/regs.ts';
import { fastFrameOf } from '../mmu/fast.ts';
import { AT, VmxBox } from './testing/fixture.ts';

const VMCALL = [0x0f, 0x01, 0xc1];
const PAGE = AT.SPARE;
const { VIRTUALIZE_APIC_ACCESSES, APIC_REGISTER_VIRT, VIRTUAL_INTR_DELIVERY } = SECONDARY_EXEC;
const le32 = (n: number): number[] => [n & 0xff, (n >> 8) & 0xff, (n >> 16) & 0xff, n >>> 24];
const at = (opcode: readonly number[], offset: number): number[] => [
  ...opcode,
  ...[0x04, 0x25],
  ...le32(PAGE + offset),
];
const read = (offset: number): number[] => at([0x8b], offset); // mov eax, [page + offset]
const write = (offset: number): number[] => at([0x89], offset); // mov [page + offset], eax
/** Offsets that SDM lists for APIC-register virtualization; those of VISR, VTMR and VIRR are eight registers each. */
const eight = (first: number): number[] => Array.from({ length: 8 }, (_, n) => first + 0x10 * n);
const LVT = [0x320, 0x330, 0x340, 0x350, 0x360, 0x370];
const READS = [0x20, 0x30, 0x80, 0xb0, 0xd0, 0xe0, 0xf0, ...eight(0x100), ...eight(0x180), ...eight(0x200)];
const MORE_READS = [0x280, 0x300, 0x310, ...LVT, 0x380, 0x3e0];
const WRITES = [0x20, 0x80, 0xb0, 0xd0, 0xe0, 0xf0, 0x280, 0x300, 0x310, ...LVT, 0x380, 0x3e0];
const OFFSETS = Array.from({ length: 0x100 }, (_, n) => n * 0x10);

function setUp(box: VmxBox, code: readonly number[], secondary: number): VmxBox {
  return box
    .code([...code, ...VMCALL])
    .change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.TPR_SHADOW)
    .change(C.SECONDARY_VM_EXEC_CONTROL, VIRTUALIZE_APIC_ACCESSES | secondary)
    .write(C.APIC_ACCESS_ADDR, PAGE);
}

const guest = (code: readonly number[], secondary = 0): VmxBox =>
  setUp(new VmxBox().begin(), code, secondary);
const virtual = (box: VmxBox, offset: number): number => box.cpu.mem.i32[(AT.VAPIC + offset) >> 2]!;
const backing = (box: VmxBox, offset: number): number => box.cpu.mem.i32[(PAGE + offset) >> 2]!;

/** What a run ends in: the exit, with the qualification if it is one of the two, and how far RIP got. */
function outcome(box: VmxBox): string {
  const reason = box.launch();
  if (reason === R.VMCALL) return 'done';
  const name = reason === R.APIC_ACCESS ? 'access' : reason === R.APIC_WRITE ? 'write' : `exit ${reason}`;
  return `${name} 0x${box.read(I.EXIT_QUALIFICATION).toString(16)} rip ${box.ripOffset()}`;
}

describe('without the TPR shadow', () => {
  it.each([
    ['a read', read(0x80), 'access 0x80 rip 0'],
    ['a write', write(0x80), 'access 0x1080 rip 0'],
    ['a read and write', at([0x83], 0x20).concat(1), 'access 0x1020 rip 0'], // add dword, 1
  ])('%s exits before it is made', (_, code, expected) => {
    const box = guest(code).change(C.CPU_BASED_VM_EXEC_CONTROL, 0, CPU_BASED.TPR_SHADOW);
    setReg(box.cpu, 0, 0x55n);
    expect(outcome(box)).toBe(expected);
    expect([backing(box, 0x80), backing(box, 0x20), virtual(box, 0x80)]).toEqual([0, 0, 0]);
    expect(getReg(box.cpu, 0)).toBe(0x55n);
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(0);
  });
});

describe('with the TPR shadow alone', () => {
  it('a read of the TPR gives VTPR', () => {
    const box = guest(read(0x80));
    box.word(AT.VAPIC + 0x80, 0x0102_0364);
    expect(outcome(box)).toBe('done');
    expect(getReg(box.cpu, 0)).toBe(0x0102_0364n);
  });

  it('so does every later one', () => {
    const box = guest([...read(0x80), 0x31, 0xc0, ...read(0x80)]); // xor eax, eax
    box.word(AT.VAPIC + 0x80, 0x64);
    expect(outcome(box)).toBe('done');
    expect([getReg(box.cpu, 0), fastFrameOf(box.cpu, (PAGE >> 12) & 1023)]).toEqual([0x64n, -1]);
  });

  it.each([
    ['another register', read(0x20), 'access 0x20 rip 0'],
    ['another byte of the TPR', at([0x8a], 0x81), 'access 0x81 rip 0'], // mov al
    ['64 bits', at([0x48, 0x8b], 0x80), 'access 0x80 rip 0'],
    ['beyond the low four bytes', read(0x7e), 'access 0x7e rip 0'],
    ['EOI, written', write(0xb0), 'access 0x10b0 rip 0'],
  ])('%s exits', (_, code, expected) => {
    expect(outcome(guest(code))).toBe(expected);
  });

  it('a write of the TPR clears bytes 3:1 and leaves the page itself alone', () => {
    const box = guest(write(0x80));
    setReg(box.cpu, 0, 0x1234_5678n);
    expect(outcome(box)).toBe('done');
    expect([virtual(box, 0x80), backing(box, 0x80)]).toEqual([0x78, 0]);
  });

  it('and exits after the instruction below the threshold', () => {
    const box = guest(write(0x80)).write(C.TPR_THRESHOLD, 5);
    box.word(AT.VAPIC + 0x80, 0x50);
    setReg(box.cpu, 0, 0x4fn);
    expect(outcome(box)).toBe(`exit ${R.TPR_BELOW_THRESHOLD} 0x0 rip 7`);
    expect(virtual(box, 0x80)).toBe(0x4f);
  });

  it('a threshold above VTPR exits right after VM entry', () => {
    const box = guest([0x90]).write(C.TPR_THRESHOLD, 5);
    box.word(AT.VAPIC + 0x80, 0x4f);
    expect(outcome(box)).toBe(`exit ${R.TPR_BELOW_THRESHOLD} 0x0 rip 0`);
  });

  it('a read and write of one instruction is virtualized as one', () => {
    const box = guest([...at([0x83], 0x80), 0x10]); // add dword [page + 0x80], 0x10
    box.word(AT.VAPIC + 0x80, 0x21);
    expect(outcome(box)).toBe('done');
    expect(virtual(box, 0x80)).toBe(0x31);
  });

  it('REP STOSD goes element by element', () => {
    const box = guest([0xf3, 0xab]);
    setReg(box.cpu, 0, 0x66n);
    setReg(box.cpu, 1, 8n);
    setReg(box.cpu, 7, BigInt(PAGE + 0x80));
    expect(outcome(box)).toBe('access 0x1084 rip 0');
    expect([virtual(box, 0x80), getReg(box.cpu, 1)]).toEqual([0x66, 7n]);
  });
});

describe('with APIC-register virtualization', () => {
  const box = new VmxBox().begin();
  const outcomes = (code: (offset: number) => number[]): string[] =>
    OFFSETS.map((offset) => outcome(setUp(box.renew(), code(offset), APIC_REGISTER_VIRT)));
  const hex = (n: number): string => `0x${n.toString(16)}`;

  it('reads the registers that the manual lists', () => {
    const expected = (n: number): string =>
      READS.includes(n) || MORE_READS.includes(n) ? 'done' : `access ${hex(n)} rip 0`;
    expect(outcomes(read)).toEqual(OFFSETS.map(expected));
  });

  it('writes those that it lists, and exits after the instruction but for the TPR and ICR_HI', () => {
    const expected = (n: number): string => {
      if (!WRITES.includes(n)) return `access ${hex(0x1000 | n)} rip 0`;
      return n === 0x80 || n === 0x310 ? 'done' : `write ${hex(n)} rip 7`;
    };
    expect(outcomes(write)).toEqual(OFFSETS.map(expected));
  });

  it('clears bytes 2:0 of ICR_HI, and keeps what it wrote elsewhere', () => {
    const one = guest([...write(0x310), ...write(0x380)], APIC_REGISTER_VIRT);
    setReg(one.cpu, 0, 0x1234_5678n);
    expect(outcome(one)).toBe('write 0x380 rip 14');
    expect([virtual(one, 0x310), virtual(one, 0x380)]).toEqual([0x1200_0000, 0x1234_5678]);
  });
});

describe('with virtual-interrupt delivery', () => {
  function delivering(offset: number, value: number): VmxBox {
    const box = guest(write(offset), VIRTUAL_INTR_DELIVERY).write(G.RFLAGS, RFLAGS.FIXED | RFLAGS.IF);
    for (let vector = 32; vector < 256; vector++) box.gate(vector, AT.HANDLER);
    box.code(VMCALL, AT.HANDLER);
    setReg(box.cpu, 0, BigInt(value));
    return box;
  }

  it('a write of EOI ends the interrupt in service', () => {
    const box = delivering(0xb0, 0xff);
    box.word(AT.VAPIC + APIC_REG.ISR + 0x20, 0x2_0000);
    expect(outcome(box.write(G.INTR_STATUS, 0x5100))).toBe('done');
    expect([virtual(box, 0xb0), virtual(box, APIC_REG.ISR + 0x20), box.read(G.INTR_STATUS)]).toEqual([
      0, 0, 0,
    ]);
  });

  it('a self-IPI is virtualized', () => {
    const box = delivering(0x300, 0x4_0061);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.read(G.RIP)).toBe(AT.HANDLER);
    expect(box.read(G.INTR_STATUS)).toBe(0x6100);
  });

  it.each([
    ['to another', 0x61],
    ['to all including self', 0x8_0061],
    ['of an illegal vector', 0x4_000f],
    ['NMI', 0x4_0461],
    ['level-triggered', 0x4_8061],
    ['with delivery status', 0x4_1061],
    ['with a reserved bit', 0x14_0061],
  ])('any other ICR exits after the instruction: %s', (_, value) => {
    expect(outcome(delivering(0x300, value))).toBe('write 0x300 rip 7');
  });
});

describe('accesses of other kinds', () => {
  it('a fetch exits', () => {
    const box = guest([0xff, 0xe0]); // jmp rax
    setReg(box.cpu, 0, BigInt(PAGE + 0x80));
    box.launch();
    expect(box.read(I.VM_EXIT_REASON)).toBe(R.APIC_ACCESS);
    expect([box.read(I.EXIT_QUALIFICATION), box.read(G.RIP)]).toEqual([0x2080, PAGE + 0x80]);
  });

  it('a push of event delivery exits with the event', () => {
    const box = guest([0xcc])
      .gate(3, AT.HANDLER)
      .write(G.RSP, PAGE + 0x90);
    expect(outcome(box)).toBe('access 0x3088 rip 0');
    const event = INTR_INFO.VALID_MASK | INTR_TYPE.SOFT_EXCEPTION | 3;
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(event >>> 0);
  });

  it('what was translated before the control was set is virtualized, too', () => {
    const box = guest([...read(0x20), ...VMCALL, ...read(0x20)]);
    box.change(C.SECONDARY_VM_EXEC_CONTROL, 0, VIRTUALIZE_APIC_ACCESSES);
    expect(box.launch()).toBe(R.VMCALL);
    box.change(C.SECONDARY_VM_EXEC_CONTROL, VIRTUALIZE_APIC_ACCESSES);
    box.write(G.RIP, AT.CODE);
    expect(box.resume()).toBe(R.APIC_ACCESS);
    expect(box.read(I.EXIT_QUALIFICATION)).toBe(0x20);
  });
});
