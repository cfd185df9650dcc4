// SPDX-License-Identifier: GPL-2.0-only
/**
 * Events while L2 is active, and who gets them. Expected: SDM, "VMX-Preemption Timer", "Other Causes of VM Exits", "VM Exits",
 * "Virtual-Interrupt Delivery"; KVM's vmx_check_nested_events() and nested_vmx_vmexit().
 */
import { describe, it } from 'vitest';
import {
  ExRegs,
  cli,
  cpu_relax,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  guestFn,
  type GuestCode,
  guestGlobal,
  hlt,
  ptr,
  READ_ONCE,
  safe_halt,
  sti_nop,
  u64,
  vmcall,
  vmcs_set_bits,
  vmreadz,
  vmresume,
  vmwrite,
  x2apic_enable,
  x2apic_read_reg,
  x2apic_write_reg,
} from '../../lib/guest/index.ts';
import { APIC_DM, APIC_ICR, APIC_REG, APIC_SPIV } from '../../lib/x86/apic.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC, VM_EXIT } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { GUEST_ACTIVITY } from '../../lib/x86/vmx/guest_state.ts';
import { INTR_INFO, INTR_TYPE } from '../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';
import { l2Code, launchTo, runL1, skipL2 } from './l1_vm.ts';

const IRQ = 0x41;
/** One-shot timer: ticks at the APIC's rate with the divisor that reset leaves. */
const SOON = 2000;
const LATER = 100 * SOON;

const l2_ran = guestGlobal('l2_ran', u64);
const irqs = guestGlobal('irqs', u64);
const irq_handler = guestFn('irq_handler', [ptr(ExRegs)], (g) => {
  g.set(irqs, '+=', 1);
  x2apic_write_reg(g, APIC_REG.EOI, 0);
});
const handlers = { [IRQ]: irq_handler };

/** L2 that leaves a mark and calls. */
const marking = l2Code((g) => {
  g.set(l2_ran, 1);
  g.loop(() => vmcall(g));
});

function armTimer(g: GuestCode, ticks = SOON): void {
  x2apic_enable(g);
  x2apic_write_reg(g, APIC_REG.LVTT, IRQ);
  x2apic_write_reg(g, APIC_REG.TMICT, ticks);
}

/** Until the local APIC has the interrupt in its IRR. */
function spin(g: GuestCode): void {
  const i = g.local(u64, 0);
  g.forRange(i, 0, 4000, 1, () => cpu_relax(g));
}

describe("L2's preemption timer", () => {
  it('with the value zero exits before the first instruction', () => {
    runL1(
      (g) => {
        vmcs_set_bits(g, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.VMX_PREEMPTION_TIMER);
        vmwrite(g, VMCS_GUEST.VMX_PREEMPTION_TIMER_VALUE, 0);
        launchTo(g, EXIT_REASON.PREEMPTION_TIMER);
        GUEST_ASSERT_EQ(g, READ_ONCE(l2_ran), 0);
      },
      { l2: marking },
    );
  });

  it.each([0, 0x100])('with the value %i ends a halt', (value) => {
    runL1(
      (g) => {
        vmcs_set_bits(g, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.VMX_PREEMPTION_TIMER);
        vmwrite(g, VMCS_GUEST.VMX_PREEMPTION_TIMER_VALUE, value);
        vmwrite(g, VMCS_GUEST.ACTIVITY_STATE, GUEST_ACTIVITY.HLT);
        launchTo(g, EXIT_REASON.PREEMPTION_TIMER);
        GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.ACTIVITY_STATE), GUEST_ACTIVITY.HLT);
        GUEST_ASSERT_EQ(g, READ_ONCE(l2_ran), 0);
      },
      { l2: marking },
    );
  });

  it('is saved as what is left of it, if L1 wants it saved', () => {
    runL1(
      (g) => {
        vmcs_set_bits(g, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.VMX_PREEMPTION_TIMER);
        vmcs_set_bits(g, VMCS_CTRL.VM_EXIT_CONTROLS, VM_EXIT.SAVE_VMX_PREEMPTION_TIMER);
        vmwrite(g, VMCS_GUEST.VMX_PREEMPTION_TIMER_VALUE, 0x40_0000);
        launchTo(g, EXIT_REASON.VMCALL);
        const left = vmreadz(g, VMCS_GUEST.VMX_PREEMPTION_TIMER_VALUE);
        GUEST_ASSERT(g, left.gt(0x3f_0000));
        GUEST_ASSERT(g, left.le(0x40_0000));
      },
      { l2: marking },
    );
  });
});

describe('an interrupt that comes while L2 is active', () => {
  it('and that L2 blocks, is L1 business after an exit, as soon as L1 takes interrupts', () => {
    runL1(
      (g) => {
        cli(g);
        armTimer(g);
        launchTo(g, EXIT_REASON.VMCALL);
        GUEST_ASSERT_EQ(g, READ_ONCE(irqs), 0);
        sti_nop(g);
        GUEST_ASSERT_EQ(g, READ_ONCE(irqs), 1);
      },
      {
        handlers,
        l2: l2Code((g) => {
          spin(g);
          g.loop(() => vmcall(g));
        }),
      },
    );
  });

  it('ends a halt of L2 as an exit that records the halt, acknowledged if L1 wants that', () => {
    runL1(
      (g) => {
        cli(g);
        vmcs_set_bits(g, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.EXT_INTR_MASK);
        vmcs_set_bits(g, VMCS_CTRL.VM_EXIT_CONTROLS, VM_EXIT.ACK_INTR_ON_EXIT);
        vmwrite(g, VMCS_GUEST.ACTIVITY_STATE, GUEST_ACTIVITY.HLT);
        armTimer(g);
        launchTo(g, EXIT_REASON.EXTERNAL_INTERRUPT);
        const info = (INTR_INFO.VALID_MASK | INTR_TYPE.EXT_INTR | IRQ) >>> 0;
        GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_INTR_INFO), info);
        GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.ACTIVITY_STATE), GUEST_ACTIVITY.HLT);
        GUEST_ASSERT_EQ(g, READ_ONCE(l2_ran), 0);
        // It is in service: nothing is left to be taken.
        sti_nop(g);
        GUEST_ASSERT_EQ(g, READ_ONCE(irqs), 0);
      },
      { handlers, l2: marking },
    );
  });
});

describe('a virtual interrupt', () => {
  it('that L2 blocks does not end its halt', () => {
    runL1(
      (g, vmx) => {
        cli(g);
        vmcs_set_bits(g, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.EXT_INTR_MASK);
        vmcs_set_bits(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.TPR_SHADOW);
        vmcs_set_bits(g, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY);
        vmwrite(g, VMCS_CTRL.VIRTUAL_APIC_PAGE_ADDR, vmx.f.msr_gpa);
        vmwrite(g, VMCS_GUEST.INTR_STATUS, 0x50);
        armTimer(g, LATER);
        launchTo(g, EXIT_REASON.EXTERNAL_INTERRUPT);
        GUEST_ASSERT_EQ(g, READ_ONCE(l2_ran), 0);
        GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.ACTIVITY_STATE), GUEST_ACTIVITY.HLT);
      },
      {
        handlers,
        l2: l2Code((g) => {
          hlt(g);
          g.set(l2_ran, 1);
          g.loop(() => vmcall(g));
        }),
      },
    );
  });
});

describe('INIT', () => {
  const INIT = APIC_DM.INIT | APIC_ICR.LEVEL_ASSERT;

  it('in VMX root operation waits, and does not end a halt', () => {
    runL1(
      (g) => {
        x2apic_enable(g);
        x2apic_write_reg(g, APIC_REG.ICR, INIT);
        // Nor does it reset the local APIC, as long as it waits.
        const spiv = x2apic_read_reg(g, APIC_REG.SPIV);
        GUEST_ASSERT_EQ(g, spiv.and(APIC_SPIV.APIC_ENABLED), APIC_SPIV.APIC_ENABLED);
        armTimer(g);
        safe_halt(g);
        GUEST_ASSERT_EQ(g, READ_ONCE(irqs), 1);
      },
      { handlers, l2: marking },
    );
  });

  it('that waited is an exit before the first instruction of L2', () => {
    runL1(
      (g) => {
        x2apic_enable(g);
        x2apic_write_reg(g, APIC_REG.ICR, INIT);
        launchTo(g, EXIT_REASON.INIT_SIGNAL);
        GUEST_ASSERT_EQ(g, READ_ONCE(l2_ran), 0);
        GUEST_ASSERT_EQ(g, vmresume(g), 0);
        GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.VMCALL);
        skipL2(g);
      },
      { l2: marking },
    );
  });
});
