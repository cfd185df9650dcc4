// SPDX-License-Identifier: GPL-2.0-only
/** The two snippet programs: the world mapped, a user code segment, gates to the stubs on a stack of their own. */
import { readFileSync } from 'node:fs';
import { PAGE_SIZE } from '../../../lib/x86/addr.ts';
import { AR, encodeDescriptor, encodeGate64, SYS_TYPE, TSS64 } from '../../../lib/x86/segments.ts';
import {
  exception_handlers,
  guest_tsc_khz,
  idt_handlers,
  linkImage,
  NUM_INTERRUPTS,
  ucall_pool,
  type GuestImage,
} from '../../../lib/guest/index.ts';
import { symbolAddress, u64Bytes, writeGuestGlobal } from '../../../lib/kvm_util/guest_global.ts';
import { KVM_UTIL_MIN_VADDR, type KvmVm } from '../../../lib/kvm_util/kvm_util.ts';
import { readGuest, vmVaddrAlloc, writeGuest } from '../../../lib/kvm_util/x86/page_table.ts';
import { KERNEL_CS, KERNEL_DS } from '../../../lib/kvm_util/x86/processor.ts';
import { CODE, LARGE_USED } from '../../reference/world.ts';
import type { DifferentialProgram } from '../program.ts';
import { SnippetResult, snippet_cs, snippet_ss, snippet_stubs } from './entry.ts';
import { snippetTables } from './records.ts';
import { snippet_detail, snippet_result, snippetMain } from './runner.ts';
import { parseSnippets, type Privilege, type Snippet } from './snippet.ts';
import { mapWorld, WORLD_PAGES, worldImage, worldPages } from './world.ts';

/** Out of the way of the world's pages. */
const IMAGE_BASE = 0x2000_0000n;
const USER_DS = 0x30;
const USER_CS = 0x38;
const RPL3 = 3;

/** The snippets of a file beside this one. */
export function loadSnippets(privilege: Privilege): readonly Snippet[] {
  return parseSnippets(readFileSync(new URL(`snippets_${privilege}.txt`, import.meta.url), 'utf8'));
}

function linkSnippets(privilege: Privilege): GuestImage {
  const pages = worldPages(worldImage(privilege))
    .filter(({ flags }) => (flags & RESERVED_BIT) === 0n)
    .map(({ linear, level }) => [linear, level === 1 ? PAGE_SIZE : LARGE_USED] as const);
  const roots = [ucall_pool, exception_handlers, idt_handlers, guest_tsc_khz];
  const own = [snippet_stubs, snippet_result, snippet_detail, snippet_cs, snippet_ss];
  const entry = snippetMain(snippetTables(loadSnippets(privilege)), pages);
  return linkImage({ base: IMAGE_BASE, entry, roots: [...roots, ...own] });
}

/** One of the world's pages has it set. */
const RESERVED_BIT = 1n << 51n;

function userSegments(vm: KvmVm): void {
  const dpl3 = AR.DPL_MASK;
  for (const [selector, ar] of [
    [USER_DS, AR.P | AR.S | dpl3 | 0x3 | AR.DB],
    [USER_CS, AR.P | AR.S | dpl3 | 0xb | AR.L],
  ] as const) {
    const [lo, hi] = encodeDescriptor(0, 0xffff_ffff, ar);
    writeGuest(vm, vm.arch.gdt + BigInt(selector), new Uint8Array(new Int32Array([lo, hi]).buffer));
  }
}

/** Gates and IST1: the result lies at the top of the stack. */
function exceptionStack(vm: KvmVm): void {
  const stack = vmVaddrAlloc(vm, PAGE_SIZE, KVM_UTIL_MIN_VADDR) + BigInt(PAGE_SIZE);
  writeGuest(vm, vm.arch.tss + BigInt(TSS64.IST1), u64Bytes(stack));
  // No port is the user's: else the map would be the TSS's own zeroes.
  writeGuest(vm, vm.arch.tss + BigInt(TSS64.IO_MAP_BASE), new Uint8Array([0xff, 0xff]));
  writeGuestGlobal(vm, snippet_result.symbol, stack - BigInt(SnippetResult.size));
  const stubs = new DataView(
    readGuest(vm, symbolAddress(vm, snippet_stubs.symbol), 8 * NUM_INTERRUPTS).buffer,
  );
  for (let vector = 0; vector < NUM_INTERRUPTS; vector++) {
    const words = encodeGate64(
      SYS_TYPE.INTERRUPT_GATE64,
      KERNEL_CS,
      stubs.getBigUint64(8 * vector, true),
      0,
      1,
    );
    writeGuest(vm, vm.arch.idt + BigInt(16 * vector), new Uint8Array(new Int32Array(words).buffer));
  }
}

/** Prepares a VM for the snippets of a privilege level. */
function prepareSnippets(vm: KvmVm, privilege: Privilege): void {
  userSegments(vm);
  exceptionStack(vm);
  const user = privilege === 'user';
  writeGuestGlobal(vm, snippet_cs.symbol, BigInt(user ? USER_CS | RPL3 : KERNEL_CS));
  writeGuestGlobal(vm, snippet_ss.symbol, BigInt(user ? USER_DS | RPL3 : KERNEL_DS));
  mapWorld(vm, privilege);
}

/** Straight-line snippets at one privilege level. */
export const snippetProgram = (privilege: Privilege): DifferentialProgram => ({
  name: `core_${privilege}`,
  on: ['L0'],
  summary: `random straight-line snippets at ${privilege} privilege`,
  image: () => linkSnippets(privilege),
  extraPages: WORLD_PAGES,
  *prepare(vm) {
    prepareSnippets(vm, privilege);
  },
  explain: (line) => explainSnippet(privilege, line),
});

/** The snippet of a line: its bytes are enough for a disassembler. */
function explainSnippet(privilege: Privilege, line: string): string | undefined {
  const number = /^(\d+) /.exec(line)?.[1];
  const snippet = number === undefined ? undefined : loadSnippets(privilege)[Number(number)];
  if (snippet === undefined) return undefined;
  const at = (CODE + BigInt(snippet.start)).toString(16);
  return `seed ${snippet.seed}, code at 0x${at}: ${Buffer.from(snippet.code).toString('hex')}`;
}
