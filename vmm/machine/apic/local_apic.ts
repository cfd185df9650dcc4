// SPDX-License-Identifier: GPL-2.0-only
/**
 * One local APIC as a state machine over its register page: xAPIC and x2APIC accesses, priorities, interrupt acceptance,
 * EOI, IPIs. SDM, "Advanced Programmable Interrupt Controller (APIC)"; register quirks as in KVM's lapic.c. The timer
 * is in apic_timer.ts. Knows no CPU: time and wake-ups come from an `ApicHost`, so that L0's lapic can be the same class.
 */
import {
  APIC_DFR,
  APIC_DM,
  APIC_ESR,
  APIC_ICR,
  APIC_LVR,
  APIC_LVT,
  APIC_REG,
  APIC_SPIV,
  APICBASE,
  X2APIC_ICR_RSVD,
} from '../../../lib/x86/apic.ts';
import type { ApicBus } from './apic_bus.ts';
import {
  isApicReadable,
  LVT_MASKS,
  LVT_REGS,
  NR_LVT,
  x2apicLdr,
  x2apicWriteAllowed,
} from './apic_registers.ts';
import { ApicTimer } from './apic_timer.ts';
import { ApicVectors } from './apic_vectors.ts';

/** What a local APIC needs from the processor (or from L0's vCPU) that it belongs to. */
export interface ApicHost {
  /** Time in cycles. */
  now(): number;
  /** The TSC deadline (as in IA32_TSC_DEADLINE) on the same time axis as `now`. */
  tscToCycles(tscLo: number, tscHi: number): number;
  /** An interrupt may have become deliverable: look at `highestDeliverable` before the next instruction. */
  interruptPending(): void;
  /** Message with delivery mode NMI. */
  nmi(): void;
  /** INIT; whoever takes it resets the APIC. */
  init(): void;
  /** Startup IPI with its vector. */
  startup(vector: number): void;
  /** EOI of a level-triggered interrupt, to be broadcast to I/O APICs. */
  eoiBroadcast?(vector: number): void;
  /** The timer's deadline changed (Infinity: stopped). */
  timerChanged?(deadline: number): void;
}

/** Construction parameters of a LocalApic. */
export interface ApicOptions {
  readonly id: number;
  readonly bus: ApicBus;
  readonly host: ApicHost;
  /** Cycles of `host.now()` per tick of the undivided timer clock. */
  readonly tscPerTick: number;
  /** Whether this is the bootstrap processor's. */
  readonly bsp: boolean;
  /** The register page: 1024 words; a fresh one if absent. */
  readonly page?: Int32Array;
}

export class LocalApic {
  /** The register page: word (offset >> 2). Readable as KVM_GET_LAPIC's image; ICR2 is at its own offset in both modes. */
  readonly page: Int32Array;
  readonly timer: ApicTimer;
  readonly vectors: ApicVectors;
  /** IA32_APIC_BASE. */
  baseLo: number;
  baseHi = 0;
  readonly #id: number;
  readonly #bus: ApicBus;
  readonly #host: ApicHost;
  #pendingErrors = 0;

  constructor(options: ApicOptions) {
    this.#id = options.id;
    this.#bus = options.bus;
    this.#host = options.host;
    this.page = options.page ?? new Int32Array(1024);
    this.vectors = new ApicVectors(this.page);
    this.timer = new ApicTimer(this.page, options.host, options.tscPerTick, () =>
      this.#localInterrupt(APIC_REG.LVTT),
    );
    this.baseLo = 0xfee0_0000 | APICBASE.ENABLE | (options.bsp ? APICBASE.BSP : 0);
    this.reset();
    options.bus.add(this);
  }

  /** Registers as after power-up or INIT; the base MSR keeps its value. */
  reset(): void {
    this.timer.stop();
    this.page.fill(0);
    this.#pendingErrors = 0;
    this.#set(APIC_REG.LVR, APIC_LVR.VERSION | ((NR_LVT - 1) << APIC_LVR.MAXLVT_SHIFT));
    this.#set(APIC_REG.SPIV, 0xff);
    this.#set(APIC_REG.DFR, APIC_DFR.FLAT);
    for (const reg of LVT_REGS) this.#set(reg, APIC_LVT.MASKED);
    this.#setId();
    this.vectors.recount();
  }

  /** IA32_APIC_BASE.EN. */
  isEnabled(): boolean {
    return (this.baseLo & APICBASE.ENABLE) !== 0;
  }
  isX2apic(): boolean {
    return (this.baseLo & APICBASE.EXTD) !== 0;
  }
  /** SVR's APIC software enable. */
  isSoftwareEnabled(): boolean {
    return (this.register(APIC_REG.SPIV) & APIC_SPIV.APIC_ENABLED) !== 0;
  }
  /** The physical APIC ID that messages are compared with. */
  id(): number {
    const id = this.register(APIC_REG.ID);
    return this.isX2apic() ? id >>> 0 : id >>> 24;
  }
  /** A register as it is stored, without the effects of a read. */
  register(offset: number): number {
    return this.page[offset >> 2]!;
  }

  /**
   * A new IA32_APIC_BASE; false (nothing changed) if the transition is illegal. Reserved bits are the caller's business.
   * SDM, "x2APIC State Transitions".
   */
  setBase(lo: number, hi: number): boolean {
    const mode = APICBASE.ENABLE | APICBASE.EXTD;
    const [old, now] = [this.baseLo & mode, lo & mode];
    if (now === APICBASE.EXTD) return false;
    if (old === mode && now === APICBASE.ENABLE) return false;
    if (old === 0 && now === mode) return false;
    this.baseLo = lo;
    this.baseHi = hi;
    if (old === now) return true;
    if (now === 0) this.reset();
    else this.#setId();
    this.#host.interruptPending();
    return true;
  }

  // ---- register accesses

  /** Read with effects; offset in the page. Returns int32; 0 and an ESR bit for what is not there. */
  read(offset: number): number {
    switch (offset) {
      case APIC_REG.PROCPRI:
        return this.ppr();
      case APIC_REG.TMCCT:
        return this.timer.currentCount();
      case APIC_REG.ARBPRI:
        return 0;
      default:
        if (isApicReadable(offset)) return this.register(offset);
        this.#error(APIC_ESR.ILL_REG_ADDR);
        return 0;
    }
  }

  /** Write through the xAPIC page. Addresses of no register set an ESR bit. */
  write(offset: number, value: number): void {
    switch (offset) {
      case APIC_REG.ID: {
        this.#set(offset, value & 0xff00_0000);
        return;
      }
      case APIC_REG.LDR: {
        this.#set(offset, value & 0xff00_0000);
        return;
      }
      case APIC_REG.DFR: {
        this.#set(offset, value | 0x0fff_ffff);
        return;
      }
      case APIC_REG.ICR2: {
        this.#set(offset, value & 0xff00_0000);
        return;
      }
      case APIC_REG.ICR:
        this.#writeIcr(value, this.register(APIC_REG.ICR2) >>> 24, 0xff);
        return;
      case APIC_REG.ESR: {
        this.#latchErrors();
        return;
      }
      default:
        if (!this.#writeCommon(offset, value)) this.#error(APIC_ESR.ILL_REG_ADDR);
    }
  }

  /** RDMSR of an x2APIC register into `out`; false means GP. */
  readMsr(msr: number, out: Int32Array): boolean {
    const offset = (msr & 0xff) << 4;
    if (!this.isX2apic() || offset === APIC_REG.ICR2 || offset === APIC_REG.DFR || offset === APIC_REG.ARBPRI)
      return false;
    if (!isApicReadable(offset) && offset !== APIC_REG.TMCCT && offset !== APIC_REG.PROCPRI) return false;
    out[0] = this.read(offset);
    out[1] = offset === APIC_REG.ICR ? this.register(APIC_REG.ICR2) : 0;
    return true;
  }

  /** WRMSR of an x2APIC register; false means GP. SDM, "x2APIC Register Address Space". */
  writeMsr(msr: number, lo: number, hi: number): boolean {
    const offset = (msr & 0xff) << 4;
    if (!this.isX2apic()) return false;
    if (offset === APIC_REG.ICR) {
      if ((lo & X2APIC_ICR_RSVD) !== 0) return false;
      this.#set(APIC_REG.ICR2, hi);
      this.#writeIcr(lo, hi >>> 0, 0xffff_ffff);
      return true;
    }
    if (hi !== 0 || !x2apicWriteAllowed(offset, lo)) return false;
    if (offset === APIC_REG.SELF_IPI) this.receive(APIC_DM.FIXED, lo & 0xff, 0);
    else if (offset === APIC_REG.ESR) this.#latchErrors();
    else return this.#writeCommon(offset, lo);
    return true;
  }

  // ---- interrupts

  /** Processor priority. SDM, "Task and Processor Priorities". */
  ppr(): number {
    const tpr = this.register(APIC_REG.TASKPRI);
    const isrv = this.vectors.highestInService();
    return (tpr & 0xf0) >= (isrv & 0xf0) ? tpr & 0xff : isrv & 0xf0;
  }

  /** The highest pending vector above the PPR, or -1. */
  highestDeliverable(): number {
    const irr = this.vectors.highestPending();
    if (irr < 0 || !this.isEnabled() || !this.isSoftwareEnabled()) return -1;
    return (irr & 0xf0) > (this.ppr() & 0xf0) ? irr : -1;
  }

  /** The processor takes the interrupt: IRR to ISR; returns the vector, the spurious vector if there is none. */
  acknowledge(): number {
    const vector = this.highestDeliverable();
    if (vector < 0) return this.register(APIC_REG.SPIV) & APIC_SPIV.VECTOR_MASK;
    this.vectors.accept(vector);
    return vector;
  }

  /** A message from the bus, a device or the APIC itself. `trigger`: the ICR's level and trigger bits. */
  receive(mode: number, vector: number, trigger: number): void {
    switch (mode) {
      case APIC_DM.FIXED:
      case APIC_DM.LOWEST: {
        this.#receiveFixed(vector, (trigger & APIC_ICR.TRIG_LEVEL) !== 0);
        return;
      }
      case APIC_DM.NMI: {
        this.#host.nmi();
        return;
      }
      case APIC_DM.INIT:
        // An INIT level de-assert is not a message on processors with an APIC bus of this kind.
        if ((trigger & APIC_ICR.TRIG_LEVEL) !== 0 && (trigger & APIC_ICR.LEVEL_ASSERT) === 0) return;
        // The processor resets its APIC when it takes the INIT, which VMX root operation blocks.
        this.#host.init();
        return;
      case APIC_DM.STARTUP: {
        this.#host.startup(vector);
        return;
      }
      default:
        // DEVIATION: SMI, remote read and ExtINT messages are dropped; there is no SMM and no PIC.
        return;
    }
  }

  /** CR8 as MOV CR8 sees it. */
  cr8(): number {
    return (this.register(APIC_REG.TASKPRI) & 0xf0) >> 4;
  }
  setCr8(value: number): void {
    this.#setTpr(value << 4);
  }

  /** Load the register page (KVM_SET_LAPIC): `image` holds 1024 words. */
  restore(image: Int32Array): void {
    this.page.set(image.subarray(0, this.page.length));
    this.vectors.recount();
    this.timer.rearm();
    this.#host.interruptPending();
  }

  #receiveFixed(vector: number, level: boolean): void {
    if (!this.isEnabled() || !this.isSoftwareEnabled()) return;
    if (vector < 16) {
      this.#error(APIC_ESR.RECV_ILL);
      return;
    }
    if (level) this.vectors.requestLevel(vector);
    else this.vectors.requestEdge(vector);
    this.#host.interruptPending();
  }

  /** Registers that both modes write alike. */
  #writeCommon(offset: number, value: number): boolean {
    switch (offset) {
      case APIC_REG.TASKPRI:
        this.#setTpr(value & 0xff);
        return true;
      case APIC_REG.EOI:
        this.endOfInterrupt();
        return true;
      case APIC_REG.SPIV:
        this.#writeSpiv(value);
        return true;
      case APIC_REG.TMICT:
        this.timer.writeInitialCount(value);
        return true;
      case APIC_REG.TDCR:
        this.timer.writeDivide(value & 0xb);
        return true;
      default:
        return this.#writeLvt(offset, value);
    }
  }

  #writeLvt(offset: number, value: number): boolean {
    const mask = LVT_MASKS[offset];
    if (mask === undefined) return false;
    const old = this.register(offset);
    this.#set(offset, (value & mask) | (this.isSoftwareEnabled() ? 0 : APIC_LVT.MASKED));
    if (offset === APIC_REG.LVTT) this.timer.modeWritten(old);
    return true;
  }

  #writeSpiv(value: number): void {
    this.#set(
      APIC_REG.SPIV,
      value & (APIC_SPIV.VECTOR_MASK | APIC_SPIV.APIC_ENABLED | APIC_SPIV.FOCUS_DISABLED),
    );
    if (this.isSoftwareEnabled()) this.#host.interruptPending();
    else for (const reg of LVT_REGS) this.#set(reg, this.register(reg) | APIC_LVT.MASKED);
  }

  #writeIcr(value: number, dest: number, broadcast: number): void {
    const icr = value & ~APIC_ICR.BUSY;
    this.#set(APIC_REG.ICR, icr);
    const mode = icr & APIC_ICR.DM_MASK;
    if (mode <= APIC_DM.LOWEST && (icr & APIC_ICR.VECTOR_MASK) < 16) this.#error(APIC_ESR.SEND_ILL);
    this.#bus.send(this, { icr, dest, broadcast });
  }

  /** What a write of the EOI register does. */
  endOfInterrupt(): void {
    const vector = this.vectors.endOfInterrupt();
    if (vector < 0) return;
    if (this.vectors.isLevel(vector)) this.#host.eoiBroadcast?.(vector);
    this.#host.interruptPending();
  }

  #setTpr(value: number): void {
    this.#set(APIC_REG.TASKPRI, value);
    this.#host.interruptPending();
  }

  #setId(): void {
    const id = this.#id;
    this.#set(APIC_REG.ID, this.isX2apic() ? id : id << 24);
    if (this.isX2apic()) this.#set(APIC_REG.LDR, x2apicLdr(id));
  }

  #latchErrors(): void {
    this.#set(APIC_REG.ESR, this.#pendingErrors);
    this.#pendingErrors = 0;
  }

  #error(bit: number): void {
    const first = (this.#pendingErrors & bit) === 0;
    this.#pendingErrors |= bit;
    if (first) this.#localInterrupt(APIC_REG.LVTERR);
  }

  /** An interrupt of the local vector table. */
  #localInterrupt(lvt: number): void {
    const entry = this.register(lvt);
    if ((entry & APIC_LVT.MASKED) !== 0) return;
    const vector = entry & APIC_LVT.VECTOR_MASK;
    if (vector >= 16 || lvt !== APIC_REG.LVTERR) this.receive(APIC_DM.FIXED, vector, 0);
  }

  #set(offset: number, value: number): void {
    this.page[offset >> 2] = value;
  }
}
