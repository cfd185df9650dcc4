// SPDX-License-Identifier: GPL-2.0-only
/**
 * Memory operands of VMX instructions that L0 emulates for L1: every form of an address, and every fault that one can have.
 * Expected: SDM, "Specifying an Offset", the exceptions of VMPTRST and VMPTRLD, and "VM-Instruction Error Numbers".
 */
import { describe, it } from 'vitest';
import { mem, R } from '../../lib/asm/operands.ts';
import {
  array,
  at,
  fixed,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  type GuestCode,
  guestFn,
  guestGlobal,
  load_vmcs,
  prepare_for_vmx_operation,
  ptr,
  u64,
  vm_instruction_error,
  VMX_INSN,
  VMX_INSN_SAFE,
  VMX_STATUS,
  VmxPages,
  wrmsr,
} from '../../lib/guest/index.ts';
import type { Operand } from '../../lib/guest/dsl/rvalue.ts';
import { virtMap } from '../../lib/kvm_util/x86/page_table.ts';
import { vcpuArgsSet } from '../../lib/kvm_util/x86/processor.ts';
import { vcpuAllocVmx } from '../../lib/kvm_util/x86/vmx.ts';
import { gpa } from '../../lib/x86/addr.ts';
import { PFERR, VECTOR } from '../../lib/x86/exceptions.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { VMXERR } from '../../lib/x86/vmx/insn_errors.ts';
import { nextSync, withVm } from '../kvm_x86/small_vm.ts';

const NON_CANONICAL = 1n << 63n;
const UNMAPPED = 0x1234_5000n;
/** L1's tables map it to a physical address that has no memory. */
const NO_MEMORY = 0x5555_0000n;
const PAGE = 4096;

const words = guestGlobal('words', array(u64, (2 * PAGE) / 8));

/** L1 in VMX operation with a current VMCS, whose address `body` gets. */
function withCurrentVmcs(body: (g: GuestCode, vmcs: Operand) => void): void {
  const code = guestFn('guest_code', [ptr(VmxPages)], (g, vmx) => {
    GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
    GUEST_ASSERT(g, load_vmcs(g, vmx));
    body(g, vmx.f.vmcs_gpa);
    GUEST_DONE(g);
  });
  withVm(code, function* ({ vm, vcpu }) {
    virtMap(vm, NO_MEMORY, gpa(0x7_0000_0000), 1);
    vcpuArgsSet(vcpu, vcpuAllocVmx(vm));
    if ((yield* nextSync(vcpu)).length > 0) throw new Error('L1 did not come to its end');
  });
}

/** The word of `words` that VMPTRST by the address form must have written. */
function expectStored(g: GuestCode, status: Operand, index: number, vmcs: Operand): void {
  GUEST_ASSERT_EQ(g, status, 0);
  GUEST_ASSERT_EQ(g, words.at(index), vmcs);
  g.set(words.at(index), 0);
}

const wordsAddress = (g: GuestCode) => g.let(words.at(0).addr().cast(u64));

/** The constant 3, in a register. */
const imm3 = (g: GuestCode) => g.local(u64, 3);

describe('the address of an operand', () => {
  it('is base, scaled index and displacement', () => {
    withCurrentVmcs((g, vmcs) => {
      const status = VMX_INSN(g, {
        in: { base: wordsAddress(g), index: g.let(imm3(g)) },
        emit: (a, r) =>
          a.emit('vmptrst', mem(64, { base: r.reg64('base'), index: r.reg64('index'), scale: 8, disp: 16 })),
      });
      expectStored(g, status, 5, vmcs);
      const noBase = VMX_INSN(g, {
        in: { index: wordsAddress(g) },
        emit: (a, r) => a.emit('vmptrst', mem(64, { index: r.reg64('index'), scale: 1, disp: 8 })),
      });
      expectStored(g, noBase, 1, vmcs);
    });
  });

  it('is cut to 32 bits by an address-size prefix', () => {
    withCurrentVmcs((g, vmcs) => {
      const high = g.let(wordsAddress(g).or(1n << 40n));
      const status = VMX_INSN(g, {
        in: { base: fixed('rbx', high) },
        emit: (a) => a.emit('vmptrst', mem(64, { base: R.ebx, disp: 24 })),
      });
      expectStored(g, status, 3, vmcs);
    });
  });

  it('gets the base of FS and GS, and of no other segment', () => {
    withCurrentVmcs((g, vmcs) => {
      wrmsr(g, MSR.FS_BASE, wordsAddress(g));
      wrmsr(g, MSR.GS_BASE, wordsAddress(g).add(64));
      const by = (seg: typeof R.fs) =>
        VMX_INSN(g, {
          in: { at: g.let(imm3(g)) },
          emit: (a, r) => a.emit('vmptrst', mem(64, { base: r.reg64('at'), seg, disp: 5 })),
        });
      expectStored(g, by(R.fs), 1, vmcs);
      expectStored(g, by(R.gs), 9, vmcs);
    });
  });

  it('may cross a page', () => {
    withCurrentVmcs((g, vmcs) => {
      const border = g.let(
        wordsAddress(g)
          .add(PAGE)
          .and(~(PAGE - 1))
          .sub(4),
      );
      const store = VMX_INSN(g, {
        in: { at: border },
        emit: (a, r) => a.emit('vmptrst', mem(64, { base: r.reg64('at') })),
      });
      GUEST_ASSERT_EQ(g, store, 0);
      GUEST_ASSERT_EQ(g, at(u64, border), vmcs);
      const load = VMX_INSN(g, {
        in: { at: border },
        emit: (a, r) => a.emit('vmptrld', mem(64, { base: r.reg64('at') })),
      });
      GUEST_ASSERT_EQ(g, load, 0);
    });
  });
});

type Insn = 'vmptrst' | 'vmptrld' | 'vmclear' | 'vmxon';

/** The fault of an instruction whose operand is at `address`. */
const faultAt = (g: GuestCode, insn: Insn, address: bigint) =>
  VMX_INSN_SAFE(g, {
    in: { address: g.let(lit64(g, address)) },
    emit: (a, r) => a.emit(insn, mem(64, { base: r.reg64('address') })),
  });

const lit64 = (g: GuestCode, value: bigint) => g.local(u64, value);

describe('an operand that cannot be accessed', () => {
  it('is PF with the access that it would have been', () => {
    withCurrentVmcs((g) => {
      for (const [insn, code] of [
        ['vmptrst', PFERR.WRITE],
        ['vmptrld', 0],
        ['vmclear', 0],
      ] as const) {
        const { vector, error_code } = faultAt(g, insn, UNMAPPED);
        const error = g.let(error_code);
        GUEST_ASSERT_EQ(g, vector, VECTOR.PF);
        GUEST_ASSERT_EQ(g, error, code);
      }
    });
  });

  it('is GP if its address is not canonical, SS by way of the stack segment', () => {
    withCurrentVmcs((g) => {
      GUEST_ASSERT_EQ(g, faultAt(g, 'vmptrst', NON_CANONICAL).vector, VECTOR.GP);
      GUEST_ASSERT_EQ(g, faultAt(g, 'vmptrld', NON_CANONICAL).vector, VECTOR.GP);
      const stack = VMX_INSN_SAFE(g, {
        in: { address: lit64(g, NON_CANONICAL) },
        clobbers: ['rbx'],
        emit: (a, r) => {
          a.emit('vmptrst', mem(64, { base: R.rsp, index: r.reg64('address'), scale: 1 }));
        },
      });
      GUEST_ASSERT_EQ(g, stack.vector, VECTOR.SS);
    });
  });

  it('reads as ones where there is no memory, and a write goes nowhere', () => {
    withCurrentVmcs((g) => {
      const load = faultAt(g, 'vmptrld', NO_MEMORY);
      const status = g.let(load.status);
      GUEST_ASSERT_EQ(g, load.vector, 0);
      GUEST_ASSERT_EQ(g, status, VMX_STATUS.FAIL_VALID);
      GUEST_ASSERT_EQ(g, vm_instruction_error(g), VMXERR.VMPTRLD_INVALID_ADDRESS);
      const store = faultAt(g, 'vmptrst', NO_MEMORY);
      const stored = g.let(store.status);
      GUEST_ASSERT_EQ(g, store.vector, 0);
      GUEST_ASSERT_EQ(g, stored, 0);
    });
  });
});
