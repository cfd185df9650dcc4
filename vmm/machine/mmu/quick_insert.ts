// SPDX-License-Identifier: GPL-2.0-only
/**
 * The part of the quick walk that changes the modelled TLB: TlbArray.insert() into a full set, in WebAssembly. See
 * quick_walk.ts, which decides that it is to be done.
 */
import type { Cpu } from '../cpu/cpu.ts';
import * as layout from '../layout.ts';
import { ENTRY, ENTRY_WORDS } from '../tlb/entry.ts';
import { INDEX, type TlbArray } from '../tlb/tlb_array.ts';
import { type Code, f64, i32, type Local, Locals, wasm } from '../wasm_code.ts';
import { FAST_NO_TAG } from './fast.ts';

const { const: k, add, sub, mul, and, shl, shrU, eq, ne, load, store } = i32;
const { when, loopWhile, select } = wasm;
const { FAST_TLB_ENTRIES, FAST_TLB_OFFSET } = layout;

const PAGE = -0x1000;
const NONE = k(0);
/** Bytes of a column of the fast TLB. */
export const COLUMN = FAST_TLB_ENTRIES * 4;

/** Byte addresses that the code has as constants. */
interface Places {
  readonly cpu: number;
  readonly fast: number;
  readonly records: number;
  readonly fastRecord: number;
  readonly index: number;
  readonly buckets: number;
  readonly mask: number;
  readonly sets: number;
  readonly spaces: number;
}

function placesOf(cpu: Cpu, tlb: TlbArray): Places {
  const { index, mask, sets, spaces } = tlb.layout;
  const base = layout.CPU_BLOCK_BASE + cpu.id * layout.CPU_BLOCK_SIZE;
  return {
    cpu: base,
    fast: base + FAST_TLB_OFFSET,
    records: tlb.i.byteOffset,
    fastRecord: tlb.fastRecord.byteOffset,
    index: index.byteOffset,
    buckets: index.byteOffset + INDEX.BUCKETS * 4,
    mask,
    sets: index.byteOffset + sets * 4,
    spaces: index.byteOffset + spaces * 4,
  };
}

export const word = (n: number): number => n * 4;
const bump = (address: number, by: number): Code => store(NONE, address, add(load(NONE, address), k(by)));
export const has = (value: Code, bits: number): Code => and(value, k(bits));

/** The locals, and one method for each step of the insertion. */
export class TlbWriter {
  readonly locals = new Locals(4);
  readonly lo = this.locals.next();
  readonly hi = this.locals.next();
  readonly kind = this.locals.next();
  readonly seq = this.locals.next();
  readonly space = this.locals.next();
  readonly hash = this.locals.next();
  readonly rec = this.locals.next();
  readonly b = this.locals.next();
  readonly t = this.locals.next();
  readonly u = this.locals.next();
  readonly slot = this.locals.next();
  readonly place: Places;
  readonly cpu: Cpu;
  readonly tlb: TlbArray;

  constructor(cpu: Cpu, tlb: TlbArray) {
    this.cpu = cpu;
    this.tlb = tlb;
    this.place = placesOf(cpu, tlb);
  }

  s(n: number): Code {
    return load(NONE, this.place.cpu + word(n));
  }

  /** A word of the record at byte `rec`. */
  of(rec: Local, n: number): Code {
    return load(rec.get, this.place.records + word(n));
  }

  put(rec: Local, n: number, value: Code): Code {
    return store(rec.get, this.place.records + word(n), value);
  }

  putDouble(rec: Local, n: number, value: Code): Code {
    return f64.store(rec.get, this.place.records + n * 8, value);
  }

  /** Byte offset in the records of record `b`: its first word, as TypeScript counts. */
  bytesOf(b: Local): Code {
    return shl(b.get, k(2));
  }

  /** Number of the page's set. */
  setOf(): Code {
    return has(shrU(this.lo.get, k(12)), this.tlb.shape.sets - 1);
  }

  /** The oldest record of the full set at `rec` goes: TlbArray's #replace() and #unlink(). */
  evict(): Code {
    const { place, tlb, b, rec, t } = this;
    const { sets, ways } = tlb.shape;
    const next = add(t.get, k(1));
    return [
      t.set(load(rec.get, place.sets)),
      b.set(mul(add(mul(t.get, k(sets)), this.setOf()), k(ENTRY_WORDS))),
      store(rec.get, place.sets, select(eq(next, k(ways)), NONE, next)),
      bump(place.index + word(INDEX.EVICTIONS), 1),
      rec.set(this.bytesOf(b)),
      this.dropFast(),
      this.leaveChain(),
    ].flat();
  }

  /** The evicted record's fast entry, if it has one. */
  dropFast(): Code {
    const { place, slot, rec } = this;
    const tags = [0, 1, 2].map((n) => store(slot.get, place.fast + n * COLUMN, k(FAST_NO_TAG)));
    return [
      slot.set(this.slotOf(this.of(rec, ENTRY.KEY_LO))),
      when(
        eq(load(slot.get, place.fastRecord), this.b.get),
        ...tags,
        store(slot.get, place.fastRecord, k(-1)),
      ),
    ].flat();
  }

  /** Byte offset in a column of the fast TLB. */
  slotOf(lo: Code): Code {
    return has(shrU(lo, k(10)), (FAST_TLB_ENTRIES - 1) << 2);
  }

  leaveChain(): Code {
    const { place, rec, b, t, u } = this;
    const bucket = shl(has(this.of(rec, ENTRY.HASH), place.mask), k(2));
    const next = this.of(rec, ENTRY.NEXT);
    return [
      u.set(bucket),
      t.set(load(u.get, place.buckets)),
      wasm.either(
        eq(t.get, b.get),
        store(u.get, place.buckets, next),
        [
          t.set(this.bytesOf(t)),
          loopWhile(ne(this.of(t, ENTRY.NEXT), b.get), t.set(shl(this.of(t, ENTRY.NEXT), k(2)))),
          this.put(t, ENTRY.NEXT, next),
        ].flat(),
      ),
    ].flat();
  }

  /** The record changes from the space of the evicted one to its own. */
  changeSpace(): Code {
    return when(ne(this.of(this.rec, ENTRY.SPACE), this.space.get), this.leaveSpace(), this.joinSpace());
  }

  leaveSpace(): Code {
    const { place, rec, t, u } = this;
    const list = shl(this.of(rec, ENTRY.SPACE), k(3));
    const linked = (to: number, value: Code): Code =>
      store(shl(to === ENTRY.AFTER ? t.get : u.get, k(2)), place.records + word(to), value);
    return [
      t.set(this.of(rec, ENTRY.BEFORE)),
      u.set(this.of(rec, ENTRY.AFTER)),
      wasm.either(i32.geS(t.get, k(0)), linked(ENTRY.AFTER, u.get), store(list, place.spaces, u.get)),
      when(i32.geS(u.get, k(0)), linked(ENTRY.BEFORE, t.get)),
      store(list, place.spaces + 4, sub(load(list, place.spaces + 4), k(1))),
    ].flat();
  }

  joinSpace(): Code {
    const { place, rec, b, t, u, space } = this;
    const { BEFORE, AFTER } = ENTRY;
    return [
      u.set(shl(space.get, k(3))),
      t.set(load(u.get, place.spaces)),
      this.put(rec, BEFORE, k(-1)),
      this.put(rec, AFTER, t.get),
      when(i32.geS(t.get, k(0)), store(shl(t.get, k(2)), place.records + word(BEFORE), b.get)),
      store(u.get, place.spaces, b.get),
      store(u.get, place.spaces + 4, add(load(u.get, place.spaces + 4), k(1))),
    ].flat();
  }

  /** TlbArray.insert()'s key and chain. */
  link(): Code {
    const { place, rec, b, u, hash, space } = this;
    const { KEY_LO, KEY_HI, SPACE, NEXT, HASH } = ENTRY;
    return [
      u.set(shl(has(hash.get, place.mask), k(2))),
      this.put(rec, KEY_LO, has(this.lo.get, PAGE)),
      this.put(rec, KEY_HI, this.hi.get),
      this.put(rec, SPACE, space.get),
      this.put(rec, HASH, hash.get),
      this.put(rec, NEXT, load(u.get, place.buckets)),
      store(u.get, place.buckets, b.get),
    ].flat();
  }
}
