// SPDX-License-Identifier: GPL-2.0-only
/**
 * The interpreter's loop: one switch over the records of hot.ts, lazy flags and the instruction counter in locals. V8
 * does not optimise functions above 60 KB of bytecode: keep this one below 45 KB. Case labels are HOT.* as literals,
 * because only literals make a jump table; a test compares them. All that can fail or wait is in slow.ts.
 */
import { COST } from '../cost/points.ts';
import type { Cpu } from './cpu.ts';
import { FIRST_TABLE } from './code_cache.ts';
import { lazyCarry, lazyCondition } from './condition.ts';
import { checkMode } from './execute.ts';
import { WHY } from './hot.ts';
import { FAST_TLB_ENTRIES } from '../layout.ts';
import { SCRATCH } from './regs.ts';
import { slowStep } from './slow.ts';
import { S } from './state.ts';
import { mulHigh } from './wide.ts';

const TLB_MASK = FAST_TLB_ENTRIES - 1;
const MAX_SLICE = 0x3fff_ffff;
const { TMP, DELTA, TABLE, ADDR, KIND } = SCRATCH;
const { ENTER, CHAIN, TIME, GENERIC, MISS } = WHY;
const RIP = S.RIP;
const RSP = S.GPR + 8;
const { FLAG_OP, FLAG_A, FLAG_B, FLAG_R } = S;
const { INSN } = COST;

/**
 * Execute instructions while the clock is below `deadline`. Returns RUN.DEADLINE (also when S.PENDING is raised),
 * RUN.FAULT (nothing was written) or RUN.SYS; RIP is at the instruction and it has not been counted. TF, RF and
 * interrupt shadows are the caller's: with deadline = clock + 1 exactly one instruction or iteration is executed.
 */
// prettier-ignore
export function tier0(cpu: Cpu, deadline: number): number {
  const { s, clock, counts } = cpu; const { i32: m, u8, u16 } = cpu.mem;
  const { readTag, writeTag, execTag, hiTag, addend } = cpu.fast; const { slotOf } = cpu.code;
  let why: number = ENTER; let p = 0; let lo = 0; let hi = 0; let kind = 0; let rmw = 0; checkMode(cpu);
  for (;;) {
    p = slowStep(cpu, why, p, deadline);
    if (p < 0) return ~p;
    let fop = s[FLAG_OP]!; let fal = s[FLAG_A]!; let fah = s[FLAG_A + 1]!; let fbl = s[FLAG_B]!;
    let fbh = s[FLAG_B + 1]!; let frl = s[FLAG_R]!; let frh = s[FLAG_R + 1]!; let page = s[RIP]! & -4096;
    let ripHi = s[RIP + 1]!; let delta = s[DELTA]!; let table = s[TABLE]!; const ctx = s[S.CTX]!;
    const slice = Math.min(Math.max(Math.ceil(deadline - clock[0]!), 1), MAX_SLICE) | 0; let left = slice;
    hot: for (;;) {
      if (left <= 0) { why = TIME; break; }
      left = (left - 1) | 0;
      miss: {
      jump: {
       direct: {
        let taken = false;
        branch: {
        select: {
        switch (m[p]) {
        case 0: { // GENERIC
          why = GENERIC; break hot;
        }
        case 1: { // LINK
          left = (left + 1) | 0; const t = m[p + 5]!;
          if (t !== 0) { p = t; continue hot; }
          break direct;
        }
        case 2: { // NOP
          break;
        }
        case 3: { // MOV64
          const d = m[p + 1]!; const b = m[p + 2]!; s[d] = s[b]!; s[d + 1] = s[b + 1]!; break;
        }
        case 4: { // MOV32
          const d = m[p + 1]!; s[d] = s[m[p + 2]!]!; s[d + 1] = 0; break;
        }
        case 5: { // MOVI
          const d = m[p + 1]!; s[d] = m[p + 3]!; s[d + 1] = m[p + 4]!; left = (left + m[p + 5]!) | 0; break;
        }
        case 6: { // LEA_BD
          const d = m[p + 1]!; const b = m[p + 2]!; const bl = s[b]!; const disp = m[p + 3]!;
          const l = (bl + disp) | 0; s[d + 1] = s[b + 1]! + (disp >> 31) + (l >>> 0 < bl >>> 0 ? 1 : 0);
          s[d] = l; left = (left + m[p + 5]!) | 0; break;
        }
        case 7: { // LEA_BX
          const d = m[p + 1]!; const b = m[p + 2]!; const bl = s[b]!; const disp = m[p + 3]!;
          const x = m[p + 4]! & 0xffff; const scale = m[p + 4]! >> 16; const xl = s[x]!; const sl = xl << scale;
          const l = (bl + disp) | 0; const sum = (l + sl) | 0;
          const carry = (l >>> 0 < bl >>> 0 ? 1 : 0) + (sum >>> 0 < l >>> 0 ? 1 : 0);
          const sh = (s[x + 1]! << scale) | ((xl >>> 1) >>> (31 - scale));
          s[d + 1] = s[b + 1]! + (disp >> 31) + sh + carry; s[d] = sum; left = (left + m[p + 5]!) | 0; break;
        }
        case 8: { // LEA_RIP
          const d = m[p + 1]!; const disp = m[p + 3]!; const l = (page + disp) | 0; s[d] = l;
          s[d + 1] = ripHi + (disp >> 31) + (l >>> 0 < page >>> 0 ? 1 : 0); left = (left + m[p + 5]!) | 0;
          break;
        }
        case 9: { // LD64
          const b = m[p + 2]!; const bl = s[b]!; const disp = m[p + 3]!; lo = (bl + disp) | 0;
          hi = (s[b + 1]! + (disp >> 31) + (lo >>> 0 < bl >>> 0 ? 1 : 0)) | 0; const i = (lo >>> 12) & TLB_MASK;
          if (readTag[i] !== (lo & -4089) || hiTag[i] !== (hi ^ ctx)) { kind = 1792; break miss; }
          const d = m[p + 1]!; const at = (lo + addend[i]!) >> 2; s[d] = m[at]!; s[d + 1] = m[at + 1]!;
          left = (left + m[p + 5]!) | 0; break;
        }
        case 10: { // LD32
          const b = m[p + 2]!; const bl = s[b]!; const disp = m[p + 3]!; lo = (bl + disp) | 0;
          hi = (s[b + 1]! + (disp >> 31) + (lo >>> 0 < bl >>> 0 ? 1 : 0)) | 0; const i = (lo >>> 12) & TLB_MASK;
          if (readTag[i] !== (lo & -4093) || hiTag[i] !== (hi ^ ctx)) { kind = 768; break miss; }
          const d = m[p + 1]!; s[d] = m[(lo + addend[i]!) >> 2]!; s[d + 1] = 0; left = (left + m[p + 5]!) | 0;
          break;
        }
        case 11: { // LD16
          const b = m[p + 2]!; const bl = s[b]!; const disp = m[p + 3]!; lo = (bl + disp) | 0;
          hi = (s[b + 1]! + (disp >> 31) + (lo >>> 0 < bl >>> 0 ? 1 : 0)) | 0; const i = (lo >>> 12) & TLB_MASK;
          if (readTag[i] !== (lo & -4095) || hiTag[i] !== (hi ^ ctx)) { kind = 256; break miss; }
          const d = m[p + 1]!; s[d] = u16[(lo + addend[i]!) >> 1]!; s[d + 1] = 0; left = (left + m[p + 5]!) | 0;
          break;
        }
        case 12: { // LD8
          const b = m[p + 2]!; const bl = s[b]!; const disp = m[p + 3]!; lo = (bl + disp) | 0;
          hi = (s[b + 1]! + (disp >> 31) + (lo >>> 0 < bl >>> 0 ? 1 : 0)) | 0; const i = (lo >>> 12) & TLB_MASK;
          if (readTag[i] !== (lo & -4096) || hiTag[i] !== (hi ^ ctx)) { kind = 0; break miss; }
          const d = m[p + 1]!; s[d] = u8[(lo + addend[i]!) | 0]!; s[d + 1] = 0; left = (left + m[p + 5]!) | 0;
          break;
        }
        case 13: { // LDW64
          const b = m[p + 2]!; const bl = s[b]!; const disp = m[p + 3]!; lo = (bl + disp) | 0;
          hi = (s[b + 1]! + (disp >> 31) + (lo >>> 0 < bl >>> 0 ? 1 : 0)) | 0; const i = (lo >>> 12) & TLB_MASK;
          if (writeTag[i] !== (lo & -4089) || hiTag[i] !== (hi ^ ctx)) { kind = 1793; break miss; }
          rmw = (lo + addend[i]!) >> 2; s[TMP] = m[rmw]!; s[TMP + 1] = m[rmw + 1]!;
          left = (left + m[p + 5]!) | 0; break;
        }
        case 14: { // LDW32
          const b = m[p + 2]!; const bl = s[b]!; const disp = m[p + 3]!; lo = (bl + disp) | 0;
          hi = (s[b + 1]! + (disp >> 31) + (lo >>> 0 < bl >>> 0 ? 1 : 0)) | 0; const i = (lo >>> 12) & TLB_MASK;
          if (writeTag[i] !== (lo & -4093) || hiTag[i] !== (hi ^ ctx)) { kind = 769; break miss; }
          rmw = (lo + addend[i]!) >> 2; s[TMP] = m[rmw]!; s[TMP + 1] = 0; left = (left + m[p + 5]!) | 0; break;
        }
        case 15: { // STT64
          m[rmw] = s[TMP]!; m[rmw + 1] = s[TMP + 1]!; break;
        }
        case 16: { // STT32
          m[rmw] = s[TMP]!; break;
        }
        case 17: { // ST64
          const b = m[p + 1]!; const bl = s[b]!; const disp = m[p + 3]!; lo = (bl + disp) | 0;
          hi = (s[b + 1]! + (disp >> 31) + (lo >>> 0 < bl >>> 0 ? 1 : 0)) | 0; const i = (lo >>> 12) & TLB_MASK;
          if (writeTag[i] !== (lo & -4089) || hiTag[i] !== (hi ^ ctx)) { kind = 1793; break miss; }
          const v = m[p + 2]!; const at = (lo + addend[i]!) >> 2; m[at] = s[v]!; m[at + 1] = s[v + 1]!; break;
        }
        case 18: { // ST32
          const b = m[p + 1]!; const bl = s[b]!; const disp = m[p + 3]!; lo = (bl + disp) | 0;
          hi = (s[b + 1]! + (disp >> 31) + (lo >>> 0 < bl >>> 0 ? 1 : 0)) | 0; const i = (lo >>> 12) & TLB_MASK;
          if (writeTag[i] !== (lo & -4093) || hiTag[i] !== (hi ^ ctx)) { kind = 769; break miss; }
          const v = m[p + 2]!; m[(lo + addend[i]!) >> 2] = s[v]!; break;
        }
        case 19: { // ST16
          const b = m[p + 1]!; const bl = s[b]!; const disp = m[p + 3]!; lo = (bl + disp) | 0;
          hi = (s[b + 1]! + (disp >> 31) + (lo >>> 0 < bl >>> 0 ? 1 : 0)) | 0; const i = (lo >>> 12) & TLB_MASK;
          if (writeTag[i] !== (lo & -4095) || hiTag[i] !== (hi ^ ctx)) { kind = 257; break miss; }
          const v = m[p + 2]!; u16[(lo + addend[i]!) >> 1] = s[v]!; break;
        }
        case 20: { // ST8
          const b = m[p + 1]!; const bl = s[b]!; const disp = m[p + 3]!; lo = (bl + disp) | 0;
          hi = (s[b + 1]! + (disp >> 31) + (lo >>> 0 < bl >>> 0 ? 1 : 0)) | 0; const i = (lo >>> 12) & TLB_MASK;
          if (writeTag[i] !== (lo & -4096) || hiTag[i] !== (hi ^ ctx)) { kind = 1; break miss; }
          const v = m[p + 2]!; u8[(lo + addend[i]!) | 0] = s[v]!; break;
        }
        case 21: { // MOVZX8
          const d = m[p + 1]!; s[d] = s[m[p + 2]!]! & 0xff; s[d + 1] = 0; break;
        }
        case 22: { // MOVZX16
          const d = m[p + 1]!; s[d] = s[m[p + 2]!]! & 0xffff; s[d + 1] = 0; break;
        }
        case 23: { // MOVSXD
          const d = m[p + 1]!; const v = s[m[p + 2]!]!; s[d] = v; s[d + 1] = v >> 31; break;
        }
        case 24: { // ADD64
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const b = m[p + 2]!; const bl = s[b]!;
          const bh = s[b + 1]!; frl = (al + bl) | 0; frh = (ah + bh + (frl >>> 0 < al >>> 0 ? 1 : 0)) | 0;
          s[d] = frl; s[d + 1] = frh; fop = 1; fal = al; fah = ah; fbl = bl; fbh = bh; break;
        }
        case 25: { // ADD64I
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const bl = m[p + 3]!;
          const bh = m[p + 4]!; frl = (al + bl) | 0; frh = (ah + bh + (frl >>> 0 < al >>> 0 ? 1 : 0)) | 0;
          s[d] = frl; s[d + 1] = frh; fop = 1; fal = al; fah = ah; fbl = bl; fbh = bh; break;
        }
        case 26: { // SUB64
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const b = m[p + 2]!; const bl = s[b]!;
          const bh = s[b + 1]!; frl = (al - bl) | 0; frh = (ah - bh - (al >>> 0 < bl >>> 0 ? 1 : 0)) | 0;
          s[d] = frl; s[d + 1] = frh; fop = 2; fal = al; fah = ah; fbl = bl; fbh = bh; break;
        }
        case 27: { // SUB64I
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const bl = m[p + 3]!;
          const bh = m[p + 4]!; frl = (al - bl) | 0; frh = (ah - bh - (al >>> 0 < bl >>> 0 ? 1 : 0)) | 0;
          s[d] = frl; s[d + 1] = frh; fop = 2; fal = al; fah = ah; fbl = bl; fbh = bh; break;
        }
        case 28: { // CMP64
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const b = m[p + 2]!; const bl = s[b]!;
          const bh = s[b + 1]!; frl = (al - bl) | 0; frh = (ah - bh - (al >>> 0 < bl >>> 0 ? 1 : 0)) | 0;
          fop = 2; fal = al; fah = ah; fbl = bl; fbh = bh; break;
        }
        case 29: { // CMP64I
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const bl = m[p + 3]!;
          const bh = m[p + 4]!; frl = (al - bl) | 0; frh = (ah - bh - (al >>> 0 < bl >>> 0 ? 1 : 0)) | 0;
          fop = 2; fal = al; fah = ah; fbl = bl; fbh = bh; break;
        }
        case 30: { // AND64
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const b = m[p + 2]!; const bl = s[b]!;
          const bh = s[b + 1]!; frl = al & bl; frh = ah & bh; s[d] = frl; s[d + 1] = frh; fop = 0; fbl = 0;
          break;
        }
        case 31: { // AND64I
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const bl = m[p + 3]!;
          const bh = m[p + 4]!; frl = al & bl; frh = ah & bh; s[d] = frl; s[d + 1] = frh; fop = 0; fbl = 0;
          break;
        }
        case 32: { // OR64
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const b = m[p + 2]!; const bl = s[b]!;
          const bh = s[b + 1]!; frl = al | bl; frh = ah | bh; s[d] = frl; s[d + 1] = frh; fop = 0; fbl = 0;
          break;
        }
        case 33: { // OR64I
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const bl = m[p + 3]!;
          const bh = m[p + 4]!; frl = al | bl; frh = ah | bh; s[d] = frl; s[d + 1] = frh; fop = 0; fbl = 0;
          break;
        }
        case 34: { // XOR64
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const b = m[p + 2]!; const bl = s[b]!;
          const bh = s[b + 1]!; frl = al ^ bl; frh = ah ^ bh; s[d] = frl; s[d + 1] = frh; fop = 0; fbl = 0;
          break;
        }
        case 35: { // XOR64I
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const bl = m[p + 3]!;
          const bh = m[p + 4]!; frl = al ^ bl; frh = ah ^ bh; s[d] = frl; s[d + 1] = frh; fop = 0; fbl = 0;
          break;
        }
        case 36: { // TEST64
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const b = m[p + 2]!; const bl = s[b]!;
          const bh = s[b + 1]!; frl = al & bl; frh = ah & bh; fop = 0; fbl = 0; break;
        }
        case 37: { // TEST64I
          const d = m[p + 1]!; const al = s[d]!; const ah = s[d + 1]!; const bl = m[p + 3]!;
          const bh = m[p + 4]!; frl = al & bl; frh = ah & bh; fop = 0; fbl = 0; break;
        }
        case 38: { // ADD32
          const d = m[p + 1]!; const a = s[d]!; const b = s[m[p + 2]!]!; frl = (a + b) | 0; frh = frl >> 31;
          s[d] = frl; s[d + 1] = 0; fop = 1; fal = a; fah = a >> 31; fbl = b; fbh = b >> 31; break;
        }
        case 39: { // ADD32I
          const d = m[p + 1]!; const a = s[d]!; const b = m[p + 3]!; frl = (a + b) | 0; frh = frl >> 31;
          s[d] = frl; s[d + 1] = 0; fop = 1; fal = a; fah = a >> 31; fbl = b; fbh = b >> 31; break;
        }
        case 40: { // SUB32
          const d = m[p + 1]!; const a = s[d]!; const b = s[m[p + 2]!]!; frl = (a - b) | 0; frh = frl >> 31;
          s[d] = frl; s[d + 1] = 0; fop = 2; fal = a; fah = a >> 31; fbl = b; fbh = b >> 31; break;
        }
        case 41: { // SUB32I
          const d = m[p + 1]!; const a = s[d]!; const b = m[p + 3]!; frl = (a - b) | 0; frh = frl >> 31;
          s[d] = frl; s[d + 1] = 0; fop = 2; fal = a; fah = a >> 31; fbl = b; fbh = b >> 31; break;
        }
        case 42: { // CMP32
          const d = m[p + 1]!; const a = s[d]!; const b = s[m[p + 2]!]!; frl = (a - b) | 0; frh = frl >> 31;
          fop = 2; fal = a; fah = a >> 31; fbl = b; fbh = b >> 31; break;
        }
        case 43: { // CMP32I
          const d = m[p + 1]!; const a = s[d]!; const b = m[p + 3]!; frl = (a - b) | 0; frh = frl >> 31;
          fop = 2; fal = a; fah = a >> 31; fbl = b; fbh = b >> 31; break;
        }
        case 44: { // AND32
          const d = m[p + 1]!; const a = s[d]!; const b = s[m[p + 2]!]!; frl = a & b; frh = frl >> 31;
          s[d] = frl; s[d + 1] = 0; fop = 0; fbl = 0; break;
        }
        case 45: { // AND32I
          const d = m[p + 1]!; const a = s[d]!; const b = m[p + 3]!; frl = a & b; frh = frl >> 31; s[d] = frl;
          s[d + 1] = 0; fop = 0; fbl = 0; break;
        }
        case 46: { // OR32
          const d = m[p + 1]!; const a = s[d]!; const b = s[m[p + 2]!]!; frl = a | b; frh = frl >> 31;
          s[d] = frl; s[d + 1] = 0; fop = 0; fbl = 0; break;
        }
        case 47: { // OR32I
          const d = m[p + 1]!; const a = s[d]!; const b = m[p + 3]!; frl = a | b; frh = frl >> 31; s[d] = frl;
          s[d + 1] = 0; fop = 0; fbl = 0; break;
        }
        case 48: { // XOR32
          const d = m[p + 1]!; const a = s[d]!; const b = s[m[p + 2]!]!; frl = a ^ b; frh = frl >> 31;
          s[d] = frl; s[d + 1] = 0; fop = 0; fbl = 0; break;
        }
        case 49: { // XOR32I
          const d = m[p + 1]!; const a = s[d]!; const b = m[p + 3]!; frl = a ^ b; frh = frl >> 31; s[d] = frl;
          s[d + 1] = 0; fop = 0; fbl = 0; break;
        }
        case 50: { // TEST32
          const d = m[p + 1]!; const a = s[d]!; const b = s[m[p + 2]!]!; frl = a & b; frh = frl >> 31; fop = 0;
          fbl = 0; break;
        }
        case 51: { // TEST32I
          const d = m[p + 1]!; const a = s[d]!; const b = m[p + 3]!; frl = a & b; frh = frl >> 31; fop = 0;
          fbl = 0; break;
        }
        case 52: { // INC64
          const d = m[p + 1]!; const cf = fop === 0 ? fbl & 1 : lazyCarry(s, fop, fal, fah, fbl, fbh, frl, frh);
          const ah = s[d + 1]!; frl = (s[d]! + 1) | 0; frh = frl === 0 ? (ah + 1) | 0 : ah; s[d] = frl;
          s[d + 1] = frh; fop = 0; fbl = cf | ((frl & 15) === 0 ? 0x10 : 0) | (((~ah & frh) >>> 31) << 11);
          break;
        }
        case 53: { // DEC64
          const d = m[p + 1]!; const cf = fop === 0 ? fbl & 1 : lazyCarry(s, fop, fal, fah, fbl, fbh, frl, frh);
          const ah = s[d + 1]!; const al = s[d]!; frl = (al - 1) | 0; frh = al === 0 ? (ah - 1) | 0 : ah;
          s[d] = frl; s[d + 1] = frh; fop = 0;
          fbl = cf | ((al & 15) === 0 ? 0x10 : 0) | (((ah & ~frh) >>> 31) << 11); break;
        }
        case 54: { // INC32
          const d = m[p + 1]!; const cf = fop === 0 ? fbl & 1 : lazyCarry(s, fop, fal, fah, fbl, fbh, frl, frh);
          const a = s[d]!; frl = (a + 1) | 0; frh = frl >> 31; s[d] = frl; s[d + 1] = 0; fop = 0;
          fbl = cf | ((frl & 15) === 0 ? 0x10 : 0) | (((~a & frl) >>> 31) << 11); break;
        }
        case 55: { // DEC32
          const d = m[p + 1]!; const cf = fop === 0 ? fbl & 1 : lazyCarry(s, fop, fal, fah, fbl, fbh, frl, frh);
          const a = s[d]!; frl = (a - 1) | 0; frh = frl >> 31; s[d] = frl; s[d + 1] = 0; fop = 0;
          fbl = cf | ((a & 15) === 0 ? 0x10 : 0) | (((a & ~frl) >>> 31) << 11); break;
        }
        case 56: { // SHL64
          const d = m[p + 1]!; const n = m[p + 3]!; const al = s[d]!; const ah = s[d + 1]!; let cf = 0;
          if (n < 32) {
            cf = (ah >>> (32 - n)) & 1; frh = (ah << n) | (al >>> (32 - n)); frl = al << n;
          } else {
            cf = n === 32 ? ah & 1 : (al >>> (64 - n)) & 1; frh = al << (n - 32); frl = 0;
          }
          s[d] = frl; s[d + 1] = frh; fop = 0; fbl = cf | ((cf ^ (frh >>> 31)) << 11); break;
        }
        case 57: { // SHR64
          const d = m[p + 1]!; const n = m[p + 3]!; const al = s[d]!; const ah = s[d + 1]!; let cf = 0;
          if (n < 32) {
            cf = (al >>> (n - 1)) & 1; frl = (al >>> n) | (ah << (32 - n)); frh = ah >>> n | 0;
          } else {
            cf = n === 32 ? al >>> 31 : (ah >>> (n - 33)) & 1; frl = ah >>> (n - 32) | 0; frh = 0;
          }
          s[d] = frl; s[d + 1] = frh; fop = 0; fbl = cf | (((frh ^ (frh << 1)) >>> 31) << 11); break;
        }
        case 58: { // SAR64
          const d = m[p + 1]!; const n = m[p + 3]!; const al = s[d]!; const ah = s[d + 1]!; let cf = 0;
          if (n < 32) {
            cf = (al >>> (n - 1)) & 1; frl = (al >>> n) | (ah << (32 - n)); frh = ah >> n;
          } else {
            cf = n === 32 ? al >>> 31 : (ah >>> (n - 33)) & 1; frl = ah >> (n - 32); frh = ah >> 31;
          }
          s[d] = frl; s[d + 1] = frh; fop = 0; fbl = cf; break;
        }
        case 59: { // SHL32
          const d = m[p + 1]!; const n = m[p + 3]!; const a = s[d]!; const cf = (a >>> (32 - n)) & 1;
          frl = a << n; frh = frl >> 31; s[d] = frl; s[d + 1] = 0; fop = 0;
          fbl = cf | ((cf ^ (frl >>> 31)) << 11); break;
        }
        case 60: { // SHR32
          const d = m[p + 1]!; const n = m[p + 3]!; const a = s[d]!; frl = a >>> n | 0; frh = 0; s[d] = frl;
          s[d + 1] = 0; fop = 0; fbl = ((a >>> (n - 1)) & 1) | (((frl ^ (frl << 1)) >>> 31) << 11); break;
        }
        case 61: { // SAR32
          const d = m[p + 1]!; const n = m[p + 3]!; const a = s[d]!; frl = a >> n; frh = frl >> 31; s[d] = frl;
          s[d + 1] = 0; fop = 0; fbl = (a >>> (n - 1)) & 1; break;
        }
        case 62: { // IMUL64
          const d = m[p + 1]!; const b = m[p + 2]!; const a = m[p + 3]!; fal = s[a]!; fah = s[a + 1]!;
          fbl = s[b]!; fbh = s[b + 1]!; frl = Math.imul(fal, fbl);
          frh = (mulHigh(fal, fbl) + Math.imul(fal, fbh) + Math.imul(fah, fbl)) | 0; s[d] = frl; s[d + 1] = frh;
          fop = 4; break;
        }
        case 63: { // IMUL32
          const d = m[p + 1]!; fal = s[m[p + 3]!]!; fbl = s[m[p + 2]!]!; fah = fal >> 31; fbh = fbl >> 31;
          frl = Math.imul(fal, fbl); frh = frl >> 31; s[d] = frl; s[d + 1] = 0; fop = 4; break;
        }
        case 64: { // PUSH
          const v = m[p + 2]!; const old = s[RSP]!; lo = (old - 8) | 0;
          hi = (s[RSP + 1]! - (old >>> 0 < 8 ? 1 : 0)) | 0; const i = (lo >>> 12) & TLB_MASK;
          if (writeTag[i] !== (lo & -4089) || hiTag[i] !== (hi ^ ctx)) { kind = 1793; break miss; }
          const at = (lo + addend[i]!) >> 2; m[at] = s[v]!; m[at + 1] = s[v + 1]!; s[RSP] = lo; s[RSP + 1] = hi;
          break;
        }
        case 65: { // POP
          lo = s[RSP]!; hi = s[RSP + 1]!; const i = (lo >>> 12) & TLB_MASK;
          if (readTag[i] !== (lo & -4089) || hiTag[i] !== (hi ^ ctx)) { kind = 1792; break miss; }
          const at = (lo + addend[i]!) >> 2; const d = m[p + 1]!; const top = (lo + 8) | 0; s[RSP] = top;
          if (top >>> 0 < 8) s[RSP + 1] = hi + 1;
          s[d] = m[at]!; s[d + 1] = m[at + 1]!; break;
        }
        case 66: { // CALL
          const old = s[RSP]!; lo = (old - 8) | 0; hi = (s[RSP + 1]! - (old >>> 0 < 8 ? 1 : 0)) | 0;
          const t = m[p + 5]!;
          if (t === 0) {
            const far = (ripHi + (m[p + 3]! >> 31) + ((page + m[p + 3]!) >>> 0 < page >>> 0 ? 1 : 0)) | 0;
            if ((far << 16) >> 16 !== far) { why = GENERIC; break hot; }
          }
          const i = (lo >>> 12) & TLB_MASK;
          if (writeTag[i] !== (lo & -4089) || hiTag[i] !== (hi ^ ctx)) { kind = 1793; break miss; }
          const at = (lo + addend[i]!) >> 2; const next = (page + m[p + 4]!) | 0; m[at] = next;
          m[at + 1] = ripHi + (next >>> 0 < page >>> 0 ? 1 : 0); s[RSP] = lo; s[RSP + 1] = hi;
          if (t !== 0) { p = t; continue hot; }
          break direct;
        }
        case 67: { // RET
          lo = s[RSP]!; hi = s[RSP + 1]!; const i = (lo >>> 12) & TLB_MASK;
          if (readTag[i] !== (lo & -4089) || hiTag[i] !== (hi ^ ctx)) { kind = 1792; break miss; }
          const at = (lo + addend[i]!) >> 2; const target = m[at + 1]!;
          if ((target << 16) >> 16 !== target) { why = GENERIC; break hot; }
          const top = (lo + 8) | 0; s[RSP] = top;
          if (top >>> 0 < 8) s[RSP + 1] = hi + 1;
          lo = m[at]!; hi = target; break jump;
        }
        case 68: { // JMP
          const t = m[p + 5]!;
          if (t !== 0) { p = t; continue hot; }
          break direct;
        }
        case 69: { // JMP_R
          const b = m[p + 2]!; lo = s[b]!; hi = s[b + 1]!;
          if ((hi << 16) >> 16 !== hi) { why = GENERIC; break hot; }
          break jump;
        }
        case 70: { // CALL_R
          const b = m[p + 2]!; const targetLo = s[b]!; const targetHi = s[b + 1]!;
          if ((targetHi << 16) >> 16 !== targetHi) { why = GENERIC; break hot; }
          const old = s[RSP]!; lo = (old - 8) | 0; hi = (s[RSP + 1]! - (old >>> 0 < 8 ? 1 : 0)) | 0;
          const i = (lo >>> 12) & TLB_MASK;
          if (writeTag[i] !== (lo & -4089) || hiTag[i] !== (hi ^ ctx)) { kind = 1793; break miss; }
          const at = (lo + addend[i]!) >> 2; const next = (page + m[p + 4]!) | 0; m[at] = next;
          m[at + 1] = ripHi + (next >>> 0 < page >>> 0 ? 1 : 0); s[RSP] = lo; s[RSP + 1] = hi; lo = targetLo;
          hi = targetHi; break jump;
        }
        case 71: { // CMOV64
          break select;
        }
        case 72: { // CMOV32
          break select;
        }
        case 73: { // SETCC
          break select;
        }
        case 74: { // CMP8
          const a = (s[m[p + 1]!]! << 24) >> 24; const b = (s[m[p + 2]!]! << 24) >> 24;
          frl = ((a - b) << 24) >> 24; frh = frl >> 31; fop = 2; fal = a; fah = a >> 31; fbl = b; fbh = b >> 31; break;
        }
        case 75: { // CMP8I
          const a = (s[m[p + 1]!]! << 24) >> 24; const b = m[p + 3]!;
          frl = ((a - b) << 24) >> 24; frh = frl >> 31; fop = 2; fal = a; fah = a >> 31; fbl = b; fbh = b >> 31; break;
        }
        case 76: { // TEST8
          frl = ((s[m[p + 1]!]! & s[m[p + 2]!]!) << 24) >> 24; frh = frl >> 31; fop = 0; fbl = 0; break;
        }
        case 77: { // TEST8I
          frl = ((s[m[p + 1]!]! & m[p + 3]!) << 24) >> 24; frh = frl >> 31; fop = 0; fbl = 0; break;
        }
        case 80: { // JCC + 0
          taken = lazyCondition(s, 0, fop, fal, fah, fbl, fbh, frl, frh); break branch;
        }
        case 81: { // JCC + 1
          taken = lazyCondition(s, 1, fop, fal, fah, fbl, fbh, frl, frh); break branch;
        }
        case 82: { // JCC + 2
          taken = (fop === 2 ? (fah >>> 0 < fbh >>> 0 || (fah === fbh && fal >>> 0 < fbl >>> 0)) : lazyCarry(s, fop, fal, fah, fbl, fbh, frl, frh) !== 0);
          break branch;
        }
        case 83: { // JCC + 3
          taken = !(fop === 2 ? (fah >>> 0 < fbh >>> 0 || (fah === fbh && fal >>> 0 < fbl >>> 0)) : lazyCarry(s, fop, fal, fah, fbl, fbh, frl, frh) !== 0);
          break branch;
        }
        case 84: { // JCC + 4
          if (fop !== 3 ? (frl | frh) === 0 : (fal & 0x40) !== 0) {
            const t = m[p + 5]!;
            if (t !== 0) { p = t; continue hot; }
            break direct;
          }
          break;
        }
        case 85: { // JCC + 5
          if (fop !== 3 ? (frl | frh) !== 0 : (fal & 0x40) === 0) {
            const t = m[p + 5]!;
            if (t !== 0) { p = t; continue hot; }
            break direct;
          }
          break;
        }
        case 86: { // JCC + 6
          taken = ((frl | frh) === 0 && fop !== 3 ? true : fop === 2 ? (fah >>> 0 < fbh >>> 0 || (fah === fbh && fal >>> 0 < fbl >>> 0)) : lazyCondition(s, 6, fop, fal, fah, fbl, fbh, frl, frh));
          break branch;
        }
        case 87: { // JCC + 7
          taken = !((frl | frh) === 0 && fop !== 3 ? true : fop === 2 ? (fah >>> 0 < fbh >>> 0 || (fah === fbh && fal >>> 0 < fbl >>> 0)) : lazyCondition(s, 6, fop, fal, fah, fbl, fbh, frl, frh));
          break branch;
        }
        case 88: { // JCC + 8
          taken = (fop !== 3 ? frh < 0 : (fal & 0x80) !== 0); break branch;
        }
        case 89: { // JCC + 9
          taken = !(fop !== 3 ? frh < 0 : (fal & 0x80) !== 0); break branch;
        }
        case 90: { // JCC + 10
          taken = lazyCondition(s, 10, fop, fal, fah, fbl, fbh, frl, frh); break branch;
        }
        case 91: { // JCC + 11
          taken = lazyCondition(s, 11, fop, fal, fah, fbl, fbh, frl, frh); break branch;
        }
        case 92: { // JCC + 12
          taken = (fop === 2 ? (fah < fbh || (fah === fbh && fal >>> 0 < fbl >>> 0)) : fop === 0 ? frh < 0 !== ((fbl & 0x800) !== 0) : lazyCondition(s, 12, fop, fal, fah, fbl, fbh, frl, frh));
          break branch;
        }
        case 93: { // JCC + 13
          taken = !(fop === 2 ? (fah < fbh || (fah === fbh && fal >>> 0 < fbl >>> 0)) : fop === 0 ? frh < 0 !== ((fbl & 0x800) !== 0) : lazyCondition(s, 12, fop, fal, fah, fbl, fbh, frl, frh));
          break branch;
        }
        case 94: { // JCC + 14
          taken = ((frl | frh) === 0 && fop !== 3 ? true : fop === 2 ? (fah < fbh || (fah === fbh && fal >>> 0 < fbl >>> 0)) : lazyCondition(s, 14, fop, fal, fah, fbl, fbh, frl, frh));
          break branch;
        }
        case 95: { // JCC + 15
          taken = !((frl | frh) === 0 && fop !== 3 ? true : fop === 2 ? (fah < fbh || (fah === fbh && fal >>> 0 < fbl >>> 0)) : lazyCondition(s, 14, fop, fal, fah, fbl, fbh, frl, frh));
          break branch;
        }
        default:
          why = GENERIC; break hot;
        }
        p = (p + 8) | 0; continue hot;
        }
        // select: SETcc and CMOVcc
        const cc = m[p + 3]!;
        switch (cc >> 1) {
        case 2: taken = fop !== 3 ? (frl | frh) === 0 : (fal & 0x40) !== 0; break;
        case 4: taken = fop !== 3 ? frh < 0 : (fal & 0x80) !== 0; break;
        case 1:
          taken = fop === 2 ? fah >>> 0 < fbh >>> 0 || (fah === fbh && fal >>> 0 < fbl >>> 0)
            : lazyCarry(s, fop, fal, fah, fbl, fbh, frl, frh) !== 0;
          break;
        case 6:
          taken = fop === 2 ? fah < fbh || (fah === fbh && fal >>> 0 < fbl >>> 0)
            : lazyCondition(s, 12, fop, fal, fah, fbl, fbh, frl, frh);
          break;
        default: taken = lazyCondition(s, cc & 14, fop, fal, fah, fbl, fbh, frl, frh);
        }
        const d = m[p + 1]!; taken = taken === ((cc & 1) === 0);
        if (m[p] === 73) s[d] = (s[d]! & -256) | (taken ? 1 : 0);
        else {
          const b = m[p + 2]!;
          if (m[p] === 72) {
            if (taken) s[d] = s[b]!;
            s[d + 1] = 0;
          } else if (taken) {
            s[d] = s[b]!; s[d + 1] = s[b + 1]!;
          }
        }
        p = (p + 8) | 0; continue hot;
        }
        // branch: a condition that is not ZF alone
        if (!taken) { p = (p + 8) | 0; continue hot; }
        const t = m[p + 5]!;
        if (t !== 0) { p = t; continue hot; }
       }
        // direct: to page offset IMM, whose record is not known (yet)
        const offset = m[p + 3]!; lo = (page + offset) | 0;
        hi = (ripHi + (offset >> 31) + (lo >>> 0 < page >>> 0 ? 1 : 0)) | 0;
        if ((offset & -4096) === 0) { why = CHAIN; break hot; }
        if ((hi << 16) >> 16 !== hi && m[p] !== 1) { why = GENERIC; break hot; }
      }
      // jump: to (lo, hi)
      if (((lo ^ page) & -4096) === 0 && hi === ripHi) {
        const q = m[table + (lo & 0xfff)]!;
        if (q !== 0) { p = q; continue; }
      }
      const i = (lo >>> 12) & TLB_MASK;
      if (execTag[i] === (lo & -4096) && hiTag[i] === (hi ^ ctx)) {
        const at = (lo + addend[i]!) | 0; const to = FIRST_TABLE + (slotOf[at >>> 12]! << 12);
        const q = m[to + (at & 0xfff)]!;
        if (q !== 0) { p = q; page = lo & -4096; ripHi = hi; delta = addend[i]!; table = to; continue; }
      }
      why = ENTER; break;
      }
      // miss: the fast TLB does not have the page of lo, hi; kind is ACCESS | (size - 1) << 8
      s[ADDR] = lo; s[ADDR + 1] = hi; s[KIND] = kind; why = MISS; break;
    }
    if (why >= TIME) {
      const offset = m[p + 6]!; const rip = (page + offset) | 0; s[RIP] = rip;
      s[RIP + 1] = ripHi + (rip >>> 0 < page >>> 0 ? 1 : 0);
      if (why >= GENERIC) left = (left + ((m[p + 7]! >> 8) & 0xff) - 128) | 0;
    } else {
      s[RIP] = lo; s[RIP + 1] = hi;
    }
    s[DELTA] = delta; s[TABLE] = table; s[FLAG_OP] = fop; s[FLAG_A] = fal; s[FLAG_A + 1] = fah; s[FLAG_B] = fbl;
    s[FLAG_B + 1] = fbh; s[FLAG_R] = frl; s[FLAG_R + 1] = frh; const executed = slice - left;
    clock[0] = clock[0]! + executed; counts[INSN] = counts[INSN]! + executed;
  }
}
