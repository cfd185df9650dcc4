// SPDX-License-Identifier: GPL-2.0-only
/**
 * Checks on guest segment registers at VM entry; a failure is exit reason 33. SDM, "Checks on Guest Segment Registers".
 * Virtual-8086 guests do not occur: such a guest is not modelled.
 */
import { CR0 } from '../../../lib/x86/registers.ts';
import { SECONDARY_EXEC, VM_ENTRY } from '../../../lib/x86/vmx/controls.ts';
import { VMX_AR, VMX_AR_DPL_SHIFT } from '../../../lib/x86/vmx/guest_state.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { SEG_WORDS, SEGF, SEGN } from '../cpu/state.ts';
import { secondaryControls } from './check_controls.ts';
import { type Broken, isCanonical48 } from './check_util.ts';
import { VMCS_SEGS } from './vmcs_layout.ts';
import * as W from './words.ts';

const NAMES = ['ES', 'CS', 'SS', 'DS', 'FS', 'GS', 'LDTR', 'TR'] as const;

/** One guest segment, by its first word. */
const at = (cpu: Cpu, n: number): number => cpu.vmx.base + VMCS_SEGS + n * SEG_WORDS;
const ar = (cpu: Cpu, n: number): number => cpu.mem.i32[at(cpu, n) + SEGF.AR]!;
const selector = (cpu: Cpu, n: number): number => cpu.mem.i32[at(cpu, n) + SEGF.SEL]!;
const isUsable = (cpu: Cpu, n: number): boolean => (ar(cpu, n) & VMX_AR.UNUSABLE_MASK) === 0;
const dpl = (rights: number): number => (rights & VMX_AR.DPL_MASK) >>> VMX_AR_DPL_SHIFT;
const isUnrestricted = (cpu: Cpu): boolean =>
  (secondaryControls(cpu) & SECONDARY_EXEC.UNRESTRICTED_GUEST) !== 0;

/** All checks on guest segments. */
export function checkGuestSegments(cpu: Cpu): Broken {
  return (
    checkSelectors(cpu) ??
    checkBases(cpu) ??
    checkCs(cpu) ??
    checkSs(cpu) ??
    checkDataSegments(cpu) ??
    checkTr(cpu) ??
    checkLdtr(cpu)
  );
}

function checkSelectors(cpu: Cpu): Broken {
  if ((selector(cpu, SEGN.TR) & 4) !== 0) return 'guest TR selector: TI';
  if (isUsable(cpu, SEGN.LDTR) && (selector(cpu, SEGN.LDTR) & 4) !== 0) return 'guest LDTR selector: TI';
  const same = (selector(cpu, SEGN.SS) & 3) === (selector(cpu, SEGN.CS) & 3);
  return same || isUnrestricted(cpu) ? null : 'guest SS selector: RPL is not that of CS';
}

function checkBases(cpu: Cpu): Broken {
  const high = (n: number): number => cpu.mem.i32[at(cpu, n) + SEGF.BASE + 1]!;
  for (const n of [SEGN.TR, SEGN.FS, SEGN.GS]) {
    if (!isCanonical48(high(n))) return `guest ${NAMES[n]} base: canonical`;
  }
  if (isUsable(cpu, SEGN.LDTR) && !isCanonical48(high(SEGN.LDTR))) return 'guest LDTR base: canonical';
  if (high(SEGN.CS) !== 0) return 'guest CS base: bits 63:32';
  for (const n of [SEGN.SS, SEGN.DS, SEGN.ES]) {
    if (isUsable(cpu, n) && high(n) !== 0) return `guest ${NAMES[n]} base: bits 63:32`;
  }
  return null;
}

/** Present, reserved bits, granularity: the same for every usable segment. */
function checkCommon(cpu: Cpu, n: number): Broken {
  const rights = ar(cpu, n);
  const limit = cpu.mem.i32[at(cpu, n) + SEGF.LIMIT]!;
  if ((rights & VMX_AR.P_MASK) === 0) return `guest ${NAMES[n]!} access rights: P`;
  if ((rights & VMX_AR.RESERVD_MASK) !== 0) return `guest ${NAMES[n]!} access rights: reserved bits`;
  const granular = (rights & VMX_AR.G_MASK) !== 0;
  if (granular && (limit & 0xfff) !== 0xfff) return `guest ${NAMES[n]!} access rights: G`;
  return !granular && limit >>> 20 !== 0 ? `guest ${NAMES[n]!} access rights: G` : null;
}

function checkCs(cpu: Cpu): Broken {
  const rights = ar(cpu, SEGN.CS);
  const type = rights & VMX_AR.TYPE_MASK;
  const ssDpl = dpl(ar(cpu, SEGN.SS));
  const flat = type === 3;
  if (!(flat && isUnrestricted(cpu)) && (type & 9) !== 9) return 'guest CS access rights: type';
  if ((rights & VMX_AR.S_MASK) === 0) return 'guest CS access rights: S';
  if (flat && dpl(rights) !== 0) return 'guest CS access rights: DPL';
  const conforming = (type & VMX_AR.TYPE_CONFORMING) !== 0;
  if (!flat && (conforming ? dpl(rights) > ssDpl : dpl(rights) !== ssDpl))
    return 'guest CS access rights: DPL';
  const ia32e = (cpu.mem.i32[cpu.vmx.base + W.ENTRY_CONTROLS]! & VM_ENTRY.IA32E_MODE) !== 0;
  if (ia32e && (rights & VMX_AR.L_MASK) !== 0 && (rights & VMX_AR.DB_MASK) !== 0)
    return 'guest CS access rights: D/B';
  return checkCommon(cpu, SEGN.CS);
}

function checkSs(cpu: Cpu): Broken {
  const rights = ar(cpu, SEGN.SS);
  if (!isUnrestricted(cpu) && dpl(rights) !== (selector(cpu, SEGN.SS) & 3))
    return 'guest SS access rights: DPL';
  const flatCs = (ar(cpu, SEGN.CS) & VMX_AR.TYPE_MASK) === 3;
  const realMode = (cpu.mem.i32[cpu.vmx.base + W.GUEST_CR0]! & CR0.PE) === 0;
  if ((flatCs || realMode) && dpl(rights) !== 0) return 'guest SS access rights: DPL';
  if (!isUsable(cpu, SEGN.SS)) return null;
  const type = rights & VMX_AR.TYPE_MASK;
  if (type !== 3 && type !== 7) return 'guest SS access rights: type';
  return (rights & VMX_AR.S_MASK) === 0 ? 'guest SS access rights: S' : checkCommon(cpu, SEGN.SS);
}

function checkDataSegments(cpu: Cpu): Broken {
  for (const n of [SEGN.DS, SEGN.ES, SEGN.FS, SEGN.GS]) {
    const broken = isUsable(cpu, n) ? checkData(cpu, n) : null;
    if (broken !== null) return broken;
  }
  return null;
}

function checkData(cpu: Cpu, n: number): Broken {
  const rights = ar(cpu, n);
  const type = rights & VMX_AR.TYPE_MASK;
  const isCode = (type & VMX_AR.TYPE_CODE_MASK) !== 0;
  if ((type & VMX_AR.TYPE_ACCESSES_MASK) === 0) return `guest ${NAMES[n]!} access rights: type`;
  if (isCode && (type & VMX_AR.TYPE_READABLE_MASK) === 0) return `guest ${NAMES[n]!} access rights: type`;
  if ((rights & VMX_AR.S_MASK) === 0) return `guest ${NAMES[n]!} access rights: S`;
  const rplCounts = !isUnrestricted(cpu) && type <= 11;
  if (rplCounts && dpl(rights) < (selector(cpu, n) & 3)) return `guest ${NAMES[n]!} access rights: DPL`;
  return checkCommon(cpu, n);
}

function checkTr(cpu: Cpu): Broken {
  const rights = ar(cpu, SEGN.TR);
  const type = rights & VMX_AR.TYPE_MASK;
  const ia32e = (cpu.mem.i32[cpu.vmx.base + W.ENTRY_CONTROLS]! & VM_ENTRY.IA32E_MODE) !== 0;
  const typeOk = type === VMX_AR.TYPE_BUSY_64_TSS || (!ia32e && type === VMX_AR.TYPE_BUSY_16_TSS);
  if (!typeOk) return 'guest TR access rights: type';
  if ((rights & VMX_AR.S_MASK) !== 0) return 'guest TR access rights: S';
  if ((rights & VMX_AR.UNUSABLE_MASK) !== 0) return 'guest TR access rights: unusable';
  return checkCommon(cpu, SEGN.TR);
}

function checkLdtr(cpu: Cpu): Broken {
  if (!isUsable(cpu, SEGN.LDTR)) return null;
  const rights = ar(cpu, SEGN.LDTR);
  if ((rights & VMX_AR.TYPE_MASK) !== VMX_AR.TYPE_LDT) return 'guest LDTR access rights: type';
  return (rights & VMX_AR.S_MASK) !== 0 ? 'guest LDTR access rights: S' : checkCommon(cpu, SEGN.LDTR);
}
