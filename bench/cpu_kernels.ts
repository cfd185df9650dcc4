// SPDX-License-Identifier: GPL-2.0-only
/**
 * Kernels that measure the interpreter alone: hand-encoded loops on a bare machine, no VMX. Each returns millions of
 * instructions a second; wall time is read by the caller's clock, so that nothing here depends on it.
 */
import { PROFILES } from '../vmm/machine/cost/profiles.ts';
import type { Cpu } from '../vmm/machine/cpu/cpu.ts';
import { enterLongMode } from '../vmm/machine/cpu/system/reset.ts';
import { RUN } from '../vmm/machine/cpu/state.ts';
import { tier0 } from '../vmm/machine/cpu/tier0.ts';
import { RAM_BASE } from '../vmm/machine/layout.ts';
import { createMachine, type Machine } from '../vmm/machine/machine.ts';

const MIB = 0x10_0000;
/** Linear addresses: code and stack at RAM_BASE.., identity-mapped; data at 4 GiB, so that high words are not zero. */
const CODE = RAM_BASE + 4 * MIB;
const STACK_TOP = RAM_BASE + 5 * MIB;
const DATA_PHYS = RAM_BASE + 8 * MIB;
const DATA = 0x1_0000_0000n;
const PRESENT_RW = 0x3;

export interface CpuKernel {
  readonly name: string;
  readonly cpu: Cpu;
  /** Run about `insns` instructions more; how many were executed. */
  run(insns: number): number;
}

/** Map one 4 KiB page in 4-level tables that grow from RAM_BASE. */
function mapper(machine: Machine): (lo: bigint, phys: number) => void {
  const { i32 } = machine.mem;
  let next = RAM_BASE + 4096;
  return (linear, phys) => {
    let table = RAM_BASE;
    for (const shift of [39n, 30n, 21n]) {
      const at = (table >> 2) + Number((linear >> shift) & 511n) * 2;
      if ((i32[at]! & 1) === 0) {
        i32[at] = next | PRESENT_RW;
        next += 4096;
      }
      table = i32[at]! & -4096;
    }
    i32[(table >> 2) + Number((linear >> 12n) & 511n) * 2] = phys | PRESENT_RW;
  };
}

function boot(code: readonly number[], dataMib: number): Cpu {
  const machine = createMachine({
    profile: PROFILES.skylake,
    nrCpus: 1,
    ramBytes: (16 + dataMib) * MIB,
    tlb: 'real',
    seed: 1,
  });
  const map = mapper(machine);
  for (let at = CODE; at < STACK_TOP; at += 4096) map(BigInt(at), at);
  for (let at = 0; at < dataMib * MIB; at += 4096) map(DATA + BigInt(at), DATA_PHYS + at);
  machine.mem.u8.set(code, CODE);
  const cpu = machine.cpus[0]!;
  enterLongMode(cpu, { cr3: RAM_BASE, rip: BigInt(CODE), rsp: BigInt(STACK_TOP - 64) });
  return cpu;
}

function kernel(name: string, code: readonly number[], dataMib = 0): CpuKernel {
  const cpu = boot(code, dataMib);
  return {
    name,
    cpu,
    run(insns) {
      const before = cpu.counts[0]!;
      while (cpu.counts[0]! - before < insns) {
        const result = tier0(cpu, cpu.clock[0]! + insns);
        if (result !== RUN.DEADLINE)
          throw new Error(`kernel ${name} stopped with ${result}: ${JSON.stringify(cpu.fault)}`);
      }
      return cpu.counts[0]! - before;
    },
  };
}

/** A 64-bit arithmetic loop: add xor shr shl imul test jz. */
// prettier-ignore
export function aluKernel(): CpuKernel {
  return kernel('alu', [
    0x48, 0x01, 0xd8,             // add rax, rbx
    0x48, 0x31, 0xc1,             // xor rcx, rax
    0x48, 0xc1, 0xe9, 0x03,       // shr rcx, 3
    0x48, 0x83, 0xc3, 0x07,       // add rbx, 7
    0x48, 0xc1, 0xe2, 0x05,       // shl rdx, 5
    0x48, 0x01, 0xca,             // add rdx, rcx
    0x48, 0x0f, 0xaf, 0xc2,       // imul rax, rdx
    0x48, 0xf7, 0xc0, 1, 0, 0, 0, // test rax, 1
    0x74, 0x03,                   // jz +3
    0x48, 0x01, 0xd0,             // add rax, rdx
    0x48, 0x31, 0xd8,             // xor rax, rbx
    0x48, 0x83, 0xee, 0x01,       // sub rsi, 1
    0x75, 0xd2,                   // jnz start
  ]);
}

/** A call, two pushes, two pops and a return. */
// prettier-ignore
export function callKernel(): CpuKernel {
  return kernel('call', [
    0xe8, 0x07, 0x00, 0x00, 0x00, // call f
    0x48, 0x83, 0xee, 0x01,       // sub rsi, 1
    0x75, 0xf5,                   // jnz start
    0x90,
    0x50, 0x53,                   // f: push rax; push rbx
    0x48, 0x01, 0xd8,             // add rax, rbx
    0x48, 0x83, 0xc3, 0x01,       // add rbx, 1
    0x48, 0x31, 0xc1,             // xor rcx, rax
    0x5b, 0x58,                   // pop rbx; pop rax
    0xc3,                         // ret
  ]);
}

/** One 64-bit store to each 4 KiB page of 64 MiB, over and over: every store walks. */
// prettier-ignore
export function pageTouchKernel(): CpuKernel {
  return kernel('page touch', [
    0x48, 0xbf, 0, 0, 0, 0, 1, 0, 0, 0, // start: mov rdi, 1 << 32
    0x48, 0xbb, 0, 0, 0, 4, 1, 0, 0, 0, // mov rbx, end
    0x48, 0x89, 0x07,                   // loop: mov [rdi], rax
    0x48, 0x81, 0xc7, 0, 0x10, 0, 0,    // add rdi, 4096
    0x48, 0x39, 0xdf,                   // cmp rdi, rbx
    0x75, 0xf1,                         // jne loop
    0xeb, 0xdb,                         // jmp start
  ], 64);
}

/** Fill 64 MiB by 64-bit stores. */
// prettier-ignore
export function fillKernel(): CpuKernel {
  return kernel('fill', [
    0x48, 0xbf, 0, 0, 0, 0, 1, 0, 0, 0, // start: mov rdi, 1 << 32
    0x48, 0xbb, 0, 0, 0, 4, 1, 0, 0, 0, // mov rbx, end
    0x48, 0x89, 0x07,                   // loop: mov [rdi], rax
    0x48, 0x83, 0xc7, 0x08,             // add rdi, 8
    0x48, 0x39, 0xdf,                   // cmp rdi, rbx
    0x75, 0xf4,                         // jne loop
    0xeb, 0xde,                         // jmp start
  ], 64);
}

/** Read-modify-write and loads with an index, and out-of-line forms: 8-bit compare, setcc, cmov, variable shift. */
// prettier-ignore
export function mixedKernel(): CpuKernel {
  return kernel('mixed', [
    0x48, 0xbf, 0, 0, 0, 0, 1, 0, 0, 0, // mov rdi, 1 << 32
    0x48, 0x31, 0xc9,                   // xor rcx, rcx
    0x48, 0x83, 0x04, 0xcf, 0x01,       // loop: add qword [rdi + rcx * 8], 1
    0x48, 0x03, 0x04, 0xcf,             // add rax, [rdi + rcx * 8]
    0x0f, 0xb6, 0x54, 0x0f, 0x08,       // movzx edx, byte [rdi + rcx + 8]
    0x89, 0x54, 0x8f, 0x40,             // mov [rdi + rcx * 4 + 64], edx
    0x84, 0xd2,                         // test dl, dl
    0x0f, 0x94, 0xc3,                   // sete bl
    0x48, 0x0f, 0x45, 0xf0,             // cmovne rsi, rax
    0x83, 0xc1, 0x01,                   // add ecx, 1
    0x83, 0xe1, 0x7f,                   // and ecx, 127
    0x75, 0xdd,                         // jne loop
    0xeb, 0xce,                         // jmp start
  ], 1);
}

/** All kernels by name. */
export function cpuKernels(): readonly CpuKernel[] {
  return [aluKernel(), callKernel(), pageTouchKernel(), fillKernel(), mixedKernel()];
}
