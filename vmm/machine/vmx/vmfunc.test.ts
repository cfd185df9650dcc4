// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMFUNC in a guest. SDM, "General Operation of the VMFUNC Instruction", "EPTP Switching", "Operations that Invalidate
 * Cached Mappings". UD outside of non-root operation is in guest_insns.test.ts, VM entry's checks in
 * check_controls.test.ts.
 */
import { describe, expect, it } from 'vitest';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { VMX_MSR } from '../../../lib/x86/vmx/capability_msrs.ts';
import { SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../lib/x86/vmx/vmcs_info.ts';
import { COST } from '../cost/points.ts';
import { ARITH_FLAGS } from '../cpu/flags.ts';
import { getReg, setReg } from '../cpu/regs.ts';
import { FLUSH } from '../tlb/flush_ledger.ts';
import { AT, EPTP, SEL, VmxBox } from './testing/fixture.ts';
import { vmread64 } from './vmcs_access.ts';
import { vmxCapabilityMsr } from './vmx_unit.ts';

const VMCALL = [0x0f, 0x01, 0xc1];
const VMFUNC = [0x0f, 0x01, 0xd4];
const LOAD_ESI = [0x8b, 0x33]; // mov esi, [rbx]
const LOAD_EDI = [0x8b, 0x3b]; // mov edi, [rbx]
const toEntry = (n: number): number[] => [0xb9, n, 0, 0, 0]; // mov ecx, n
const [RAX, RCX, RBX, RSI, RDI] = [0, 1, 3, 6, 7];
const EPTP2 = AT.EPT2_PML4 | 0x1e;
const INDEX = 511;

type Setup = (box: VmxBox) => unknown;
const nothing: Setup = () => undefined;

/** Entry 0 of the list is the identity map; entries 1 and 511 are a view in which the page at DATA is that at SPARE. */
function fillList(box: VmxBox): void {
  box.word(AT.EPT2_PML4, AT.EPT2_PDPT | 7);
  box.word(AT.EPT2_PDPT, AT.EPT_PD | 7);
  for (let n = 0; n < 512; n++) box.word(AT.EPT_PT + 8 * n, (AT.VMXON + n * 0x1000) | 0x37);
  box.word(AT.EPT_PD + 8 * (AT.VMXON >>> 21), AT.EPT_PT | 7);
  viewOf(box, AT.SPARE);
  box.word(AT.EPTP_LIST, EPTP);
  box.word(AT.EPTP_LIST + 8, EPTP2);
  box.word(AT.EPTP_LIST + 8 * INDEX, EPTP2);
}
/** The second view shows `page` at DATA. */
function viewOf(box: VmxBox, page: number): void {
  box.word(AT.EPT_PT + 8 * ((AT.DATA >>> 12) & 511), page | 0x37);
}

/** A guest with EPTP switching, EAX 0 and ECX 511; DATA holds 0x1111, SPARE 0x2222. */
function guest(bytes: readonly number[], setup: Setup = nothing): VmxBox {
  const box = new VmxBox().begin().code([...bytes, ...VMCALL]);
  fillList(box);
  box.word(AT.DATA, 0x1111);
  box.word(AT.SPARE, 0x2222);
  box.change(C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.ENABLE_VMFUNC).write(C.VM_FUNCTION_CONTROL, 1);
  setReg(box.cpu, RAX, 0n);
  setReg(box.cpu, RCX, BigInt(INDEX));
  setReg(box.cpu, RBX, BigInt(AT.DATA));
  setup(box);
  return box;
}
const reg =
  (n: number, value: bigint): Setup =>
  ({ cpu }) => {
    setReg(cpu, n, value);
  };
/** The EPTP at the entry that the guest asks for. */
const listed =
  (lo: number, hi = 0): Setup =>
  (box) => {
    box.word(AT.EPTP_LIST + 8 * INDEX, lo);
    box.word(AT.EPTP_LIST + 8 * INDEX + 4, hi);
  };
const noVpid: Setup = (box) => box.change(C.SECONDARY_VM_EXEC_CONTROL, 0, SECONDARY_EXEC.ENABLE_VPID);

describe('VMFUNC', () => {
  it.each([
    {
      name: 'without the control',
      setup: (b: VmxBox) => b.change(C.SECONDARY_VM_EXEC_CONTROL, 0, SECONDARY_EXEC.ENABLE_VMFUNC),
    },
    { name: 'of function 64', setup: reg(RAX, 64n) },
    { name: 'of function 2^31', setup: reg(RAX, 0x8000_0000n) },
  ])('$name is UD', ({ setup }) => {
    const box = guest(VMFUNC, setup).write(C.EXCEPTION_BITMAP, 1 << 6);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(0x8000_0306);
  });

  it.each([
    { name: 'of a function whose control is 0', setup: (b: VmxBox) => b.write(C.VM_FUNCTION_CONTROL, 0) },
    { name: 'of function 1', setup: reg(RAX, 1n) },
    { name: 'of function 32', setup: reg(RAX, 32n) },
    { name: 'of function 63', setup: reg(RAX, 63n) },
    { name: 'of entry 512', setup: reg(RCX, 512n) },
    { name: 'of entry 2^31', setup: reg(RCX, 0x8000_0000n) },
    { name: 'of an EPTP with memory type 1', setup: listed((EPTP2 & ~7) | 1) },
    { name: 'of an EPTP with five levels', setup: listed((EPTP2 & ~0x38) | 0x20) },
    { name: 'of an EPTP with a reserved bit', setup: listed(EPTP2 | 0x800) },
    { name: 'of an EPTP beyond the physical-address width', setup: listed(EPTP2, 1 << 14) },
    { name: 'of a list outside of memory', setup: (b: VmxBox) => b.write(C.EPTP_LIST_ADDRESS, 2 ** 40) },
  ])('$name exits and changes nothing', ({ setup }) => {
    const box = guest(VMFUNC, setup);
    expect(box.launch()).toBe(R.VMFUNC);
    expect(box.ripOffset()).toBe(0);
    expect(box.read(I.VM_EXIT_INSTRUCTION_LEN)).toBe(3);
    expect(box.read(I.EXIT_QUALIFICATION)).toBe(0);
    expect(vmread64(box.cpu, C.EPT_POINTER)).toBe(BigInt(EPTP));
  });

  it('of function 64 is UD before it is an exit', () => {
    const box = guest(VMFUNC, reg(RAX, 64n))
      .write(C.VM_FUNCTION_CONTROL, 0)
      .write(C.EXCEPTION_BITMAP, 1 << 6);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
  });
});

describe('EPTP switching', () => {
  it('translates by the other EPTP from the next instruction on', () => {
    const box = guest([...LOAD_ESI, ...VMFUNC, ...LOAD_EDI]);
    const before = box.cpu.counts[COST.VMFUNC]!;
    expect(box.launch()).toBe(R.VMCALL);
    expect([getReg(box.cpu, RSI), getReg(box.cpu, RDI)]).toEqual([0x1111n, 0x2222n]);
    expect(box.cpu.counts[COST.VMFUNC]! - before).toBe(1);
  });

  it('is written to the EPTP field, which the next entry uses', () => {
    const box = guest([...VMFUNC, ...VMCALL, ...LOAD_EDI]);
    expect(box.launch()).toBe(R.VMCALL);
    expect(vmread64(box.cpu, C.EPT_POINTER)).toBe(BigInt(EPTP2));
    box.write(G.RIP, AT.CODE + 6);
    expect(box.resume()).toBe(R.VMCALL);
    expect(getReg(box.cpu, RDI)).toBe(0x2222n);
  });

  it('goes back', () => {
    const box = guest([...VMFUNC, ...LOAD_EDI, ...toEntry(0), ...VMFUNC, ...LOAD_ESI]);
    expect(box.launch()).toBe(R.VMCALL);
    expect([getReg(box.cpu, RSI), getReg(box.cpu, RDI)]).toEqual([0x1111n, 0x2222n]);
  });

  it('takes EAX and ECX, not RAX and RCX', () => {
    const box = guest([...VMFUNC, ...LOAD_EDI], (b) => {
      reg(RAX, 0x1_0000_0000n)(b);
      reg(RCX, 0x1_0000_0001n)(b);
    });
    expect(box.launch()).toBe(R.VMCALL);
    expect(getReg(box.cpu, RDI)).toBe(0x2222n);
  });

  it('is allowed at CPL 3 and keeps the flags', () => {
    const box = guest(VMFUNC)
      .write(G.CS_SELECTOR, SEL.USER_CS)
      .write(G.CS_AR_BYTES, 0xa0fb)
      .write(G.SS_SELECTOR, SEL.USER_DS)
      .write(G.SS_AR_BYTES, 0xc0f3)
      .write(G.RFLAGS, ARITH_FLAGS | RFLAGS.FIXED);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.ripOffset()).toBe(3);
    expect(box.read(G.RFLAGS)).toBe(ARITH_FLAGS | RFLAGS.FIXED);
  });

  it('takes accessed and dirty flags for EPT from the new EPTP', () => {
    // Bit 8 of an EPT entry is its accessed flag.
    const accessed = (eptp: number): number => {
      const box = guest([...VMFUNC, ...LOAD_EDI], listed(eptp));
      expect(box.launch()).toBe(R.VMCALL);
      return (box.cpu.mem.i32[(AT.EPT_PT + 8 * ((AT.DATA >>> 12) & 511)) >>> 2]! >>> 8) & 1;
    };
    expect([accessed(EPTP2), accessed(EPTP2 | 0x40)]).toEqual([0, 1]);
  });
});

describe('cached mappings and EPTP switching', () => {
  /** What the second view shows after its table was changed without INVEPT between two visits of it. */
  const secondVisit = (setup: Setup): bigint => {
    const visit = [...toEntry(1), ...VMFUNC, ...LOAD_EDI];
    const box = guest([...visit, ...toEntry(0), ...VMFUNC, ...VMCALL, ...visit], setup);
    expect(box.launch()).toBe(R.VMCALL);
    viewOf(box, AT.DATA);
    box.write(G.RIP, box.read(G.RIP) + VMCALL.length);
    expect(box.resume()).toBe(R.VMCALL);
    return getReg(box.cpu, RDI);
  };
  const transitionFlushes = (setup: Setup): number => {
    const box = guest(VMFUNC, setup);
    expect(box.launch()).toBe(R.VMCALL);
    return box.cpu.mmu.ledger.totals(FLUSH.VMX_TRANSITION).calls;
  };

  it('stay for both EPTPs with VPID', () => {
    expect(secondVisit(nothing)).toBe(0x2222n);
    expect(transitionFlushes(nothing)).toBe(0);
  });

  it('without VPID combined mappings are invalidated: by the entry, the switch and the exit', () => {
    expect(transitionFlushes(noVpid)).toBe(3);
  });

  it('never asks for guest-physical mappings to be dropped', () => {
    const kinds = [FLUSH.INVEPT_SINGLE, FLUSH.INVEPT_ALL, FLUSH.EPT_VIOLATION];
    for (const setup of [nothing, noVpid]) {
      const box = guest(VMFUNC, setup);
      expect(box.launch()).toBe(R.VMCALL);
      expect(kinds.map((kind) => box.cpu.mmu.ledger.totals(kind).calls)).toEqual([0, 0, 0]);
    }
  });
});

describe('IA32_VMX_VMFUNC', () => {
  const { cpu } = new VmxBox().begin();

  it('reports EPTP switching alone, and the secondary control may be 1', () => {
    expect(vmxCapabilityMsr(cpu.vmx, VMX_MSR.IA32_VMX_VMFUNC)).toEqual([1, 0]);
    // SDM, "Secondary Processor-Based VM-Execution Controls": bit 13.
    expect((vmxCapabilityMsr(cpu.vmx, VMX_MSR.IA32_VMX_PROCBASED_CTLS2)![1] >>> 13) & 1).toBe(1);
  });

  it('the EPTP index does not exist without EPT-violation #VE', () => {
    expect(() => vmread64(cpu, C.EPTP_INDEX)).toThrow('which the processor lacks');
    expect(vmread64(cpu, C.EPTP_LIST_ADDRESS)).toBe(BigInt(AT.EPTP_LIST));
  });
});
