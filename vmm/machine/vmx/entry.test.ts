// SPDX-License-Identifier: GPL-2.0-only
/**
 * What VM entry loads, what VM exit saves and loads, and what a failed entry leaves. SDM, "Loading Guest State", "Saving
 * Guest State", "Loading Host State", "VM-Entry Failures During or After Loading Guest State", "Event Injection".
 */
import { describe, expect, it } from 'vitest';
import { MSR } from '../../../lib/x86/msr.ts';
import { CR0, CR4, EFER, RFLAGS } from '../../../lib/x86/registers.ts';
import { CPU_BASED, SECONDARY_EXEC, VM_ENTRY, VM_EXIT, VMX_VMFUNC } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST as H } from '../../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO as I } from '../../../lib/x86/vmx/vmcs_info.ts';
import { hpa, pfn } from '../../../lib/x86/addr.ts';
import { getRflags, setRflags } from '../cpu/flags.ts';
import { getReg, getRip, setReg } from '../cpu/regs.ts';
import { ACTIVITY, S, SEG_WORDS, SEGF, SEGN } from '../cpu/state.ts';
import { SanitizerError } from '../errors.ts';
import { FLUSH } from '../tlb/flush_ledger.ts';
import { vmlaunch } from './entry.ts';
import { AT, SEL, VmxBox } from './testing/fixture.ts';
import { vmptrld } from './vmcs_insns.ts';
import { vmwrite64, vmwritePair } from './vmcs_access.ts';
import { VMX_RESULT as RESULT } from './vmx_unit.ts';

const VMCALL = [0x0f, 0x01, 0xc1];
const seg = (n: number, field: number): number => S.SEG + n * SEG_WORDS + field;
const guest = (...bytes: number[]): VmxBox => new VmxBox().begin().code([...bytes, ...VMCALL]);
const EVENT = (info: number): number => (info | 0x8000_0000) >>> 0;
const shadowing = (box: VmxBox): VmxBox =>
  box.change(C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.SHADOW_VMCS);
const msr = (box: VmxBox, index: number): bigint => box.cpu.sys.msrs.get(box.cpu, index);

describe('VM entry', () => {
  it('loads the guest state and no other', () => {
    const box = guest();
    const { cpu } = box;
    setReg(cpu, 3, 0x1234n);
    box
      .write(G.RSP, 0x7000)
      .write(G.RFLAGS, 0x246)
      .write(G.GS_BASE, 0x7fff_0000_1000)
      .write(G.SYSENTER_CS, 0x10);
    box
      .write(G.SYSENTER_EIP, 0x7fff_1234_5678)
      .write(G.IDTR_LIMIT, 0x7ff)
      .write(G.CR4, CR4.PAE | CR4.VMXE | CR4.PGE);
    expect(vmlaunch(cpu)).toBe(RESULT.SUCCEED);
    expect(cpu.vmx.nonRoot).toBe(true);
    expect([getRip(cpu), getReg(cpu, 4), getRflags(cpu), getReg(cpu, 3)]).toEqual([
      BigInt(AT.CODE),
      0x7000n,
      0x246,
      0x1234n,
    ]);
    expect([cpu.s[seg(SEGN.GS, 0)], cpu.s[seg(SEGN.GS, 1)]]).toEqual([0x1000, 0x7fff]);
    expect(msr(box, MSR.IA32_SYSENTER_EIP)).toBe(0x7fff_1234_5678n);
    expect(msr(box, MSR.IA32_SYSENTER_CS)).toBe(0x10n);
    expect([cpu.s[S.IDTR_LIMIT], cpu.s[S.CR4]]).toEqual([0x7ff, CR4.PAE | CR4.VMXE | CR4.PGE]);
    expect([cpu.mmu.vpid, cpu.mmu.eptp]).toEqual([1, AT.EPT_PML4 | 0x1e]);
  });

  it('takes the CPL from SS.DPL', () => {
    const box = guest();
    box
      .write(G.CS_SELECTOR, SEL.USER_CS)
      .write(G.CS_AR_BYTES, 0xa0fb)
      .write(G.SS_SELECTOR, SEL.USER_DS)
      .write(G.SS_AR_BYTES, 0xc0f3);
    expect(box.launch()).toBe(R.VMCALL);
    vmlaunch(
      box
        .renew()
        .write(G.CS_SELECTOR, SEL.USER_CS)
        .write(G.CS_AR_BYTES, 0xa0fb)
        .write(G.SS_SELECTOR, SEL.USER_DS)
        .write(G.SS_AR_BYTES, 0xc0f3).cpu,
    );
    expect(box.cpu.s[S.CPL]).toBe(3);
  });

  it('leaves CD, NW and ET of CR0 as they are', () => {
    const box = guest();
    box.cpu.s[S.CR0] = box.cpu.s[S.CR0]! | CR0.CD;
    box.write(G.CR0, (CR0.PE | CR0.NE | CR0.NW | CR0.PG) >>> 0);
    vmlaunch(box.cpu);
    expect(box.cpu.s[S.CR0]! >>> 0).toBe((CR0.PE | CR0.NE | CR0.ET | CR0.CD | CR0.PG) >>> 0);
  });

  it('loads debug controls, PAT and EFER only if told so', () => {
    const load = VM_ENTRY.LOAD_DEBUG_CONTROLS | VM_ENTRY.LOAD_IA32_PAT;
    const make = (bits: number): VmxBox => {
      const box = guest().change(C.VM_ENTRY_CONTROLS, bits, VM_ENTRY.LOAD_IA32_EFER);
      box
        .write(G.DR7, 0xd803)
        .write(G.IA32_DEBUGCTL, 2)
        .write(G.IA32_PAT, 0x0606)
        .write(G.IA32_EFER, EFER.LME | EFER.LMA);
      box.cpu.s[S.EFER] = EFER.LME | EFER.LMA | EFER.NXE;
      vmlaunch(box.cpu);
      return box;
    };
    const without = make(0);
    expect([without.cpu.s[S.DR + 14], msr(without, MSR.IA32_DEBUGCTL)]).toEqual([0x400, 0n]);
    expect(without.cpu.s[S.EFER]).toBe(EFER.LME | EFER.LMA | EFER.NXE);
    const loaded = make(load | VM_ENTRY.LOAD_IA32_EFER);
    // DR7 bits 12, 14 and 15 read as 0 and bit 10 as 1.
    expect([loaded.cpu.s[S.DR + 14], msr(loaded, MSR.IA32_DEBUGCTL)]).toEqual([0x0c03, 2n]);
    expect(msr(loaded, MSR.IA32_CR_PAT)).toBe(0x0606n);
    expect(loaded.cpu.s[S.EFER]).toBe(EFER.LME | EFER.LMA);
  });

  it('TSC offsetting shows in RDTSC and ends with the exit', () => {
    const box = guest(0x0f, 0x31).change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.USE_TSC_OFFSETTING);
    vmwrite64(box.cpu, C.TSC_OFFSET, 0x100_0000_0000n);
    expect(box.launch()).toBe(R.VMCALL);
    expect(getReg(box.cpu, 2)).toBe(0x100n);
    expect([...box.cpu.sys.vmxTscOffset]).toEqual([0, 0]);
  });

  it('TSC offsetting does not show in the MSR-store area', () => {
    const box = guest().change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.USE_TSC_OFFSETTING);
    vmwrite64(box.cpu, C.TSC_OFFSET, 0x100_0000_0000n);
    box.word(AT.MSR_LIST, MSR.IA32_TSC);
    expect(box.write(C.VM_EXIT_MSR_STORE_COUNT, 1).launch()).toBe(R.VMCALL);
    expect(box.cpu.mem.i32[(AT.MSR_LIST + 12) >> 2]).toBe(0);
    expect(box.cpu.mem.i32[(AT.MSR_LIST + 8) >> 2]).toBeGreaterThan(0);
  });

  it('without VPID drops the translations of VPID 0 on entry and on exit, with VPID none', () => {
    const flushes = (clear: number): number => {
      const box = guest().change(C.SECONDARY_VM_EXEC_CONTROL, 0, clear);
      box.launch();
      return box.cpu.mmu.ledger.totals(FLUSH.VMX_TRANSITION).calls;
    };
    expect([flushes(0), flushes(SECONDARY_EXEC.ENABLE_VPID)]).toEqual([0, 2]);
  });

  it('UD of an instruction that the controls disable comes before anything else', () => {
    const box = guest(0x0f, 0x01, 0xf9).write(C.EXCEPTION_BITMAP, 1 << 6);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
  });
});

describe('event injection', () => {
  const inject = (info: number, error = 0, length = 0): VmxBox => {
    const box = guest()
      .write(C.VM_ENTRY_INTR_INFO_FIELD, EVENT(info))
      .write(C.VM_ENTRY_EXCEPTION_ERROR_CODE, error);
    box.write(C.VM_ENTRY_INSTRUCTION_LEN, length).write(G.RFLAGS, RFLAGS.FIXED | RFLAGS.IF);
    for (let vector = 0; vector < 256; vector++) box.gate(vector, AT.HANDLER);
    return box.code(VMCALL, AT.HANDLER);
  };
  const pushed = (box: VmxBox, n: number): bigint => box.cpu.mem.u64[Number(getReg(box.cpu, 4)) / 8 + n]!;
  /** RSP as the guest had it. */
  const onExit = (box: VmxBox): VmxBox => {
    setReg(box.cpu, 4, BigInt(box.read(G.RSP)));
    return box;
  };

  it('pushes the RIP of the VMCS for interrupts, past the instruction for software events', () => {
    const external = inject(INTR_TYPE.EXT_INTR | 0x30);
    expect(external.launch()).toBe(R.VMCALL);
    expect(pushed(onExit(external), 0)).toBe(BigInt(AT.CODE));
    const software = inject(INTR_TYPE.SOFT_INTR | 0x30, 0, 2);
    software.launch();
    expect(pushed(onExit(software), 0)).toBe(BigInt(AT.CODE) + 2n);
  });

  it('pushes the error code', () => {
    const box = inject(INTR_TYPE.HARD_EXCEPTION | 0x800 | 13, 0x1234);
    box.launch();
    expect(pushed(onExit(box), 0)).toBe(0x1234n);
  });

  it('does not look at the exception bitmap for the injected event', () => {
    expect(
      inject(INTR_TYPE.HARD_EXCEPTION | 6)
        .write(C.EXCEPTION_BITMAP, 0xffff_ffff)
        .launch(),
    ).toBe(R.VMCALL);
  });

  it('wakes a guest in HLT', () => {
    const box = inject(INTR_TYPE.EXT_INTR | 0x30).write(G.ACTIVITY_STATE, ACTIVITY.HLT);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.read(G.ACTIVITY_STATE)).toBe(ACTIVITY.ACTIVE);
  });

  it('an exit on the way reports the event, and the valid bit of the field is cleared', () => {
    const box = inject(INTR_TYPE.EXT_INTR | 0x30)
      .write(G.IDTR_LIMIT, 0xff)
      .write(C.EXCEPTION_BITMAP, 1 << 13);
    expect(vmlaunch(box.cpu)).toBe(RESULT.EXITED);
    expect(box.read(I.VM_EXIT_REASON)).toBe(R.EXCEPTION_NMI);
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(EVENT(INTR_TYPE.EXT_INTR | 0x30));
    expect(box.read(C.VM_ENTRY_INTR_INFO_FIELD)).toBe(INTR_TYPE.EXT_INTR | 0x30);
  });
});

describe('VM exit', () => {
  it('saves what the guest changed and loads the host', () => {
    // mov rsp, rbx; stc; mov fs, ax
    const box = guest(0x48, 0x89, 0xdc, 0xf9, 0x8e, 0xe0);
    const { cpu } = box;
    setReg(cpu, 3, 0x7_0000n);
    setReg(cpu, 0, 0n);
    box
      .write(H.FS_BASE, 0x7000_0000_0000)
      .write(H.IA32_SYSENTER_ESP, 0x5000)
      .write(H.ES_SELECTOR, 0)
      .write(H.DS_SELECTOR, SEL.DS);
    setRflags(cpu, 0x202);
    expect(box.launch()).toBe(R.VMCALL);
    expect([box.read(G.RSP), box.read(G.RFLAGS), box.read(G.FS_SELECTOR)]).toEqual([0x7_0000, 3, 0]);
    expect(box.read(G.FS_AR_BYTES) & 0x1_0000).toBe(0x1_0000);
    expect([getRip(cpu), getReg(cpu, 4), getRflags(cpu), cpu.s[S.CPL]]).toEqual([
      BigInt(AT.HANDLER),
      BigInt(AT.STACK_TOP),
      2,
      0,
    ]);
    expect([cpu.s[seg(SEGN.FS, 1)], cpu.s[seg(SEGN.FS, SEGF.AR)]! & 0x1_0000]).toEqual([0x7000, 0x1_0000]);
    expect([cpu.s[seg(SEGN.CS, SEGF.AR)], cpu.s[seg(SEGN.TR, SEGF.LIMIT)]]).toEqual([0xa09b, 0x67]);
    expect([cpu.s[seg(SEGN.ES, SEGF.AR)]! & 0x1_0000, cpu.s[seg(SEGN.DS, SEGF.AR)]]).toEqual([
      0x1_0000, 0xc093,
    ]);
    expect([cpu.s[S.GDTR_LIMIT], cpu.s[S.IDTR_LIMIT], cpu.s[S.DR + 14]]).toEqual([0xffff, 0xffff, 0x400]);
    expect(msr(box, MSR.IA32_SYSENTER_ESP)).toBe(0x5000n);
    expect([cpu.mmu.vpid, cpu.mmu.eptp, cpu.vmx.nonRoot]).toEqual([0, 0, false]);
  });

  it('saves debug controls, PAT and EFER only if told so, and loads PAT and EFER likewise', () => {
    // mov dr7, rbx; wrmsr
    const run = (bits: number, clear: number): VmxBox => {
      const box = guest(0x0f, 0x23, 0xfb, 0x0f, 0x30).change(C.VM_EXIT_CONTROLS, bits, clear);
      setReg(box.cpu, 3, 0x403n);
      setReg(box.cpu, 1, BigInt(MSR.IA32_CR_PAT));
      setReg(box.cpu, 0, 0x0101n);
      setReg(box.cpu, 2, 0n);
      box.write(H.IA32_PAT, 0x0404).write(G.IA32_EFER, EFER.LME | EFER.LMA | EFER.SCE);
      expect(box.launch()).toBe(R.VMCALL);
      return box;
    };
    const none = run(0, VM_EXIT.SAVE_IA32_EFER | VM_EXIT.LOAD_IA32_EFER);
    expect([none.read(G.DR7), none.read(G.IA32_PAT)]).toEqual([0x400, 0]);
    expect(msr(none, MSR.IA32_CR_PAT)).toBe(0x0101n);
    expect(none.cpu.s[S.EFER]).toBe(EFER.LME | EFER.LMA | EFER.SCE);
    const all = run(VM_EXIT.SAVE_DEBUG_CONTROLS | VM_EXIT.SAVE_IA32_PAT | VM_EXIT.LOAD_IA32_PAT, 0);
    expect([all.read(G.DR7), all.read(G.IA32_PAT)]).toEqual([0x403, 0x0101]);
    expect(msr(all, MSR.IA32_CR_PAT)).toBe(0x0404n);
    expect(all.cpu.s[S.EFER]).toBe(EFER.LME | EFER.LMA | EFER.SCE | EFER.NXE);
  });
});

describe('a failed VM entry', () => {
  it('loads host state, keeps guest state, launch state and the event to inject', () => {
    const box = guest()
      .write(G.RFLAGS, 0)
      .write(C.VM_ENTRY_INTR_INFO_FIELD, EVENT(INTR_TYPE.HARD_EXCEPTION | 6));
    box.write(I.VM_EXIT_INTR_INFO, 0x1111).write(I.IDT_VECTORING_INFO_FIELD, 0x2222);
    expect(vmlaunch(box.cpu)).toBe(RESULT.EXITED);
    expect([box.read(I.VM_EXIT_REASON), box.read(I.EXIT_QUALIFICATION)]).toEqual([0x8000_0021, 0]);
    expect(Number(getRip(box.cpu))).toBe(AT.HANDLER);
    expect(box.read(C.VM_ENTRY_INTR_INFO_FIELD)).toBe(EVENT(INTR_TYPE.HARD_EXCEPTION | 6));
    expect([box.read(I.VM_EXIT_INTR_INFO), box.read(I.IDT_VECTORING_INFO_FIELD)]).toEqual([0x1111, 0x2222]);
    expect(box.read(G.RIP)).toBe(AT.CODE);
    box.write(G.RFLAGS, 2).write(C.VM_ENTRY_INTR_INFO_FIELD, 0);
    expect(box.launch()).toBe(R.VMCALL);
  });

  it('a VMfail leaves the processor in root operation with its own state', () => {
    const box = guest().write(C.CR3_TARGET_COUNT, 5);
    const rip = getRip(box.cpu);
    expect(vmlaunch(box.cpu)).toBe(RESULT.FAIL_VALID);
    expect([box.cpu.vmx.nonRoot, getRip(box.cpu)]).toEqual([false, rip]);
  });
});

describe('MSR areas', () => {
  /** One entry {index, reserved, data}. */
  const entry = (box: VmxBox, n: number, index: number, lo: number, reserved = 0): VmxBox => {
    const at = AT.MSR_LIST + 16 * n;
    [index | 0, reserved, lo, 0].forEach((word, k) => box.word(at + 4 * k, word));
    return box;
  };

  it('VM entry loads, VM exit stores and loads', () => {
    const box = entry(guest(), 0, MSR.KERNEL_GS_BASE, 0x1000).write(C.VM_ENTRY_MSR_LOAD_COUNT, 1);
    box.write(C.VM_EXIT_MSR_STORE_COUNT, 1).write(C.VM_EXIT_MSR_STORE_ADDR, AT.SPARE);
    box.word(AT.SPARE, MSR.KERNEL_GS_BASE | 0);
    box.write(C.VM_EXIT_MSR_LOAD_COUNT, 1).write(C.VM_EXIT_MSR_LOAD_ADDR, AT.SPARE + 0x100);
    [MSR.KERNEL_GS_BASE | 0, 0, 0x2000, 0].forEach((word, k) => {
      box.word(AT.SPARE + 0x100 + 4 * k, word);
    });
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.cpu.mem.i32[(AT.SPARE + 8) >>> 2]).toBe(0x1000);
    expect(msr(box, MSR.KERNEL_GS_BASE)).toBe(0x2000n);
  });

  // SDM, "Loading MSRs": the exit qualification is the number of the entry.
  it.each([
    { name: 'an MSR that does not exist', index: 0x1fff, reserved: 0 },
    { name: 'FS base', index: MSR.FS_BASE, reserved: 0 },
    { name: 'GS base', index: MSR.GS_BASE, reserved: 0 },
    { name: 'an x2APIC register', index: 0x808, reserved: 0 },
    { name: 'IA32_SMM_MONITOR_CTL', index: 0x9b, reserved: 0 },
    { name: 'a reserved word that is not zero', index: MSR.KERNEL_GS_BASE, reserved: 1 },
  ])('$name in the second entry fails the VM entry with exit reason 34', ({ index, reserved }) => {
    const box = entry(entry(guest(), 0, MSR.KERNEL_GS_BASE, 0x1000), 1, index, 0, reserved).write(
      C.VM_ENTRY_MSR_LOAD_COUNT,
      2,
    );
    expect(vmlaunch(box.cpu)).toBe(RESULT.EXITED);
    expect([box.read(I.VM_EXIT_REASON), box.read(I.EXIT_QUALIFICATION)]).toEqual([0x8000_0022, 2]);
    expect(Number(getRip(box.cpu))).toBe(AT.HANDLER);
    expect(box.cpu.vmx.nonRoot).toBe(false);
  });

  it('a failure on VM exit is a VMX abort', () => {
    const store = entry(guest(), 0, 0x1fff, 0).write(C.VM_EXIT_MSR_STORE_COUNT, 1);
    expect(() => store.launch()).toThrow('VMX abort 1');
    expect(store.cpu.mem.i32[(AT.VMCS + 4) >>> 2]).toBe(1);
    const load = entry(guest(), 0, MSR.FS_BASE, 0).write(C.VM_EXIT_MSR_LOAD_COUNT, 1);
    expect(() => load.launch()).toThrow('VMX abort 4');
  });
});

describe('use after free through the VMCS', () => {
  const owned = (page: number): { box: VmxBox; free: () => void; take: () => void } => {
    const box = guest();
    const { frames } = box.machine;
    // As soon as somebody owns a frame, everything in use must have an owner.
    for (let at: number = AT.VMXON; at <= AT.EPT_PT; at += 0x1000) {
      if (at !== page) frames.take(pfn(at >>> 12), frames.intern('test'));
    }
    const take = (): void => {
      frames.take(pfn(page >>> 12), frames.intern('kvm'));
    };
    return {
      box,
      take,
      free: () => {
        frames.retire(pfn(page >>> 12), frames.intern('khugepaged'));
      },
    };
  };

  it('a bitmap that was freed is found at VM entry, with both stories', () => {
    const { box, take, free } = owned(AT.MSR_BITMAP);
    take();
    box.write(C.MSR_BITMAP, AT.MSR_BITMAP);
    expect(box.launch()).toBe(R.VMCALL);
    free();
    expect(() => box.resume()).toThrow(/MSR_BITMAP.*last taken by kvm, last freed by khugepaged/);
    take();
    expect(() => box.resume()).toThrow(SanitizerError);
    box.write(C.MSR_BITMAP, AT.MSR_BITMAP);
    expect(box.resume()).toBe(R.VMCALL);
  });

  it('structures that are not in use are not looked at', () => {
    const { box, take, free } = owned(AT.IO_BITMAP_A);
    take();
    free();
    expect(box.launch()).toBe(R.VMCALL);
    box.change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.USE_IO_BITMAPS);
    expect(() => box.resume()).toThrow('IO_BITMAP_A');
  });

  it.each([
    {
      name: 'VIRTUAL_APIC_PAGE_ADDR',
      page: AT.VAPIC,
      set: (b: VmxBox) => b.change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.TPR_SHADOW),
    },
    {
      name: 'PML_ADDRESS',
      page: AT.SPARE,
      set: (b: VmxBox) =>
        b.change(C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.ENABLE_PML).write(C.PML_ADDRESS, AT.SPARE),
    },
    {
      name: 'VM_EXIT_MSR_STORE_ADDR',
      page: AT.MSR_LIST,
      set: (b: VmxBox) => b.write(C.VM_EXIT_MSR_STORE_COUNT, 1),
    },
    {
      name: 'VM_EXIT_MSR_LOAD_ADDR',
      page: AT.MSR_LIST,
      set: (b: VmxBox) => b.write(C.VM_EXIT_MSR_LOAD_COUNT, 1),
    },
    {
      name: 'VM_ENTRY_MSR_LOAD_ADDR',
      page: AT.MSR_LIST,
      set: (b: VmxBox) => b.write(C.VM_ENTRY_MSR_LOAD_COUNT, 1),
    },
    { name: 'VMREAD_BITMAP', page: AT.VMREAD_BITMAP, set: shadowing },
    {
      name: 'EPTP_LIST_ADDRESS',
      page: AT.EPTP_LIST,
      set: (b: VmxBox) =>
        b
          .change(C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.ENABLE_VMFUNC)
          .write(C.VM_FUNCTION_CONTROL, VMX_VMFUNC.EPTP_SWITCHING),
    },
    { name: 'VMWRITE_BITMAP', page: AT.VMWRITE_BITMAP, set: shadowing },
    {
      name: 'VMCS_LINK_POINTER',
      page: AT.SHADOW,
      set: (b: VmxBox) => {
        shadowing(b);
        vmwritePair(b.cpu, G.VMCS_LINK_POINTER, AT.SHADOW, 0);
      },
    },
  ])('$name is looked at', ({ name, page, set }) => {
    const { box, take, free } = owned(page);
    take();
    free();
    set(box);
    expect(() => vmlaunch(box.cpu)).toThrow(name);
  });

  it('the VMCS itself is looked at', () => {
    const { box, take, free } = owned(AT.VMCS);
    take();
    vmptrld(box.cpu, AT.VMCS);
    free();
    expect(() => vmlaunch(box.cpu)).toThrow('VM entry uses VMCS');
  });

  it('an address beyond the memory has no frame', () => {
    const box = guest();
    vmwritePair(box.cpu, C.MSR_BITMAP, 0, 1);
    expect(box.launch()).toBe(R.VMCALL);
    expect(hpa(AT.MSR_BITMAP)).toBe(AT.MSR_BITMAP);
  });
});
