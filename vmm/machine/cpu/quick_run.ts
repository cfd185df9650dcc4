// SPDX-License-Identifier: GPL-2.0-only
/**
 * A stretch of the interpreter's loop in WebAssembly, for code that touches memory faster than the fast TLB can follow.
 * It begins at a load or store whose page needs a walk, makes the walk (mmu/quick_walk.ts), and goes on with the records
 * after it, further walks included, until one comes that is not for it: tier 0 continues there and cannot tell. The
 * meaning of each record is tier0.ts's; a test runs programs with and without and compares every byte.
 */
import { COST } from '../cost/points.ts';
import * as layout from '../layout.ts';
import { ACCESS } from '../mmu/access.ts';
import { QUICK, quickWalkFunction, walkPrice } from '../mmu/quick_walk.ts';
import { type Code, compileModule, f64, i32, i64, type Local, Locals, wasm } from '../wasm_code.ts';
import type { Cpu } from './cpu.ts';
import { FLAG_OP } from './flags.ts';
import { HOT, REC, REC_WORDS } from './hot.ts';
import { SCRATCH } from './regs.ts';
import { S } from './state.ts';

/**
 * From record `p`, whose access of `kind` (ACCESS.READ or WRITE) at lo, hi is not in the fast TLB. `seq`: as for the walk.
 * `left`: so many cycles until the deadline, at least 1. Answers QUICK.NO; DONE (nothing is executed; the instruction must
 * be, whatever the clock says now); FILLED (the instruction of record SCRATCH.AT must be executed out of line); or RAN (go
 * on at SCRATCH.AT). After FILLED and RAN, RIP, flags, clock and counts are those of that record.
 */
export type QuickRun = (p: number, lo: number, hi: number, kind: number, seq: number, left: number) => number;

/** The answer of a run, beside those of a walk. */
export const RAN = 3;

const { const: k, add, sub, and, shl, shrS, shrU, eq, ne, xor } = i32;
const { when, either, choose, call } = wasm;
const WALK = 0;
const TAG_MASK = -4089; // as tier 0's: an access of 8 bytes that is not aligned matches no tag
const COLUMN = layout.FAST_TLB_ENTRIES * 4;
const word = (n: number): number => n * 4;

class Writer {
  readonly locals = new Locals(6);
  readonly p = this.locals.next();
  readonly lo = this.locals.next();
  readonly hi = this.locals.next();
  readonly kind = this.locals.next();
  readonly seq = this.locals.next();
  readonly left = this.locals.next();
  readonly slice = this.locals.next();
  readonly page = this.locals.next();
  readonly ripHi = this.locals.next();
  readonly answer = this.locals.next();
  readonly go = this.locals.next();
  readonly slot = this.locals.next();
  readonly t = this.locals.next();
  readonly op = this.locals.next();
  readonly a = this.locals.nextLong();
  readonly b = this.locals.nextLong();
  readonly r = this.locals.nextLong();
  readonly ea = this.locals.nextLong();
  readonly cpu: Cpu;
  readonly state: number;

  constructor(cpu: Cpu) {
    this.cpu = cpu;
    this.state = layout.CPU_BLOCK_BASE + cpu.id * layout.CPU_BLOCK_SIZE;
  }

  s(n: number): Code {
    return i32.load(k(0), this.state + word(n));
  }

  setS(n: number, value: Code): Code {
    return i32.store(k(0), this.state + word(n), value);
  }

  /** Field of the record: begin() makes `p` its address in bytes. */
  field(n: number): Code {
    return i32.load(this.p.get, word(n));
  }

  /** The 64-bit register whose word is field `n`. */
  register(n: number): Code {
    return i64.load(shl(this.field(n), k(2)), this.state);
  }

  setRegister(n: number, value: Code): Code {
    return i64.store(shl(this.field(n), k(2)), this.state, value);
  }

  immediate(): Code {
    return i64.load(this.p.get, word(REC.IMM));
  }

  next(): Code {
    return this.p.set(add(this.p.get, k(word(REC_WORDS))));
  }

  /** The record at `p` is not for here: it has not been counted. */
  stop(): Code {
    return [this.go.set(k(0)), this.left.set(add(this.left.get, k(1)))].flat();
  }

  /** To the record that the branch knows, or stop if it knows none. */
  jump(): Code {
    const { p, t } = this;
    return [t.set(this.field(REC.X)), either(t.get, p.set(shl(t.get, k(2))), this.stop())].flat();
  }

  /** A jump if `condition`, which can be told from the flags if `known`. */
  branch(known: Code, condition: Code): Code {
    return either(known, either(condition, this.jump(), this.next()), this.stop());
  }

  /** ADD, SUB or CMP, as FLAG_OP `op`. */
  arithmetic(op: number, b: Code, keep: boolean): Code {
    const { a, r } = this;
    return [
      a.set(this.register(REC.D)),
      this.b.set(b),
      r.set((op === FLAG_OP.ADD ? i64.add : i64.sub)(a.get, this.b.get)),
      this.op.set(k(op)),
      keep ? this.setRegister(REC.D, r.get) : [],
      this.next(),
    ].flat();
  }

  column(n: number): Code {
    return i32.load(this.slot.get, this.state + layout.FAST_TLB_OFFSET + n * COLUMN);
  }

  /** Address of field `base` + IMM; `then` is done with the fast TLB's entry for it, after a walk if need be. */
  access(base: number, kind: number, then: Code): Code {
    const { ea, lo, hi, slot } = this;
    const tag = this.column(kind === ACCESS.WRITE ? 1 : 0);
    return [
      ea.set(i64.add(this.register(base), i64.fromSigned(this.field(REC.IMM)))),
      lo.set(i64.low(ea.get)),
      hi.set(i64.high(ea.get)),
      slot.set(and(shrU(lo.get, k(10)), k((layout.FAST_TLB_ENTRIES - 1) << 2))),
      when(
        i32.or(ne(tag, and(lo.get, k(TAG_MASK))), ne(this.column(3), xor(hi.get, this.s(S.CTX)))),
        this.miss(kind),
      ),
      when(this.go.get, then),
    ].flat();
  }

  /** Bring RIP and the clock up to the record, then walk; what the walk costs comes off `left`. */
  miss(kind: number): Code {
    const { lo, hi, seq, left, answer } = this;
    const walk = call(WALK, lo.get, hi.get, k(kind), seq.get);
    return [
      left.set(add(left.get, k(1))),
      either(
        and(lo.get, k(7)),
        this.go.set(k(0)),
        [
          this.settle(),
          answer.set(walk),
          either(
            eq(answer.get, k(QUICK.DONE)),
            [this.charge(), left.set(sub(left.get, k(1)))].flat(),
            this.go.set(k(0)),
          ),
        ].flat(),
      ),
    ].flat();
  }

  /** After a walk: the access is made even if the deadline has passed meanwhile. */
  charge(): Code {
    const { left, slice, t } = this;
    return [
      t.set(sub(left.get, k(walkPrice(this.cpu)))),
      left.set(wasm.select(i32.gtS(t.get, k(1)), t.get, k(1))),
      slice.set(left.get),
    ].flat();
  }

  /** RIP, clock and counts as of the record at `p`, which has not been counted. */
  settle(): Code {
    const { left, slice, page, t } = this;
    const executed = f64.fromSigned(sub(slice.get, left.get));
    const grow = (at: number): Code => f64.store(k(0), at, f64.add(f64.load(k(0), at), executed));
    return [
      t.set(add(page.get, this.field(REC.OFF))),
      this.setS(S.RIP, t.get),
      this.setS(S.RIP + 1, add(this.ripHi.get, i32.ltU(t.get, page.get))),
      grow(this.cpu.clock.byteOffset),
      grow(this.state + layout.COUNTS_OFFSET + COST.INSN * 8),
      slice.set(left.get),
    ].flat();
  }

  /** Load or store 64 bits at the address of access(). */
  transfer(): readonly (readonly [readonly number[], Code])[] {
    const at = add(this.lo.get, this.column(4));
    const load = [this.setRegister(REC.D, i64.load(at)), this.skip(), this.next()].flat();
    const store = [i64.store(at, 0, this.register(REC.S)), this.next()].flat();
    return [
      [[HOT.LD64], this.access(REC.S, ACCESS.READ, load)],
      [[HOT.ST64], this.access(REC.D, ACCESS.WRITE, store)],
    ];
  }

  /** A link is no instruction. */
  link(): Code {
    return [this.p.set(shl(this.t.get, k(2))), this.left.set(add(this.left.get, k(1)))].flat();
  }

  /** The records of one instruction count once. */
  skip(): Code {
    return this.left.set(add(this.left.get, this.field(REC.X)));
  }

  /** What each record does, by HOT. */
  records(): readonly (readonly [readonly number[], Code])[] {
    const { ADD, SUB } = FLAG_OP;
    const s = this.register(REC.S);
    return [
      ...this.transfer(),
      [[HOT.LINK], [this.t.set(this.field(REC.X)), either(this.t.get, this.link(), this.stop())].flat()],
      [[HOT.JMP], this.jump()],
      [[HOT.MOV64], [this.setRegister(REC.D, s), this.next()].flat()],
      [[HOT.MOVI], [this.setRegister(REC.D, this.immediate()), this.skip(), this.next()].flat()],
      [[HOT.ADD64], this.arithmetic(ADD, s, true)],
      [[HOT.ADD64I], this.arithmetic(ADD, this.immediate(), true)],
      [[HOT.SUB64], this.arithmetic(SUB, s, true)],
      [[HOT.SUB64I], this.arithmetic(SUB, this.immediate(), true)],
      [[HOT.CMP64], this.arithmetic(SUB, s, false)],
      [[HOT.CMP64I], this.arithmetic(SUB, this.immediate(), false)],
      ...this.branches(),
    ];
  }

  /** Jcc: what can be told by one comparison. */
  branches(): readonly (readonly [readonly number[], Code])[] {
    const [a, b, r] = [this.a.get, this.b.get, this.r.get];
    const isSub = eq(this.op.get, k(FLAG_OP.SUB));
    const hasZf = ne(this.op.get, k(FLAG_OP.RAW));
    const pair = (cc: number, known: Code, condition: Code): [number[], Code][] => [
      [[HOT.JCC + cc], this.branch(known, condition)],
      [[HOT.JCC + cc + 1], this.branch(known, i32.eqz(condition))],
    ];
    return [
      ...pair(2, isSub, i64.ltU(a, b)),
      ...pair(4, hasZf, i64.eqz(r)),
      ...pair(6, isSub, i64.leU(a, b)),
      ...pair(12, isSub, i64.ltS(a, b)),
      ...pair(14, isSub, i64.leS(a, b)),
    ];
  }

  begin(): Code {
    const { p, page, answer } = this;
    const isStore = eq(this.field(REC.K), k(HOT.ST64));
    const isLoad = eq(this.field(REC.K), k(HOT.LD64));
    return [
      answer.set(call(WALK, this.lo.get, this.hi.get, this.kind.get, this.seq.get)),
      when(ne(answer.get, k(QUICK.DONE)), wasm.ret(answer.get)),
      p.set(shl(p.get, k(2))),
      when(i32.eqz(i32.or(isStore, isLoad)), wasm.ret(answer.get)),
      when(shrS(this.field(REC.POS), k(16)), wasm.ret(answer.get)),
      this.charge(),
      page.set(sub(this.s(S.RIP), this.field(REC.OFF))),
      this.ripHi.set(this.s(S.RIP + 1)),
      this.op.set(this.s(S.FLAG_OP)),
      ...this.flags().map(([n, local]) => local.set(i64.load(k(0), this.state + word(n)))),
      this.go.set(k(1)),
    ].flat();
  }

  /** The lazy flags' operands and result. */
  flags(): readonly (readonly [at: number, Local])[] {
    return [
      [S.FLAG_A, this.a],
      [S.FLAG_B, this.b],
      [S.FLAG_R, this.r],
    ];
  }

  end(): Code {
    return [
      this.settle(),
      this.setS(S.FLAG_OP, this.op.get),
      ...this.flags().map(([n, local]) => i64.store(k(0), this.state + word(n), local.get)),
      this.setS(SCRATCH.AT, shrU(this.p.get, k(2))),
      wasm.select(eq(this.answer.get, k(QUICK.FILLED)), k(QUICK.FILLED), k(RAN)),
    ].flat();
  }

  body(): Code {
    const { go, left } = this;
    return [
      this.begin(),
      wasm.loopWhile(
        and(go.get, i32.gtS(left.get, k(0))),
        left.set(sub(left.get, k(1))),
        choose(this.field(REC.K), this.records(), this.stop()),
      ),
      this.end(),
    ].flat();
  }
}

/** The function of a CPU, or undefined if it can have no quick walk. */
export function makeQuickRun(cpu: Cpu): QuickRun | undefined {
  const walk = quickWalkFunction(cpu);
  // Cycles until the deadline are counted in integers.
  if (walk === undefined || !Number.isInteger(walkPrice(cpu))) return undefined;
  const writer = new Writer(cpu);
  const run = { locals: writer.locals, body: writer.body() };
  return compileModule(cpu.mem.memory, [walk, run]) as QuickRun;
}
