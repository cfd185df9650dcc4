// SPDX-License-Identifier: GPL-2.0-only
/** Loads and stores at linear addresses: sizes, page crossing, MMIO, and that a failed store writes nothing. */
import { describe, expect, it } from 'vitest';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR4 } from '../../../lib/x86/registers.ts';
import { S } from '../cpu/state.ts';
import { ACCESS } from './access.ts';
import { loadLinear, loadLinearSystem, storeLinear, storeLinearSystem } from './linear.ts';
import { PagingBox } from './testing/paging_box.ts';
import { translateSystem } from './translate.ts';

const LIN = 0x40_0000n;
const PAGE = 0x180_0000;
/** The second page lies elsewhere, so that crossing shows. */
const NEXT = 0x180_8000;

function crossing(): PagingBox {
  const box = new PagingBox();
  box.map(LIN, PAGE);
  box.map(LIN + 0x1000n, NEXT);
  return box;
}

const load = (box: PagingBox, lin: bigint, size: number, flags = 0): bigint | null => {
  const out = new Int32Array(2);
  if (!loadLinear(box.cpu, box.lo(lin), box.hi(lin), size, out, flags)) return null;
  return (BigInt(out[1]! >>> 0) << 32n) | BigInt(out[0]! >>> 0);
};

const store = (box: PagingBox, lin: bigint, size: number, value: bigint, flags = 0): boolean =>
  storeLinear(box.cpu, box.lo(lin), box.hi(lin), size, box.lo(value), box.hi(value), flags);

describe('a load', () => {
  it('takes 1, 2, 4 or 8 bytes, zero-extended, at any offset', () => {
    const box = crossing();
    box.write(PAGE + 8, 0xfedc_ba98_8765_4321n);
    expect([1, 2, 4, 8].map((size) => load(box, LIN + 8n, size))).toEqual([
      0x21n,
      0x4321n,
      0x8765_4321n,
      0xfedc_ba98_8765_4321n,
    ]);
    expect(load(box, LIN + 9n, 4)).toBe(0x9887_6543n);
  });

  it('crosses into the next page wherever that lies', () => {
    const box = crossing();
    for (let n = 0; n < 8; n++) box.mem.u8[PAGE + 0xff8 + n] = 0xa0 + n;
    for (let n = 0; n < 8; n++) box.mem.u8[NEXT + n] = 0xb0 + n;
    for (const size of [2, 4, 8]) {
      for (let at = 0x1000 - size + 1; at < 0x1000; at++) {
        const bytes = Array.from({ length: size }, (_, n) =>
          at + n < 0x1000 ? 0xa8 - 0x1000 + at + n : 0xb0 + at + n - 0x1000,
        );
        const expected = bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
        expect(load(box, LIN + BigInt(at), size)).toBe(expected);
      }
    }
  });

  it('faults at the second page with its address', () => {
    const box = new PagingBox();
    box.map(LIN, PAGE);
    expect(load(box, LIN + 0xffen, 4)).toBeNull();
    expect([box.cpu.fault.vector, box.cpu.fault.linLo]).toEqual([VECTOR.PF, 0x40_1000]);
  });

  it('crosses 4 GiB, and faults where canonical addresses end', () => {
    const box = new PagingBox();
    box.map(0xffff_f000n, PAGE);
    box.map(0x1_0000_0000n, NEXT);
    box.write(NEXT, 0x77n);
    expect(load(box, 0xffff_ffffn, 2)).toBe(0x7700n);
    box.map(0x7fff_ffff_f000n, PAGE);
    expect(load(box, 0x7fff_ffff_fffen, 4)).toBeNull();
    expect(box.cpu.fault.vector).toBe(VECTOR.GP);
    expect(load(box, 0x7fff_ffff_fffen, 4, ACCESS.STACK)).toBeNull();
    expect(box.cpu.fault.vector).toBe(VECTOR.SS);
  });
});

describe('a store', () => {
  it('writes 1, 2, 4 or 8 bytes and no more', () => {
    for (const size of [1, 2, 4, 8]) {
      const box = crossing();
      box.write(PAGE + 16, -1n & 0xffff_ffff_ffff_ffffn);
      expect(store(box, LIN + 16n, size, 0x1122_3344_5566_7788n)).toBe(true);
      const mask = (1n << BigInt(size * 8)) - 1n;
      expect(box.read(PAGE + 16)).toBe((0x1122_3344_5566_7788n & mask) | (0xffff_ffff_ffff_ffffn & ~mask));
    }
  });

  it('crosses into the next page', () => {
    const box = crossing();
    expect(store(box, LIN + 0xffdn, 8, 0x1122_3344_5566_7788n)).toBe(true);
    expect(box.read(PAGE + 0xff8) >> 40n).toBe(0x66_7788n);
    expect(box.read(NEXT)).toBe(0x11_2233_4455n);
  });

  it('writes nothing if the second page faults', () => {
    const box = new PagingBox();
    box.map(LIN, PAGE);
    box.map(LIN + 0x1000n, NEXT, 0x65);
    expect(store(box, LIN + 0xffen, 4, -1n)).toBe(false);
    expect([box.cpu.fault.vector, box.cpu.fault.errorCode, box.cpu.fault.linLo]).toEqual([
      VECTOR.PF,
      3,
      0x40_1000,
    ]);
    expect([box.read(PAGE + 0xff8), box.read(NEXT)]).toEqual([0n, 0n]);
  });

  it('is told to the code cache if the frame holds code', () => {
    const box = crossing();
    const noted: number[][] = [];
    const code = {
      hasCode: (pfn: number) => pfn === PAGE >>> 12,
      noteStore: (...args: number[]) => noted.push(args),
    };
    Object.assign(box.cpu, { code });
    store(box, LIN + 4n, 4, 1n);
    store(box, LIN + 0x1004n, 4, 1n);
    store(box, LIN + 0xfffn, 2, 1n);
    expect(noted).toEqual([
      [PAGE + 4, 4],
      [PAGE + 0xfff, 1],
    ]);
  });
});

describe('addresses outside of RAM', () => {
  it('go to the MMIO bus', () => {
    const box = new PagingBox();
    box.map(LIN, 0xfee0_0000);
    const seen: unknown[] = [];
    const sys = {
      mmioRead: (hpa: number, size: number, out: Int32Array) => {
        seen.push(['read', hpa, size]);
        out[0] = 0x55;
      },
      mmioWrite: (...args: number[]) => seen.push(['write', ...args]),
    };
    Object.assign(box.cpu, { sys });
    expect(load(box, LIN + 0x30n, 4)).toBe(0x55n);
    expect(store(box, LIN + 0xb0n, 4, 7n)).toBe(true);
    expect(seen).toEqual([
      ['read', 0xfee0_0030, 4],
      ['write', 0xfee0_00b0, 4, 7, 0],
    ]);
  });
});

describe('implicit supervisor accesses', () => {
  it('ignore CPL but not SMAP', () => {
    const box = new PagingBox();
    box.map(LIN, PAGE, 0x63); // supervisor
    box.map(LIN + 0x1000n, NEXT); // user
    box.cpu.s[S.CPL] = 3;
    box.changed();
    const out = new Int32Array(2);
    expect(loadLinear(box.cpu, 0x40_0000, 0, 8, out)).toBe(false);
    expect(loadLinearSystem(box.cpu, 0x40_0000, 0, 8, out)).toBe(true);
    expect(storeLinearSystem(box.cpu, 0x40_0000, 0, 8, 1, 2)).toBe(true);
    expect(box.read(PAGE)).toBe(0x2_0000_0001n);
    expect(box.fastHit(LIN, 0)).toBe(false);
    expect(translateSystem(box.cpu, 0x40_1000, 0, ACCESS.READ)).toBe(NEXT);
    box.cpu.s[S.CR4]! |= CR4.SMAP;
    box.changed();
    expect(storeLinearSystem(box.cpu, 0x40_1000, 0, 1, 1, 0)).toBe(false);
    expect(box.cpu.fault.errorCode).toBe(3);
  });
});
