// SPDX-License-Identifier: GPL-2.0-only
/** Data in memory: layouts of structs and arrays, initialised globals, pointers, narrow accesses. */
import {
  array,
  at,
  fnPtr,
  guestGlobal,
  memset,
  packedStruct,
  ptr,
  str,
  strlen,
  struct,
  u16,
  u32,
  u64,
  u8,
} from '../../index.ts';
import { addThree } from './calls.ts';
import type { Cases } from './case_list.ts';

const Inner = struct('struct inner', { tag: u8, value: u64 });
const Outer = struct('struct outer', { first: u8, inner: array(Inner, 3), last: u16 });
const Packed = packedStruct('struct packed', { a: u8, b: u32, c: u16 });
const counter = guestGlobal('case_counter', u32, 5);
const table = guestGlobal('case_table', array(Outer, 4));
const pointers = guestGlobal('case_pointers', array(fnPtr([u64], u64), 2), [addThree, addThree]);
const record = guestGlobal('case_record', Outer, {
  first: 1,
  inner: [{ tag: 2, value: 3 }, {}, { value: -1 }],
  last: 9,
});

function layouts(t: Cases): void {
  t.add('nested structs in arrays', [2n, 1n], 42n, (g, i, j) => {
    g.set(table.at(i).f.inner.at(j).f.value, 42);
    g.set(table.at(i).f.inner.at(j).f.tag, 255);
    g.set(table.at(i).f.last, 7);
    const raw = table
      .addr()
      .cast(u64)
      .add(i.mul(Outer.size))
      .add(Outer.offsetof('inner') + Inner.size + 8);
    g.return(at(u64, raw));
  });
  t.add('packed fields touch nothing else', [-1n], 0x11_2233_4455_ff66n, (g) => {
    const p = g.local(u64, 0xff);
    const packed = p.addr().cast(ptr(Packed));
    g.set(packed.f.c, 0x1122);
    g.set(packed.f.b, 0x3344_55ff);
    g.set(packed.f.a, 0x66);
    g.return(p);
  });
  t.add('initialised globals', [], 1n + 2n + 3n - 1n + 9n + 5n, (g) => {
    const { first, inner, last } = record.f;
    const sum = first.add(inner.at(0).f.tag).add(inner.at(0).f.value).add(inner.at(1).f.value);
    g.return(sum.add(inner.at(2).f.value).add(last).add(counter));
  });
  t.add('function pointers in data', [1n], 4n, (g, i) => g.return(g.call(pointers.at(i), i)));
}

function narrowAccess(t: Cases): void {
  t.add('narrow stores keep their neighbours', [0x1234n], 0xffff_ffff_ff34_ff12n, (g, a) => {
    const word = g.local(u64, -1);
    const bytes = word.addr().cast(ptr(u8));
    g.set(bytes.at(0), a.shr(8).cast(u8));
    g.set(bytes.at(2), a.cast(u8));
    g.return(word);
  });
  t.add('compound assignment in memory', [100n], 1n, (g, a) => {
    const cell = g.local(array(u8, 4));
    g.set(cell.at(1), 250);
    g.inc(cell.at(1), 5);
    g.inc(cell.at(1));
    g.set(cell.at(1), '^=', a.cast(u8));
    g.set(cell.at(1), '-=', 99);
    g.return(cell.at(1));
  });
}

function addresses(t: Cases): void {
  t.add('pointer arithmetic counts elements', [3n], 3n, (g, n) => {
    const cells = g.local(array(u32, 8));
    const p = g.local(ptr(u32), cells.add(n));
    g.return(p.diff(cells).cast(u64));
  });
  t.add('the distance of pointers to odd sizes', [3n], 2n, (g, n) =>
    g.return(table.at(n).addr().diff(table.at(1).addr()).cast(u64)),
  );
  t.add('a string constant', [], 5n, (g) => g.return(strlen(g, str('hello'))));
  t.add('a page loop stores in each page', [0x100n], 4n, (g, step) => {
    const cells = g.local(array(u8, 1024));
    memset(g, cells, 0, 1024);
    const p = g.local(u64);
    const end = g.local(u64, cells.addr().cast(u64).add(1024));
    g.forRange(p, cells.addr().cast(u64), end, step, () => g.set(at(u8, p), 1));
    const sum = g.local(u64, 0);
    const i = g.local(u64);
    g.forRange(i, 0, 1024, 1, () => g.set(sum, '+=', cells.at(i)));
    g.return(sum);
  });
}

/** Cases of data in memory. */
export function memory(t: Cases): void {
  for (const group of [layouts, narrowAccess, addresses]) group(t);
}
