// SPDX-License-Identifier: GPL-2.0-only
/**
 * Fields that L0 copies together between the current VMCS and an image of them in its own memory: as many VMREADs or
 * VMWRITEs as there are fields, in one loop, since each transition between L1 and L2 copies a hundred.
 */
import { VMCS_WIDTH, vmcsFieldWidth } from '../../../lib/x86/vmx/field.ts';
import { spend } from '../cost/ledger.ts';
import { COST } from '../cost/points.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { applyEffects, rewritten } from './vmcs_access.ts';
import { vmcsEffects, vmcsWord } from './vmcs_layout.ts';

/** Memory that holds an image, by 16 and by 32 bits. */
export interface FieldImage {
  readonly u16: Uint16Array;
  readonly i32: Int32Array;
}

const WIDTH = { U16: 0, U32: 1, WIDE: 2 } as const;

function widthOf(field: number): number {
  const width = vmcsFieldWidth(field);
  if (width === VMCS_WIDTH.U16) return WIDTH.U16;
  return (width & 1) === 1 ? WIDTH.WIDE : WIDTH.U32;
}

export class VmcsFieldList {
  /** Of each field: its word in a VMCS region, its 16-bit word in the image, WIDTH.*, vmcsEffects(). */
  readonly #words: Int16Array;
  readonly #image: Int16Array;
  readonly #width: Uint8Array;
  readonly #effects: Int32Array;

  /** `offsets`: byte of the image at which each of the fields lies; a field has the bytes of its width there. */
  constructor(fields: readonly number[], offsets: readonly number[]) {
    this.#words = Int16Array.from(fields, vmcsWord);
    this.#image = Int16Array.from(offsets, (offset) => offset >> 1);
    this.#width = Uint8Array.from(fields, widthOf);
    this.#effects = Int32Array.from(fields, vmcsEffects);
  }

  /** VMREAD each into the image. A VMCS must be current. */
  read(cpu: Cpu, { u16, i32: to }: FieldImage): void {
    const words = this.#words;
    spend(cpu, COST.VMREAD, words.length);
    const { i32 } = cpu.mem;
    const { base } = cpu.vmx;
    for (let n = 0; n < words.length; n++) {
      const at = base + words[n]!;
      const image = this.#image[n]!;
      const width = this.#width[n]!;
      if (width === WIDTH.U16) u16[image] = i32[at]!;
      else to[image >> 1] = i32[at]!;
      if (width === WIDTH.WIDE) to[(image >> 1) + 1] = i32[at + 1]!;
    }
  }

  /** VMWRITE each from the image. A value that is there already has no effect on checks: see rewritten(). */
  write(cpu: Cpu, { u16, i32: from }: FieldImage): void {
    const words = this.#words;
    spend(cpu, COST.VMWRITE, words.length);
    const { i32 } = cpu.mem;
    const { base } = cpu.vmx;
    for (let n = 0; n < words.length; n++) {
      const at = base + words[n]!;
      const image = this.#image[n]!;
      const width = this.#width[n]!;
      const lo = width === WIDTH.U16 ? u16[image]! : from[image >> 1]!;
      const hi = width === WIDTH.WIDE ? from[(image >> 1) + 1]! : 0;
      const effects = this.#effects[n]!;
      const same = i32[at] === lo && (width !== WIDTH.WIDE || i32[at + 1] === hi);
      if (same) {
        rewritten(cpu, base, at, effects);
        continue;
      }
      i32[at] = lo;
      if (width === WIDTH.WIDE) i32[at + 1] = hi;
      applyEffects(cpu, base, at, effects);
    }
  }
}
