// SPDX-License-Identifier: GPL-2.0-only
/**
 * The most common TLB miss of all in WebAssembly: walkAndCache()'s common case (4 levels, a 4 KiB page, no EPT, nothing
 * to set or to refuse) when the modelled TLB has the real sizes and the page's set is full. It does to the memory what
 * lookup(), walkAndCache(), TlbArray.insert() and fillFast() do, in their order and bit by bit; a test compares. Until it
 * is known to be that case nothing is changed, and they are called. One function for each CPU: addresses are constants.
 */
import { PTE } from '../../../lib/x86/paging.ts';
import { COST } from '../cost/points.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { SCRATCH } from '../cpu/regs.ts';
import { S } from '../cpu/state.ts';
import * as layout from '../layout.ts';
import { FAST_ANYWHERE, FRAME } from '../memory/frames.ts';
import { ENTRY, ENTRY_F64, PERM } from '../tlb/entry.ts';
import { HASH_FACTOR, INDEX } from '../tlb/tlb_array.ts';
import { ACCESS } from './access.ts';
import { FAST_NO_TAG } from './fast.ts';
import { MODE } from './mmu.ts';
import { COLUMN, has, TlbWriter, word } from './quick_insert.ts';
import { MAY, RIGHTS } from './rights.ts';
import { type Code, f64, i32, type Local, wasm, type WasmFunction } from '../wasm_code.ts';

/** What the walk answers. */
// prettier-ignore
export const QUICK = {
  NO:     0, // not the common case: nothing has happened
  DONE:   1, // the fast TLB has the page for the access, and the page of RIP as the interpreter knows it
  FILLED: 2, // translated, but not so: the access or the page of RIP has no fast entry, and something was evicted
} as const;

const { const: k, add, sub, mul, and, or, xor, shl, shrS, shrU, eq, ne, eqz, load, load8, store } = i32;
const { when, loopWhile, ret, select } = wasm;
const { RAM_BASE, FRAME_STATE_BASE, CODE_SLOT_BASE, FRAME_HINT_BASE } = layout;

const PAGE = -0x1000;
const PA_HI = 0xf_ffff;
const NONE = k(0);

const leaveIf = (condition: Code): Code => when(condition, ret(k(QUICK.NO)));

/** What a quick walk costs. */
export const walkPrice = (cpu: Cpu): number => cpu.prices[COST.TLB_MISS]! + 4 * cpu.prices[COST.WALK_REF]!;

/** Writes the function; each method is one stretch of it. */
class Writer extends TlbWriter {
  readonly mode = this.locals.next();
  readonly tables = [0, 1, 2, 3, 4].map(() => this.locals.next());
  readonly entries = [0, 1, 2, 3, 4].map(() => this.locals.next());
  readonly at = this.locals.next();
  readonly his = this.locals.next();
  readonly h1 = this.locals.next();
  readonly perm = this.locals.next();
  readonly rights = this.locals.next();

  /** TlbArray.lookup(): leave if there is a record, or large ones, or the index is elsewhere. */
  lookup(): Code {
    const { place, lo, hi, mode, space, hash, b, t, u } = this;
    const tags = or(eq(u.get, space.get), eq(u.get, this.s(SCRATCH.GLOBAL_SPACE)));
    const same = and(eq(this.of(t, ENTRY.KEY_LO), has(lo.get, PAGE)), eq(this.of(t, ENTRY.KEY_HI), hi.get));
    return [
      mode.set(this.s(SCRATCH.MODE)),
      space.set(this.s(SCRATCH.SPACE)),
      leaveIf(has(mode.get, MODE.LA57 | MODE.EPT | MODE.PKE)),
      leaveIf(i32.gtU(add(shrS(hi.get, k(15)), k(1)), k(1))),
      leaveIf(
        or(load(NONE, place.index + word(INDEX.USED_LARGE)), load(NONE, place.index + word(INDEX.MOVED))),
      ),
      hash.set(
        add(
          add(shrU(lo.get, k(12)), mul(hi.get, k(HASH_FACTOR.HI))),
          mul(this.s(SCRATCH.GROUP), k(HASH_FACTOR.GROUP)),
        ),
      ),
      b.set(load(shl(has(hash.get, place.mask), k(2)), place.buckets)),
      loopWhile(
        i32.geS(b.get, k(0)),
        t.set(this.bytesOf(b)),
        when(same, u.set(this.of(t, ENTRY.SPACE)), leaveIf(tags)),
        b.set(this.of(t, ENTRY.NEXT)),
      ),
    ].flat();
  }

  /** Read the four entries. */
  walk(): Code {
    const { tables, entries, lo, hi, at, his, h1 } = this;
    const { size } = this.cpu.mem;
    const offsets = [
      NONE,
      shrU(lo.get, k(9)),
      shrU(lo.get, k(18)),
      or(shl(hi.get, k(5)), shrU(lo.get, k(27))),
      shrU(hi.get, k(4)),
    ];
    const level = (n: number): Code[] => [
      leaveIf(i32.geU(tables[n]!.get, k(size))),
      at.set(or(tables[n]!.get, has(offsets[n]!, 0xff8))),
      entries[n]!.set(load(at.get)),
      h1.set(load(at.get, 4)),
      his.set(or(his.get, h1.get)),
      tables[n - 1]!.set(has(entries[n]!.get, PAGE)),
    ];
    return [
      leaveIf(this.s(S.CR3 + 1)),
      his.set(NONE),
      tables[4]!.set(has(this.s(S.CR3), PAGE)),
      ...[4, 3, 2, 1].flatMap(level),
    ].flat();
  }

  /** Whether it is the common case; computes W, U, X of PERM. */
  check(): Code {
    const { entries, his, perm, rights, mode, kind, t } = this;
    const [, e1, e2, e3, e4] = entries.map((e) => e.get) as [Code, Code, Code, Code, Code];
    const { P, A, D, PS } = PTE;
    const hpa = this.tables[0]!.get;
    const noExec = i32.ltS(his.get, k(0));
    return [
      t.set(and(and(e4, e3), and(e2, e1))),
      leaveIf(ne(has(t.get, P | A), k(P | A))),
      leaveIf(or(has(or(or(e4, e3), e2), PS), has(his.get, PA_HI))),
      leaveIf(and(eq(kind.get, k(ACCESS.WRITE)), eqz(has(e1, D)))),
      leaveIf(i32.geU(sub(hpa, k(RAM_BASE)), k(this.cpu.mem.size - RAM_BASE))),
      leaveIf(and(noExec, eqz(has(mode.get, MODE.NXE)))),
      perm.set(or(has(shrU(t.get, k(1)), PERM.W | PERM.U), select(noExec, NONE, k(PERM.X)))),
      rights.set(
        load8(or(shl(has(mode.get, 31), k(3)), perm.get), this.place.cpu + layout.QUICK_RIGHTS_OFFSET),
      ),
      leaveIf(eqz(and(shrU(rights.get, kind.get), k(1)))),
      when(i32.geS(this.seq.get, k(0)), ...this.tables.map((table) => leaveIf(this.isFree(table)))),
    ].flat();
  }

  isFree(table: Local): Code {
    return eq(load8(shrU(table.get, k(12)), FRAME_STATE_BASE), k(FRAME.FREE));
  }

  /** Leave if the set has room: then there is nothing to replace. */
  findSet(): Code {
    const { place, tlb, rec } = this;
    return [
      rec.set(shl(this.setOf(), k(3))),
      leaveIf(ne(load(rec.get, place.sets + 4), k(tlb.shape.ways))),
    ].flat();
  }

  /** chargeWalk(). */
  charge(): Code {
    const { place, cpu } = this;
    const counts = place.cpu + layout.COUNTS_OFFSET;
    const clock = cpu.clock.byteOffset;
    const grow = (address: number, by: number): Code =>
      f64.store(NONE, address, f64.add(f64.load(NONE, address), f64.const(by)));
    return [
      grow(counts + COST.TLB_MISS * 8, 1),
      grow(counts + COST.WALK_REF * 8, 4),
      grow(clock, walkPrice(cpu)),
    ].flat();
  }

  /** What walkAndCache() writes into the record; `space` becomes the one that it goes to. */
  rightsOfRecord(): Code {
    const { entries, perm, mode, h1, space, t } = this;
    const e1 = entries[1]!.get;
    return [
      t.set(and(shrU(has(e1, PTE.G), k(8)), shrU(has(mode.get, MODE.PGE), k(7)))),
      space.set(select(t.get, this.s(SCRATCH.GLOBAL_SPACE), space.get)),
      perm.set(
        or(
          or(perm.get, shl(t.get, k(3))),
          or(or(shrU(has(e1, PTE.D), k(2)), has(shrU(h1.get, k(19)), 0xf00)), k(PERM.EPT_ALL)),
        ),
      ),
    ].flat();
  }

  record(): Code {
    const { rec, kind } = this;
    const hpa = this.tables[0]!.get;
    const pcid = shl(has(this.s(S.CR3), 0xfff), k(16));
    return [
      this.put(rec, ENTRY.PERM, this.perm.get),
      this.put(rec, ENTRY.SEQ, select(i32.ltS(this.seq.get, k(0)), NONE, this.seq.get)),
      this.put(rec, ENTRY.RAM, hpa),
      this.putDouble(rec, ENTRY_F64.CYCLE, f64.load(NONE, this.cpu.clock.byteOffset)),
      this.put(rec, ENTRY.PTE_HPA, this.at.get),
      this.put(rec, ENTRY.EPTE_HPA, k(-1)),
      this.put(rec, ENTRY.RIP_LO, this.s(S.RIP)),
      this.put(rec, ENTRY.RIP_HI, this.s(S.RIP + 1)),
      this.put(rec, ENTRY.FILLER, or(or(this.s(S.CPL), shl(kind.get, k(2))), pcid)),
    ].flat();
  }

  /** fillFast(). */
  fill(): Code {
    const { place, lo, slot, t, u, b, rights } = this;
    const hpa = this.tables[0]!.get;
    const page = has(lo.get, PAGE);
    const tag = (column: number, may: Code): Code =>
      store(slot.get, place.fast + column * COLUMN, select(may, page, k(FAST_NO_TAG)));
    const clean = eqz(has(this.perm.get, PERM.D));
    const code = load8(t.get, CODE_SLOT_BASE);
    return [
      slot.set(this.slotOf(lo.get)),
      t.set(shrU(hpa, k(12))),
      tag(0, has(rights.get, MAY.READ)),
      tag(1, select(or(clean, code), NONE, has(rights.get, MAY.WRITE))),
      tag(2, has(rights.get, MAY.EXEC)),
      store(slot.get, place.fast + 3 * COLUMN, xor(this.hi.get, this.s(S.CTX))),
      store(slot.get, place.fast + 4 * COLUMN, sub(hpa, page)),
      store(slot.get, place.fastRecord, b.get),
      t.set(shl(t.get, k(1))),
      u.set(add(shrU(slot.get, k(2)), k(1))),
      this.hint(),
    ].flat();
  }

  /** FrameTable.fastHint of the frame at t / 2, for slot u - 1. */
  hint(): Code {
    const { t, u } = this;
    const old = i32.load16(t.get, FRAME_HINT_BASE);
    return when(ne(old, u.get), i32.store16(t.get, FRAME_HINT_BASE, select(old, k(FAST_ANYWHERE), u.get)));
  }

  /** What refill() asks before it goes on: isDataFast() and isPageCurrent(). */
  answer(): Code {
    const { place, slot, lo, kind, t } = this;
    const column = (n: number): Code => load(slot.get, place.fast + n * COLUMN);
    const data = load(add(slot.get, mul(kind.get, k(COLUMN))), place.fast);
    const rip = this.s(S.RIP);
    return [
      t.set(eq(data, has(lo.get, PAGE))),
      slot.set(this.slotOf(rip)),
      t.set(and(t.get, eq(column(2), has(rip, PAGE)))),
      t.set(and(t.get, eq(column(3), xor(this.s(S.RIP + 1), this.s(S.CTX))))),
      t.set(and(t.get, eq(column(4), this.s(SCRATCH.DELTA)))),
      when(eqz(t.get), ret(k(QUICK.FILLED))),
      store(NONE, place.cpu + word(SCRATCH.EVICTIONS), load(NONE, place.index + word(INDEX.EVICTIONS))),
      k(QUICK.DONE),
    ].flat();
  }

  body(): Code {
    return [
      this.lookup(),
      this.walk(),
      this.check(),
      this.findSet(),
      this.evict(),
      this.charge(),
      this.rightsOfRecord(),
      this.changeSpace(),
      this.link(),
      this.record(),
      this.fill(),
      this.answer(),
    ].flat();
  }
}

/**
 * The walk for an access at lo, hi, as a WebAssembly function (lo, hi, kind, seq) => QUICK. `kind`: ACCESS.READ or WRITE;
 * `seq`: FrameTable.retirements, or -1 if nobody manages frames (then nothing has been retired). Undefined if the CPU's
 * TLB or the frame table is not in the machine's memory.
 */
export function quickWalkFunction(cpu: Cpu): WasmFunction | undefined {
  const { memory } = cpu.mem;
  const { tlb } = cpu.mmu;
  if (tlb.i.buffer !== memory.buffer || tlb.layout.index.buffer !== memory.buffer) return undefined;
  if (cpu.frames.state.buffer !== memory.buffer) return undefined;
  new Uint8Array(memory.buffer).set(
    RIGHTS,
    layout.CPU_BLOCK_BASE + cpu.id * layout.CPU_BLOCK_SIZE + layout.QUICK_RIGHTS_OFFSET,
  );
  const writer = new Writer(cpu, tlb);
  return { locals: writer.locals, body: writer.body() };
}
