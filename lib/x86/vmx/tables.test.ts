// SPDX-License-Identifier: GPL-2.0-only
/** The VMX tables by rules that hold for them: single bits, no collisions, numbers that the SDM's appendices fix. */
import { describe, expect, it } from 'vitest';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC, TERTIARY_EXEC, VM_ENTRY, VM_EXIT } from './controls.ts';
import { EXIT_REASON } from './exit_reasons.ts';
import { VMXERR } from './insn_errors.ts';
import { VMX_MSR } from './capability_msrs.ts';

describe('VMX tables', () => {
  it.each(Object.entries({ PIN_BASED, CPU_BASED, SECONDARY_EXEC, TERTIARY_EXEC, VM_EXIT, VM_ENTRY }))(
    'each control of %s is one bit of its own',
    (_name, table) => {
      const values = Object.values(table);
      for (const bit of values) expect(bit > 0 && (bit & (bit - 1)) === 0).toBe(true);
      expect(new Set(values).size).toBe(values.length);
    },
  );

  it('controls do not lie on the default1 bits that mean nothing', () => {
    // SDM, "Reserved Controls and Default Settings": default1 of the TRUE capability MSRs.
    const any = (table: Readonly<Record<string, number>>): number =>
      Object.values(table).reduce((a, b) => a | b, 0);
    expect(any(PIN_BASED) & 0x16).toBe(0);
    expect(any(CPU_BASED) & 0x0400_6172).toBe(0);
    expect(
      any(VM_EXIT) & 0x0003_6dfb & ~(VM_EXIT.HOST_ADDR_SPACE_SIZE | VM_EXIT.LOAD_IA32_PERF_GLOBAL_CTRL),
    ).toBe(0);
    expect(any(VM_ENTRY) & 0x11fb & ~VM_ENTRY.IA32E_MODE).toBe(0);
  });

  it('basic exit reasons cover 0 to 77 but for the reserved numbers', () => {
    const numbers = new Set<number>(Object.values(EXIT_REASON));
    const missing = Array.from({ length: 78 }, (_, n) => n).filter((n) => !numbers.has(n));
    expect(missing).toEqual([35, 38, 42, 71]);
    expect(numbers.size).toBe(74);
  });

  it('VM-instruction errors cover 1 to 28 but for the numbers that are not defined', () => {
    const numbers = new Set<number>(Object.values(VMXERR));
    const missing = Array.from({ length: 28 }, (_, n) => n + 1).filter((n) => !numbers.has(n));
    expect(missing).toEqual([14, 21, 27]);
  });

  it('capability MSRs are consecutive from IA32_VMX_BASIC', () => {
    const numbers = Object.values(VMX_MSR).filter((n) => n >= 0x480);
    expect(numbers).toEqual(Array.from({ length: 20 }, (_, n) => 0x480 + n));
  });
});
