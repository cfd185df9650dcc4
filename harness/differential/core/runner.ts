// SPDX-License-Identifier: GPL-2.0-only
/**
 * The guest half of the snippet programs: for each record puts the code into place, runs it, and prints one line: number,
 * how it ended (`end`, or vector.error@offset and CR2), flags, checksum of registers, checksum of the memory it changes.
 */
import { R } from '../../../lib/asm/operands.ts';
import {
  type ArrayType,
  type Expr,
  type FnLinkable,
  get_cr0,
  get_cr2,
  get_cr4,
  get_ds,
  get_es,
  get_fs,
  get_gs,
  type GuestCode,
  guestFn,
  type GuestFn,
  guestGlobal,
  type GuestGlobal,
  lit,
  memcpy,
  type Operand,
  ptr,
  type PtrType,
  rdmsr,
  set_cr0,
  set_cr4,
  u64,
  u8,
  voidType,
  wrmsr,
} from '../../../lib/guest/index.ts';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { MSR } from '../../../lib/x86/msr.ts';
import { KERNEL_DS } from '../../../lib/kvm_util/x86/processor.ts';
import { e9_printf, e9_shutdown } from '../e9.ts';
import { snippet_enter, SnippetResult } from './entry.ts';
import { LINE_BYTES, SNIPPET_END } from './snippet.ts';
import { SnippetRecord, type SnippetTables } from './records.ts';

/** Where the stubs leave the registers; the host writes it. */
export const snippet_result = guestGlobal('snippet_result', ptr(SnippetResult));
/** The number of the snippet whose registers are printed in full, or -1; the host writes it. */
export const snippet_detail = guestGlobal('snippet_detail', u64, -1n);
const checksum = guestGlobal('checksum', u64);

const GOLDEN = 0x9e37_79b9_7f4a_7c15n;

/** Takes a value into the checksum. */
const mix = guestFn('mix', [u64], (g, value) => {
  const sum = g.local(u64, checksum.xor(value).mul(GOLDEN));
  g.set(checksum, sum.xor(sum.shr(29)));
});

/** Starts a checksum. */
const fresh = (g: GuestCode): void => g.set(checksum, 0);
/** The checksum's upper half. */
const sum = (): Expr => checksum.shr(32);

/** Takes quadwords of memory into the checksum. */
const mix_memory = guestFn('mix_memory', [ptr(u64), u64], (g, at, count) => {
  const i = g.local(u64);
  g.forRange(i, 0, count, 1, () => mix(g, at.at(i)));
});

const mix_registers = guestFn('mix_registers', [], (g) => {
  const { gpr, rsp } = snippet_result.f;
  mix_memory(g, gpr.addr().cast(ptr(u64)), 15);
  mix(g, rsp);
  mix(g, rdmsr(g, MSR.FS_BASE));
  mix(g, rdmsr(g, MSR.GS_BASE));
  for (const selector of [get_ds, get_es, get_fs, get_gs]) mix(g, selector(g).cast(u64));
});

/** All registers of one snippet, for a look into a difference. */
const print_detail = guestFn('print_detail', [], (g) => {
  const { gpr, rsp, vector, error_code, rip, cs, ss, rflags } = snippet_result.f;
  const { rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 } = gpr.f;
  e9_printf(
    g,
    '  vector %lx error %lx rip %lx cs %lx ss %lx rflags %lx\n',
    vector,
    error_code,
    rip,
    cs,
    ss,
    rflags,
  );
  e9_printf(
    g,
    '  rax %lx rcx %lx rdx %lx rbx %lx rsp %lx rbp %lx rsi %lx rdi %lx\n',
    rax,
    rcx,
    rdx,
    rbx,
    rsp,
    rbp,
    rsi,
    rdi,
  );
  e9_printf(
    g,
    '  r8 %lx r9 %lx r10 %lx r11 %lx r12 %lx r13 %lx r14 %lx r15 %lx\n',
    r8,
    r9,
    r10,
    r11,
    r12,
    r13,
    r14,
    r15,
  );
  const selectors = [get_ds, get_es, get_fs, get_gs].map((get) => get(g));
  e9_printf(
    g,
    '  fs %lx gs %lx ds es fs gs %lx %lx %lx %lx\n',
    rdmsr(g, MSR.FS_BASE),
    rdmsr(g, MSR.GS_BASE),
    ...selectors,
  );
});

const print_end = guestFn('print_end', [u64, ptr(SnippetRecord)], (g, n, record) => {
  const { vector, error_code, rip } = snippet_result.f;
  const { rip: start, code_len } = record.f;
  const end = start.add(code_len).sub(SNIPPET_END.length);
  g.if(
    vector.eq(VECTOR.UD).land(rip.eq(end)),
    () => e9_printf(g, '%ld end', n),
    () => {
      e9_printf(g, '%ld %lx.%lx@%lx', n, vector, error_code, rip.sub(start));
      g.if(vector.eq(VECTOR.PF), () => e9_printf(g, ' %lx', get_cr2(g)));
    },
  );
});

/** One snippet: into place, run, printed. */
function snippetFn({
  code,
  lines,
}: SnippetTables): GuestFn<readonly [typeof u64, PtrType<typeof SnippetRecord>]> {
  const codeAt = code as GuestGlobal<ArrayType<typeof u8>>;
  const linesAt = lines as GuestGlobal<ArrayType<typeof u64>>;
  return guestFn('run_snippet', [u64, ptr(SnippetRecord)], (g, n, record) => {
    const r = record.f;
    const [cr0, cr4] = [g.let(get_cr0(g)), g.let(get_cr4(g))];
    memcpy(g, r.rip.cast(ptr(voidType)), codeAt.at(r.code).addr(), r.code_len);
    resetSelectors(g);
    wrmsr(g, MSR.FS_BASE, r.fs_base);
    wrmsr(g, MSR.GS_BASE, r.gs_base);
    set_cr0(g, cr0.or(r.cr0));
    set_cr4(g, cr4.or(r.cr4));
    snippetEnter(g, record);
    set_cr4(g, cr4);
    set_cr0(g, cr0);
    print_end(g, n, record);
    fresh(g);
    mix_registers(g);
    e9_printf(g, ' %lx %lx', snippet_result.f.rflags.and(r.undefined_flags.bnot()), sum());
    fresh(g);
    const i = g.local(u64);
    g.forRange(i, 0, r.nr_lines, 1, () =>
      mix_memory(g, linesAt.at(r.lines.add(i)).cast(ptr(u64)), LINE_BYTES / 8),
    );
    e9_printf(g, ' %lx\n', sum());
    g.if(n.eq(snippet_detail), () => print_detail(g));
  });
}

const snippetEnter = (g: GuestCode, record: Operand): void => void g.call(lit(snippet_enter), record);

function resetSelectors(g: GuestCode): void {
  g.asm({
    clobbers: ['rax'],
    emit: (a) => {
      a.emit('mov', R.eax, KERNEL_DS);
      for (const reg of [R.ds, R.es]) a.emit('mov', reg, R.eax);
      a.emit('xor', R.eax, R.eax);
      for (const reg of [R.fs, R.gs]) a.emit('mov', reg, R.eax);
    },
  });
}

/** The program: all snippets, then the checksum of each page of the world. */
export function snippetMain(
  tables: SnippetTables,
  pages: readonly (readonly [bigint, number])[],
): FnLinkable {
  const run = snippetFn(tables);
  const records = tables.records as GuestGlobal<ArrayType<typeof SnippetRecord>>;
  return guestFn('guest_code', [], (g) => {
    const n = g.local(u64);
    g.forRange(n, 0, tables.count, 1, () => run(g, n, records.at(n).addr()));
    for (const [linear, bytes] of pages) {
      fresh(g);
      mix_memory(g, lit(linear).cast(u64).cast(ptr(u64)), bytes / 8);
      e9_printf(g, 'page %lx %lx\n', linear, sum());
    }
    e9_shutdown(g);
  });
}
