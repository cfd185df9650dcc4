// SPDX-License-Identifier: GPL-2.0-only
/** The APIC timer on a hand-moved clock. Expectations: SDM, "APIC Timer" and "TSC-Deadline Mode". */
import { describe, expect, it } from 'vitest';
import { APIC_LVT, APIC_REG } from '../../../lib/x86/apic.ts';
import { ApicBus } from './apic_bus.ts';
import { LocalApic } from './local_apic.ts';

const TICK = 10;

function rig(): { apic: LocalApic; clock: { now: number; tscOffset: number }; deadlines: number[] } {
  const clock = { now: 1000, tscOffset: 0 };
  const deadlines: number[] = [];
  const apic = new LocalApic({
    id: 0,
    bus: new ApicBus(),
    tscPerTick: TICK,
    bsp: true,
    host: {
      now: () => clock.now,
      tscToCycles: (lo, hi) => Math.max(hi * 2 ** 32 + (lo >>> 0) - clock.tscOffset, clock.now),
      interruptPending: () => undefined,
      nmi: () => undefined,
      init: () => undefined,
      startup: () => undefined,
      timerChanged: (deadline) => deadlines.push(deadline),
    },
  });
  apic.write(APIC_REG.SPIV, 0x1ff);
  return { apic, clock, deadlines };
}

const DIVIDE_BY_1 = 0xb;

describe('APIC timer', () => {
  it('fires once in one-shot mode, at initial count times divisor', () => {
    const { apic, clock, deadlines } = rig();
    apic.write(APIC_REG.LVTT, 0x40);
    apic.write(APIC_REG.TDCR, DIVIDE_BY_1);
    apic.write(APIC_REG.TMICT, 100);
    expect(deadlines).toEqual([1000 + 100 * TICK]);
    clock.now = 1999;
    apic.timer.poll();
    expect(apic.highestDeliverable()).toBe(-1);
    expect(apic.read(APIC_REG.TMCCT)).toBe(1);
    clock.now = 2000;
    expect(apic.read(APIC_REG.TMCCT)).toBe(0);
    expect(apic.acknowledge()).toBe(0x40);
    expect(apic.timer.deadline).toBe(Infinity);
  });

  it.each([
    [0x0, 2],
    [0x1, 4],
    [0x2, 8],
    [0x3, 16],
    [0x8, 32],
    [0x9, 64],
    [0xa, 128],
    [0xb, 1],
  ])('divides by the table: TDCR %i is %i', (tdcr, divisor) => {
    const { apic } = rig();
    apic.write(APIC_REG.TDCR, tdcr);
    apic.write(APIC_REG.TMICT, 3);
    expect(apic.timer.deadline).toBe(1000 + 3 * TICK * divisor);
  });

  it('reloads in periodic mode and coalesces missed periods without drift', () => {
    const { apic, clock } = rig();
    apic.write(APIC_REG.LVTT, APIC_LVT.TIMER_PERIODIC | 0x40);
    apic.write(APIC_REG.TDCR, DIVIDE_BY_1);
    apic.write(APIC_REG.TMICT, 10);
    clock.now = 1350;
    apic.timer.poll();
    expect(apic.timer.deadline).toBe(1400);
    expect(apic.acknowledge()).toBe(0x40);
    expect(apic.vectors.highestPending()).toBe(-1);
  });

  it('counts on at the new rate when the divisor changes', () => {
    const { apic, clock } = rig();
    apic.write(APIC_REG.TDCR, DIVIDE_BY_1);
    apic.write(APIC_REG.TMICT, 100);
    clock.now = 1500;
    apic.write(APIC_REG.TDCR, 0);
    expect(apic.timer.deadline).toBe(1500 + 50 * TICK * 2);
  });

  it('stops with initial count 0, and delivers nothing while masked', () => {
    const { apic, clock } = rig();
    apic.write(APIC_REG.TMICT, 5);
    apic.write(APIC_REG.TMICT, 0);
    expect(apic.timer.deadline).toBe(Infinity);
    apic.write(APIC_REG.TMICT, 5);
    clock.now = 5000;
    apic.timer.poll();
    expect(apic.highestDeliverable()).toBe(-1);
  });

  it('fires at the TSC deadline and clears it', () => {
    const { apic, clock } = rig();
    apic.write(APIC_REG.LVTT, APIC_LVT.TIMER_TSCDEADLINE | 0x41);
    apic.timer.writeTscDeadline(1700, 0);
    expect(apic.timer.deadline).toBe(1700);
    expect(apic.read(APIC_REG.TMCCT)).toBe(0);
    clock.now = 1700;
    apic.timer.poll();
    expect(apic.acknowledge()).toBe(0x41);
    expect([apic.timer.tscDeadlineLo, apic.timer.deadline]).toEqual([0, Infinity]);
  });

  it('fires a TSC deadline in the past at once, and disarms with zero', () => {
    const { apic } = rig();
    apic.write(APIC_REG.LVTT, APIC_LVT.TIMER_TSCDEADLINE | 0x41);
    apic.timer.writeTscDeadline(10, 0);
    expect(apic.highestDeliverable()).toBe(0x41);
    apic.timer.writeTscDeadline(0, 1);
    apic.timer.writeTscDeadline(0, 0);
    expect(apic.timer.deadline).toBe(Infinity);
  });

  it('follows the TSC when it is moved', () => {
    const { apic, clock } = rig();
    apic.write(APIC_REG.LVTT, APIC_LVT.TIMER_TSCDEADLINE | 0x41);
    apic.timer.writeTscDeadline(5000, 0);
    clock.tscOffset = 3000;
    apic.timer.tscChanged();
    expect(apic.timer.deadline).toBe(2000);
  });

  it('ignores the deadline MSR outside of its mode, and the initial count inside', () => {
    const { apic } = rig();
    apic.timer.writeTscDeadline(5000, 0);
    expect(apic.timer.deadline).toBe(Infinity);
    apic.write(APIC_REG.LVTT, APIC_LVT.TIMER_TSCDEADLINE | 0x41);
    apic.write(APIC_REG.TMICT, 7);
    expect([apic.read(APIC_REG.TMICT), apic.timer.deadline]).toEqual([0, Infinity]);
  });

  it('is disarmed by a change to or from TSC-deadline mode only', () => {
    const { apic } = rig();
    apic.write(APIC_REG.TMICT, 7);
    apic.write(APIC_REG.LVTT, APIC_LVT.TIMER_PERIODIC | 0x40);
    expect(apic.timer.deadline).toBeLessThan(Infinity);
    apic.write(APIC_REG.LVTT, APIC_LVT.TIMER_TSCDEADLINE | 0x40);
    expect(apic.timer.deadline).toBe(Infinity);
  });

  it('starts again when the registers are loaded from an image', () => {
    const { apic, clock } = rig();
    apic.write(APIC_REG.TDCR, DIVIDE_BY_1);
    apic.write(APIC_REG.TMICT, 10);
    const other = rig();
    other.clock.now = clock.now + 500;
    other.apic.restore(apic.page.slice());
    expect(other.apic.timer.deadline).toBe(1600);
  });
});
