// SPDX-License-Identifier: GPL-2.0-only
/**
 * Instructions that the CPU's privileged software uses, one macro each, after include/x86_64/processor.h of
 * tools/testing/selftests/kvm. Left out: SSE, the host half (in lib/kvm_util).
 */
import type { Instruction } from '../asm/isa.ts';
import { mem, R, type Reg } from '../asm/operands.ts';
import type { CpuidFeature } from '../x86/cpuid.ts';
import { fixed } from './dsl/asm_spec.ts';
import type { GuestCode } from './dsl/builder.ts';
import { type Expr, lit, type Place } from './dsl/expr.ts';
import { guestFn } from './dsl/function.ts';
import { guestGlobal } from './dsl/global.ts';
import type { Operand } from './dsl/rvalue.ts';
import { packedStruct } from './dsl/struct.ts';
import { type IntType, u16, u32, u64 } from './dsl/types.ts';
import { GUEST_ASSERT } from './guest_assert.ts';

/** edx:eax as one value. */
const join = (g: GuestCode, lo: Expr, hi: Expr): Place<IntType> =>
  g.let(hi.cast(u64).shl(32).or(lo.cast(u64)));

/** The halves of a 64-bit value for edx:eax. */
const split = (value: Operand): { readonly lo: Expr; readonly hi: Expr } => {
  const wide = lit(value).cast(u64);
  return { lo: wide.cast(u32), hi: wide.shr(32).cast(u32) };
};

/** Reads a model-specific register. */
export function rdmsr(g: GuestCode, msr: Operand): Place<IntType> {
  const { lo, hi } = g.asm({
    in: { msr: fixed('rcx', msr) },
    out: { lo: fixed('rax', u32), hi: fixed('rdx', u32) },
    emit: (a) => a.emit('rdmsr'),
  });
  return join(g, lo, hi);
}

/** Writes a model-specific register. */
export function wrmsr(g: GuestCode, msr: Operand, value: Operand): void {
  const { lo, hi } = split(g.let(lit(value).cast(u64)));
  g.asm({
    in: { msr: fixed('rcx', msr), lo: fixed('rax', lo), hi: fixed('rdx', hi) },
    emit: (a) => a.emit('wrmsr'),
  });
}

/** The time-stamp counter. */
export function rdtsc(g: GuestCode): Place<IntType> {
  const { lo, hi } = g.asm({
    out: { lo: fixed('rax', u32), hi: fixed('rdx', u32) },
    emit: (a) => a.emit('rdtsc'),
  });
  return join(g, lo, hi);
}

/** The time-stamp counter, ordered after what is before it, and IA32_TSC_AUX. */
export function rdtscp(g: GuestCode): { readonly tsc: Place<IntType>; readonly aux: Expr<IntType> } {
  const { lo, hi, aux } = g.asm({
    out: { lo: fixed('rax', u32), hi: fixed('rdx', u32), aux: fixed('rcx', u32) },
    emit: (a) => a.emit('rdtscp'),
  });
  return { tsc: join(g, lo, hi), aux };
}

/** The four outputs of CPUID. */
export interface CpuidOutputs {
  readonly eax: Expr<IntType>;
  readonly ebx: Expr<IntType>;
  readonly ecx: Expr<IntType>;
  readonly edx: Expr<IntType>;
}

/** CPUID of a leaf and a subleaf. */
export function __cpuid(g: GuestCode, leaf: Operand, index: Operand): CpuidOutputs {
  return g.asm({
    in: { leaf: fixed('rax', leaf), index: fixed('rcx', index) },
    out: {
      eax: fixed('rax', u32),
      ebx: fixed('rbx', u32),
      ecx: fixed('rcx', u32),
      edx: fixed('rdx', u32),
    },
    emit: (a) => a.emit('cpuid'),
  });
}

/** CPUID of a leaf without subleaves. */
export const cpuid = (g: GuestCode, leaf: Operand): CpuidOutputs => __cpuid(g, leaf, 0);

const CPUID_OUTPUT = ['eax', 'ebx', 'ecx', 'edx'] as const;

/** Whether CPUID announces a feature. */
export function this_cpu_has(g: GuestCode, [leaf, index, reg, bit]: CpuidFeature): Expr<IntType> {
  return __cpuid(g, leaf, index)[CPUID_OUTPUT[reg]!].shr(bit).and(1);
}

type ControlRegister = 'cr0' | 'cr2' | 'cr3' | 'cr4' | 'cr8';

function getCr(g: GuestCode, cr: ControlRegister): Expr<IntType> {
  return g.asm({ out: { value: u64 }, emit: (a, r) => a.emit('mov', r.reg('value'), R[cr]) }).value;
}

function setCr(g: GuestCode, cr: ControlRegister, value: Operand): void {
  g.asm({ in: { value: lit(value).cast(u64) }, emit: (a, r) => a.emit('mov', R[cr], r.reg('value')) });
}

export const get_cr0 = (g: GuestCode): Expr<IntType> => getCr(g, 'cr0');
export const get_cr2 = (g: GuestCode): Expr<IntType> => getCr(g, 'cr2');
export const get_cr3 = (g: GuestCode): Expr<IntType> => getCr(g, 'cr3');
export const get_cr4 = (g: GuestCode): Expr<IntType> => getCr(g, 'cr4');
export const get_cr8 = (g: GuestCode): Expr<IntType> => getCr(g, 'cr8');
export const set_cr0 = (g: GuestCode, value: Operand): void => setCr(g, 'cr0', value);
export const set_cr3 = (g: GuestCode, value: Operand): void => setCr(g, 'cr3', value);
export const set_cr4 = (g: GuestCode, value: Operand): void => setCr(g, 'cr4', value);
export const set_cr8 = (g: GuestCode, value: Operand): void => setCr(g, 'cr8', value);

/** Reads an extended control register. */
export function xgetbv(g: GuestCode, index: Operand): Place<IntType> {
  const { lo, hi } = g.asm({
    in: { index: fixed('rcx', index) },
    out: { lo: fixed('rax', u32), hi: fixed('rdx', u32) },
    emit: (a) => a.emit('xgetbv'),
  });
  return join(g, lo, hi);
}

/** Writes an extended control register. */
export function xsetbv(g: GuestCode, index: Operand, value: Operand): void {
  const { lo, hi } = split(g.let(lit(value).cast(u64)));
  g.asm({
    in: { index: fixed('rcx', index), lo: fixed('rax', lo), hi: fixed('rdx', hi) },
    emit: (a) => a.emit('xsetbv'),
  });
}

/** The operand of LGDT, LIDT, SGDT and SIDT. */
export const DescPtr = packedStruct('struct desc_ptr', { size: u16, address: u64 });

function storeTable(g: GuestCode, insn: 'sgdt' | 'sidt'): Place<typeof DescPtr> {
  const desc = g.local(DescPtr);
  g.asm({ in: { desc: desc.addr() }, emit: (a, r) => a.emit(insn, mem(0, { base: r.reg64('desc') })) });
  return desc;
}

/** Base and limit of the GDT. */
export const get_gdt = (g: GuestCode): Place<typeof DescPtr> => storeTable(g, 'sgdt');
/** Base and limit of the IDT. */
export const get_idt = (g: GuestCode): Place<typeof DescPtr> => storeTable(g, 'sidt');

/** Loads the IDT register from a `struct desc_ptr`. */
export function lidt(g: GuestCode, desc: Operand): void {
  g.asm({ in: { desc }, emit: (a, r) => a.emit('lidt', mem(0, { base: r.reg64('desc') })) });
}

type Selector = 'cs' | 'ds' | 'es' | 'ss' | 'fs' | 'gs';

function getSelector(g: GuestCode, selector: Selector): Expr<IntType> {
  return g.asm({ out: { value: u16 }, emit: (a, r) => a.emit('mov', r.reg('value'), R[selector]) }).value;
}

export const get_cs = (g: GuestCode): Expr<IntType> => getSelector(g, 'cs');
export const get_ds = (g: GuestCode): Expr<IntType> => getSelector(g, 'ds');
export const get_es = (g: GuestCode): Expr<IntType> => getSelector(g, 'es');
export const get_ss = (g: GuestCode): Expr<IntType> => getSelector(g, 'ss');
export const get_fs = (g: GuestCode): Expr<IntType> => getSelector(g, 'fs');
export const get_gs = (g: GuestCode): Expr<IntType> => getSelector(g, 'gs');

/** The task register. */
export const get_tr = (g: GuestCode): Expr<IntType> =>
  g.asm({ out: { value: u16 }, emit: (a, r) => a.emit('str', r.reg('value')) }).value;

/** Drops the translation of one page. */
export function invlpg(g: GuestCode, address: Operand): void {
  g.asm({ in: { address }, emit: (a, r) => a.emit('invlpg', mem(0, { base: r.reg64('address') })) });
}

function portIn(g: GuestCode, port: Operand, size: 8 | 16 | 32): Expr<IntType> {
  const reg: Reg = { 8: R.al, 16: R.ax, 32: R.eax }[size];
  const type = size === 32 ? u32 : u16;
  const { value } = g.asm({
    in: { port: fixed('rdx', port) },
    out: { value: fixed('rax', type) },
    emit: (a) => {
      a.emit('in', reg, R.dx);
      if (size === 8) a.emit('movzx', R.eax, R.al);
    },
  });
  return value;
}

function portOut(g: GuestCode, value: Operand, port: Operand, size: 8 | 16 | 32): void {
  const reg: Reg = { 8: R.al, 16: R.ax, 32: R.eax }[size];
  g.asm({
    in: { port: fixed('rdx', port), value: fixed('rax', value) },
    emit: (a) => a.emit('out', R.dx, reg),
  });
}

export const inb = (g: GuestCode, port: Operand): Expr<IntType> => portIn(g, port, 8);
export const inw = (g: GuestCode, port: Operand): Expr<IntType> => portIn(g, port, 16);
export const inl = (g: GuestCode, port: Operand): Expr<IntType> => portIn(g, port, 32);
export const outb = (g: GuestCode, value: Operand, port: Operand): void => portOut(g, value, port, 8);
export const outw = (g: GuestCode, value: Operand, port: Operand): void => portOut(g, value, port, 16);
export const outl = (g: GuestCode, value: Operand, port: Operand): void => portOut(g, value, port, 32);

const plain =
  (...insns: readonly Instruction[]) =>
  (g: GuestCode): void => {
    g.asm({ emit: (a) => insns.forEach((insn) => a.emit(insn)) });
  };

/** Waits in a spinning loop. */
export const cpu_relax = plain('pause');
export const cli = plain('cli');
export const sti = plain('sti');
export const hlt = plain('hlt');
/** Enables interrupts and takes them after the nop. */
export const sti_nop = plain('sti', 'nop');
/** Waits for an interrupt without losing one that comes first: STI's shadow covers HLT. */
export const safe_halt = plain('sti', 'hlt');
export const ud2 = plain('ud2');
export const vmmcall = plain('vmmcall');
export const wbinvd = plain('wbinvd');

/** KVM's hypercall with up to four arguments; gives rax. */
export function kvm_hypercall(g: GuestCode, nr: Operand, ...args: readonly Operand[]): Expr<IntType> {
  const [a0 = 0, a1 = 0, a2 = 0, a3 = 0] = args;
  return g.asm({
    in: {
      nr: fixed('rax', nr),
      a0: fixed('rbx', a0),
      a1: fixed('rcx', a1),
      a2: fixed('rdx', a2),
      a3: fixed('rsi', a3),
    },
    out: { ret: fixed('rax', u64) },
    emit: (a) => a.emit('vmcall'),
  }).ret;
}

/** The frequency of the time-stamp counter; the host writes it. */
export const guest_tsc_khz = guestGlobal('guest_tsc_khz', u32);

/** Waits some microseconds by the time-stamp counter. */
export const udelay = guestFn('udelay', [u64], (g, usec) => {
  GUEST_ASSERT(g, guest_tsc_khz.ne(0));
  const cycles = g.local(u64, guest_tsc_khz.div(1000).mul(usec));
  const start = rdtsc(g);
  g.while(
    () => rdtsc(g).sub(start).lt(cycles),
    () => cpu_relax(g),
  );
});
