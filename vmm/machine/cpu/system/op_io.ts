// SPDX-License-Identifier: GPL-2.0-only
/** Port I/O: IN, OUT, INS, OUTS, with IOPL and the TSS's I/O permission bitmap. SDM, "I/O Permission Bit Map". */
import { RFLAGS } from '../../../../lib/x86/registers.ts';
import { TSS64 } from '../../../../lib/x86/segments.ts';
import { COST } from '../../cost/points.ts';
import { spend } from '../../cost/ledger.ts';
import { ACCESS } from '../../mmu/access.ts';
import { loadLinear, loadLinearSystem, storeLinear, translateAccess } from '../../mmu/linear.ts';
import { vmxIntercepts } from '../../vmx/intercepts.ts';
import type { Cpu } from '../cpu.ts';
import { getRflags } from '../flags.ts';
import { RUN, S, SEGF, SEGN } from '../state.ts';
import { addressAt, segAt } from './descriptors.ts';
import { NEXT, raiseGp } from './fault.ts';
import { complete, writeGpr } from './operands.ts';

const [RCX, RDX, RSI, RDI] = [S.GPR + 2, S.GPR + 4, S.GPR + 12, S.GPR + 14];

/** IOPL or the bitmap allow the port; -1: yes, else what the instruction returns. */
function portAllowed(cpu: Cpu, port: number, size: number): number {
  const { s, sys } = cpu;
  if (s[S.CPL]! <= (s[S.RFLAGS_SYS]! & RFLAGS.IOPL) >> 12) return NEXT;
  const tr = segAt(SEGN.TR);
  const limit = s[tr + SEGF.LIMIT]! >>> 0;
  if (limit < TSS64.LIMIT) return raiseGp(cpu);
  addressAt(cpu, tr + SEGF.BASE, TSS64.IO_MAP_BASE);
  if (!loadLinearSystem(cpu, sys.address[0]!, sys.address[1]!, 2, sys.value)) return RUN.FAULT;
  const at = (sys.value[0]! & 0xffff) + (port >> 3);
  // Two bytes are always read: a port range may straddle them.
  if (at + 1 > limit) return raiseGp(cpu);
  addressAt(cpu, tr + SEGF.BASE, at);
  if (!loadLinearSystem(cpu, sys.address[0]!, sys.address[1]!, 2, sys.value)) return RUN.FAULT;
  const mask = ((1 << size) - 1) << (port & 7);
  return (sys.value[0]! & mask) === 0 ? NEXT : raiseGp(cpu);
}

function portOf(cpu: Cpu): number {
  return cpu.insn.imm < 0 ? cpu.s[RDX]! & 0xffff : cpu.insn.imm;
}

/** IN. */
export function portIn(cpu: Cpu): number {
  const { insn, sys } = cpu;
  const port = portOf(cpu);
  const refused = portAllowed(cpu, port, insn.size);
  if (refused >= 0) return refused;
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  spend(cpu, COST.PORT_IO);
  sys.io.ports.read(port, insn.size, sys.value);
  writeGpr(cpu, 0, insn.size, sys.value[0]!, 0);
  return complete(cpu);
}

/** OUT. */
export function portOut(cpu: Cpu): number {
  const { insn, s, sys } = cpu;
  const port = portOf(cpu);
  const refused = portAllowed(cpu, port, insn.size);
  if (refused >= 0) return refused;
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  spend(cpu, COST.PORT_IO);
  sys.io.ports.write(port, insn.size, truncate(s[S.GPR]!, insn.size), 0);
  return complete(cpu);
}

/** INS, one element; REP comes back to the instruction until RCX is zero. */
export function portIns(cpu: Cpu): number {
  return string(cpu, (port) => {
    const { insn, s, sys } = cpu;
    const hi = insn.addressSize === 8 ? s[RDI + 1]! : 0;
    // The destination is checked before the port is read: a fault must not lose data.
    if (translateAccess(cpu, s[RDI]!, hi, insn.size, ACCESS.WRITE) < 0) return RUN.FAULT;
    sys.io.ports.read(port, insn.size, sys.value);
    if (!storeLinear(cpu, s[RDI]!, hi, insn.size, sys.value[0]!, 0)) return RUN.FAULT;
    advanceIndex(cpu, RDI);
    return NEXT;
  });
}

/** OUTS, one element. */
export function portOuts(cpu: Cpu): number {
  return string(cpu, (port) => {
    const { insn, s, sys } = cpu;
    const base = insn.seg === SEGN.FS || insn.seg === SEGN.GS ? segAt(insn.seg) : S.ZERO;
    const [lo, hi] = [s[RSI]!, insn.addressSize === 8 ? s[RSI + 1]! : 0];
    const sum = (lo >>> 0) + (s[base]! >>> 0);
    const sumHi = hi + s[base + 1]! + (sum >= 0x1_0000_0000 ? 1 : 0);
    if (!loadLinear(cpu, sum | 0, sumHi | 0, insn.size, sys.value)) return RUN.FAULT;
    sys.io.ports.write(port, insn.size, truncate(sys.value[0]!, insn.size), 0);
    advanceIndex(cpu, RSI);
    return NEXT;
  });
}

function string(cpu: Cpu, element: (port: number) => number): number {
  const { insn, s } = cpu;
  const count64 = insn.addressSize === 8;
  if (insn.rep !== 0 && s[RCX] === 0 && (!count64 || s[RCX + 1] === 0)) return complete(cpu);
  const port = s[RDX]! & 0xffff;
  const refused = portAllowed(cpu, port, insn.size);
  if (refused >= 0) return refused;
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  spend(cpu, COST.PORT_IO);
  const result = element(port);
  if (result >= 0) return result;
  if (insn.rep === 0) return complete(cpu);
  const low = s[RCX]!;
  s[RCX] = low - 1;
  if (!count64) s[RCX + 1] = 0;
  else if (low === 0) s[RCX + 1] = s[RCX + 1]! - 1;
  if (s[RCX] === 0 && s[RCX + 1] === 0) return complete(cpu);
  return NEXT; // RIP stays: interrupts can come between elements
}

/** RSI or RDI moves by the element size, down if DF is set. */
function advanceIndex(cpu: Cpu, at: number): void {
  const { insn, s } = cpu;
  const step = (getRflags(cpu) & RFLAGS.DF) !== 0 ? -insn.size : insn.size;
  const sum = (s[at]! >>> 0) + step;
  s[at] = sum;
  if (insn.addressSize === 8) s[at + 1] = s[at + 1]! + Math.floor(sum / 0x1_0000_0000);
  else s[at + 1] = 0;
}

function truncate(value: number, size: number): number {
  return size >= 4 ? value : value & ((1 << (size * 8)) - 1);
}
