// SPDX-License-Identifier: GPL-2.0-only
/**
 * The segment registers that VM exit loads, prepared in the VMCS when the checks on host state pass, so that the exit
 * itself copies. SDM, "Loading Host Segment and Descriptor-Table Registers".
 */
import { VMX_AR } from '../../../lib/x86/vmx/guest_state.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S, SEG_WORDS, SEGF, SEGN } from '../cpu/state.ts';
import { VMCS_HOST_SEGS, VMCS_HOST_TABLES } from './vmcs_layout.ts';
import * as W from './words.ts';

/** Access rights of loaded host segments: accessed, present, DPL 0, 4-KByte granularity. */
const CODE_AR = 0xa09b;
const DATA_AR = 0xc093;
const TSS_AR = 0x008b;

/** Limit of GDTR and IDTR after a VM exit. */
const TABLE_LIMIT = 0xffff;

/** Fill the VMCS's hidden copy. */
export function prepareHostSegments(cpu: Cpu): void {
  const {
    mem: { i32 },
    vmx: { base },
  } = cpu;
  for (let n: number = SEGN.ES; n <= SEGN.GS; n++) {
    const selector = i32[base + W.HOST_ES_SELECTOR + n]!;
    const rights = n === SEGN.CS ? CODE_AR : selector === 0 ? DATA_AR | VMX_AR.UNUSABLE_MASK : DATA_AR;
    setSegment(cpu, n, selector, -1, rights);
  }
  i32[base + VMCS_HOST_TABLES + S.GDTR_LIMIT - S.GDTR_BASE] = TABLE_LIMIT;
  i32[base + VMCS_HOST_TABLES + S.IDTR_LIMIT - S.GDTR_BASE] = TABLE_LIMIT;
  setSegment(cpu, SEGN.LDTR, 0, 0, VMX_AR.UNUSABLE_MASK);
  setSegment(cpu, SEGN.TR, i32[base + W.HOST_TR_SELECTOR]!, 0x67, TSS_AR);
  setBase(cpu, SEGN.FS, W.HOST_FS_BASE);
  setBase(cpu, SEGN.GS, W.HOST_GS_BASE);
  setBase(cpu, SEGN.TR, W.HOST_TR_BASE);
}

function setSegment(cpu: Cpu, n: number, selector: number, limit: number, rights: number): void {
  const {
    mem: { i32 },
    vmx: { base },
  } = cpu;
  const at = base + VMCS_HOST_SEGS + n * SEG_WORDS;
  i32[at + SEGF.BASE] = 0;
  i32[at + SEGF.BASE + 1] = 0;
  i32[at + SEGF.LIMIT] = limit;
  i32[at + SEGF.SEL] = selector;
  i32[at + SEGF.AR] = rights;
}

function setBase(cpu: Cpu, n: number, word: number): void {
  const {
    mem: { i32 },
    vmx: { base },
  } = cpu;
  const at = base + VMCS_HOST_SEGS + n * SEG_WORDS + SEGF.BASE;
  i32[at] = i32[base + word]!;
  i32[at + 1] = i32[base + word + 1]!;
}
