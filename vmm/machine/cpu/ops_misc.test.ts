// SPDX-License-Identifier: GPL-2.0-only
/** Bits, moves, exchanges, flags and conditions, stack. Expectations from the SDM's instruction pages. */
import { describe, expect, it } from 'vitest';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR0, RFLAGS } from '../../../lib/x86/registers.ts';
import { RUN, S } from './state.ts';
import { bare, DATA, peek, runOn, STACK_TOP } from './testing/bare.ts';

const { CF, PF, AF, ZF, SF, OF, DF } = RFLAGS;
const ARITH = CF | PF | AF | ZF | SF | OF;
const ONES = 0xffff_ffff_ffff_ffffn;

describe('bit instructions', () => {
  const b = bare([]);

  it('BT BTS BTR BTC take a register bit modulo the width and change only CF', () => {
    for (const [digit, change] of [
      [4, 0n],
      [5, 1n],
      [6, 0n],
      [7, 1n],
    ] as const) {
      for (const n of [0, 5, 31, 32, 63, 64 + 7]) {
        const value = 0x8000_0001_8000_00a1n;
        const bit = BigInt(n & 63);
        const o = runOn(b, [0x48, 0x0f, 0xba, 0xc0 | (digit << 3), n], {
          regs: { 0: value },
          rflags: ZF | OF,
        });
        const was = (value >> bit) & 1n;
        const clear = value & ~(1n << bit);
        const now = digit === 4 ? was : digit === 7 ? was ^ change : change;
        expect(o.regs[0]).toBe(clear | (now << bit));
        expect(o.rflags & ARITH).toBe(ZF | OF | Number(was));
      }
    }
  });

  it('a memory bit string is addressed by the whole signed register', () => {
    const data = [0n, 0n, 0n];
    for (const [offset, word, bit] of [
      [64n, 2, 0n],
      [-1n, 0, 63n],
      [3n, 1, 3n],
      [70n, 2, 6n],
    ] as const) {
      const o = runOn(b, [0x48, 0x0f, 0xab, 0x07], { regs: { 7: DATA + 8n, 0: offset }, data });
      expect(o.result).toBe(RUN.SYS);
      expect(peek(b, DATA + BigInt(word * 8))).toBe(1n << bit);
    }
    runOn(b, [0x66, 0x0f, 0xab, 0x07], { regs: { 7: DATA + 8n, 0: 0xfff0n }, data });
    expect(peek(b, DATA)).toBe(1n << 48n);
    runOn(b, [0x0f, 0xab, 0x07], { regs: { 7: DATA + 8n, 0: 0xffff_ffe0n }, data });
    expect(peek(b, DATA)).toBe(1n << 32n);
  });

  it('BSF and BSR find the lowest and highest bit; zero leaves the destination and sets ZF', () => {
    for (const v of [1n, 0x80n, 0x8000_0000n, 0x1_0000_0000n, 0xf000_0000_0000_0000n]) {
      const low = [...Array(64).keys()].find((n) => (v >> BigInt(n)) & 1n)!;
      const high = v.toString(2).length - 1;
      expect(runOn(b, [0x48, 0x0f, 0xbc, 0xc3], { regs: { 3: v } }).regs[0]).toBe(BigInt(low));
      expect(runOn(b, [0x48, 0x0f, 0xbd, 0xc3], { regs: { 3: v } }).regs[0]).toBe(BigInt(high));
    }
    const zero = runOn(b, [0x48, 0x0f, 0xbc, 0xc3], { regs: { 0: 77n } });
    expect(zero.regs[0]).toBe(77n);
    expect(zero.rflags & ZF).toBe(ZF);
    expect(runOn(b, [0x66, 0x0f, 0xbd, 0xc3], { regs: { 3: 0xffff_0000n, 0: 5n } }).regs[0]).toBe(5n);
  });

  it('LZCNT, TZCNT and POPCNT count, with ZF for a zero result and CF for a zero source', () => {
    const count = (op: number, rex: readonly number[], v: bigint): readonly [bigint, number] => {
      const o = runOn(b, [0xf3, ...rex, 0x0f, op, 0xc3], { regs: { 3: v }, rflags: ARITH });
      return [o.regs[0]!, o.rflags & (CF | ZF)];
    };
    expect(count(0xbd, [0x48], 1n)).toEqual([63n, 0]);
    expect(count(0xbd, [0x48], 0n)).toEqual([64n, CF]);
    expect(count(0xbd, [], 0x8000_0000n)).toEqual([0n, ZF]);
    expect(count(0xbc, [0x48], 0x1_0000_0000n)).toEqual([32n, 0]);
    expect(count(0xbc, [], 0n)).toEqual([32n, CF]);
    expect(count(0xbc, [], 1n)).toEqual([0n, ZF]);
    expect(count(0xb8, [0x48], 0xffff_0000_ffff_1110n)).toEqual([35n, 0]);
    expect(count(0xb8, [], 0n)).toEqual([0n, ZF]);
  });

  it('BSWAP reverses 4 or 8 bytes', () => {
    expect(runOn(b, [0x0f, 0xc8], { regs: { 0: 0xff01_0203_0405_0607n } }).regs[0]).toBe(0x0706_0504n);
    expect(runOn(b, [0x48, 0x0f, 0xc8], { regs: { 0: 0x0102_0304_0506_0708n } }).regs[0]).toBe(
      0x0807_0605_0403_0201n,
    );
  });
});

describe('moves', () => {
  const b = bare([]);

  it('32-bit writes clear the upper half, 8- and 16-bit writes keep the rest', () => {
    const regs = { 0: ONES, 3: 0x1122_3344_5566_7788n };
    expect(runOn(b, [0x89, 0xd8], { regs }).regs[0]).toBe(0x5566_7788n);
    expect(runOn(b, [0x66, 0x89, 0xd8], { regs }).regs[0]).toBe(0xffff_ffff_ffff_7788n);
    expect(runOn(b, [0x88, 0xd8], { regs }).regs[0]).toBe(0xffff_ffff_ffff_ff88n);
    expect(runOn(b, [0xb8, 1, 0, 0, 0x80], { regs }).regs[0]).toBe(0x8000_0001n);
    expect(runOn(b, [0x48, 0xc7, 0xc0, 1, 0, 0, 0x80], { regs }).regs[0]).toBe(0xffff_ffff_8000_0001n);
    expect(runOn(b, [0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8], { regs }).regs[0]).toBe(0x0807_0605_0403_0201n);
  });

  it('AH..BH are bits 15:8 without REX, SPL..DIL with it', () => {
    const regs = { 0: 0x1234n, 3: 0xabcdn, 6: 0x77n };
    expect(runOn(b, [0x88, 0xdc], { regs }).regs[0]).toBe(0xcd34n); // mov ah, bl
    expect(runOn(b, [0x88, 0xf8], { regs }).regs[0]).toBe(0x12abn); // mov al, bh
    expect(runOn(b, [0x40, 0x88, 0xf0], { regs }).regs[0]).toBe(0x1277n); // mov al, sil
    expect(runOn(b, [0x00, 0xe7], { regs }).regs[3]).toBe(0xbdcdn); // add bh, ah
    expect(runOn(b, [0x0f, 0xb6, 0xcc], { regs }).regs[1]).toBe(0x12n); // movzx ecx, ah
    expect(runOn(b, [0xb4, 0x99], { regs }).regs[0]).toBe(0x9934n); // mov ah, 0x99
  });

  it('MOVZX, MOVSX and MOVSXD extend registers and memory', () => {
    const setup = { regs: { 3: 0x8081_8283n, 7: DATA, 0: ONES }, data: [0x9091_92f3n] };
    const rax = (code: readonly number[]): bigint => runOn(b, code, setup).regs[0]!;
    expect(rax([0x0f, 0xb6, 0xc3])).toBe(0x83n);
    expect(rax([0x0f, 0xb7, 0xc3])).toBe(0x8283n);
    expect(rax([0x66, 0x0f, 0xb6, 0xc3])).toBe(0xffff_ffff_ffff_0083n);
    expect(rax([0x0f, 0xbe, 0xc3])).toBe(0xffff_ff83n);
    expect(rax([0x48, 0x0f, 0xbf, 0xc3])).toBe(0xffff_ffff_ffff_8283n);
    expect(rax([0x48, 0x63, 0xc3])).toBe(0xffff_ffff_8081_8283n);
    expect(rax([0x63, 0xc3])).toBe(0x8081_8283n);
    expect(rax([0x0f, 0xb6, 0x07])).toBe(0xf3n);
    expect(rax([0x0f, 0xb7, 0x07])).toBe(0x92f3n);
    expect(rax([0x48, 0x0f, 0xbe, 0x07])).toBe(0xffff_ffff_ffff_fff3n);
    expect(rax([0x48, 0x63, 0x07])).toBe(0xffff_ffff_9091_92f3n);
  });

  it('stores of every size write only their bytes', () => {
    const setup = { regs: { 0: 0x1122_3344_5566_7788n, 7: DATA }, data: [ONES] };
    const word = (code: readonly number[]): bigint => (runOn(b, code, setup), peek(b, DATA));
    expect(word([0x88, 0x07])).toBe(0xffff_ffff_ffff_ff88n);
    expect(word([0x88, 0x67, 0x01])).toBe(0xffff_ffff_ffff_77ffn); // mov [rdi + 1], ah
    expect(word([0x66, 0x89, 0x07])).toBe(0xffff_ffff_ffff_7788n);
    expect(word([0x89, 0x07])).toBe(0xffff_ffff_5566_7788n);
    expect(word([0x48, 0x89, 0x07])).toBe(0x1122_3344_5566_7788n);
    expect(word([0xc6, 0x07, 0x5a])).toBe(0xffff_ffff_ffff_ff5an);
    expect(word([0x48, 0xc7, 0x07, 0xfe, 0xff, 0xff, 0xff])).toBe(0xffff_ffff_ffff_fffen);
    expect(word([0x0f, 0xc3, 0x07])).toBe(0xffff_ffff_5566_7788n); // movnti
    expect(word([0x89, 0x47, 0x03])).toBe(0xff55_6677_88ff_ffffn); // misaligned
  });

  it('LEA computes without access, addresses wrap at 64 bits, 67 cuts them to 32', () => {
    const regs = { 3: ONES, 1: 3n, 5: 0x1_0000_0000n };
    expect(runOn(b, [0x48, 0x8d, 0x44, 0xcb, 0x10], { regs }).regs[0]).toBe(0x27n); // [rbx + rcx * 8 + 16]
    expect(runOn(b, [0x8d, 0x43, 0x00], { regs }).regs[0]).toBe(0xffff_ffffn);
    expect(runOn(b, [0x66, 0x8d, 0x43, 0x02], { regs }).regs[0]).toBe(1n);
    expect(runOn(b, [0x67, 0x48, 0x8d, 0x45, 0x08], { regs }).regs[0]).toBe(8n);
    expect(runOn(b, [0x48, 0x8d, 0x05, 0xff, 0xff, 0xff, 0xff], { regs }).regs[0]).toBe(0x40_0006n); // RIP-relative
    expect(runOn(b, [0x48, 0x8d, 0x04, 0x4d, 5, 0, 0, 0], { regs }).regs[0]).toBe(11n); // no base
  });

  it('moffs and FS-based operands reach memory', () => {
    const bytes = [...Array(8).keys()].map((n) => Number((DATA >> BigInt(8 * n)) & 0xffn));
    expect(runOn(b, [0x48, 0xa1, ...bytes], { data: [99n] }).regs[0]).toBe(99n);
    runOn(b, [0x48, 0xa3, ...bytes], { regs: { 0: 5n } });
    expect(peek(b, DATA)).toBe(5n);
    const fs = S.SEG + 4 * 5;
    b.cpu.s[fs] = Number(BigInt.asIntN(32, DATA));
    b.cpu.s[fs + 1] = Number(DATA >> 32n);
    expect(runOn(b, [0x64, 0x48, 0x8b, 0x04, 0x25, 8, 0, 0, 0], { data: [1n, 2n] }).regs[0]).toBe(2n);
  });

  it('XCHG, CBW and relatives, XLAT', () => {
    const both = runOn(b, [0x48, 0x87, 0xd8], { regs: { 0: 1n, 3: 2n } });
    expect([both.regs[0], both.regs[3]]).toEqual([2n, 1n]);
    const memory = runOn(b, [0x87, 0x07], { regs: { 0: ONES, 7: DATA }, data: [0x1_0000_0005n] });
    expect([memory.regs[0], peek(b, DATA)]).toEqual([5n, 0x1_ffff_ffffn]);
    expect(runOn(b, [0x93], { regs: { 0: 1n, 3: 0x2_0000_0002n } }).regs[0]).toBe(2n);
    expect(runOn(b, [0x66, 0x98], { regs: { 0: 0x80n } }).regs[0]).toBe(0xff80n);
    expect(runOn(b, [0x98], { regs: { 0: 0x8000n } }).regs[0]).toBe(0xffff_8000n);
    expect(runOn(b, [0x48, 0x98], { regs: { 0: 0x8000_0000n } }).regs[0]).toBe(0xffff_ffff_8000_0000n);
    expect(runOn(b, [0x48, 0x99], { regs: { 0: 1n << 63n } }).regs[2]).toBe(ONES);
    expect(runOn(b, [0x99], { regs: { 0: 1n, 2: ONES } }).regs[2]).toBe(0n);
    expect(runOn(b, [0xd7], { regs: { 0: 1n, 3: DATA }, data: [0x4200n] }).regs[0]).toBe(0x42n);
  });
});

describe('conditions', () => {
  const b = bare([]);
  /** The sixteen conditions as the SDM's table "EFLAGS Condition Codes" has them, even codes. */
  const truth = (f: number): readonly boolean[] => {
    const [c, z, s, o, p] = [CF, ZF, SF, OF, PF].map((m) => (f & m) !== 0);
    const positive = [o!, c!, z!, c! || z!, s!, p!, s !== o, z! || s !== o];
    return positive.flatMap((v) => [v, !v]);
  };

  it('Jcc, SETcc and CMOVcc follow the flags in all sixteen conditions', () => {
    for (let bits = 0; bits < 32; bits++) {
      const flags =
        (bits & 1 ? CF : 0) |
        (bits & 2 ? ZF : 0) |
        (bits & 4 ? SF : 0) |
        (bits & 8 ? OF : 0) |
        (bits & 16 ? PF : 0);
      for (const [cc, expected] of truth(flags).entries()) {
        const jump = runOn(b, [0x70 + cc, 0x02, 0xb3, 0x01], { rflags: flags }); // jcc over mov bl, 1
        expect(jump.regs[3], `cc ${cc} flags ${flags}`).toBe(expected ? 0n : 1n);
        expect(runOn(b, [0x0f, 0x90 + cc, 0xc3], { rflags: flags, regs: { 3: 0xff00n } }).regs[3]).toBe(
          expected ? 0xff01n : 0xff00n,
        );
        const cmov = runOn(b, [0x0f, 0x40 + cc, 0xc3], { rflags: flags, regs: { 0: ONES, 3: 7n } });
        expect(cmov.regs[0]).toBe(expected ? 7n : 0xffff_ffffn);
      }
    }
  });

  it('conditions after a comparison, a sum, a product and a shift agree with the flags that PUSHF would show', () => {
    const before = [
      [0x48, 0x39, 0xd8],
      [0x48, 0x01, 0xd8],
      [0x48, 0x0f, 0xaf, 0xc3],
      [0x48, 0xd1, 0xe0],
      [0x48, 0xff, 0xc0],
      [0x48, 0x11, 0xd8],
    ];
    for (const code of before) {
      for (const [x, y] of [
        [1n, 2n],
        [2n, 1n],
        [1n << 63n, 1n],
        [ONES, 1n],
        [5n, 5n],
        [ONES, ONES >> 1n],
      ] as const) {
        const flags = runOn(b, code, { regs: { 0: x, 3: y } }).rflags;
        for (const [cc, expected] of truth(flags).entries()) {
          const o = runOn(b, [...code, 0x0f, 0x80 + cc, 2, 0, 0, 0, 0xb1, 0x01], { regs: { 0: x, 3: y } });
          expect(o.regs[1], `${code.join()} cc ${cc}`).toBe(expected ? 0n : 1n);
        }
      }
    }
  });

  it('LOOP, LOOPE, LOOPNE and JRCXZ count RCX without flags', () => {
    const taken = (
      op: number,
      rcx: bigint,
      rflags: number,
      pre: readonly number[] = [],
    ): readonly [boolean, bigint] => {
      const o = runOn(b, [...pre, op, 0x02, 0xb3, 0x01], { regs: { 1: rcx }, rflags });
      expect(o.rflags & ARITH).toBe(rflags);
      return [o.regs[3] === 0n, o.regs[1]!];
    };
    expect(taken(0xe2, 2n, 0)).toEqual([true, 1n]);
    expect(taken(0xe2, 1n, 0)).toEqual([false, 0n]);
    expect(taken(0xe1, 2n, 0)).toEqual([false, 1n]);
    expect(taken(0xe1, 2n, ZF)).toEqual([true, 1n]);
    expect(taken(0xe0, 2n, ZF)).toEqual([false, 1n]);
    expect(taken(0xe2, 0x1_0000_0001n, 0, [0x67])).toEqual([false, 0n]);
    expect(taken(0xe3, 0n, 0)).toEqual([true, 0n]);
    expect(taken(0xe3, 1n << 32n, 0)).toEqual([false, 1n << 32n]);
    expect(taken(0xe3, 1n << 32n, 0, [0x67])).toEqual([true, 1n << 32n]);
  });
});

describe('flag instructions', () => {
  const b = bare([]);
  it('CLC STC CMC CLD STD LAHF SAHF', () => {
    expect(runOn(b, [0xf8], { rflags: ARITH }).rflags & ARITH).toBe(ARITH & ~CF);
    expect(runOn(b, [0xf9], {}).rflags & ARITH).toBe(CF);
    expect(runOn(b, [0xf5], { rflags: CF | ZF }).rflags & ARITH).toBe(ZF);
    expect(runOn(b, [0xfd], {}).rflags & DF).toBe(DF);
    expect(runOn(b, [0xfc], { rflags: DF }).rflags & DF).toBe(0);
    expect(runOn(b, [0x9f], { rflags: ARITH }).regs[0]).toBe(0xd700n);
    expect(runOn(b, [0x9e], { rflags: OF, regs: { 0: 0xff00n } }).rflags & ARITH).toBe(ARITH);
  });
});

describe('stack', () => {
  const b = bare([]);
  it('PUSH and POP move RSP by 8, by 2 with an operand-size prefix; PUSH RSP pushes the old value', () => {
    const push = runOn(b, [0x54], {});
    expect(push.regs[4]).toBe(STACK_TOP - 8n);
    expect(peek(b, STACK_TOP - 8n)).toBe(STACK_TOP);
    expect(runOn(b, [0x6a, 0xff, 0x58], {}).regs[0]).toBe(ONES);
    expect(runOn(b, [0x68, 0, 0, 0, 0x80, 0x5b], {}).regs[3]).toBe(0xffff_ffff_8000_0000n);
    const small = runOn(b, [0x66, 0x50], { regs: { 0: 0x1234n } });
    expect(small.regs[4]).toBe(STACK_TOP - 2n);
    expect(runOn(b, [0x50, 0x5c], { regs: { 0: DATA } }).regs[4]).toBe(DATA); // pop rsp
    expect(runOn(b, [0xff, 0x37, 0x58], { regs: { 7: DATA }, data: [321n] }).regs[0]).toBe(321n); // push [rdi]
    runOn(b, [0x50, 0x8f, 0x07], { regs: { 0: 9n, 7: DATA } }); // pop [rdi]
    expect(peek(b, DATA)).toBe(9n);
  });

  it('POP to an RSP-based address uses RSP after the pop', () => {
    runOn(b, [0x50, 0x50, 0x8f, 0x04, 0x24], { regs: { 0: 7n } });
    expect(peek(b, STACK_TOP - 8n)).toBe(7n);
  });

  it('ENTER and LEAVE build and drop a frame', () => {
    const enter = runOn(b, [0xc8, 0x20, 0x00, 0x00], { regs: { 5: 0x55n } });
    expect(enter.regs[5]).toBe(STACK_TOP - 8n);
    expect(enter.regs[4]).toBe(STACK_TOP - 0x28n);
    const both = runOn(b, [0xc8, 0x20, 0x00, 0x00, 0xc9], { regs: { 5: 0x55n } });
    expect([both.regs[4], both.regs[5]]).toEqual([STACK_TOP, 0x55n]);
    const nested = runOn(b, [0xc8, 0x10, 0x00, 0x02], { regs: { 5: DATA + 16n }, data: [0n, 0xabcn] });
    expect(nested.regs[4]).toBe(STACK_TOP - 8n - 16n - 0x10n);
    expect(peek(b, STACK_TOP - 16n)).toBe(0xabcn);
    expect(peek(b, STACK_TOP - 24n)).toBe(STACK_TOP - 8n);
  });

  it('CALL, RET and RET imm nest', () => {
    // call +2; hlt; nop; add rax, 1; ret
    const o = runOn(b, [0xe8, 0x02, 0, 0, 0, 0xf4, 0x90, 0x48, 0x83, 0xc0, 0x01, 0xc3], {});
    expect([o.regs[0], o.regs[4]]).toEqual([1n, STACK_TOP]);
    const released = runOn(b, [0x50, 0x50, 0xe8, 0x01, 0, 0, 0, 0xf4, 0xc2, 0x10, 0x00], {});
    expect(released.regs[4]).toBe(STACK_TOP);
    const indirect = runOn(b, [0xff, 0xd0, 0xf4, 0x90, 0xb3, 0x05, 0xc3], { regs: { 0: 0x40_0004n } });
    expect(indirect.regs[3]).toBe(5n);
    const memory = runOn(b, [0xff, 0x27, 0xf4, 0x90, 0xb3, 0x06], { regs: { 7: DATA }, data: [0x40_0004n] }); // jmp [rdi]
    expect(memory.regs[3]).toBe(6n);
  });
});

describe('atomic exchanges', () => {
  const b = bare([]);

  it('CMPXCHG stores on equality, else loads the accumulator', () => {
    for (const lock of [[], [0xf0]]) {
      const code = [...lock, 0x48, 0x0f, 0xb1, 0x1f];
      const equal = runOn(b, code, { regs: { 0: 5n, 3: 9n, 7: DATA }, data: [5n] });
      expect([peek(b, DATA), equal.regs[0], equal.rflags & ZF]).toEqual([9n, 5n, ZF]);
      const other = runOn(b, code, { regs: { 0: 4n, 3: 9n, 7: DATA }, data: [5n] });
      expect([peek(b, DATA), other.regs[0], other.rflags & (ZF | CF)]).toEqual([5n, 5n, CF]);
    }
    expect(runOn(b, [0x0f, 0xb0, 0xcb], { regs: { 0: 0x105n, 1: 7n, 3: 0x205n } }).regs[3]).toBe(0x207n);
    expect(runOn(b, [0x0f, 0xb1, 0xcb], { regs: { 0: 1n, 1: 7n, 3: 0x205n } }).regs[0]).toBe(0x205n);
  });

  it('CMPXCHG8B and CMPXCHG16B compare EDX:EAX and RDX:RAX and change ZF only', () => {
    const regs = { 0: 1n, 2: 2n, 3: 3n, 1: 4n, 7: DATA };
    const eight = runOn(b, [0xf0, 0x0f, 0xc7, 0x0f], { regs, rflags: CF | OF, data: [0x2_0000_0001n] });
    expect([peek(b, DATA), eight.rflags & ARITH]).toEqual([0x4_0000_0003n, CF | OF | ZF]);
    const miss = runOn(b, [0x0f, 0xc7, 0x0f], { regs, data: [0x7_0000_0008n] });
    expect([miss.regs[0], miss.regs[2], miss.rflags & ZF]).toEqual([8n, 7n, 0]);
    const wide = runOn(b, [0xf0, 0x48, 0x0f, 0xc7, 0x4f, 0x10], {
      regs: { ...regs, 7: DATA - 0x10n },
      data: [1n, 2n],
    });
    expect([peek(b, DATA), peek(b, DATA + 8n), wide.rflags & ZF]).toEqual([3n, 4n, ZF]);
    const no = runOn(b, [0x48, 0x0f, 0xc7, 0x0f], { regs, data: [1n, 9n] });
    expect([no.regs[0], no.regs[2], no.rflags & ZF]).toEqual([1n, 9n, 0]);
    const odd = runOn(b, [0x48, 0x0f, 0xc7, 0x4f, 0x08], { regs });
    expect([odd.result, b.cpu.fault.vector]).toEqual([RUN.FAULT, VECTOR.GP]);
  });

  it('XADD exchanges and adds', () => {
    const o = runOn(b, [0x48, 0x0f, 0xc1, 0x07], { regs: { 0: 5n, 7: DATA }, data: [ONES] });
    expect([o.regs[0], peek(b, DATA), o.rflags & CF]).toEqual([ONES, 4n, CF]);
    expect(runOn(b, [0x48, 0x0f, 0xc1, 0xc0], { regs: { 0: 5n } }).regs[0]).toBe(10n);
  });
});

describe('fences, flushes and the FXSAVE image', () => {
  const b = bare([]);

  it('fences, prefetches and flushes change no register; CLFLUSH checks the address', () => {
    for (const code of [
      [0x0f, 0xae, 0xf0],
      [0x0f, 0xae, 0xe8],
      [0x0f, 0xae, 0xf8],
      [0x0f, 0x18, 0x07],
      [0x0f, 0x1f, 0x44, 0x00, 0x00],
    ]) {
      expect(runOn(b, code, {}).regs.every((r, n) => n === 4 || r === 0n)).toBe(true);
    }
    expect(runOn(b, [0x0f, 0xae, 0x3f], { regs: { 7: DATA } }).result).toBe(RUN.SYS);
    expect(runOn(b, [0x0f, 0xae, 0x3f], { regs: { 7: 0x10n } }).result).toBe(RUN.FAULT);
  });

  it('FXSAVE shows the reset state and what FXRSTOR loaded; MXCSR reserved bits and misalignment raise GP, TS raises NM', () => {
    runOn(b, [0x0f, 0xae, 0x07], { regs: { 7: DATA } });
    expect(peek(b, DATA) & 0xffffn).toBe(0x37fn);
    expect(peek(b, DATA + 24n)).toBe(0xffff_0000_1f80n);
    const data = [0x37fn, 0n, 0n, 0x1fa0n, 0xabcdn];
    runOn(b, [0x0f, 0xae, 0x0f, 0x0f, 0xae, 0x87, 0, 0x10, 0, 0], { regs: { 7: DATA }, data });
    expect(peek(b, DATA + 0x1000n + 32n)).toBe(0xabcdn);
    expect(peek(b, DATA + 0x1000n + 24n)).toBe(0xffff_0000_1fa0n);
    expect(runOn(b, [0x0f, 0xae, 0x0f], { regs: { 7: DATA }, data: [0n, 0n, 0n, 0x1_0000n] }).result).toBe(
      RUN.FAULT,
    );
    expect(b.cpu.fault.vector).toBe(VECTOR.GP);
    expect(runOn(b, [0x0f, 0xae, 0x07], { regs: { 7: DATA + 8n } }).result).toBe(RUN.FAULT);
    b.cpu.s[S.CR0] = b.cpu.s[S.CR0]! | CR0.TS;
    expect(runOn(b, [0x0f, 0xae, 0x07], { regs: { 7: DATA } }).result).toBe(RUN.FAULT);
    expect(b.cpu.fault.vector).toBe(VECTOR.NM);
  });
});
