// SPDX-License-Identifier: GPL-2.0-only
/**
 * Checks on VMX controls at VM entry; a failure is VM-instruction error 7. SDM, "Checks on VMX Controls". Controls that
 * the capability MSRs do not allow need no checks of their own: the reserved-bit checks refuse them.
 */
import { APIC_REG } from '../../../lib/x86/apic.ts';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import {
  VMX_MISC,
  VMX_MISC_CR3_TARGET_COUNT_SHIFT,
  VMX_EPT_CAP,
} from '../../../lib/x86/vmx/capability_msrs.ts';
import {
  CPU_BASED,
  PIN_BASED,
  SECONDARY_EXEC,
  VM_EXIT,
  VMX_EPTP,
  VMX_VMFUNC,
} from '../../../lib/x86/vmx/controls.ts';
import { INTR_INFO, INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { CR0 } from '../../../lib/x86/registers.ts';
import { hasErrorCode } from '../../../lib/x86/exceptions.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { type Broken, controlsAllowed, isPhysAddr } from './check_util.ts';
import { readVirtualApic } from './virtual_interrupts.ts';
import * as W from './words.ts';

/** The checks whose outcome stays until a control field is written. */
export function checkControls(cpu: Cpu): Broken {
  return (
    checkExecControls(cpu) ??
    checkExecAddresses(cpu) ??
    checkApicVirtualization(cpu) ??
    checkEpt(cpu) ??
    checkVmfunc(cpu) ??
    checkShadowBitmaps(cpu) ??
    checkTscMultiplier(cpu) ??
    checkExitControls(cpu) ??
    checkEntryControls(cpu)
  );
}

/** The secondary controls in force: 0 unless they are activated. */
export function secondaryControls(cpu: Cpu): number {
  const { i32 } = cpu.mem;
  const { base } = cpu.vmx;
  const active = (i32[base + W.CPU_BASED]! & CPU_BASED.ACTIVATE_SECONDARY_CONTROLS) !== 0;
  return active ? i32[base + W.SECONDARY]! : 0;
}

function checkExecControls(cpu: Cpu): Broken {
  const { caps, base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const pin = i32[base + W.PIN]!;
  const cpuBased = i32[base + W.CPU_BASED]!;
  if (!controlsAllowed(pin, caps.pin)) return 'pin-based controls: reserved bits';
  if (!controlsAllowed(cpuBased, caps.cpuBased)) return 'primary processor-based controls: reserved bits';
  if (!controlsAllowed(secondaryControls(cpu), caps.secondary))
    return 'secondary processor-based controls: reserved bits';
  const targets = (caps.misc & VMX_MISC.CR3_TARGET_COUNT_MASK) >>> VMX_MISC_CR3_TARGET_COUNT_SHIFT;
  if (i32[base + W.CR3_TARGET_COUNT]! >>> 0 > targets) return 'CR3-target count';
  if ((pin & PIN_BASED.NMI_EXITING) === 0 && (pin & PIN_BASED.VIRTUAL_NMIS) !== 0)
    return 'virtual NMIs need NMI exiting';
  if ((pin & PIN_BASED.VIRTUAL_NMIS) === 0 && (cpuBased & CPU_BASED.NMI_WINDOW_EXITING) !== 0) {
    return 'NMI-window exiting needs virtual NMIs';
  }
  return null;
}

/** The field at `word` is the address of a 4-KByte aligned page within the physical-address width. */
function isPageField(cpu: Cpu, word: number): boolean {
  const { i32 } = cpu.mem;
  const at = cpu.vmx.base + word;
  return isPhysAddr(cpu, i32[at]!, i32[at + 1]!, 0xfff);
}

function checkExecAddresses(cpu: Cpu): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const cpuBased = i32[base + W.CPU_BASED]!;
  const ioOk = isPageField(cpu, W.IO_BITMAP_A) && isPageField(cpu, W.IO_BITMAP_B);
  if ((cpuBased & CPU_BASED.USE_IO_BITMAPS) !== 0 && !ioOk) return 'I/O-bitmap addresses';
  const msrOk = isPageField(cpu, W.MSR_BITMAP);
  if ((cpuBased & CPU_BASED.USE_MSR_BITMAPS) !== 0 && !msrOk) return 'MSR-bitmap address';
  if ((cpuBased & CPU_BASED.TPR_SHADOW) === 0) return null;
  if (!isPageField(cpu, W.VIRTUAL_APIC)) return 'virtual-APIC address';
  if ((secondaryControls(cpu) & SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY) !== 0) return null;
  return (i32[base + W.TPR_THRESHOLD]! & ~0xf) !== 0 ? 'TPR threshold: bits 31:4' : null;
}

/** APIC virtualization and posted interrupts. */
function checkApicVirtualization(cpu: Cpu): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const pin = i32[base + W.PIN]!;
  const secondary = secondaryControls(cpu);
  const needShadow =
    SECONDARY_EXEC.VIRTUALIZE_X2APIC_MODE |
    SECONDARY_EXEC.APIC_REGISTER_VIRT |
    SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY;
  if ((i32[base + W.CPU_BASED]! & CPU_BASED.TPR_SHADOW) === 0 && (secondary & needShadow) !== 0)
    return 'x2APIC mode, APIC-register virtualization and virtual-interrupt delivery need the TPR shadow';
  if ((secondary & SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES) !== 0) {
    if (!isPageField(cpu, W.APIC_ACCESS)) return 'APIC-access address';
    if ((secondary & SECONDARY_EXEC.VIRTUALIZE_X2APIC_MODE) !== 0)
      return 'either x2APIC mode or APIC accesses are virtualized';
  }
  const delivery = (secondary & SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY) !== 0;
  if (delivery && (pin & PIN_BASED.EXT_INTR_MASK) === 0)
    return 'virtual-interrupt delivery needs external-interrupt exiting';
  if ((pin & PIN_BASED.POSTED_INTR) === 0) return null;
  if (!delivery) return 'posted interrupts need virtual-interrupt delivery';
  if ((i32[base + W.EXIT_CONTROLS]! & VM_EXIT.ACK_INTR_ON_EXIT) === 0)
    return 'posted interrupts need acknowledging interrupts on exit';
  if (i32[base + W.POSTED_INTR_NV]! >>> 8 !== 0) return 'posted-interrupt notification vector: bits 15:8';
  const at = base + W.POSTED_INTR_DESC;
  return isPhysAddr(cpu, i32[at]!, i32[at + 1]!, 0x3f) ? null : 'posted-interrupt descriptor address';
}

function checkEpt(cpu: Cpu): Broken {
  const { base, caps } = cpu.vmx;
  const { i32 } = cpu.mem;
  const secondary = secondaryControls(cpu);
  if ((secondary & SECONDARY_EXEC.ENABLE_VPID) !== 0 && i32[base + W.VPID] === 0) return 'VPID is zero';
  const pml = (secondary & SECONDARY_EXEC.ENABLE_PML) !== 0;
  if ((secondary & SECONDARY_EXEC.ENABLE_EPT) === 0) {
    if (pml) return 'PML needs EPT';
    if ((secondary & SECONDARY_EXEC.UNRESTRICTED_GUEST) !== 0) return 'unrestricted guest needs EPT';
    const mbec = (secondary & SECONDARY_EXEC.MODE_BASED_EPT_EXEC) !== 0;
    return mbec ? 'mode-based execute control needs EPT' : null;
  }
  if (pml && !isPageField(cpu, W.PML_ADDRESS)) return 'PML address';
  return checkEptp(cpu, i32[base + W.EPTP]!, i32[base + W.EPTP + 1]!, caps.eptCap);
}

function checkVmfunc(cpu: Cpu): Broken {
  const { base, caps } = cpu.vmx;
  const { i32 } = cpu.mem;
  const secondary = secondaryControls(cpu);
  if ((secondary & SECONDARY_EXEC.ENABLE_VMFUNC) === 0) return null;
  const functions = i32[base + W.VM_FUNCTION_CONTROL]!;
  if (((functions & ~caps.vmfunc) | i32[base + W.VM_FUNCTION_CONTROL + 1]!) !== 0)
    return 'VM-function controls: reserved bits';
  if ((functions & VMX_VMFUNC.EPTP_SWITCHING) === 0) return null;
  if ((secondary & SECONDARY_EXEC.ENABLE_EPT) === 0) return 'EPTP switching needs EPT';
  return isPageField(cpu, W.EPTP_LIST) ? null : 'EPTP-list address';
}

function checkShadowBitmaps(cpu: Cpu): Broken {
  if ((secondaryControls(cpu) & SECONDARY_EXEC.SHADOW_VMCS) === 0) return null;
  if (!isPageField(cpu, W.VMREAD_BITMAP)) return 'VMREAD-bitmap address';
  return isPageField(cpu, W.VMWRITE_BITMAP) ? null : 'VMWRITE-bitmap address';
}

function checkTscMultiplier(cpu: Cpu): Broken {
  const { i32 } = cpu.mem;
  const at = cpu.vmx.base + W.TSC_MULTIPLIER;
  if ((secondaryControls(cpu) & SECONDARY_EXEC.TSC_SCALING) === 0) return null;
  return (i32[at]! | i32[at + 1]!) === 0 ? 'TSC multiplier is zero' : null;
}

/** The EPTP as VM entry (and INVEPT, and VMFUNC) wants it. */
export function checkEptp(cpu: Cpu, lo: number, hi: number, eptCap: number): Broken {
  const type = lo & VMX_EPTP.MT_MASK;
  const typeBit =
    type === VMX_EPTP.MT_WB ? VMX_EPT_CAP.WB_BIT : type === VMX_EPTP.MT_UC ? VMX_EPT_CAP.UC_BIT : 0;
  if ((eptCap & typeBit) === 0) return 'EPTP: memory type';
  const pwl = lo & VMX_EPTP.PWL_MASK;
  const pwlBit =
    pwl === VMX_EPTP.PWL_4
      ? VMX_EPT_CAP.PAGE_WALK_4_BIT
      : pwl === VMX_EPTP.PWL_5
        ? VMX_EPT_CAP.PAGE_WALK_5_BIT
        : 0;
  if ((eptCap & pwlBit) === 0) return 'EPTP: page-walk length';
  if ((lo & VMX_EPTP.AD_ENABLE_BIT) !== 0 && (eptCap & VMX_EPT_CAP.AD_BIT) === 0)
    return 'EPTP: accessed and dirty flags';
  if (!isPhysAddr(cpu, lo, hi, VMX_EPTP.SSS_BIT | VMX_EPTP.RESERVED)) return 'EPTP: reserved bits';
  return null;
}

/** 16-byte aligned, first and last byte within the physical-address width. Nothing to check if the count is 0. */
function msrAreaOk(cpu: Cpu, countWord: number, addrWord: number): boolean {
  const { base, caps } = cpu.vmx;
  const { i32 } = cpu.mem;
  const count = i32[base + countWord]! >>> 0;
  if (count === 0) return true;
  const lo = i32[base + addrWord]!;
  const hi = i32[base + addrWord + 1]!;
  if (!isPhysAddr(cpu, lo, hi, 0xf)) return false;
  const last = hi * 0x1_0000_0000 + (lo >>> 0) + count * 16 - 1;
  return last < 2 ** caps.maxPhyAddr;
}

function checkExitControls(cpu: Cpu): Broken {
  const { caps, base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const exit = i32[base + W.EXIT_CONTROLS]!;
  if (!controlsAllowed(exit, caps.exit)) return 'VM-exit controls: reserved bits';
  const timer = (i32[base + W.PIN]! & PIN_BASED.VMX_PREEMPTION_TIMER) !== 0;
  if (!timer && (exit & VM_EXIT.SAVE_VMX_PREEMPTION_TIMER) !== 0)
    return 'saving the preemption timer needs its activation';
  if (!msrAreaOk(cpu, W.EXIT_MSR_STORE_COUNT, W.EXIT_MSR_STORE_ADDR)) return 'VM-exit MSR-store address';
  return msrAreaOk(cpu, W.EXIT_MSR_LOAD_COUNT, W.EXIT_MSR_LOAD_ADDR) ? null : 'VM-exit MSR-load address';
}

function checkEntryControls(cpu: Cpu): Broken {
  const { caps, base } = cpu.vmx;
  if (!controlsAllowed(cpu.mem.i32[base + W.ENTRY_CONTROLS]!, caps.entry))
    return 'VM-entry controls: reserved bits';
  return msrAreaOk(cpu, W.ENTRY_MSR_LOAD_COUNT, W.ENTRY_MSR_LOAD_ADDR) ? null : 'VM-entry MSR-load address';
}

/** The TPR threshold against the virtual-APIC page: memory that anybody may change, so checked at each entry. */
export function checkTprThreshold(cpu: Cpu): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  if ((i32[base + W.CPU_BASED]! & CPU_BASED.TPR_SHADOW) === 0) return null;
  const neither = SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY | SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES;
  if ((secondaryControls(cpu) & neither) !== 0) return null;
  const vtpr = readVirtualApic(cpu, APIC_REG.TASKPRI) & 0xff;
  return (i32[base + W.TPR_THRESHOLD]! & 0xf) > vtpr >>> 4 ? 'TPR threshold above VTPR' : null;
}

/** VM-entry interruption information and what goes with it; the caller knows that the valid bit is 1. */
export function checkInjection(cpu: Cpu): Broken {
  const { base, caps } = cpu.vmx;
  const { i32 } = cpu.mem;
  const info = i32[base + W.ENTRY_INTR_INFO]!;
  const type = info & INTR_INFO.TYPE_MASK;
  const vector = info & INTR_INFO.VECTOR_MASK;
  if (!typeAndVectorOk(cpu, type, vector)) return 'VM-entry interruption information: type and vector';
  if ((info & INTR_INFO.RESVD_BITS_MASK) !== 0) return 'VM-entry interruption information: reserved bits';
  const deliver = (info & INTR_INFO.DELIVER_CODE_MASK) !== 0;
  if (deliver !== deliversErrorCode(cpu, type, vector))
    return 'VM-entry interruption information: deliver error code';
  if (deliver && i32[base + W.ENTRY_ERROR_CODE]! >>> 16 !== 0)
    return 'VM-entry exception error code: bits 31:16';
  if (type < INTR_TYPE.SOFT_INTR || type === INTR_TYPE.OTHER_EVENT) return null;
  const length = i32[base + W.ENTRY_INSN_LEN]! >>> 0;
  const min = (caps.misc & VMX_MISC.ZERO_LEN_INS) !== 0 ? 0 : 1;
  return length < min || length > 15 ? 'VM-entry instruction length' : null;
}

function typeAndVectorOk(cpu: Cpu, type: number, vector: number): boolean {
  switch (type) {
    case INTR_TYPE.RESERVED:
      return false;
    case INTR_TYPE.NMI_INTR:
      return vector === VECTOR.NMI;
    case INTR_TYPE.HARD_EXCEPTION:
      return vector < 32;
    case INTR_TYPE.OTHER_EVENT:
      // A pending MTF VM exit, where the processor has the monitor trap flag.
      return vector === 0 && (cpu.vmx.caps.cpuBased.may1 & CPU_BASED.MONITOR_TRAP_FLAG) !== 0;
    default:
      return true;
  }
}

function deliversErrorCode(cpu: Cpu, type: number, vector: number): boolean {
  const realMode =
    (secondaryControls(cpu) & SECONDARY_EXEC.UNRESTRICTED_GUEST) !== 0 &&
    (cpu.mem.i32[cpu.vmx.base + W.GUEST_CR0]! & CR0.PE) === 0;
  return !realMode && type === INTR_TYPE.HARD_EXCEPTION && hasErrorCode(vector) && vector !== VECTOR.CP;
}
