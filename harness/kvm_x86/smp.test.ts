// SPDX-License-Identifier: GPL-2.0-only
/**
 * Several vCPUs and pCPUs: interprocessor interrupts in both APIC modes, vCPU threads that move or share a pCPU, signals, and
 * what a VM leaves behind. Expected: SDM, "Issuing Interprocessor Interrupts"; KVM's vcpu_load() and kvm_vcpu_kick().
 */
import { describe, expect, it } from 'vitest';
import {
  cpu_relax,
  ExRegs,
  GUEST_DONE,
  GUEST_SYNC,
  GUEST_SYNC_ARGS,
  guestFn,
  guestGlobal,
  hlt,
  ptr,
  rdmsr,
  rdtscp,
  READ_ONCE,
  safe_halt,
  sti,
  sti_nop,
  u32,
  u64,
  wrmsr,
  x2apic_enable,
  x2apic_write_reg,
  xapic_enable,
  xapic_write_reg,
  type FnLinkable,
  type GuestCode,
} from '../../lib/guest/index.ts';
import type { Steps } from '../../lib/kvm_util/backend.ts';
import { kvmVmFree, type KvmVcpu, type KvmVm } from '../../lib/kvm_util/kvm_util.ts';
import { tryVcpuRun, vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { readGuestGlobal, writeGuestGlobal } from '../../lib/kvm_util/guest_global.ts';
import { vcpuArgsSet } from '../../lib/kvm_util/x86/processor.ts';
import { virtMap } from '../../lib/kvm_util/x86/page_table.ts';
import { vmCreateWithVcpus } from '../../lib/kvm_util/vm_create.ts';
import { linkGuest } from '../../lib/guest/index.ts';
import { ERRNO } from '../../lib/uapi/errno.ts';
import { KVM_MP_STATE } from '../../lib/uapi/vcpu_state.ts';
import { gpa } from '../../lib/x86/addr.ts';
import { APIC_DEST, APIC_DM, APIC_ICR, APIC_REG } from '../../lib/x86/apic.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { MSR } from '../../lib/x86/msr.ts';
import type { EmulatedHost } from '../../vmm/emulated.ts';
import { exitName, guest, nextSync, smallHost, withVm } from './small_vm.ts';

const IPI = 0x50;
const ready = guestGlobal('ready', u64);
const irqs = guestGlobal('irqs', u64);
const nmis = guestGlobal('nmis', u64);
const stop = guestGlobal('stop', u64);
const mode = guestGlobal('x2apic', u64);

const ipi = guestFn('ipi_handler', [ptr(ExRegs)], (g) => {
  g.set(irqs, '+=', 1);
  g.if(
    mode.ne(0),
    () => x2apic_write_reg(g, APIC_REG.EOI, 0),
    () => xapic_write_reg(g, APIC_REG.EOI, 0),
  );
});
const nmi = guestFn('nmi_handler', [ptr(ExRegs)], (g) => g.set(nmis, '+=', 1));
const handlers = { [IPI]: ipi, [VECTOR.NMI]: nmi };

const send = (g: GuestCode, x2apic: 'x2apic' | 'xapic', icr: number, dest: number): void => {
  if (x2apic === 'x2apic') {
    wrmsr(g, 0x800 + (APIC_REG.ICR >> 4), (BigInt(dest) << 32n) | BigInt(icr));
    return;
  }
  xapic_write_reg(g, APIC_REG.ICR2, (dest << 24) >>> 0);
  xapic_write_reg(g, APIC_REG.ICR, icr);
};

/** vCPU 0 sends to vCPU 1: fixed, NMI, all but self, all; vCPU 1 halts between, except in the end. */
const ipiCode = (x2apic: 'x2apic' | 'xapic'): FnLinkable =>
  guestFn('guest_code', [u64], (g, id) => {
    if (x2apic === 'x2apic') x2apic_enable(g);
    else xapic_enable(g);
    const wait = (condition: () => ReturnType<typeof irqs.ge>): void =>
      g.while(
        () => condition().lnot(),
        () => cpu_relax(g),
      );
    g.if(id.ne(0), () => {
      sti(g);
      g.set(ready, 1);
      g.while(READ_ONCE(stop).eq(0), () => safe_halt(g));
      GUEST_DONE(g);
    });
    wait(() => ready.ne(0));
    send(g, x2apic, APIC_DM.FIXED | IPI, 1);
    wait(() => irqs.ge(1));
    send(g, x2apic, APIC_DM.NMI, 1);
    wait(() => nmis.ge(1));
    send(g, x2apic, APIC_DEST.ALLBUT | APIC_DM.FIXED | IPI, 0);
    wait(() => irqs.ge(2));
    sti(g);
    send(g, x2apic, APIC_DEST.ALLINC | APIC_DM.FIXED | IPI, 0);
    wait(() => irqs.ge(4));
    // Nobody has this ID.
    send(g, x2apic, APIC_DM.FIXED | IPI, 9);
    g.set(stop, 1);
    // SDM, "Logical Destination Mode": flat model, or cluster 0 and a bit for each in x2APIC mode.
    if (x2apic === 'xapic') xapic_write_reg(g, APIC_REG.LDR, 1 << 24);
    send(g, x2apic, APIC_ICR.DEST_LOGICAL | APIC_DM.FIXED | IPI, x2apic === 'x2apic' ? 2 : 1);
    wait(() => irqs.ge(5));
    if (x2apic === 'xapic') send(g, x2apic, APIC_DM.FIXED | IPI, 1);
    GUEST_SYNC_ARGS(g, irqs, nmis, 0, 0, 0);
    GUEST_DONE(g);
  });

function* both(
  host: EmulatedHost,
  vm: KvmVm,
  bodies: readonly ((vcpu: KvmVcpu) => Steps<void>)[],
  cpu?: number,
): Steps<void> {
  const threads = bodies.map((body, i) =>
    host.threads.spawn(`vcpu${i}`, () => body(vm.vcpus[i]!), cpu === undefined ? {} : { cpu }),
  );
  for (const thread of threads) yield* host.threads.join(thread);
}

describe('interprocessor interrupts', () => {
  it.each([['x2apic' as const], ['xapic' as const]])('reach whom they name, in %s mode', (x2apic) => {
    withVm(
      ipiCode(x2apic),
      function* ({ host, vm }) {
        virtMap(vm, 0xfee0_0000n, gpa(0xfee0_0000), 1);
        writeGuestGlobal(vm, 'x2apic', x2apic === 'x2apic' ? 1n : 0n);
        for (const vcpu of vm.vcpus) vcpuArgsSet(vcpu, vcpu.id);
        yield* both(host, vm, [
          function* (vcpu) {
            const [i, n] = yield* nextSync(vcpu);
            expect([i! >= 5n, n]).toEqual([true, 1n]);
          },
          function* (vcpu) {
            expect(yield* nextSync(vcpu)).toEqual([]);
          },
        ]);
      },
      { vcpus: 2, handlers },
    );
  });

  it('INIT stops a vCPU until a SIPI; on the bootstrap processor it is a reset', () => {
    const code = guestFn('guest_code', [u64], (g, id) => {
      x2apic_enable(g);
      g.if(id.ne(0), () => {
        g.set(ready, 1);
        g.while(ready.ne(0), () => cpu_relax(g));
      });
      g.while(ready.eq(0), () => cpu_relax(g));
      send(g, 'x2apic', APIC_DM.INIT | APIC_ICR.LEVEL_ASSERT, 1);
      GUEST_SYNC(g, 1);
      GUEST_DONE(g);
    });
    withVm(
      code,
      function* ({ host, vm }) {
        for (const vcpu of vm.vcpus) vcpuArgsSet(vcpu, vcpu.id);
        const ap = host.threads.spawn('ap', function* () {
          expect(yield* tryVcpuRun(vm.vcpus[1]!)).toBe(ERRNO.EINTR);
        });
        yield* nextSync(vm.vcpus[0]!);
        yield* host.threads.sleepNs(100_000);
        host.threads.kill(ap);
        yield* host.threads.join(ap);
        const { fd } = vm.vcpus[1]!;
        expect(fd.getMpState().mp_state).toBe(KVM_MP_STATE.INIT_RECEIVED);
        // SDM, "Processor State After Reset".
        expect([fd.getRegs().rip, fd.getSregs().cs.selector, fd.getSregs().cr0]).toEqual([
          0xfff0n,
          0xf000,
          0x10n,
        ]);
        fd.setMpState({ mp_state: KVM_MP_STATE.SIPI_RECEIVED });
        expect(fd.getMpState().mp_state).toBe(KVM_MP_STATE.RUNNABLE);
        expect([fd.getRegs().rip, fd.getSregs().cs.base]).toEqual([0n, 0n]);
      },
      { vcpus: 2 },
    );
  });
});

describe('vCPU threads', () => {
  const counter = guestGlobal('counter', u64);
  const spin = guestFn('guest_code', [u64], (g, id) => {
    g.while(READ_ONCE(stop).eq(0), () => g.set(counter, '+=', 1));
    GUEST_SYNC_ARGS(g, id, rdtscp(g).aux, 0, 0, 0);
    GUEST_DONE(g);
  });

  it('move between pCPUs while they run, and keep their state', () => {
    withVm(spin, function* ({ host, vm, vcpu }) {
      vcpuArgsSet(vcpu, 7);
      vcpu.fd.setMsrs([{ index: MSR.TSC_AUX, data: 0x77n }]);
      const seen = new Set<number>();
      const thread = host.threads.spawn('vcpu', function* () {
        expect((yield* nextSync(vcpu)).slice(0, 2)).toEqual([7n, 0x77n]);
      });
      for (let i = 0; i < 6; i++) {
        host.threads.setAffinity(thread, i % 2);
        const before = readGuestGlobal(vm, 'counter');
        yield* host.threads.spinUntil(() => readGuestGlobal(vm, 'counter') > before + 100n);
        seen.add(host.module.vmList[0]!.vcpus[0]!.cpu);
      }
      writeGuestGlobal(vm, 'stop', 1n);
      yield* host.threads.join(thread);
      expect([...seen].sort()).toEqual([0, 1]);
    });
  });

  it('share one pCPU by preemption, each with its own registers and MSRs', () => {
    const own = guestFn('guest_code', [u64], (g, id) => {
      const local = g.local(u64, 0);
      wrmsr(g, MSR.KERNEL_GS_BASE, id.shl(12));
      g.while(READ_ONCE(stop).eq(0), () => g.set(local, '+=', id));
      GUEST_SYNC_ARGS(
        g,
        local.mod(id).eq(0),
        rdtscp(g).aux,
        rdmsr(g, MSR.KERNEL_GS_BASE),
        rdmsr(g, MSR.LSTAR),
        0,
      );
      GUEST_DONE(g);
    });
    withVm(
      own,
      function* ({ host, vm }) {
        for (const vcpu of vm.vcpus) {
          vcpuArgsSet(vcpu, vcpu.id + 5);
          const data = BigInt(vcpu.id + 0x100);
          expect(vcpu.fd.setMsrs([MSR.TSC_AUX, MSR.LSTAR].map((index) => ({ index, data })))).toBe(2);
        }
        const body = function* (vcpu: KvmVcpu): Steps<void> {
          const n = BigInt(vcpu.id);
          expect(yield* nextSync(vcpu)).toEqual([1n, 0x100n + n, (5n + n) << 12n, 0x100n + n, 0n]);
        };
        const threads = vm.vcpus.map((vcpu) =>
          host.threads.spawn(`v${vcpu.id}`, () => body(vcpu), { cpu: 1 }),
        );
        yield* host.threads.sleepNs(6e6);
        writeGuestGlobal(vm, 'stop', 1n);
        for (const thread of threads) yield* host.threads.join(thread);
        expect(host.module.vmList[0]!.vcpus.map((v) => v.stat.exits > 2)).toEqual([true, true]);
      },
      { vcpus: 2 },
    );
  });

  it('leave the guest for a signal, running or halted, with EINTR', () => {
    const code = guest((g) => {
      g.while(READ_ONCE(stop).eq(0), () => cpu_relax(g));
      hlt(g);
      GUEST_SYNC(g, 1);
    });
    withVm(code, function* ({ host, vm, vcpu }) {
      for (let i = 0; i < 2; i++) {
        const thread = host.threads.spawn('vcpu', function* () {
          expect(yield* tryVcpuRun(vcpu)).toBe(ERRNO.EINTR);
        });
        yield* host.threads.sleepNs(50_000);
        host.threads.kill(thread);
        yield* host.threads.join(thread);
        expect(exitName(vcpu)).toBe('INTR');
        expect(vcpu.fd.getMpState().mp_state).toBe(i === 0 ? KVM_MP_STATE.RUNNABLE : KVM_MP_STATE.HALTED);
        writeGuestGlobal(vm, 'stop', 1n);
      }
    });
  });

  it('that wait for INIT are told to come again', () => {
    withVm(
      guest((g) => GUEST_DONE(g)),
      function* ({ host, vcpu }) {
        vcpu.fd.setMpState({ mp_state: KVM_MP_STATE.UNINITIALIZED });
        vcpu.fd.run.immediate_exit = 1;
        expect(yield* tryVcpuRun(vcpu)).toBe(ERRNO.EINTR);
        vcpu.fd.run.immediate_exit = 0;
        const thread = host.threads.spawn('vcpu', function* () {
          expect(yield* tryVcpuRun(vcpu)).toBe(ERRNO.EINTR);
        });
        yield* host.threads.sleepNs(10_000);
        host.threads.kill(thread);
        yield* host.threads.join(thread);
        vcpu.fd.setMpState({ mp_state: KVM_MP_STATE.SIPI_RECEIVED });
        vcpu.fd.setMpState({ mp_state: KVM_MP_STATE.RUNNABLE });
        expect(yield* nextSync(vcpu)).toEqual([]);
      },
    );
  });
});

describe('a VM that is closed', () => {
  it('leaves no frame behind, with one vCPU or with four', () => {
    const host = smallHost();
    const code = guestFn('guest_code', [u32], (g) => {
      sti_nop(g);
      GUEST_DONE(g);
    });
    const image = linkGuest(code);
    const { pages } = host.host;
    host.runMain(function* () {
      for (const n of [1, 4, 1]) {
        const before = pages.nrFree;
        const vm = yield* vmCreateWithVcpus(host, n, { image });
        for (const vcpu of vm.vcpus) yield* vcpuRun(vcpu);
        expect(pages.nrFree).toBeLessThan(before);
        yield* kvmVmFree(vm);
        expect([n, pages.nrFree]).toEqual([n, before]);
      }
    });
  });
});
