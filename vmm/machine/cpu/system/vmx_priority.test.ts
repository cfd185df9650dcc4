// SPDX-License-Identifier: GPL-2.0-only
/**
 * What comes first in VMX non-root operation: the fault of an instruction or its VM exit, and what an exit during event
 * delivery reports. Expectations: SDM, "Relative Priority of Faults and VM Exits" and "Information for VM Exits That
 * Occur During Event Delivery".
 */
import { describe, expect, it } from 'vitest';
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { CR4, DR6, DR7, RFLAGS } from '../../../../lib/x86/registers.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../../lib/x86/vmx/exit_reasons.ts';
import { INTR_INFO, INTR_TYPE } from '../../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../../lib/x86/vmx/vmcs_info.ts';
import { TSS64 } from '../../../../lib/x86/segments.ts';
import { AT, VmxBox } from '../../vmx/testing/fixture.ts';
import { setReg } from '../regs.ts';
import { S } from '../state.ts';

const ALL_EXITS =
  CPU_BASED.HLT_EXITING |
  CPU_BASED.INVLPG_EXITING |
  CPU_BASED.RDPMC_EXITING |
  CPU_BASED.RDTSC_EXITING |
  CPU_BASED.CR3_LOAD_EXITING |
  CPU_BASED.CR3_STORE_EXITING |
  CPU_BASED.CR8_LOAD_EXITING |
  CPU_BASED.MOV_DR_EXITING |
  CPU_BASED.UNCOND_IO_EXITING |
  CPU_BASED.MONITOR_EXITING |
  CPU_BASED.MWAIT_EXITING;
const ALL_SECONDARY =
  SECONDARY_EXEC.ENABLE_EPT |
  SECONDARY_EXEC.ENABLE_VPID |
  SECONDARY_EXEC.DESC |
  SECONDARY_EXEC.WBINVD_EXITING |
  SECONDARY_EXEC.ENABLE_INVPCID |
  SECONDARY_EXEC.ENABLE_RDTSCP;
/** Linear address that the identity tables do not map. */
const HOLE = 0x1_0000_0000n;

/** A guest in which everything exits that can, exceptions included. */
function guest(bytes: readonly number[], change?: (box: VmxBox) => void): VmxBox {
  const box = new VmxBox().begin().code(bytes);
  // The I/O permission bitmap begins behind the TSS limit: no port is allowed.
  box.cpu.mem.u8[AT.TSS + TSS64.IO_MAP_BASE] = 0x68;
  box.change(C.CPU_BASED_VM_EXEC_CONTROL, ALL_EXITS, CPU_BASED.USE_MSR_BITMAPS);
  box.write(C.SECONDARY_VM_EXEC_CONTROL, ALL_SECONDARY).write(C.EXCEPTION_BITMAP, -1);
  change?.(box);
  return box;
}

function atLevel3(box: VmxBox): void {
  box
    .write(G.CS_SELECTOR, 0x23)
    .write(G.CS_AR_BYTES, 0xa0fb)
    .write(G.SS_SELECTOR, 0x1b)
    .write(G.SS_AR_BYTES, 0xc0f3);
}

/** Exit reason, or the vector's name if an exception exited. */
function outcome(box: VmxBox): string {
  const reason = box.launch();
  const name = (table: object, value: number): string =>
    Object.entries(table).find(([, v]) => v === value)?.[0] ?? `${value}`;
  if (reason !== R.EXCEPTION_NMI) return name(R, reason);
  return name(VECTOR, box.read(I.VM_EXIT_INTR_INFO) & INTR_INFO.VECTOR_MASK);
}

const rax =
  (value: bigint) =>
  (box: VmxBox): void =>
    setReg(box.cpu, 0, value);

describe('At CPL 3, the privilege fault comes before the VM exit', () => {
  // prettier-ignore
  it.each<[string, number[], string]>([
    ['HLT', [0xf4], 'GP'],
    ['RDMSR', [0x0f, 0x32], 'GP'],
    ['WRMSR', [0x0f, 0x30], 'GP'],
    ['MOV to CR3', [0x0f, 0x22, 0xd8], 'GP'],
    ['MOV from CR3', [0x0f, 0x20, 0xd8], 'GP'],
    ['CLTS', [0x0f, 0x06], 'GP'],
    ['LMSW', [0x0f, 0x01, 0xf0], 'GP'],
    ['INVLPG', [0x0f, 0x01, 0x38], 'GP'],
    ['INVPCID', [0x66, 0x0f, 0x38, 0x82, 0x08], 'GP'],
    ['INVD', [0x0f, 0x08], 'GP'],
    ['WBINVD', [0x0f, 0x09], 'GP'],
    ['LGDT', [0x0f, 0x01, 0x10], 'GP'],
    ['LTR', [0x0f, 0x00, 0xd8], 'GP'],
    ['LLDT', [0x0f, 0x00, 0xd0], 'GP'],
    ['RDPMC', [0x0f, 0x33], 'GP'],
    ['IN', [0xec], 'GP'],
    ['OUTSB', [0x6e], 'GP'],
    ['MONITOR', [0x0f, 0x01, 0xc8], 'UD'],
    ['MWAIT', [0x0f, 0x01, 0xc9], 'UD'],
  ])('%s', (_name, bytes, expected) => {
    expect(outcome(guest(bytes, atLevel3))).toBe(expected);
  });

  it('RDTSC under CR4.TSD', () => {
    const tsd = (box: VmxBox): void => {
      atLevel3(box);
      box.change(G.CR4, CR4.TSD);
    };
    expect(outcome(guest([0x0f, 0x31], tsd))).toBe('GP');
    expect(outcome(guest([0x0f, 0x01, 0xf9], tsd))).toBe('GP');
  });

  it('XSETBV', () => {
    const level3 = (box: VmxBox): void => {
      atLevel3(box);
      box.change(G.CR4, CR4.OSXSAVE);
    };
    expect(outcome(guest([0x0f, 0x01, 0xd1], level3))).toBe('GP');
  });

  it('but MOV DR exits before its own faults', () => {
    expect(outcome(guest([0x0f, 0x21, 0xc0], atLevel3))).toBe('DR_ACCESS');
    expect(outcome(guest([0x0f, 0x23, 0xe0], (box) => void box.change(G.CR4, CR4.DE)))).toBe('DR_ACCESS');
    expect(outcome(guest([0x0f, 0x23, 0xc0], (box) => void box.write(G.DR7, 0x400 | DR7.GD)))).toBe(
      'DR_ACCESS',
    );
  });
});

describe('An invalid opcode comes before the VM exit', () => {
  it.each<[string, number[], (box: VmxBox) => void]>([
    ['XSETBV without OSXSAVE', [0x0f, 0x01, 0xd1], () => undefined],
    [
      'RDTSCP not enabled',
      [0x0f, 0x01, 0xf9],
      (box) => void box.change(C.SECONDARY_VM_EXEC_CONTROL, 0, SECONDARY_EXEC.ENABLE_RDTSCP),
    ],
    [
      'INVPCID not enabled',
      [0x66, 0x0f, 0x38, 0x82, 0x08],
      (box) => void box.change(C.SECONDARY_VM_EXEC_CONTROL, 0, SECONDARY_EXEC.ENABLE_INVPCID),
    ],
    ['MOV to CR7', [0x0f, 0x22, 0xf8], () => undefined],
    ['MOV DR8', [0x44, 0x0f, 0x21, 0xc0], () => undefined],
  ])('%s', (_name, bytes, change) => {
    expect(outcome(guest(bytes, change))).toBe('UD');
  });
});

describe('The VM exit comes before faults that depend on operands', () => {
  it.each<[string, number[], bigint, string]>([
    ['RDMSR of nothing', [0x0f, 0x32], 0n, 'MSR_READ'],
    ['WRMSR of nothing', [0x0f, 0x30], 0n, 'MSR_WRITE'],
    ['MOV to CR3 with reserved bits', [0x0f, 0x22, 0xd8], 1n << 60n, 'CR_ACCESS'],
    ['MOV to CR8 out of range', [0x44, 0x0f, 0x22, 0xc0], 0x100n, 'CR_ACCESS'],
    ['INVPCID with a bad descriptor address', [0x66, 0x0f, 0x38, 0x82, 0x08], HOLE, 'INVPCID'],
    ['INVLPG of a non-canonical address', [0x0f, 0x01, 0x38], 1n << 60n, 'INVLPG'],
    ['LGDT from an unmapped page', [0x0f, 0x01, 0x10], HOLE, 'GDTR_IDTR'],
    ['SIDT to an unmapped page', [0x0f, 0x01, 0x08], HOLE, 'GDTR_IDTR'],
    ['LTR of a null selector', [0x0f, 0x00, 0xd8], 0n, 'LDTR_TR'],
    ['LLDT from an unmapped page', [0x0f, 0x00, 0x10], HOLE, 'LDTR_TR'],
    ['RDPMC', [0x0f, 0x33], 0n, 'RDPMC'],
    ['MWAIT', [0x0f, 0x01, 0xc9], 0n, 'MWAIT_INSTRUCTION'],
    ['MONITOR of an unmapped page', [0x0f, 0x01, 0xc8], HOLE, 'MONITOR_INSTRUCTION'],
  ])('%s', (_name, bytes, value, expected) => {
    expect(outcome(guest(bytes, rax(value)))).toBe(expected);
  });

  it('OUTS from and INS to an unmapped page', () => {
    for (const [code, reg] of [
      [0x6e, 6],
      [0x6c, 7],
    ] as const) {
      expect(outcome(guest([code], (box) => setReg(box.cpu, reg, HOLE)))).toBe('IO_INSTRUCTION');
    }
  });

  it('REP with RCX zero does not exit', () => {
    expect(outcome(guest([0xf3, 0x6e, 0xf4], (box) => setReg(box.cpu, 1, 0n)))).toBe('HLT');
  });

  it('but LMSW fetches its operand first', () => {
    expect(outcome(guest([0x0f, 0x01, 0x30], rax(HOLE)))).toBe('PF');
  });
});

describe('An exception that exits', () => {
  it('leaves CR2 and DR6 alone', () => {
    const pf = guest([0x8b, 0x08], rax(HOLE + 0x123n));
    expect(outcome(pf)).toBe('PF');
    expect(pf.cpu.s[S.CR2]).toBe(0);
    expect(pf.read(I.EXIT_QUALIFICATION)).toBe(Number(HOLE + 0x123n) | 0);
    const db = guest([0x90, 0x90], (box) => void box.write(G.RFLAGS, RFLAGS.TF | 2));
    expect(outcome(db)).toBe('DB');
    expect(db.read(I.EXIT_QUALIFICATION)).toBe(DR6.BS);
    expect(db.cpu.s[S.DR + 12]! & DR6.BS).toBe(0);
    expect(db.ripOffset()).toBe(1);
  });

  it('INT3 and INT1 carry their types and lengths, INT n is no exception', () => {
    for (const [bytes, vector, type] of [
      [[0xcc], VECTOR.BP, INTR_TYPE.SOFT_EXCEPTION],
      [[0xf1], VECTOR.DB, INTR_TYPE.PRIV_SW_EXCEPTION],
    ] as const) {
      const box = guest(bytes);
      box.launch();
      expect(box.read(I.VM_EXIT_INTR_INFO)).toBe((vector | type | INTR_INFO.VALID_MASK) >>> 0);
      expect([box.read(I.VM_EXIT_INSTRUCTION_LEN), box.ripOffset()]).toEqual([1, 0]);
    }
    const soft = guest([0xcd, 0x0d], (box) => {
      box.gate(0x0d, AT.HANDLER);
      box.code([0xf4], AT.HANDLER);
    });
    expect(outcome(soft)).toBe('HLT');
  });

  it('of an IRET that had unblocked NMIs says so', () => {
    const box = guest([0x48, 0xcf], (b) => {
      b.write(G.RFLAGS, RFLAGS.NT | 2).write(G.INTERRUPTIBILITY_INFO, 8);
      b.change(C.PIN_BASED_VM_EXEC_CONTROL, 0x20);
    });
    expect(outcome(box)).toBe('GP');
    expect(box.read(I.VM_EXIT_INTR_INFO) & INTR_INFO.UNBLOCK_NMI).toBe(INTR_INFO.UNBLOCK_NMI);
    expect(box.read(G.INTERRUPTIBILITY_INFO)).toBe(0);
  });
});

describe('IDT-vectoring information', () => {
  it('names the event whose delivery met an exception, with its length if it is a software interrupt', () => {
    const box = guest([0xcd, 0x30]);
    expect(outcome(box)).toBe('GP');
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(
      (INTR_TYPE.SOFT_INTR | 0x30 | INTR_INFO.VALID_MASK) >>> 0,
    );
    expect(box.read(I.VM_EXIT_INSTRUCTION_LEN)).toBe(2);
    expect(box.ripOffset()).toBe(0);
  });

  it('keeps the error code of an exception whose delivery met an EPT violation', () => {
    const box = guest([0x8b, 0x08], (b) => {
      rax(HOLE)(b);
      b.write(C.EXCEPTION_BITMAP, 0).write(G.IDTR_BASE, 0x4000_0000);
      // The second GiB is not mapped by EPT.
      b.word(AT.EPT_PDPT + 8, 0);
    });
    expect(outcome(box)).toBe('EPT_VIOLATION');
    const info = INTR_TYPE.HARD_EXCEPTION | VECTOR.PF | INTR_INFO.DELIVER_CODE_MASK | INTR_INFO.VALID_MASK;
    expect([box.read(I.IDT_VECTORING_INFO_FIELD), box.read(I.IDT_VECTORING_ERROR_CODE)]).toEqual([
      info >>> 0,
      0,
    ]);
    expect(box.cpu.s[S.CR2 + 1]).toBe(1);
  });

  it('is not valid when a double fault exits directly, nor for a triple fault', () => {
    const noGates =
      (bitmap: number) =>
      (b: VmxBox): void => {
        rax(HOLE)(b);
        b.write(C.EXCEPTION_BITMAP, bitmap).write(G.IDTR_LIMIT, 0);
      };
    const df = guest([0x8b, 0x08], noGates(1 << VECTOR.DF));
    expect(outcome(df)).toBe('DF');
    expect(df.read(I.IDT_VECTORING_INFO_FIELD)).toBe(0);
    const triple = guest([0x8b, 0x08], noGates(0));
    expect(outcome(triple)).toBe('TRIPLE_FAULT');
    expect(triple.read(I.IDT_VECTORING_INFO_FIELD)).toBe(0);
  });
});
