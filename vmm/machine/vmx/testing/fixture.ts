// SPDX-License-Identifier: GPL-2.0-only
/**
 * A bare machine in VMX root operation with one complete VMCS, for tests and benchmarks: the caller is the hypervisor,
 * the guest is machine code at CODE. Guest and host use the same identity page tables; EPT maps identity, too.
 */
import { CR0, CR4, EFER } from '../../../../lib/x86/registers.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC, VM_ENTRY, VM_EXIT } from '../../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../../../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO } from '../../../../lib/x86/vmx/vmcs_info.ts';
import { hpa } from '../../../../lib/x86/addr.ts';
import { type CpuProfile, PROFILES } from '../../cost/profiles.ts';
import type { Cpu } from '../../cpu/cpu.ts';
import { enterLongMode } from '../../cpu/system/reset.ts';
import { cpuRun } from '../../cpu/system/run.ts';
import { RUN, S } from '../../cpu/state.ts';
import { RAM_BASE } from '../../layout.ts';
import { createMachine, type Machine } from '../../machine.ts';
import { vmlaunch, vmresume } from '../entry.ts';
import { vmread32, vmwrite32, vmwriteNum } from '../vmcs_access.ts';
import { vmclear, vmptrld, vmxon } from '../vmcs_insns.ts';
import { VMCS_REVISION } from '../vmcs_layout.ts';
import { vmxExit } from '../exit.ts';
import { VMX_RESULT } from '../vmx_unit.ts';
import { EXIT_MSR_LOAD_COUNT, EXIT_MSR_STORE_COUNT } from '../words.ts';

/** Physical (and linear) addresses. */
// prettier-ignore
export const AT = {
  VMXON: RAM_BASE, VMCS: RAM_BASE + 0x1000, PML4: RAM_BASE + 0x2000, PDPT: RAM_BASE + 0x3000,
  EPT_PML4: RAM_BASE + 0x4000, EPT_PDPT: RAM_BASE + 0x5000, MSR_BITMAP: RAM_BASE + 0x6000,
  IO_BITMAP_A: RAM_BASE + 0x7000, IO_BITMAP_B: RAM_BASE + 0x8000, VAPIC: RAM_BASE + 0x9000, GDT: RAM_BASE + 0xa000,
  IDT: RAM_BASE + 0xb000, TSS: RAM_BASE + 0xc000, MSR_LIST: RAM_BASE + 0xd000, STACK_TOP: RAM_BASE + 0xf000,
  CODE: RAM_BASE + 0x1_0000, DATA: RAM_BASE + 0x1_1000, HANDLER: RAM_BASE + 0x1_2000, VMCS2: RAM_BASE + 0x1_3000,
  SPARE: RAM_BASE + 0x1_4000, EPT_PD: RAM_BASE + 0x1_5000, EPT_PT: RAM_BASE + 0x1_6000,
  SHADOW: RAM_BASE + 0x1_7000, VMREAD_BITMAP: RAM_BASE + 0x1_8000, VMWRITE_BITMAP: RAM_BASE + 0x1_9000,
  EPTP_LIST: RAM_BASE + 0x1_a000, EPT2_PML4: RAM_BASE + 0x1_b000, EPT2_PDPT: RAM_BASE + 0x1_c000,
} as const;

export const SEL = { CS: 0x08, DS: 0x10, TSS: 0x28, USER_CS: 0x23, USER_DS: 0x1b } as const;
/** EPTP of the identity map: write-back, four levels. */
export const EPTP = AT.EPT_PML4 | 0x1e;

/** The fixture: a machine, its first CPU with a current VMCS, and short ways to use them. */
export class VmxBox {
  readonly machine: Machine;
  readonly cpu: Cpu;

  constructor(nrCpus = 1, profile: CpuProfile = PROFILES.skylake) {
    this.machine = createMachine({
      profile,
      nrCpus,
      ramBytes: 0x40_0000,
      tlb: 'real',
      seed: 1,
    });
    this.cpu = this.machine.cpus[0]!;
    this.writeTables();
    const { cpu } = this;
    enterLongMode(cpu, {
      cr3: AT.PML4,
      rip: BigInt(AT.CODE),
      rsp: BigInt(AT.STACK_TOP),
      cr4: CR4.VMXE | CR4.PCIDE,
      gdt: { base: BigInt(AT.GDT), limit: 0x3f },
      idt: { base: BigInt(AT.IDT), limit: 0xfff },
      tss: { selector: SEL.TSS, base: AT.TSS },
    });
    for (const region of [AT.VMXON, AT.VMCS, AT.VMCS2]) this.word(region, cpu.vmx.caps.revision);
    this.word(AT.SHADOW, cpu.vmx.caps.revision | VMCS_REVISION.SHADOW);
  }

  /** VMXON, VMCLEAR, VMPTRLD, and a VMCS that can be entered. */
  begin(): this {
    const { cpu } = this;
    if (vmxon(cpu, AT.VMXON) !== VMX_RESULT.SUCCEED) throw new Error('VMXON');
    if (vmclear(cpu, AT.VMCS) !== VMX_RESULT.SUCCEED) throw new Error('VMCLEAR');
    if (vmptrld(cpu, AT.VMCS) !== VMX_RESULT.SUCCEED) throw new Error('VMPTRLD');
    this.fillVmcs();
    return this;
  }

  /** Leave a guest that runs, and begin again with a VMCS that was never used. */
  renew(): this {
    const { cpu } = this;
    if (cpu.vmx.nonRoot) {
      this.word(AT.VMCS + 4 * EXIT_MSR_LOAD_COUNT, 0);
      this.word(AT.VMCS + 4 * EXIT_MSR_STORE_COUNT, 0);
      vmxExit(cpu, EXIT_REASON.VMCALL);
    }
    vmclear(cpu, AT.VMCS);
    cpu.mem.u8.fill(0, AT.VMCS, AT.VMCS + 0x1000);
    this.word(AT.VMCS, cpu.vmx.caps.revision);
    cpu.s[S.BLOCKING] = 0;
    vmclear(cpu, AT.VMCS);
    vmptrld(cpu, AT.VMCS);
    this.fillVmcs();
    return this;
  }

  /** Guest code at CODE (or elsewhere), RIP at it. */
  code(bytes: readonly number[], at: number = AT.CODE): this {
    this.cpu.mem.u8.set(bytes, at);
    this.machine.noteStore(hpa(at), bytes.length);
    return this;
  }

  word(at: number, value: number): void {
    this.cpu.mem.i32[at >>> 2] = value;
  }

  write(field: number, value: number): this {
    if (value >= 0) vmwriteNum(this.cpu, field, value);
    else vmwrite32(this.cpu, field, value);
    return this;
  }

  /** Set and clear bits of a control or other 32-bit field. */
  change(field: number, set: number, clear = 0): this {
    vmwrite32(this.cpu, field, (vmread32(this.cpu, field) & ~clear) | set);
    return this;
  }

  read(field: number): number {
    return vmread32(this.cpu, field);
  }

  /** VMLAUNCH and run to the VM exit; the basic exit reason. */
  launch(cycles = 1e6): number {
    return this.#run(vmlaunch(this.cpu), cycles);
  }

  resume(cycles = 1e6): number {
    return this.#run(vmresume(this.cpu), cycles);
  }

  #run(result: number, cycles: number): number {
    const { cpu } = this;
    if (result === VMX_RESULT.FAIL_VALID)
      throw new Error(`VM entry: error ${this.error()}: ${cpu.vmx.failedCheck}`);
    if (result === VMX_RESULT.FAIL_INVALID) throw new Error('VM entry: no current VMCS');
    if (result === VMX_RESULT.SUCCEED) {
      const why = cpuRun(cpu, cpu.clock[0]! + cycles);
      if (why !== RUN.VMEXIT) throw new Error(`cpuRun: ${why}`);
    }
    return this.read(VMCS_INFO.VM_EXIT_REASON);
  }

  /** VM-instruction error field. */
  error(): number {
    return this.read(VMCS_INFO.VM_INSTRUCTION_ERROR);
  }

  /** RIP saved by the exit, relative to CODE. */
  ripOffset(): number {
    return this.read(VMCS_GUEST.RIP) - AT.CODE;
  }

  writeTables(): void {
    this.word(AT.PML4, AT.PDPT | 0x27);
    this.word(AT.EPT_PML4, AT.EPT_PDPT | 7);
    for (let n = 0; n < 4; n++) {
      this.word(AT.PDPT + 8 * n, (n << 30) | 0xe7);
      this.word(AT.EPT_PDPT + 8 * n, (n << 30) | 0xb7);
    }
    const gdt = [0, 0, 0xffff, 0xaf9b00, 0xffff, 0xcf9300, 0xffff, 0xcff300, 0xffff, 0xaffb00];
    gdt.forEach((word, n) => this.word(AT.GDT + 4 * n, word));
    this.word(AT.GDT + SEL.TSS, ((AT.TSS & 0xffff) << 16) | 0x67);
    this.word(AT.GDT + SEL.TSS + 4, (AT.TSS & 0xff00_0000) | 0x8b00 | ((AT.TSS >>> 16) & 0xff));
  }

  /** A 64-bit interrupt gate to `handler`. */
  gate(vector: number, handler: number, dpl = 0): this {
    this.word(AT.IDT + vector * 16, (SEL.CS << 16) | (handler & 0xffff));
    this.word(AT.IDT + vector * 16 + 4, (handler & 0xffff_0000) | 0x8e00 | (dpl << 13));
    return this;
  }

  fillVmcs(): void {
    this.fillControls();
    this.fillHost();
    this.fillGuest();
  }

  fillControls(): void {
    const { caps } = this.cpu.vmx;
    this.write(
      VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL,
      caps.pin.must1 | PIN_BASED.EXT_INTR_MASK | PIN_BASED.NMI_EXITING,
    );
    vmwrite32(
      this.cpu,
      VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL,
      caps.cpuBased.must1 |
        CPU_BASED.HLT_EXITING |
        CPU_BASED.USE_MSR_BITMAPS |
        CPU_BASED.ACTIVATE_SECONDARY_CONTROLS,
    );
    this.write(VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.ENABLE_EPT | SECONDARY_EXEC.ENABLE_VPID);
    this.write(
      VMCS_CTRL.VM_EXIT_CONTROLS,
      caps.exit.must1 |
        VM_EXIT.HOST_ADDR_SPACE_SIZE |
        VM_EXIT.LOAD_IA32_EFER |
        VM_EXIT.SAVE_IA32_EFER |
        VM_EXIT.ACK_INTR_ON_EXIT,
    );
    this.write(VMCS_CTRL.VM_ENTRY_CONTROLS, caps.entry.must1 | VM_ENTRY.IA32E_MODE | VM_ENTRY.LOAD_IA32_EFER);
    this.write(VMCS_CTRL.VIRTUAL_PROCESSOR_ID, 1).write(VMCS_CTRL.EPT_POINTER, EPTP);
    this.write(VMCS_CTRL.MSR_BITMAP, AT.MSR_BITMAP);
    this.write(VMCS_CTRL.IO_BITMAP_A, AT.IO_BITMAP_A).write(VMCS_CTRL.IO_BITMAP_B, AT.IO_BITMAP_B);
    this.write(VMCS_CTRL.VMREAD_BITMAP, AT.VMREAD_BITMAP).write(VMCS_CTRL.VMWRITE_BITMAP, AT.VMWRITE_BITMAP);
    this.write(VMCS_CTRL.EPTP_LIST_ADDRESS, AT.EPTP_LIST);
    this.write(VMCS_CTRL.VIRTUAL_APIC_PAGE_ADDR, AT.VAPIC);
    this.write(VMCS_CTRL.VM_EXIT_MSR_LOAD_ADDR, AT.MSR_LIST).write(
      VMCS_CTRL.VM_EXIT_MSR_STORE_ADDR,
      AT.MSR_LIST,
    );
    this.write(VMCS_CTRL.VM_ENTRY_MSR_LOAD_ADDR, AT.MSR_LIST);
  }

  fillHost(): void {
    this.write(VMCS_HOST.CR0, CR0.PE | CR0.NE | CR0.WP | CR0.ET | CR0.PG);
    this.write(VMCS_HOST.CR3, AT.PML4).write(VMCS_HOST.CR4, CR4.PAE | CR4.VMXE | CR4.PCIDE);
    this.write(VMCS_HOST.IA32_EFER, EFER.LME | EFER.LMA | EFER.NXE | EFER.SCE);
    this.write(VMCS_HOST.CS_SELECTOR, SEL.CS).write(VMCS_HOST.SS_SELECTOR, SEL.DS);
    this.write(VMCS_HOST.TR_SELECTOR, SEL.TSS).write(VMCS_HOST.TR_BASE, AT.TSS);
    this.write(VMCS_HOST.GDTR_BASE, AT.GDT).write(VMCS_HOST.IDTR_BASE, AT.IDT);
    this.write(VMCS_HOST.RSP, AT.STACK_TOP).write(VMCS_HOST.RIP, AT.HANDLER);
  }

  fillGuest(): void {
    this.write(VMCS_GUEST.CR0, CR0.PE | CR0.NE | CR0.WP | CR0.ET | CR0.PG);
    this.write(VMCS_GUEST.CR3, AT.PML4).write(VMCS_GUEST.CR4, CR4.PAE | CR4.VMXE);
    this.write(VMCS_GUEST.IA32_EFER, EFER.LME | EFER.LMA | EFER.NXE | EFER.SCE);
    for (let n = 0; n < 6; n++) {
      const code = n === 1;
      this.write(VMCS_GUEST.ES_SELECTOR + 2 * n, code ? SEL.CS : SEL.DS);
      this.write(VMCS_GUEST.ES_LIMIT + 2 * n, 0xffff_ffff);
      this.write(VMCS_GUEST.ES_AR_BYTES + 2 * n, code ? 0xa09b : 0xc093);
    }
    this.write(VMCS_GUEST.LDTR_AR_BYTES, 0x1_0000);
    this.write(VMCS_GUEST.TR_SELECTOR, SEL.TSS).write(VMCS_GUEST.TR_BASE, AT.TSS);
    this.write(VMCS_GUEST.TR_LIMIT, 0x67).write(VMCS_GUEST.TR_AR_BYTES, 0x8b);
    this.write(VMCS_GUEST.GDTR_BASE, AT.GDT).write(VMCS_GUEST.GDTR_LIMIT, 0x3f);
    this.write(VMCS_GUEST.IDTR_BASE, AT.IDT).write(VMCS_GUEST.IDTR_LIMIT, 0xfff);
    this.write(VMCS_GUEST.RIP, AT.CODE).write(VMCS_GUEST.RSP, AT.STACK_TOP).write(VMCS_GUEST.RFLAGS, 2);
    this.write(VMCS_GUEST.DR7, 0x400);
    vmwrite32(this.cpu, VMCS_GUEST.VMCS_LINK_POINTER, -1);
    vmwrite32(this.cpu, VMCS_GUEST.VMCS_LINK_POINTER + 1, -1);
  }
}
