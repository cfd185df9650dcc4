// SPDX-License-Identifier: GPL-2.0-only
/**
 * Where a field lies in the 4 KiB VMCS region. The SDM leaves the format of the data area to the processor; ours keeps
 * everything in the region itself (nothing is cached in the CPU), 32-bit words, tables and segments laid out as in
 * `cpu.s` so that both sides copy with one loop. Hidden words hold the launch state and what has been checked.
 */
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';
import { VMCS_ENCODING_LIMIT, vmcsFieldIs64, vmcsFieldType } from '../../../lib/x86/vmx/field.ts';
import { S, SEG_WORDS, SEGF } from '../cpu/state.ts';

/** Bytes of a VMCS region that software must provide; IA32_VMX_BASIC reports it. */
export const VMCS_REGION_BYTES = 4096;

/** Words of the region that are not fields. */
// prettier-ignore
export const VMCS_WORD = {
  REVISION: 0,   // VMCS_REVISION
  ABORT:    1,   // VMX-abort indicator
  STATE:    2,   // VMCS_STATE bits under VMCS_STATE.MAGIC
  ACTIVE:   3,   // 1 + id of the CPU on which the VMCS is active, 0: on none
} as const;

/** Parts of the REVISION word. SDM, "Format of the VMCS Region". */
// prettier-ignore
export const VMCS_REVISION = {
  ID_MASK: 0x7fff_ffff,
  SHADOW:  0x8000_0000, // Shadow-VMCS indicator
} as const;

/** Bits of the hidden STATE word; without the magic nobody has cleared the VMCS yet and all bits count as 0. */
// prettier-ignore
export const VMCS_STATE = {
  LAUNCHED:   0x1,
  CTRL_OK:    0x2, // the checks on controls passed and no control field was written since
  HOST_OK:    0x4, // the same for the host-state area
  GUEST_OK:   0x8, // the same for the guest-state area's fields that only VMWRITE can make invalid
  BITS:       0xf,
  MAGIC:      0x4e56_4d00,
  MAGIC_MASK: 0xffff_ff00,
} as const;

/** Words from GDTR to the last segment register in `cpu.s`: what one copy loads and saves. */
export const TABLE_WORDS = S.SEG + 8 * SEG_WORDS - S.GDTR_BASE;
/** First word of the guest's GDTR, IDTR and segments, as from S.GDTR_BASE. */
export const VMCS_TABLES = 16;
/** The guest segments alone: 8 times SEG_WORDS, as S.SEG. */
export const VMCS_SEGS = VMCS_TABLES + S.SEG - S.GDTR_BASE;
/** The same words for VM exit to load: limits and segments are derived from the host-state area when its checks pass. */
export const VMCS_HOST_TABLES = VMCS_TABLES + TABLE_WORDS;
export const VMCS_HOST_SEGS = VMCS_HOST_TABLES + S.SEG - S.GDTR_BASE;
const FIRST_FIELD_WORD = VMCS_HOST_TABLES + TABLE_WORDS;

/** Fields that hold host physical addresses: each has a hidden word with the epoch of the frame when it was written. */
// prettier-ignore
export const VMCS_ADDRESS_FIELDS: readonly number[] = [
  VMCS_CTRL.IO_BITMAP_A, VMCS_CTRL.IO_BITMAP_B, VMCS_CTRL.MSR_BITMAP, VMCS_CTRL.VM_EXIT_MSR_STORE_ADDR,
  VMCS_CTRL.VM_EXIT_MSR_LOAD_ADDR, VMCS_CTRL.VM_ENTRY_MSR_LOAD_ADDR, VMCS_CTRL.VIRTUAL_APIC_PAGE_ADDR,
  VMCS_CTRL.APIC_ACCESS_ADDR, VMCS_CTRL.POSTED_INTR_DESC_ADDR, VMCS_CTRL.PML_ADDRESS, VMCS_CTRL.EPT_POINTER,
  VMCS_CTRL.VMREAD_BITMAP, VMCS_CTRL.VMWRITE_BITMAP, VMCS_GUEST.VMCS_LINK_POINTER, VMCS_CTRL.EPTP_LIST_ADDRESS,
];

interface Layout {
  readonly word: Int16Array;
  readonly epoch: Int16Array;
  readonly used: number;
}

function placeTables(word: Int16Array): void {
  const idtr = S.IDTR_BASE - S.GDTR_BASE;
  const limit = S.GDTR_LIMIT - S.GDTR_BASE;
  word[VMCS_GUEST.GDTR_BASE] = VMCS_TABLES;
  word[VMCS_GUEST.GDTR_LIMIT] = VMCS_TABLES + limit;
  word[VMCS_GUEST.IDTR_BASE] = VMCS_TABLES + idtr;
  word[VMCS_GUEST.IDTR_LIMIT] = VMCS_TABLES + idtr + limit;
  word[VMCS_HOST.GDTR_BASE] = VMCS_HOST_TABLES;
  word[VMCS_HOST.IDTR_BASE] = VMCS_HOST_TABLES + idtr;
  for (let n = 0; n < 8; n++) {
    const at = VMCS_SEGS + n * SEG_WORDS;
    word[VMCS_GUEST.ES_SELECTOR + 2 * n] = at + SEGF.SEL;
    word[VMCS_GUEST.ES_LIMIT + 2 * n] = at + SEGF.LIMIT;
    word[VMCS_GUEST.ES_AR_BYTES + 2 * n] = at + SEGF.AR;
    word[VMCS_GUEST.ES_BASE + 2 * n] = at + SEGF.BASE;
  }
}

function computeLayout(): Layout {
  const word = new Int16Array(VMCS_ENCODING_LIMIT).fill(-1);
  const epoch = new Int16Array(VMCS_ENCODING_LIMIT).fill(-1);
  placeTables(word);
  let next = FIRST_FIELD_WORD;
  for (const table of [VMCS_CTRL, VMCS_INFO, VMCS_GUEST, VMCS_HOST]) {
    for (const field of Object.values(table)) {
      if (word[field] !== -1) continue;
      word[field] = next;
      next += vmcsFieldIs64(field) ? 2 : 1;
    }
  }
  for (const field of VMCS_ADDRESS_FIELDS) epoch[field] = next++;
  return { word, epoch, used: next };
}

/** Fields that no remembered check depends on: they are free, or checked at each entry. */
// prettier-ignore
const FREE_FIELDS: readonly number[] = [
  VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD, VMCS_CTRL.VM_ENTRY_EXCEPTION_ERROR_CODE, VMCS_CTRL.VM_ENTRY_INSTRUCTION_LEN,
  VMCS_CTRL.TSC_OFFSET, VMCS_CTRL.EXCEPTION_BITMAP, VMCS_CTRL.PAGE_FAULT_ERROR_CODE_MASK,
  VMCS_CTRL.PAGE_FAULT_ERROR_CODE_MATCH, VMCS_CTRL.CR0_GUEST_HOST_MASK, VMCS_CTRL.CR4_GUEST_HOST_MASK,
  VMCS_CTRL.CR0_READ_SHADOW, VMCS_CTRL.CR4_READ_SHADOW, VMCS_GUEST.RIP, VMCS_GUEST.RSP, VMCS_GUEST.RFLAGS,
  VMCS_GUEST.INTERRUPTIBILITY_INFO, VMCS_GUEST.ACTIVITY_STATE, VMCS_GUEST.PENDING_DBG_EXCEPTIONS,
  VMCS_GUEST.VMX_PREEMPTION_TIMER_VALUE, VMCS_GUEST.INTR_STATUS, VMCS_GUEST.PML_INDEX, VMCS_CTRL.PLE_GAP, VMCS_CTRL.PLE_WINDOW,
];
/** Checks on guest state depend on these controls too. */
// prettier-ignore
const MODE_FIELDS: readonly number[] = [
  VMCS_CTRL.VM_ENTRY_CONTROLS, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL,
];

/** STATE bits that a write to each field clears. */
function computeDirties(): Uint8Array {
  const byType = [VMCS_STATE.CTRL_OK, 0, VMCS_STATE.GUEST_OK, VMCS_STATE.HOST_OK];
  const dirties = new Uint8Array(VMCS_ENCODING_LIMIT);
  for (let field = 0; field < VMCS_ENCODING_LIMIT; field++) dirties[field] = byType[vmcsFieldType(field)]!;
  for (const field of FREE_FIELDS) dirties[field] = 0;
  for (const field of MODE_FIELDS) dirties[field] = VMCS_STATE.CTRL_OK | VMCS_STATE.GUEST_OK;
  // The VM-exit controls say how the host state is judged.
  dirties[VMCS_CTRL.VM_EXIT_CONTROLS] = VMCS_STATE.CTRL_OK | VMCS_STATE.HOST_OK;
  return dirties;
}

const LAYOUT = computeLayout();
/** Where vmcsEffects() has the epoch's word. */
export const VMCS_EPOCH_SHIFT = 8;

function computeEffects(epoch: Int16Array): Int32Array {
  return Int32Array.from(computeDirties(), (bits, field) =>
    epoch[field] === -1 ? bits : bits | (epoch[field]! << VMCS_EPOCH_SHIFT),
  );
}

const EFFECTS = computeEffects(LAYOUT.epoch);

/** Words in use, all inside of VMCS_REGION_BYTES. */
export const VMCS_WORDS_USED = LAYOUT.used;

/** Word of a field (its low word, if it has two) relative to the region; -1 if there is no such field. */
export const vmcsWord = (field: number): number => LAYOUT.word[field] ?? -1;

/** Word of the epoch that goes with an address field; -1 if the field holds no address. */
export const vmcsEpochWord = (field: number): number => LAYOUT.epoch[field] ?? -1;

/** What a write to the field does besides: the STATE bits (checks that passed) that it makes unknown; epoch's word, or 0. */
export const vmcsEffects = (field: number): number => EFFECTS[field] ?? 0;
