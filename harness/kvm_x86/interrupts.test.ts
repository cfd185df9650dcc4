// SPDX-License-Identifier: GPL-2.0-only
/**
 * Delivery of interrupts, NMIs and exceptions to a guest. Expected: SDM, "Local APIC", "Handling Multiple NMIs", "Event
 * Injection"; KVM's kvm_check_and_inject_events() and __vmx_complete_interrupts().
 */
import { describe, expect, it } from 'vitest';
import { R } from '../../lib/asm/operands.ts';
import {
  cli,
  ExRegs,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  GUEST_SYNC,
  GUEST_SYNC_ARGS,
  guestFn,
  guestGlobal,
  hlt,
  ptr,
  rdtsc,
  READ_ONCE,
  safe_halt,
  set_cr8,
  sti,
  sti_nop,
  u64,
  wrmsr,
  x2apic_enable,
  x2apic_read_reg,
  x2apic_write_reg,
} from '../../lib/guest/index.ts';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { KVM_VCPUEVENT_VALID } from '../../lib/uapi/vcpu_state.ts';
import { APIC_DEST, APIC_DM, APIC_LVT, APIC_REG } from '../../lib/x86/apic.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { RFLAGS } from '../../lib/x86/registers.ts';
import { vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { exitName, guest, nextSync, withVm } from './small_vm.ts';

const IRQ = 0x41;
const count = guestGlobal('count', u64);
const order = guestGlobal('order', u64);

const irq_handler = guestFn('irq_handler', [ptr(ExRegs)], (g) => {
  g.set(count, '+=', 1);
  g.set(order, order.shl(8).or(IRQ));
  x2apic_write_reg(g, APIC_REG.EOI, 0);
});
const nmi_handler = guestFn('nmi_handler', [ptr(ExRegs)], (g) => {
  g.set(count, '+=', 0x100);
  g.set(order, order.shl(8).or(VECTOR.NMI));
});
const ud_handler = guestFn('ud_handler', [ptr(ExRegs)], (g, regs) => {
  g.set(order, order.shl(8).or(VECTOR.UD));
  g.set(count, regs.f.rflags);
  g.set(regs.f.rip, regs.f.rip.add(2));
});
const handlers = { [IRQ]: irq_handler, [VECTOR.NMI]: nmi_handler, [VECTOR.UD]: ud_handler };
const SELF = APIC_DEST.SELF | APIC_DM.FIXED | IRQ;

describe('an interrupt', () => {
  it('whose delivery ends in an EPT violation is injected again, once', () => {
    // Nothing has touched the IDT yet: the first delivery faults on it.
    const code = guest((g) => {
      x2apic_enable(g);
      sti_nop(g);
      x2apic_write_reg(g, APIC_REG.ICR, SELF);
      sti_nop(g);
      GUEST_SYNC(g, READ_ONCE(count));
      GUEST_DONE(g);
    });
    withVm(
      code,
      function* ({ host, vcpu }) {
        const { trace } = host.module;
        trace.enable(/^kvm_inj_virq$/);
        expect(yield* nextSync(vcpu)).toEqual([1n, 0n, 0n, 0n, 0n]);
        const lines = trace.text().map((line) => line.replace(/^.*kvm_inj_virq: /, ''));
        expect(lines[0]).toBe('IRQ 0x41');
        expect(lines.slice(1).length).toBeGreaterThan(0);
        expect(new Set(lines.slice(1))).toEqual(new Set(['IRQ 0x41 [reinjected]']));
        expect(yield* nextSync(vcpu)).toEqual([]);
      },
      { handlers },
    );
  });

  it('waits for IF, for the shadow of STI, and for the TPR', () => {
    const code = guest((g) => {
      x2apic_enable(g);
      cli(g);
      x2apic_write_reg(g, APIC_REG.ICR, SELF);
      g.asm({ emit: (a) => a.emit('nop') });
      GUEST_SYNC(g, READ_ONCE(count));
      set_cr8(g, 4);
      sti_nop(g);
      GUEST_SYNC(g, READ_ONCE(count));
      set_cr8(g, 3);
      GUEST_SYNC(g, READ_ONCE(count));
      cli(g);
      x2apic_write_reg(g, APIC_REG.ICR, SELF);
      // STI's shadow covers CLI: no interrupt comes between them.
      g.asm({ emit: (a) => ['sti', 'cli'].forEach((insn) => a.emit(insn as 'sti')) });
      GUEST_SYNC(g, READ_ONCE(count));
      GUEST_DONE(g);
    });
    withVm(
      code,
      function* ({ vcpu }) {
        for (const expected of [0n, 0n, 1n, 1n]) expect((yield* nextSync(vcpu))[0]).toBe(expected);
        expect(yield* nextSync(vcpu)).toEqual([]);
      },
      { handlers },
    );
  });

  it('wakes a halted vCPU from the timer in one-shot, periodic and TSC-deadline mode', () => {
    const code = guest((g) => {
      x2apic_enable(g);
      x2apic_write_reg(g, APIC_REG.TDCR, 0xb);
      x2apic_write_reg(g, APIC_REG.LVTT, APIC_LVT.TIMER_ONESHOT | IRQ);
      x2apic_write_reg(g, APIC_REG.TMICT, 10_000);
      safe_halt(g);
      GUEST_SYNC_ARGS(g, READ_ONCE(count), x2apic_read_reg(g, APIC_REG.TMCCT), 0, 0, 0);
      cli(g);
      x2apic_write_reg(g, APIC_REG.LVTT, APIC_LVT.TIMER_PERIODIC | IRQ);
      x2apic_write_reg(g, APIC_REG.TMICT, 20_000);
      for (let i = 0; i < 3; i++) {
        safe_halt(g);
        cli(g);
      }
      x2apic_write_reg(g, APIC_REG.TMICT, 0);
      GUEST_SYNC(g, READ_ONCE(count));
      x2apic_write_reg(g, APIC_REG.LVTT, APIC_LVT.TIMER_TSCDEADLINE | IRQ);
      const deadline = g.let(rdtsc(g).add(50_000));
      wrmsr(g, MSR.IA32_TSC_DEADLINE, deadline);
      safe_halt(g);
      GUEST_SYNC_ARGS(g, READ_ONCE(count), rdtsc(g).ge(deadline), 0, 0, 0);
      // In the past: at once.
      wrmsr(g, MSR.IA32_TSC_DEADLINE, 1);
      g.asm({ emit: (a) => a.emit('nop') });
      GUEST_SYNC(g, READ_ONCE(count));
      GUEST_DONE(g);
    });
    withVm(
      code,
      function* ({ vcpu }) {
        expect(yield* nextSync(vcpu)).toEqual([1n, 0n, 0n, 0n, 0n]);
        expect((yield* nextSync(vcpu))[0]).toBe(4n);
        expect((yield* nextSync(vcpu)).slice(0, 2)).toEqual([5n, 1n]);
        expect((yield* nextSync(vcpu))[0]).toBe(6n);
        expect(yield* nextSync(vcpu)).toEqual([]);
      },
      { handlers },
    );
  });
});

describe('an NMI', () => {
  const spin = guest((g) => {
    GUEST_SYNC(g, READ_ONCE(count));
    GUEST_SYNC(g, READ_ONCE(count));
    GUEST_SYNC(g, READ_ONCE(count));
    GUEST_DONE(g);
  });

  it('whose delivery ends in an EPT violation comes again, and its own blocking does not refuse it', () => {
    withVm(
      spin,
      function* ({ vcpu }) {
        yield* nextSync(vcpu);
        vcpu.fd.nmi();
        expect((yield* nextSync(vcpu))[0]).toBe(0x100n);
      },
      { handlers },
    );
  });

  it('waits while another is handled; of more than one that wait, one stays', () => {
    const slow = guestFn('nmi_handler', [ptr(ExRegs)], (g) => {
      g.set(count, '+=', 0x100);
      GUEST_SYNC(g, READ_ONCE(count));
    });
    withVm(
      spin,
      function* ({ vcpu }) {
        yield* nextSync(vcpu);
        vcpu.fd.nmi();
        expect((yield* nextSync(vcpu))[0]).toBe(0x100n);
        expect(vcpu.fd.getVcpuEvents().nmi).toEqual({ injected: 0, pending: 0, masked: 1 });
        for (let i = 0; i < 3; i++) vcpu.fd.nmi();
        expect(vcpu.fd.getVcpuEvents().nmi).toEqual({ injected: 0, pending: 1, masked: 1 });
        expect((yield* nextSync(vcpu))[0]).toBe(0x200n);
        expect((yield* nextSync(vcpu))[0]).toBe(0x200n);
        expect(vcpu.fd.getVcpuEvents().nmi.masked).toBe(0);
      },
      { handlers: { [VECTOR.NMI]: slow } },
    );
  });

  it('goes before an interrupt that waits, too', () => {
    const code = guest((g) => {
      x2apic_enable(g);
      cli(g);
      x2apic_write_reg(g, APIC_REG.ICR, SELF);
      GUEST_SYNC(g, 1);
      sti(g);
      g.asm({ emit: (a) => ['nop', 'nop'].forEach((insn) => a.emit(insn as 'nop')) });
      GUEST_SYNC(g, READ_ONCE(order));
      GUEST_DONE(g);
    });
    withVm(
      code,
      function* ({ vcpu }) {
        yield* nextSync(vcpu);
        vcpu.fd.nmi();
        expect((yield* nextSync(vcpu))[0]).toBe(BigInt((VECTOR.NMI << 8) | IRQ));
      },
      { handlers },
    );
  });

  it('does not wake a vCPU that halts in an NMI handler', () => {
    const halting = guestFn('nmi_handler', [ptr(ExRegs)], (g) => {
      g.set(count, '+=', 1);
      hlt(g);
      GUEST_SYNC(g, 99);
    });
    withVm(
      spin,
      function* ({ host, vcpu }) {
        yield* nextSync(vcpu);
        vcpu.fd.nmi();
        vcpu.fd.nmi();
        const thread = host.threads.spawn('halter', function* () {
          try {
            yield* vcpuRun(vcpu);
          } catch {
            // EINTR, as the main thread wants it.
          }
        });
        yield* host.threads.sleepNs(1e6);
        expect(vcpu.fd.getMpState().mp_state).toBe(3);
        host.threads.kill(thread);
        yield* host.threads.join(thread);
        expect(exitName(vcpu)).toBe('INTR');
      },
      { handlers: { [VECTOR.NMI]: halting } },
    );
  });
});

describe('an exception', () => {
  const code = guest((g) => {
    GUEST_SYNC(g, 1);
    g.asm({ clobbers: ['rax'], emit: (a) => a.emit('xor', R.eax, R.eax) });
    g.asm({ emit: (a) => a.emit('ud2') });
    GUEST_SYNC_ARGS(g, READ_ONCE(order), READ_ONCE(count), 0, 0, 0);
    GUEST_DONE(g);
  });

  it('of the fault kind that L0 injects pushes RF', () => {
    withVm(
      code,
      function* ({ vcpu }) {
        yield* nextSync(vcpu);
        const [seen, rflags] = yield* nextSync(vcpu);
        expect(seen).toBe(BigInt(VECTOR.UD));
        expect(Number(rflags) & RFLAGS.RF).toBe(RFLAGS.RF);
      },
      { handlers },
    );
  });

  it('that is pending goes before an interrupt half injected, which is lost, and pending outdoes injected', () => {
    const skipNothing = guestFn('ud_handler', [ptr(ExRegs)], (g) => g.set(order, order.shl(8).or(VECTOR.UD)));
    const plain = guest((g) => {
      GUEST_SYNC(g, 1);
      GUEST_SYNC(g, READ_ONCE(order));
      GUEST_DONE(g);
    });
    withVm(
      plain,
      function* ({ vm, vcpu }) {
        yield* vm.fd.enableCap({ cap: KVM_CAP.EXCEPTION_PAYLOAD, flags: 0, args: [1n, 0n, 0n, 0n] });
        yield* nextSync(vcpu);
        const events = vcpu.fd.getVcpuEvents();
        events.flags |= KVM_VCPUEVENT_VALID.PAYLOAD;
        events.exception = { injected: 1, nr: VECTOR.UD, has_error_code: 0, pending: 1, error_code: 0 };
        events.interrupt = { injected: 1, nr: IRQ, soft: 0, shadow: 0 };
        vcpu.fd.setVcpuEvents(events);
        const seen = vcpu.fd.getVcpuEvents().exception;
        expect([seen.pending, seen.injected]).toEqual([1, 0]);
        // The instruction of the ucall is completed first, then the exception comes.
        expect((yield* nextSync(vcpu))[0]).toBe(BigInt(VECTOR.UD));
      },
      { handlers: { [VECTOR.UD]: skipNothing } },
    );
  });

  it('GUEST_ASSERT in a handler ends the test with its line', () => {
    const failing = guestFn('ud_handler', [ptr(ExRegs)], (g, regs) => GUEST_ASSERT_EQ(g, regs.f.vector, 0));
    withVm(
      code,
      function* ({ vcpu }) {
        yield* nextSync(vcpu);
        let message = '';
        try {
          yield* nextSync(vcpu);
        } catch (error) {
          message = String(error);
        }
        expect(message).toContain('interrupts.test.ts:');
      },
      { handlers: { [VECTOR.UD]: failing } },
    );
  });
});
