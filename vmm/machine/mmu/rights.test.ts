// SPDX-License-Identifier: GPL-2.0-only
/**
 * The permission matrix. The expectation is a second statement of the SDM's "Determination of Access Rights" and
 * "Protection Keys", sentence by sentence, over booleans; error codes from "Page-Fault Exceptions".
 */
import { describe, expect, it } from 'vitest';
import { PFERR, VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR0, CR4, EFER, RFLAGS } from '../../../lib/x86/registers.ts';
import { FAULT, S } from '../cpu/state.ts';
import { ACCESS } from './access.ts';
import { flushAll } from './invalidate.ts';
import { PagingBox } from './testing/paging_box.ts';

interface Case {
  readonly cpl: number;
  readonly wp: boolean;
  readonly smep: boolean;
  readonly smap: boolean;
  readonly ac: boolean;
  readonly implicit: boolean;
  readonly user: boolean;
  readonly writable: boolean;
  readonly noExec: boolean;
  readonly kind: number;
  /** Access-disable and write-disable of the page's key; PKE is on if either is set. */
  readonly ad: boolean;
  readonly wd: boolean;
}

/** SDM: which accesses are allowed. */
function sdmAllows(c: Case): boolean {
  const userMode = c.cpl === 3 && !c.implicit;
  if (c.kind !== ACCESS.EXEC && keyForbids(c)) return false;
  if (userMode) {
    // "Data may be read from any user-mode address"; written "if R/W is 1 in every entry"; fetched "if XD is 0".
    if (!c.user) return false;
    if (c.kind === ACCESS.WRITE) return c.writable;
    return c.kind === ACCESS.READ || !c.noExec;
  }
  if (c.kind === ACCESS.EXEC) return c.user && c.smep ? false : !c.noExec;
  // "If CR4.SMAP = 1: EFLAGS.AC = 1 and the access is explicit" for user-mode addresses.
  if (c.user && c.smap && (!c.ac || c.implicit)) return false;
  return c.kind === ACCESS.READ || !c.wp || c.writable;
}

function keyForbids(c: Case): boolean {
  if (!c.user) return false;
  if (c.ad) return true;
  return c.kind === ACCESS.WRITE && c.wd && (c.wp || (c.cpl === 3 && !c.implicit));
}

function sdmErrorCode(c: Case): number {
  let code: number = PFERR.PRESENT;
  if (c.kind === ACCESS.WRITE) code |= PFERR.WRITE;
  if (c.cpl === 3 && !c.implicit) code |= PFERR.USER;
  if (c.kind === ACCESS.EXEC)
    code |= PFERR.FETCH; // NXE is on throughout
  else if (keyForbids(c)) code |= PFERR.PK;
  return code;
}

function* cases(kind: number): Generator<Case> {
  const flag = [false, true];
  for (let bits = 0; bits < 1 << 9; bits++) {
    const [wp, smep, smap, ac, implicit, user, writable, noExec] = Array.from(
      { length: 8 },
      (_, n) => (bits >> n) & 1,
    ).map((bit) => flag[bit]!) as [boolean, boolean, boolean, boolean, boolean, boolean, boolean, boolean];
    for (const [ad, wd] of [
      [false, false],
      [true, false],
      [false, true],
    ] as const) {
      const cpl = (bits >> 8) & 1 ? 3 : 0;
      if (implicit && kind === ACCESS.EXEC) continue;
      yield { cpl, wp, smep, smap, ac, implicit, user, writable, noExec, kind, ad, wd };
    }
  }
}

const KEY = 5;

function apply(box: PagingBox, c: Case): void {
  const { s } = box.cpu;
  s[S.CPL] = c.cpl;
  s[S.CR0] = CR0.PE | CR0.PG | (c.wp ? CR0.WP : 0);
  s[S.CR4] =
    CR4.PAE | CR4.PGE | (c.smep ? CR4.SMEP : 0) | (c.smap ? CR4.SMAP : 0) | (c.ad || c.wd ? CR4.PKE : 0);
  s[S.RFLAGS_SYS] = c.ac ? RFLAGS.AC : 0;
  s[S.EFER] = EFER.LMA | EFER.NXE;
  s[S.PKRU] = ((c.ad ? 1 : 0) | (c.wd ? 2 : 0)) << (KEY * 2);
  box.changed();
}

/** Where each combination of U/S, R/W and XD is mapped. */
const pageOf = (c: Case): bigint =>
  0x7000_0000_0000n + BigInt((c.user ? 1 : 0) | (c.writable ? 2 : 0) | (c.noExec ? 4 : 0)) * 0x1000n;

function matrixBox(): PagingBox {
  const box = new PagingBox();
  for (let n = 0; n < 8; n++) {
    const flags =
      0x61n | (n & 1 ? 4n : 0n) | (n & 2 ? 2n : 0n) | (n & 4 ? 1n << 63n : 0n) | (BigInt(KEY) << 59n);
    box.map(0x7000_0000_0000n + BigInt(n) * 0x1000n, 0x180_0000 + n * 0x1000, flags);
  }
  return box;
}

describe('access rights of a page', () => {
  for (const [name, kind] of [
    ['reads', ACCESS.READ],
    ['writes', ACCESS.WRITE],
    ['fetches', ACCESS.EXEC],
  ] as const) {
    it(`are the SDM's for ${name}, from the tables, from a cached mapping and in the fast TLB`, () => {
      const box = matrixBox();
      let checked = 0;
      for (const c of cases(kind)) {
        apply(box, c);
        const access = kind | (c.implicit ? ACCESS.SYSTEM : 0);
        // Cold, then filled by an access that everybody may do (a supervisor read without SMAP), then by the fast TLB.
        for (const way of ['cold', 'cached']) {
          flushAll(box.cpu);
          if (way === 'cached') {
            apply(box, { ...c, cpl: 0, smap: false, ad: false, wd: false });
            expect(box.go(pageOf(c), ACCESS.READ)).toBeGreaterThan(0);
            apply(box, c);
          }
          const allowed = box.go(pageOf(c), access) >= 0;
          expect({ ...c, way, allowed }).toEqual({ ...c, way, allowed: sdmAllows(c) });
          if (!allowed) {
            const { fault } = box.cpu;
            expect([fault.kind, fault.vector]).toEqual([FAULT.EXCEPTION, VECTOR.PF]);
            expect({ ...c, way, code: fault.errorCode }).toEqual({ ...c, way, code: sdmErrorCode(c) });
          } else if (!c.implicit) expect(box.fastHit(pageOf(c), kind)).toBe(true);
          checked++;
        }
      }
      expect(checked).toBeGreaterThan(1000);
    });
  }

  it('let the fast TLB allow only what the current context allows', () => {
    const box = matrixBox();
    const user = {
      cpl: 3,
      wp: true,
      smep: true,
      smap: true,
      ac: false,
      implicit: false,
      user: true,
      writable: false,
    } as const;
    const c: Case = { ...user, noExec: true, kind: ACCESS.READ, ad: false, wd: false };
    apply(box, c);
    expect(box.go(pageOf(c), ACCESS.READ)).toBeGreaterThan(0);
    expect([0, 1, 2].map((kind) => box.fastHit(pageOf(c), kind as 0 | 1 | 2))).toEqual([true, false, false]);
    apply(box, { ...c, cpl: 0 });
    expect(box.fastHit(pageOf(c), 0)).toBe(false);
  });
});

describe('a page fault from a fetch', () => {
  it('has the I/D flag only with NXE or SMEP', () => {
    for (const [nxe, smep] of [
      [0, 0],
      [0, 1],
      [1, 0],
      [1, 1],
    ] as const) {
      const box = new PagingBox();
      box.cpu.s[S.EFER] = EFER.LMA | (nxe ? EFER.NXE : 0);
      box.cpu.s[S.CR4] = CR4.PAE | (smep ? CR4.SMEP : 0);
      box.changed();
      expect(box.go(0x1000n, ACCESS.EXEC)).toBe(-1);
      expect(box.cpu.fault.errorCode).toBe(nxe | smep ? PFERR.FETCH : 0);
    }
  });
});
