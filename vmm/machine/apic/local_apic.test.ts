// SPDX-License-Identifier: GPL-2.0-only
/** Local APIC without a CPU. Expectations: SDM, "Advanced Programmable Interrupt Controller"; ICR: xapic_state_test. */
import { describe, expect, it } from 'vitest';
import {
  APIC_DEST,
  APIC_DM,
  APIC_ESR,
  APIC_ICR,
  APIC_LVT,
  APIC_REG,
  APIC_SPIV,
  APICBASE,
  X2APIC_ICR_RSVD,
} from '../../../lib/x86/apic.ts';
import { ApicBus } from './apic_bus.ts';
import { LocalApic } from './local_apic.ts';

interface Rig {
  readonly apic: LocalApic;
  readonly log: string[];
}

function makeBus(count: number): { bus: ApicBus; rigs: Rig[]; time: { now: number } } {
  const bus = new ApicBus();
  const time = { now: 0 };
  const rigs = Array.from({ length: count }, (_, id) => {
    const log: string[] = [];
    const apic = new LocalApic({
      id,
      bus,
      tscPerTick: 10,
      bsp: id === 0,
      host: {
        now: () => time.now,
        tscToCycles: (lo, hi) => hi * 2 ** 32 + (lo >>> 0),
        interruptPending: () => log.push('interrupt'),
        nmi: () => log.push('nmi'),
        init: () => log.push('init'),
        startup: (vector) => log.push(`sipi ${vector}`),
        eoiBroadcast: (vector) => log.push(`eoi ${vector}`),
      },
    });
    apic.write(APIC_REG.SPIV, 0x1ff);
    log.length = 0;
    return { apic, log };
  });
  return { bus, rigs, time };
}

function one(): Rig & { time: { now: number } } {
  const { rigs, time } = makeBus(1);
  return { ...rigs[0]!, time };
}

function toX2apic(apic: LocalApic): void {
  expect(apic.setBase(apic.baseLo | APICBASE.EXTD, 0)).toBe(true);
}

const msrOf = (offset: number): number => 0x800 + (offset >> 4);

describe('Local APIC priorities', () => {
  it('delivers the highest vector above the PPR and nothing at or below it', () => {
    const { apic } = one();
    apic.receive(APIC_DM.FIXED, 0x31, 0);
    apic.receive(APIC_DM.FIXED, 0x52, 0);
    expect(apic.highestDeliverable()).toBe(0x52);
    apic.write(APIC_REG.TASKPRI, 0x50);
    expect(apic.highestDeliverable()).toBe(-1);
    apic.write(APIC_REG.TASKPRI, 0x4f);
    expect(apic.acknowledge()).toBe(0x52);
    expect(apic.ppr()).toBe(0x50);
    expect(apic.highestDeliverable()).toBe(-1);
    apic.write(APIC_REG.EOI, 0);
    expect(apic.ppr()).toBe(0x4f);
    apic.write(APIC_REG.TASKPRI, 0);
    expect(apic.acknowledge()).toBe(0x31);
  });

  it('gives the PPR the TPR itself when the classes are equal, the class of ISRV when that is higher', () => {
    const { apic } = one();
    apic.receive(APIC_DM.FIXED, 0x63, 0);
    apic.acknowledge();
    apic.write(APIC_REG.TASKPRI, 0x65);
    expect(apic.read(APIC_REG.PROCPRI)).toBe(0x65);
    apic.write(APIC_REG.TASKPRI, 0x55);
    expect(apic.read(APIC_REG.PROCPRI)).toBe(0x60);
  });

  it('answers with the spurious vector when nothing is deliverable', () => {
    const { apic } = one();
    expect(apic.acknowledge()).toBe(0xff);
  });

  it('keeps one pending and one in service per vector', () => {
    const { apic } = one();
    apic.receive(APIC_DM.FIXED, 0x40, 0);
    apic.receive(APIC_DM.FIXED, 0x40, 0);
    expect(apic.acknowledge()).toBe(0x40);
    expect(apic.vectors.highestPending()).toBe(-1);
    apic.receive(APIC_DM.FIXED, 0x40, 0);
    expect(apic.highestDeliverable()).toBe(-1);
    apic.write(APIC_REG.EOI, 0);
    expect(apic.highestDeliverable()).toBe(0x40);
  });

  it('broadcasts the EOI of a level-triggered interrupt only', () => {
    const { apic, log } = one();
    apic.receive(APIC_DM.FIXED, 0x40, APIC_ICR.TRIG_LEVEL);
    expect(apic.register(APIC_REG.TMR + 0x20)).toBe(1);
    apic.acknowledge();
    apic.write(APIC_REG.EOI, 0);
    apic.receive(APIC_DM.FIXED, 0x40, 0);
    apic.acknowledge();
    apic.write(APIC_REG.EOI, 0);
    apic.write(APIC_REG.EOI, 0);
    expect(log.filter((line) => line.startsWith('eoi'))).toEqual(['eoi 64']);
  });

  it('takes no fixed interrupt while software-disabled, and masks every LVT entry', () => {
    const { apic } = one();
    apic.write(APIC_REG.LVT0, 0x40);
    apic.write(APIC_REG.SPIV, 0xff);
    expect(apic.read(APIC_REG.LVT0)).toBe(APIC_LVT.MASKED | 0x40);
    apic.write(APIC_REG.LVT0, 0x41);
    expect(apic.read(APIC_REG.LVT0)).toBe(APIC_LVT.MASKED | 0x41);
    apic.receive(APIC_DM.FIXED, 0x80, 0);
    expect(apic.vectors.highestPending()).toBe(-1);
  });

  it('maps CR8 to bits 7:4 of the TPR', () => {
    const { apic } = one();
    apic.setCr8(0xa);
    expect(apic.read(APIC_REG.TASKPRI)).toBe(0xa0);
    apic.write(APIC_REG.TASKPRI, 0x57);
    expect(apic.cr8()).toBe(5);
  });
});

describe('Local APIC errors', () => {
  it('reports vectors below 16 as illegal, sent and received, once ESR is written', () => {
    const { apic } = one();
    apic.write(APIC_REG.ICR, APIC_DEST.SELF | 0xf);
    expect(apic.read(APIC_REG.ESR)).toBe(0);
    apic.write(APIC_REG.ESR, 0);
    expect(apic.read(APIC_REG.ESR)).toBe(APIC_ESR.SEND_ILL | APIC_ESR.RECV_ILL);
    apic.write(APIC_REG.ESR, 0);
    expect(apic.read(APIC_REG.ESR)).toBe(0);
  });

  it('reports accesses to registers that are not there, by interrupt if LVTERR allows', () => {
    const { apic } = one();
    apic.write(APIC_REG.LVTERR, 0xe0);
    expect(apic.read(0x400)).toBe(0);
    expect(apic.highestDeliverable()).toBe(0xe0);
    apic.write(APIC_REG.SELF_IPI, 0x40);
    apic.write(APIC_REG.ESR, 0);
    expect(apic.read(APIC_REG.ESR)).toBe(APIC_ESR.ILL_REG_ADDR);
  });
});

describe('ICR contents', () => {
  const values = [0n, 0xffffffff_ffffffffn, 0x12345678_9abcdef0n, 0xffn << 56n, 0x1000n, 0x8000n, 0x44000n];

  it('keeps every bit but delivery status in the xAPIC, and bits 31:24 of ICR2', () => {
    for (const value of values) {
      const { apic } = one();
      apic.write(APIC_REG.ICR2, Number(BigInt.asIntN(32, value >> 32n)));
      apic.write(APIC_REG.ICR, Number(BigInt.asIntN(32, value)));
      const lo = BigInt(apic.read(APIC_REG.ICR) >>> 0);
      const hi = BigInt(apic.read(APIC_REG.ICR2) >>> 0);
      expect((hi << 32n) | lo).toBe(value & 0xff000000_ffffefffn);
    }
  });

  it('is one 64-bit register in the x2APIC; reserved bits refuse the write', () => {
    const { apic } = one();
    toX2apic(apic);
    const out = new Int32Array(2);
    expect(apic.writeMsr(msrOf(APIC_REG.ICR), 0x0000_88ff, -2)).toBe(true);
    expect(apic.readMsr(msrOf(APIC_REG.ICR), out)).toBe(true);
    expect([...out]).toEqual([0x88ff, -2]);
    for (let bit = 0; bit < 32; bit++) {
      const allowed = ((X2APIC_ICR_RSVD >>> bit) & 1) === 0;
      expect(apic.writeMsr(msrOf(APIC_REG.ICR), 1 << bit, 0), `bit ${bit}`).toBe(allowed);
    }
  });
});

describe('x2APIC registers', () => {
  it('have no MSRs before the mode is entered', () => {
    const { apic } = one();
    expect(apic.readMsr(msrOf(APIC_REG.ID), new Int32Array(2))).toBe(false);
    expect(apic.writeMsr(msrOf(APIC_REG.TASKPRI), 0, 0)).toBe(false);
  });

  it('derive the logical ID from the APIC ID', () => {
    const { rigs } = makeBus(19);
    const { apic } = rigs[18]!;
    toX2apic(apic);
    expect(apic.read(APIC_REG.ID)).toBe(18);
    expect(apic.read(APIC_REG.LDR)).toBe(0x0001_0004);
  });

  it.each([
    ['DFR', APIC_REG.DFR],
    ['ICR2', APIC_REG.ICR2],
    ['ARBPRI', APIC_REG.ARBPRI],
    ['a hole', 0x3f8],
    ['EOI read', APIC_REG.EOI],
  ])('refuse to read %s', (_name, offset) => {
    const { apic } = one();
    toX2apic(apic);
    expect(apic.readMsr(msrOf(offset), new Int32Array(2))).toBe(false);
  });

  it.each([
    ['ID is read-only', APIC_REG.ID, 1, 0],
    ['LDR is read-only', APIC_REG.LDR, 1, 0],
    ['EOI takes zero only', APIC_REG.EOI, 1, 0],
    ['ESR takes zero only', APIC_REG.ESR, 1, 0],
    ['TPR has eight bits', APIC_REG.TASKPRI, 0x100, 0],
    ['SELF IPI has eight bits', APIC_REG.SELF_IPI, 0x100, 0],
    ['TDCR has no bit 2', APIC_REG.TDCR, 4, 0],
    ['SVR has no bit 10', APIC_REG.SPIV, 0x5ff, 0],
    ['LVT timer has no bit 19', APIC_REG.LVTT, 0x8_0000, 0],
    ['the upper half is reserved', APIC_REG.TASKPRI, 0, 1],
    ['PPR is read-only', APIC_REG.PROCPRI, 0, 0],
  ])('refuse a write: %s', (_name, offset, lo, hi) => {
    const { apic } = one();
    toX2apic(apic);
    expect(apic.writeMsr(msrOf(offset), lo, hi)).toBe(false);
  });

  it('accept what is allowed, and send SELF IPIs', () => {
    const { apic } = one();
    toX2apic(apic);
    expect(apic.writeMsr(msrOf(APIC_REG.SELF_IPI), 0x77, 0)).toBe(true);
    expect(apic.highestDeliverable()).toBe(0x77);
    apic.acknowledge();
    for (const [offset, value] of [
      [APIC_REG.EOI, 0],
      [APIC_REG.ESR, 0],
      [APIC_REG.TASKPRI, 0x20],
      [APIC_REG.TDCR, 0xb],
      [APIC_REG.SPIV, 0x1ff],
      [APIC_REG.TMICT, 5],
      [APIC_REG.LVTT, 0x2_0040],
    ] as const) {
      expect(apic.writeMsr(msrOf(offset), value, 0)).toBe(true);
    }
    expect(apic.ppr()).toBe(0x20);
  });
});

describe('IA32_APIC_BASE transitions', () => {
  const EN = APICBASE.ENABLE;
  const X2 = APICBASE.ENABLE | APICBASE.EXTD;
  it.each([
    ['disabled to x2APIC', [0, X2], false],
    ['x2APIC to xAPIC', [X2, EN], false],
    ['EXTD without EN', [APICBASE.EXTD], false],
    ['xAPIC to x2APIC', [X2], true],
    ['x2APIC to disabled', [X2, 0], true],
    ['disabled to xAPIC', [0, EN], true],
    ['the same mode again', [X2, X2], true],
  ])('%s', (_name, steps, allowed) => {
    const { apic } = one();
    const results = steps.map((mode) => apic.setBase(0xfee0_0000 | mode | 0, 0));
    expect(results.at(-1)).toBe(allowed);
  });

  it('disabling resets the registers', () => {
    const { apic } = one();
    apic.receive(APIC_DM.FIXED, 0x40, 0);
    apic.setBase(0xfee0_0000 | 0, 0);
    expect(apic.vectors.highestPending()).toBe(-1);
    expect(apic.read(APIC_REG.SPIV)).toBe(0xff);
    expect(apic.highestDeliverable()).toBe(-1);
  });
});

describe('IPI destinations', () => {
  const who = (rigs: readonly Rig[]): number[] =>
    rigs.filter((rig) => rig.apic.vectors.highestPending() === 0x55).map((rig) => rig.apic.id());
  function send(rigs: readonly Rig[], from: number, dest: number, icr: number): number[] {
    const { apic } = rigs[from]!;
    apic.write(APIC_REG.ICR2, dest << 24);
    apic.write(APIC_REG.ICR, icr | 0x55);
    return who(rigs);
  }

  it.each([
    ['self', 9, APIC_DEST.SELF, [1]],
    ['all including self', 9, APIC_DEST.ALLINC, [0, 1, 2, 3]],
    ['all but self', 9, APIC_DEST.ALLBUT, [0, 2, 3]],
    ['physical', 3, 0, [3]],
    ['physical broadcast', 0xff, 0, [0, 1, 2, 3]],
    ['nobody', 9, 0, []],
  ])('%s', (_name, dest, icr, expected) => {
    const { rigs } = makeBus(4);
    expect(send(rigs, 1, dest, icr)).toEqual(expected);
  });

  it('matches the flat logical model by bits', () => {
    const { rigs } = makeBus(4);
    rigs.forEach((rig, n) => rig.apic.write(APIC_REG.LDR, (1 << n) << 24));
    expect(send(rigs, 0, 0b1010, APIC_ICR.DEST_LOGICAL)).toEqual([1, 3]);
  });

  it('matches the cluster model by cluster and bits', () => {
    const { rigs } = makeBus(4);
    rigs.forEach((rig, n) => {
      rig.apic.write(APIC_REG.DFR, 0x0fff_ffff);
      rig.apic.write(APIC_REG.LDR, ((n >> 1) << 28) | (1 << (24 + (n & 1))));
    });
    expect(send(rigs, 0, 0x13, APIC_ICR.DEST_LOGICAL)).toEqual([2, 3]);
  });

  it('matches nobody under a destination format that is neither flat nor cluster', () => {
    const { rigs } = makeBus(2);
    rigs[0]!.apic.write(APIC_REG.LDR, 0x0100_0000);
    rigs[0]!.apic.write(APIC_REG.DFR, 0x5fff_ffff);
    expect(send(rigs, 1, 0x01, APIC_ICR.DEST_LOGICAL)).toEqual([]);
  });

  it('matches x2APIC logical IDs by cluster and bits, and the 32-bit broadcast', () => {
    const { rigs } = makeBus(18);
    for (const { apic } of rigs) toX2apic(apic);
    const { apic } = rigs[0]!;
    apic.writeMsr(msrOf(APIC_REG.ICR), APIC_ICR.DEST_LOGICAL | 0x55, 0x0001_0003);
    expect(who(rigs)).toEqual([16, 17]);
    apic.writeMsr(msrOf(APIC_REG.ICR), APIC_DM.NMI, -1);
    expect(rigs.every((rig) => rig.log.includes('nmi'))).toBe(true);
  });

  it('gives lowest priority to the lowest PPR, then the lowest ID; not to a software-disabled one', () => {
    const { rigs } = makeBus(4);
    rigs[0]!.apic.write(APIC_REG.SPIV, 0xff);
    rigs[1]!.apic.write(APIC_REG.TASKPRI, 0x20);
    rigs.forEach((rig) => rig.apic.write(APIC_REG.LDR, 0xff00_0000));
    expect(send(rigs, 0, 0xf0, APIC_ICR.DEST_LOGICAL | APIC_DM.LOWEST)).toEqual([2]);
    for (const { apic } of rigs) apic.write(APIC_REG.SPIV, 0xff);
    expect(send(makeBus(1).rigs, 0, 0xff, APIC_DM.LOWEST)).toEqual([0]);
  });

  it('carries NMI, INIT and startup messages; an INIT de-assert does nothing', () => {
    const { rigs } = makeBus(2);
    const { apic } = rigs[0]!;
    const target = rigs[1]!;
    const post = (icr: number): void => {
      apic.write(APIC_REG.ICR2, 1 << 24);
      apic.write(APIC_REG.ICR, icr);
    };
    target.apic.write(APIC_REG.LDR, 0x0200_0000);
    post(APIC_DM.NMI);
    post(APIC_DM.INIT | APIC_ICR.TRIG_LEVEL);
    post(APIC_DM.SMI);
    expect(target.log).toEqual(['nmi']);
    post(APIC_DM.INIT | APIC_ICR.LEVEL_ASSERT);
    post(APIC_DM.STARTUP | 0x9a);
    expect(target.log).toEqual(['nmi', 'init', 'sipi 154']);
    // SDM, "INIT": VMX root operation blocks it, so the APIC goes on until the processor takes it.
    expect(target.apic.register(APIC_REG.LDR)).toBe(0x0200_0000);
  });
});

describe('Register image', () => {
  it('is the state: a restored page has the same pending and in-service vectors', () => {
    const { apic } = one();
    apic.receive(APIC_DM.FIXED, 0x91, 0);
    apic.acknowledge();
    apic.receive(APIC_DM.FIXED, 0xa2, 0);
    const other = one();
    other.apic.restore(apic.page.slice());
    expect(other.apic.ppr()).toBe(0x90);
    expect(other.apic.highestDeliverable()).toBe(0xa2);
    expect(other.log).toEqual(['interrupt']);
  });

  it('masks writes: ID, LDR and DFR keep their defined bits', () => {
    const { apic } = one();
    apic.write(APIC_REG.ID, 0x0500_0123);
    apic.write(APIC_REG.LDR, 0x1234_5678);
    apic.write(APIC_REG.DFR, 0);
    expect([apic.read(APIC_REG.ID), apic.read(APIC_REG.LDR), apic.read(APIC_REG.DFR)]).toEqual([
      0x0500_0000, 0x1200_0000, 0x0fff_ffff,
    ]);
    apic.write(APIC_REG.SPIV, -1);
    expect(apic.read(APIC_REG.SPIV)).toBe(APIC_SPIV.APIC_ENABLED | APIC_SPIV.FOCUS_DISABLED | 0xff);
    expect(apic.read(APIC_REG.LVR)).toBe(0x0006_0014);
  });
});
