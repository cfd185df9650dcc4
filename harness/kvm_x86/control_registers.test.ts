// SPDX-License-Identifier: GPL-2.0-only
/** Control registers as a guest writes them. Expected: SDM, "MOV - Move to/from Control Registers". */
import { describe, expect, it } from 'vitest';
import { type Operand, R } from '../../lib/asm/operands.ts';
import {
  get_cr0,
  get_cr4,
  GUEST_DONE,
  GUEST_SYNC,
  GUEST_SYNC_ARGS,
  type GuestCode,
  KVM_ASM_SAFE,
  set_cr0,
  set_cr4,
  xgetbv,
  xsetbv,
  xsetbv_safe,
} from '../../lib/guest/index.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { CR0, CR4 } from '../../lib/x86/registers.ts';
import { guest, nextSync, withVm } from './small_vm.ts';

describe('control registers', () => {
  const faultOf = (g: GuestCode, emit: Parameters<typeof KVM_ASM_SAFE>[1]['emit'], value: bigint) =>
    KVM_ASM_SAFE(g, { in: { v: value }, emit }).vector;
  const toCr =
    (cr: 'cr0' | 'cr3' | 'cr4' | 'cr8') =>
    (a: { emit(i: 'mov', ...o: Operand[]): void }, r: { reg64(n: string): Operand }) =>
      a.emit('mov', R[cr], r.reg64('v'));

  it('refuse what the SDM forbids with GP', () => {
    const good0 = BigInt((CR0.PE | CR0.NE | CR0.PG) >>> 0);
    const code = guest((g) => {
      const bad: [Parameters<typeof toCr>[0], bigint][] = [
        ['cr0', good0 | BigInt(CR0.NW)],
        ['cr0', good0 & ~BigInt(CR0.PE)],
        ['cr0', good0 & ~BigInt(CR0.PG >>> 0)],
        ['cr0', good0 | (1n << 32n)],
        ['cr4', BigInt(CR4.OSFXSR)],
        ['cr4', BigInt(CR4.PAE | CR4.LA57)],
        ['cr4', BigInt(CR4.PAE | CR4.SMXE)],
        ['cr4', BigInt(CR4.PAE) | (1n << 32n)],
        ['cr8', 16n],
      ];
      for (const [cr, value] of bad) GUEST_SYNC(g, faultOf(g, toCr(cr), value));
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      for (let i = 0; i < 9; i++) expect([i, (yield* nextSync(vcpu))[0]]).toEqual([i, BigInt(VECTOR.GP)]);
      expect(yield* nextSync(vcpu)).toEqual([]);
    });
  });

  it('take what it allows, and the guest reads back what it wrote', () => {
    const code = guest((g) => {
      const old0 = g.let(get_cr0(g));
      set_cr0(g, old0.or(CR0.WP | CR0.AM | CR0.TS));
      const new0 = g.let(get_cr0(g));
      set_cr0(g, old0);
      const old4 = g.let(get_cr4(g));
      set_cr4(g, old4.or(CR4.PCIDE | CR4.OSXSAVE | CR4.PGE));
      const new4 = g.let(get_cr4(g));
      xsetbv(g, 0, 3);
      const xcr0 = g.let(xgetbv(g, 0));
      GUEST_SYNC_ARGS(
        g,
        new0.xor(old0).and(~BigInt(CR0.ET)),
        new4.xor(old4),
        xcr0,
        xsetbv_safe(g, 0, 2),
        xsetbv_safe(g, 0, 5),
      );
      // SDM, "MOV - Move to/from Control Registers": PCIDs go only while CR3's low bits allow it.
      set_cr4(g, old4);
      GUEST_SYNC_ARGS(g, get_cr4(g).xor(old4), 0, 0, 0, 0);
      GUEST_SYNC_ARGS(g, xsetbv_safe(g, 1, 1), 0, 0, 0, 0);
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      const cr4 = BigInt(CR4.PCIDE | CR4.OSXSAVE | CR4.PGE);
      const gp = BigInt(VECTOR.GP);
      const got = yield* nextSync(vcpu);
      expect(got).toEqual([BigInt(CR0.WP | CR0.AM | CR0.TS), cr4, 3n, gp, gp]);
      expect((yield* nextSync(vcpu))[0]).toBe(0n);
      // Without OSXSAVE the instruction itself is undefined.
      expect((yield* nextSync(vcpu))[0]).toBe(BigInt(VECTOR.UD));
      expect(vcpu.fd.getXcrs().xcrs).toEqual([{ xcr: 0, value: 3n }]);
    });
  });
});
