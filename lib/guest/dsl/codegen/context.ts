// SPDX-License-Identifier: GPL-2.0-only
/**
 * What the parts of the code generator share for one function: homes, spill slots, and which nodes are instruction operands as
 * they stand. Spill slots lie above the locals; each is used by one spill at a time.
 */
import { mem, R, type Mem, type Operand } from '../../../asm/operands.ts';
import { signedValue } from '../fold.ts';
import type { ConstNode, Linkable, Local, Node } from '../ir.ts';
import { isInt, type IntSize } from '../types.ts';
import { gp, type Emitter } from './emitter.ts';
import type { Home, Homes } from './homes.ts';
import type { RegNum } from './registers.ts';

/** An address in the terms of the instruction set; base and index are still trees. */
export interface AddressParts {
  readonly base: Node | undefined;
  readonly index: Node | undefined;
  readonly scale: 1 | 2 | 4 | 8;
  readonly disp: number;
  /** The base is the stack pointer: a local in memory. */
  readonly stack: boolean;
  readonly label: string | undefined;
}

const INT32 = 0x8000_0000n;

/** The constant as an immediate of this width; undefined if it needs a 64-bit move. */
export function immediate(node: ConstNode, size: IntSize): number | undefined {
  const value = size === 8 ? signedValue(node) : BigInt.asIntN(size * 8, node.value);
  return value >= -INT32 && value < INT32 ? Number(value) : undefined;
}

/** State of one function's code generation. */
export class FnContext {
  readonly em: Emitter;
  readonly homes: Homes;
  /** Names the label of a symbol and makes it part of the image. */
  readonly labelOf: (target: Linkable) => string;
  private readonly spills: boolean[] = [];

  constructor(em: Emitter, homes: Homes, labelOf: (target: Linkable) => string) {
    this.em = em;
    this.homes = homes;
    this.labelOf = labelOf;
  }

  home(local: Local): Home {
    return this.homes.of.get(local)!;
  }

  /** The register of a local, if it has one. */
  homeReg(local: Local): RegNum | undefined {
    const home = this.homes.of.get(local);
    return home?.kind === 'reg' ? home.reg : undefined;
  }

  /** A stack slot as an operand. */
  slot(local: Local, size: IntSize): Mem {
    const home = this.home(local);
    return mem(size * 8, { base: R.rsp, disp: home.kind === 'slot' ? home.offset : 0 });
  }

  /** Takes a free spill slot. */
  takeSpill(): number {
    const found = this.spills.indexOf(false);
    const index = found >= 0 ? found : this.spills.length;
    this.spills[index] = true;
    return index;
  }

  /** Gives a spill slot back. */
  dropSpill(index: number): void {
    this.spills[index] = false;
  }

  spillMem(index: number, size: IntSize): Mem {
    return mem(size * 8, { base: R.rsp, disp: this.homes.slotBytes + index * 8 });
  }

  /** Bytes of outgoing arguments, slots and spills. */
  frameBytes(): number {
    return this.homes.slotBytes + this.spills.length * 8;
  }

  /** The node as an operand of `size` bytes that needs no code, if it is one. */
  direct(node: Node, size: IntSize): Operand | undefined {
    switch (node.k) {
      case 'const':
        return immediate(node, size);
      case 'local':
        return this.directLocal(node.local, size);
      case 'load':
        return node.size >= size ? this.directMem(node.addr, size) : undefined;
      case 'ext':
        // Truncation is free, and so is zero-extension of what a 32-bit instruction has written.
        if (size <= node.from) return this.direct(node.x, size);
        if (node.from === 4 && !node.signed && node.x.width === 4) return this.directReg(node.x, size);
        return undefined;
      default:
        return undefined;
    }
  }

  /** The address as a memory operand that needs no code, if it is one. */
  directMem(addr: Node, size: IntSize | 0): Mem | undefined {
    const parts = this.addressParts(addr);
    const base = parts.base && this.nodeReg(parts.base);
    const index = parts.index && this.nodeReg(parts.index);
    if ((parts.base && base === undefined) || (parts.index && index === undefined)) return undefined;
    return this.memOf(parts, base, index, size);
  }

  /** Builds the operand once base and index are in registers. */
  memOf(parts: AddressParts, base: RegNum | undefined, index: RegNum | undefined, size: IntSize | 0): Mem {
    return mem(size * 8, {
      base: parts.stack ? R.rsp : base === undefined ? undefined : gp(base, 8),
      index: index === undefined ? undefined : gp(index, 8),
      scale: parts.scale,
      disp: parts.disp,
      label: parts.label,
    });
  }

  /** The register that holds the node already. */
  nodeReg(node: Node): RegNum | undefined {
    return node.k === 'local' && node.width === 8 ? this.homeReg(node.local) : undefined;
  }

  /** Takes an address apart: base + index * scale + displacement. */
  addressParts(addr: Node): AddressParts {
    let node = addr;
    let disp = 0;
    if (node.k === 'bin' && node.op === 'add' && node.r.k === 'const') {
      const constant = immediate(node.r, 8);
      if (constant !== undefined) {
        disp = constant;
        node = node.l;
      }
    }
    const none = {
      base: undefined,
      index: undefined,
      scale: 1,
      disp,
      stack: false,
      label: undefined,
    } as const;
    const leaf = this.leafParts(node, disp);
    if (leaf) return { ...none, ...leaf };
    if (node.k === 'const') {
      const absolute = immediate(node, 8);
      if (absolute !== undefined) return { ...none, disp: absolute };
    }
    if (node.k === 'bin' && node.op === 'add') return { ...none, ...this.indexed(node.l, node.r, disp) };
    return { ...none, base: node };
  }

  private leafParts(node: Node, disp: number): Partial<AddressParts> | undefined {
    if (node.k === 'sym') return { label: this.labelOf(node.target), disp: disp + node.addend };
    if (node.k !== 'localAddr') return undefined;
    const home = this.home(node.local);
    return { stack: true, disp: disp + node.offset + (home.kind === 'slot' ? home.offset : 0) };
  }

  private indexed(l: Node, r: Node, disp: number): Partial<AddressParts> {
    const scaledLeft = scaleOf(l);
    const [base, index] = scaledLeft && !scaleOf(r) ? [r, l] : [l, r];
    const scaled = scaleOf(index);
    const parts = { index: scaled?.x ?? index, scale: scaled?.scale ?? 1 } as const;
    const leaf = base.k === 'localAddr' ? this.leafParts(base, disp) : undefined;
    return leaf ? { ...leaf, ...parts } : { base, disp, ...parts };
  }

  private directLocal(local: Local, size: IntSize): Operand | undefined {
    const reg = this.homeReg(local);
    if (reg !== undefined) return gp(reg, size);
    return local.type.size >= size ? this.slot(local, size) : undefined;
  }

  private directReg(node: Node, size: IntSize): Operand | undefined {
    const reg = node.k === 'local' ? this.homeReg(node.local) : undefined;
    return reg === undefined ? undefined : gp(reg, size);
  }
}

function scaleOf(node: Node): { x: Node; scale: 2 | 4 | 8 } | undefined {
  if (node.k !== 'bin' || node.op !== 'shl' || node.r.k !== 'const') return undefined;
  const scale = 1 << Number(node.r.value);
  return scale === 2 || scale === 4 || scale === 8 ? { x: node.l, scale } : undefined;
}

/** How the local's memory is read: size and extension. */
export const localLoad = (local: Local): { size: IntSize; signed: boolean } => ({
  size: local.type.size as IntSize,
  signed: isInt(local.type) && local.type.signed,
});
