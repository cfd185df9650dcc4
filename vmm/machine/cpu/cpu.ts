// SPDX-License-Identifier: GPL-2.0-only
/** One logical processor: its state words, clock, fast TLB and attached units. Assembled by machine.ts. */
import type { LocalApic } from '../apic/local_apic.ts';
import type { Prices, Spender } from '../cost/ledger.ts';
import { NR_COST_POINTS } from '../cost/points.ts';
import {
  COUNTS_OFFSET,
  CPU_BLOCK_BASE,
  CPU_BLOCK_SIZE,
  CPU_STATE_BYTES,
  FAST_TLB_ENTRIES,
  FAST_TLB_OFFSET,
} from '../layout.ts';
import type { FrameTable } from '../memory/frames.ts';
import type { PhysMem } from '../memory/phys_mem.ts';
import type { Mmu } from '../mmu/mmu.ts';
import type { VmxUnit } from '../vmx/vmx_unit.ts';
import type { CodeCache } from './code_cache.ts';
import type { QuickRun } from './quick_run.ts';
import type { SystemUnit } from './system/system_unit.ts';
import { FAULT, type FaultInfo } from './state.ts';
import type { SysInsn } from './sys_insn.ts';

/** The parts that machine.ts builds and attaches; each is a room's own state for one CPU. */
export interface CpuUnits {
  /** TLB, paging context and walk state. vmm/machine/mmu. */
  readonly mmu: Mmu;
  /** VMX operation: current VMCS, non-root flag, capabilities. vmm/machine/vmx. */
  readonly vmx: VmxUnit;
  /** CPUID and MSR tables, port and MMIO bus. vmm/machine/cpu/system. */
  readonly sys: SystemUnit;
  readonly apic: LocalApic;
  /** Decoded code, shared by all CPUs of the machine. */
  readonly code: CodeCache;
}

/** Columns of the fast TLB, direct-mapped by (linear >>> 12) & (FAST_TLB_ENTRIES - 1); all are views of the memory. */
export interface FastTlb {
  /** Low word of the page's linear address, or 0x800 (bits 2:0 clear: misaligned probes keep those) if not allowed. */
  readonly readTag: Int32Array;
  readonly writeTag: Int32Array;
  readonly execTag: Int32Array;
  /** High word of the linear address XOR S.CTX. */
  readonly hiTag: Int32Array;
  /** Host physical address of the page minus the low word of its linear address, mod 2^32. */
  readonly addend: Int32Array;
}

export class Cpu implements Spender {
  readonly id: number;
  readonly mem: PhysMem;
  readonly frames: FrameTable;
  /** Architectural state words, see `S`. */
  readonly s: Int32Array;
  readonly fast: FastTlb;
  readonly clock: Float64Array;
  readonly counts: Float64Array;
  readonly prices: Prices;
  readonly fault: FaultInfo = {
    kind: FAULT.NONE,
    vector: 0,
    errorCode: 0,
    linLo: 0,
    linHi: 0,
    gpa: 0,
    qualification: 0,
  };
  readonly insn: SysInsn = {
    op: 0,
    length: 0,
    size: 0,
    reg: 0,
    rm: 0,
    eaLo: 0,
    eaHi: 0,
    seg: 0,
    base: -1,
    index: -1,
    scale: 0,
    disp: 0,
    addressSize: 8,
    imm: 0,
    rep: 0,
  };
  mmu!: Mmu;
  vmx!: VmxUnit;
  sys!: SystemUnit;
  apic!: LocalApic;
  code!: CodeCache;
  /** Made after so many misses of the fast TLB that it is worth its compilation. */
  quick: QuickRun | undefined = undefined;
  misses = 0;

  constructor(id: number, mem: PhysMem, frames: FrameTable, prices: Prices) {
    const base = CPU_BLOCK_BASE + id * CPU_BLOCK_SIZE;
    const buffer = mem.memory.buffer;
    const column = (n: number): Int32Array =>
      new Int32Array(buffer, base + FAST_TLB_OFFSET + n * FAST_TLB_ENTRIES * 4, FAST_TLB_ENTRIES);
    this.id = id;
    this.mem = mem;
    this.frames = frames;
    this.prices = prices;
    this.s = new Int32Array(buffer, base, (CPU_STATE_BYTES - 16) / 4);
    this.counts = new Float64Array(buffer, base + COUNTS_OFFSET, NR_COST_POINTS);
    this.clock = new Float64Array(buffer, base + CPU_STATE_BYTES - 16, 1);
    this.fast = {
      readTag: column(0),
      writeTag: column(1),
      execTag: column(2),
      hiTag: column(3),
      addend: column(4),
    };
    for (const tags of [this.fast.readTag, this.fast.writeTag, this.fast.execTag]) tags.fill(0x800);
  }

  /** Attach the units; once, by machine.ts. */
  attach(units: CpuUnits): void {
    Object.assign(this, units);
  }
}
