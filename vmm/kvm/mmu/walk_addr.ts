// SPDX-License-Identifier: GPL-2.0-only
/**
 * A walk of a guest's tables by L0: FNAME(walk_addr_generic) of arch/x86/kvm/mmu/paging_tmpl.h, 6.12, for EPT and for 64-bit
 * paging, with the accessed and dirty bits that it sets. Plain code: where the host has to be waited for it says so.
 * Leaves out PAE and 32-bit paging. Unlike 6.12 it marks the table's page in L1's memory as dirty, not the L1 page with
 * the number of L2's.
 */
import { gpa as toGpa, offsetInPage, PAGE_SIZE, type Gfn, type Gpa } from '../../../lib/x86/addr.ts';
import { PFERR, VECTOR } from '../../../lib/x86/exceptions.ts';
import { EPTE, PTE, PTE_HI, PTE_HI_PK_SHIFT } from '../../../lib/x86/paging.ts';
import { EPT_VIOLATION } from '../../../lib/x86/vmx/exit_quals.ts';
import { ERRNO } from '../../../lib/uapi/errno.ts';
import { FOLL } from '../../host/mm/fault.ts';
import { userHpa } from '../../host/mm/user_access.ts';
import { UnimplementedError } from '../../machine/errors.ts';
import { kvmVcpuMarkPageDirty } from '../dirty_bitmap.ts';
import { gfnToHvaSlot, kvmVcpuGfnToMemslot } from '../guest_memory.ts';
import { INVALID_GPA, kvmIsErrorHva, type Vcpu } from '../kvm_host.ts';
import { PAGING, type KvmMmu } from '../kvm_host_x86.ts';
import { memslotIsReadonly } from '../memslots.ts';
import { pair } from '../x86/cache_regs.ts';
import { PFERR_GUEST, type X86Exception } from '../x86/x86_exception.ts';
import { WALK, type GuestWalker } from './guest_walker.ts';
import { permissionFault } from './permission.ts';
import { ACC, ROLE, ROLE_EXT } from './role.ts';

const RWX = EPTE.R | EPTE.W | EPTE.X;

/** Where accessed and dirty bits are. */
const accessedBit = (ept: boolean): number => (ept ? EPTE.A : PTE.A);
const dirtyBit = (ept: boolean): number => (ept ? EPTE.D : PTE.D);

/** PT_INDEX(). */
function tableIndex(lo: number, hi: number, level: number): number {
  if (level <= 2) return (lo >>> (3 + 9 * level)) & 511;
  return (level === 3 ? (lo >>> 30) | (hi << 2) : hi >>> (9 * level - 29)) & 511;
}

/** gpte_to_gfn_lvl(). */
export function gpteToGfnLvl(lo: number, hi: number, level: number): Gfn {
  const gfn = (hi & 0xf_ffff) * 2 ** 20 + (lo >>> 12);
  return (gfn - (gfn % 2 ** (9 * (level - 1)))) as Gfn;
}

/** FNAME(gpte_access): rights of an entry, or of several whose bits were combined; `nx` is bit 63 where it counts. */
export function gpteAccess(ept: boolean, lo: number, nx: boolean): number {
  if (ept) {
    const execute = (lo & EPTE.X) !== 0 ? ACC.EXEC : 0;
    return execute | ((lo & EPTE.W) !== 0 ? ACC.WRITE : 0) | ((lo & EPTE.R) !== 0 ? ACC.USER : 0);
  }
  return (lo & (PTE.RW | PTE.US)) | (nx ? 0 : ACC.EXEC);
}

/** FNAME(is_present_gpte). */
export const isPresentGpte = (ept: boolean, lo: number): boolean => (lo & (ept ? RWX : PTE.P)) !== 0;

/** PT_HAVE_ACCESSED_DIRTY(). */
export const haveAccessedDirty = (mmu: KvmMmu): boolean =>
  mmu.format !== PAGING.EPT || !mmu.cpuRole.base.adDisabled;

/** FNAME(protect_clean_gpte): a page that is not dirty is mapped read-only, so that the first write is noticed. */
export const protectCleanGpte = (mmu: KvmMmu, access: number, lo: number): number =>
  haveAccessedDirty(mmu) && (lo & dirtyBit(mmu.format === PAGING.EPT)) === 0 ? access & ~ACC.WRITE : access;

const addressOf = (lo: number, hi: number): number => hi * 2 ** 32 + (lo >>> 0);

/** FNAME(walk_addr_generic): WALK.*; a fault is in `w.fault`. lo and hi: the linear or nested physical address. */
export function walkAddrGeneric(
  w: GuestWalker,
  vcpu: Vcpu,
  mmu: KvmMmu,
  lo: number,
  hi: number,
  access: number,
): number {
  const ept = mmu.format === PAGING.EPT;
  const pgd = mmu.getGuestPgd(vcpu);
  const tableAccess = (haveAccessedDirty(mmu) ? PFERR.WRITE : 0) | PFERR.USER | PFERR_GUEST.PAGE;
  let pteLo = pgd | 0;
  let pteHi = Math.floor(pgd / 2 ** 32) & 0xf_ffff;
  let rights = -1;
  let noExecute = 0;
  w.lo = lo;
  w.hi = hi;
  w.access = access;
  w.level = mmu.cpuRole.base.level;
  if (w.level < 4) throw new UnimplementedError(`${vcpu.name}: paging with ${w.level} levels`);
  w.maxLevel = w.level;
  for (; ; w.level--) {
    const i = w.level - 1;
    const got = readEntry(w, vcpu, mmu, gpteToGfnLvl(pteLo, pteHi, 1), tableAccess);
    if (got === WALK.BUSY) return WALK.BUSY;
    if (got === NESTED_FAULT) return WALK.FAULT;
    if (got === WALK.FAULT) return walkError(w, vcpu, mmu, 0, rights);
    w.ptAccess[i] = gpteAccess(ept, rights, noExecute !== 0);
    pteLo = w.pteLo[i]!;
    pteHi = w.pteHi[i]!;
    rights &= pteLo;
    noExecute |= pteHi & PTE_HI.NX;
    if (!isPresentGpte(ept, pteLo)) return walkError(w, vcpu, mmu, 0, rights);
    if (mmu.guestRsvdCheck.isSet(pteLo, pteHi, w.level))
      return walkError(w, vcpu, mmu, PFERR.RSVD | PFERR.PRESENT, rights);
    if (w.level === 1 || (pteLo & PTE.PS) !== 0) break;
  }
  w.pteAccess = gpteAccess(ept, rights, noExecute !== 0);
  const pkey = ept ? 0 : (pteHi & PTE_HI.PK_MASK) >>> PTE_HI_PK_SHIFT;
  const refused = permissionFault(vcpu, mmu, w.pteAccess, pkey, access);
  return refused === 0 ? finishWalk(w, vcpu, mmu, rights) : walkError(w, vcpu, mmu, refused, rights);
}

/** The translation exists and allows the access: where it leads, and its accessed and dirty bits. */
function finishWalk(w: GuestWalker, vcpu: Vcpu, mmu: KvmMmu, rights: number): number {
  const ept = mmu.format === PAGING.EPT;
  const pteLo = w.pteLo[w.level - 1]!;
  const page = (w.lo >>> 12) & (2 ** (9 * (w.level - 1)) - 1);
  const gfn = gpteToGfnLvl(pteLo, w.pteHi[w.level - 1]!, w.level) + page;
  const real = translate(vcpu, mmu, gfn * PAGE_SIZE, w.access | PFERR_GUEST.FINAL, w.fault);
  if (real < 0) return real === BUSY_GPA ? WALK.BUSY : WALK.FAULT;
  w.gfn = Math.floor(real / PAGE_SIZE) as Gfn;
  const write = (w.access & PFERR.WRITE) !== 0;
  if (!haveAccessedDirty(mmu)) return WALK.OK;
  if (!write) w.pteAccess = protectCleanGpte(mmu, w.pteAccess, pteLo);
  const settled = (rights & accessedBit(ept)) !== 0 && (!write || (pteLo & dirtyBit(ept)) !== 0);
  if (settled) return WALK.OK;
  const r = updateAccessedDirtyBits(w, vcpu, ept, write);
  return r === WALK.FAULT ? walkError(w, vcpu, mmu, 0, rights) : r;
}

/** The table of the walk is L2's and L1 does not map it: `w.fault` is L1's. */
const NESTED_FAULT = 3;

/** One entry into w.pteLo and w.pteHi: WALK.* or NESTED_FAULT. */
function readEntry(w: GuestWalker, vcpu: Vcpu, mmu: KvmMmu, tableGfn: Gfn, tableAccess: number): number {
  const i = w.level - 1;
  w.tableGfn[i] = tableGfn;
  const real = translate(vcpu, mmu, tableGfn * PAGE_SIZE, tableAccess, w.fault);
  if (real < 0) return real === BUSY_GPA ? WALK.BUSY : NESTED_FAULT;
  const gfn = Math.floor(real / PAGE_SIZE) as Gfn;
  w.realGfn[i] = gfn;
  const slot = kvmVcpuGfnToMemslot(vcpu, gfn);
  const page = gfnToHvaSlot(slot, gfn, 'read');
  if (slot === null || kvmIsErrorHva(page)) return WALK.FAULT;
  const hva = page + 8 * tableIndex(w.lo, w.hi, w.level);
  w.pteWritable[i] = memslotIsReadonly(slot) ? 0 : 1;
  w.ptep[i] = hva;
  const hpa = userHpa(vcpu.kvm.mm, hva, FOLL.READ);
  if (hpa < 0) return hostSays(w, hpa, hva, FOLL.READ);
  const { i32 } = vcpu.kvm.host.machine.mem;
  w.pteLo[i] = i32[hpa >>> 2]!;
  w.pteHi[i] = i32[(hpa >>> 2) + 1]!;
  return WALK.OK;
}

function hostSays(w: GuestWalker, errno: number, hva: number, foll: number): number {
  if (errno !== -ERRNO.EAGAIN) return WALK.FAULT;
  w.busyHva = hva;
  w.busyFoll = foll;
  return WALK.BUSY;
}

/** FNAME(update_accessed_dirty_bits): WALK.*. Tables in a read-only slot keep their bits. */
function updateAccessedDirtyBits(w: GuestWalker, vcpu: Vcpu, ept: boolean, write: boolean): number {
  const { machine } = vcpu.kvm.host;
  const { nestedOps } = vcpu.kvm.module.ops;
  for (let level = w.maxLevel; level >= w.level; level--) {
    const i = level - 1;
    const old = w.pteLo[i]!;
    let next = old | accessedBit(ept);
    if (level === w.level && write && (next & dirtyBit(ept)) === 0) {
      // L1's page-modification log is written by L0, and may be full.
      if (ept && nestedOps?.writeLogDirty?.(vcpu, addressOf(w.lo, w.hi)) === 'full') return WALK.FAULT;
      next |= dirtyBit(ept);
    }
    if (next === old || w.pteWritable[i] === 0) continue;
    const hva = w.ptep[i]!;
    const hpa = userHpa(vcpu.kvm.mm, hva, FOLL.WRITE);
    if (hpa < 0) return hostSays(w, hpa, hva, FOLL.WRITE);
    machine.mem.i32[hpa >>> 2] = next;
    machine.noteStore(hpa, 8);
    kvmVcpuMarkPageDirty(vcpu, w.realGfn[i]! as Gfn);
    w.pteLo[i] = next;
  }
  return WALK.OK;
}

/** The `error:` part of FNAME(walk_addr_generic): what the owner of the tables is told. `rights`: raw bits of all entries. */
function walkError(w: GuestWalker, vcpu: Vcpu, mmu: KvmMmu, errorCode: number, rights: number): number {
  const { fault, access } = w;
  const { base, ext } = mmu.cpuRole;
  const tellsFetch = (base.word & ROLE.EFER_NX) !== 0 || (ext & ROLE_EXT.CR4_SMEP) !== 0;
  const told = PFERR.WRITE | PFERR.USER | (tellsFetch ? PFERR.FETCH : 0);
  fault.vector = VECTOR.PF;
  fault.errorCodeValid = true;
  fault.errorCode = errorCode | (access & told);
  fault.nestedPageFault = mmu !== vcpu.arch.walkMmu;
  fault.fromHardware = false;
  const ept = mmu.format === PAGING.EPT;
  fault.linear = ept ? 0n : pair(w.lo, w.hi);
  fault.address = ept ? addressOf(w.lo, w.hi) : 0;
  const violation = ept && (errorCode & PFERR.RSVD) === 0;
  fault.exitQualification = violation ? eptQualification(access, rights) : 0;
  return WALK.FAULT;
}

/**
 * The exit qualification of an EPT violation of EPT12. An access of the CPU is what the CPU said; for a walk of L0 each
 * access also asks for the right to read, which is not what L2 did, except to its tables. As in 7.0.
 */
function eptQualification(access: number, rights: number): number {
  const { ACC_READ, ACC_WRITE, ACC_INSTR, GVA_IS_VALID, GVA_TRANSLATED } = EPT_VIOLATION;
  const byL0 = (access & (PFERR_GUEST.FINAL | PFERR_GUEST.PAGE)) !== 0;
  const write = (access & PFERR.WRITE) !== 0;
  const fetch = (access & PFERR.FETCH) !== 0;
  const table = (access & PFERR_GUEST.PAGE) !== 0;
  const read = byL0 ? table || (!write && !fetch) : (access & PFERR.USER) !== 0;
  const what = (read ? ACC_READ : 0) | (write ? ACC_WRITE : 0) | (fetch ? ACC_INSTR : 0);
  return what | GVA_IS_VALID | (table ? 0 : GVA_TRANSLATED) | ((rights & RWX) << 3);
}

/** Results of translate() that are no addresses. */
const FAULT_GPA = -1;
const BUSY_GPA = -2;

/** What L2's tables contain are L2's physical addresses; all others are L1's already. */
const translate = (vcpu: Vcpu, mmu: KvmMmu, address: number, access: number, fault: X86Exception): number =>
  mmu === vcpu.arch.nestedMmu ? translateNested(vcpu, address, access, fault) : address;

/** translate_nested_gpa(): through EPT12, as an access that needs at least the right to read. */
function translateNested(vcpu: Vcpu, address: number, access: number, fault: X86Exception): number {
  const w = vcpu.arch.nestedWalker;
  w.fault = fault;
  const hi = Math.floor(address / 2 ** 32);
  const r = walkAddrGeneric(w, vcpu, vcpu.arch.mmu, address | 0, hi, access | PFERR.USER);
  if (r === WALK.OK) return w.gfn * PAGE_SIZE + offsetInPage(address);
  return r === WALK.BUSY ? BUSY_GPA : FAULT_GPA;
}

/**
 * kvm_translate_gpa(): an address out of the tables that `mmu` walks as one of L1's. INVALID_GPA with `fault` filled, or
 * with vcpu.guestPageBusy set if the host has to be waited for.
 */
export function kvmTranslateGpa(
  vcpu: Vcpu,
  mmu: KvmMmu,
  address: Gpa,
  access: number,
  fault: X86Exception,
): Gpa {
  const real = translate(vcpu, mmu, address, access, fault);
  if (real >= 0) return toGpa(real);
  if (real === BUSY_GPA) vcpu.guestPageBusy = true;
  return INVALID_GPA;
}
