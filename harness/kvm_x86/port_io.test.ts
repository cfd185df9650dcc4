// SPDX-License-Identifier: GPL-2.0-only
/** Port I/O as userspace sees it, and how KVM_RUN completes it. Expected: Documentation/virt/kvm/api.rst, KVM_EXIT_IO. */
import { describe, expect, it } from 'vitest';
import { R } from '../../lib/asm/operands.ts';
import { guestAsm } from '../../lib/guest/index.ts';
import { KVM_UTIL_MIN_VADDR } from '../../lib/kvm_util/kvm_util.ts';
import { tryVcpuRun, vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { readGuest, vmVaddrAlloc, writeGuest } from '../../lib/kvm_util/x86/page_table.ts';
import { errnoName } from '../../lib/uapi/errno.ts';
import { KVM_EXIT_IO } from '../../lib/uapi/run.ts';
import { exitName, NO_IRQCHIP, withVm } from './small_vm.ts';

describe('port I/O', () => {
  const code = guestAsm('guest_code', (a) => {
    a.emit('mov', R.edx, 0x123);
    a.emit('out', R.dx, R.al);
    a.emit('out', R.dx, R.ax);
    a.emit('out', R.dx, R.eax);
    a.emit('in', R.al, R.dx);
    a.emit('in', R.ax, R.dx);
    a.emit('in', R.eax, R.dx);
    a.emit('hlt');
  });

  it('goes to userspace with port, size and data; IN merges as a write of that size', () => {
    withVm(
      code,
      function* ({ vcpu }) {
        const { fd } = vcpu;
        fd.setRegs({ ...fd.getRegs(), rax: 0x1122_3344_8899_aabbn });
        for (const [size, data] of [
          [1, [0xbb]],
          [2, [0xbb, 0xaa]],
          [4, [0xbb, 0xaa, 0x99, 0x88]],
        ] as const) {
          yield* vcpuRun(vcpu);
          expect(fd.run.io).toEqual({
            direction: KVM_EXIT_IO.OUT,
            size,
            port: 0x123,
            count: 1,
            data_offset: 4096,
          });
          expect([...fd.run.pio_data.subarray(0, size)]).toEqual(data);
        }
        const results: bigint[] = [];
        for (let i = 0; i < 3; i++) {
          yield* vcpuRun(vcpu);
          expect(fd.run.io.direction).toBe(KVM_EXIT_IO.IN);
          if (i > 0) results.push(fd.getRegs().rax);
          fd.run.pio_data.set([0x01, 0x02, 0x03, 0xf4]);
        }
        yield* vcpuRun(vcpu);
        results.push(fd.getRegs().rax);
        expect(results).toEqual([0x1122_3344_8899_aa01n, 0x1122_3344_8899_0201n, 0xf403_0201n]);
        expect(exitName(vcpu)).toBe('HLT');
      },
      NO_IRQCHIP,
    );
  });

  it('leaves RIP at the instruction until the next KVM_RUN, but for port 0x7e, and not if userspace moved it', () => {
    const ports = guestAsm('guest_code', (a) => {
      a.emit('out', 0x80, R.al);
      a.emit('out', 0x7e, R.al);
      a.emit('out', 0x80, R.al);
      a.emit('hlt');
      a.emit('mov', R.ebx, 1);
      a.emit('hlt');
    });
    withVm(
      ports,
      function* ({ vcpu }) {
        const { fd } = vcpu;
        const entry = fd.getRegs().rip;
        yield* vcpuRun(vcpu);
        expect(fd.getRegs().rip - entry).toBe(0n);
        yield* vcpuRun(vcpu);
        expect(fd.getRegs().rip - entry).toBe(4n);
        yield* vcpuRun(vcpu);
        expect(fd.getRegs().rip - entry).toBe(4n);
        fd.setRegs({ ...fd.getRegs(), rbx: 0n, rip: entry + 7n });
        yield* vcpuRun(vcpu);
        expect([exitName(vcpu), fd.getRegs().rbx]).toEqual(['HLT', 1n]);
      },
      NO_IRQCHIP,
    );
  });

  it('ends early on immediate_exit, with the last exit completed', () => {
    withVm(
      code,
      function* ({ vcpu }) {
        const { fd } = vcpu;
        yield* vcpuRun(vcpu);
        const { rip } = fd.getRegs();
        fd.run.immediate_exit = 1;
        expect(errnoName(yield* tryVcpuRun(vcpu))).toBe('EINTR');
        expect(fd.getRegs().rip).toBe(rip + 1n);
        fd.run.immediate_exit = 0;
        yield* vcpuRun(vcpu);
        expect(fd.run.io.size).toBe(2);
      },
      NO_IRQCHIP,
    );
  });

  it('REP OUTS and INS go to userspace turn by turn, with RSI, RDI and RCX moved on', () => {
    const strings = guestAsm('guest_code', (a) => {
      a.emit('mov', R.edx, 0x123);
      a.emit('rep outsw');
      a.emit('rep insb');
      a.emit('hlt');
    });
    withVm(
      strings,
      function* ({ vm, vcpu }) {
        const { fd } = vcpu;
        const page = vmVaddrAlloc(vm, 4096, KVM_UTIL_MIN_VADDR);
        writeGuest(vm, page, Uint8Array.of(1, 2, 3, 4));
        fd.setRegs({ ...fd.getRegs(), rcx: 2n, rsi: page, rdi: page + 8n });
        for (const data of [
          [1, 2],
          [3, 4],
        ]) {
          yield* vcpuRun(vcpu);
          expect([exitName(vcpu), fd.run.io.direction, fd.run.io.size]).toEqual(['IO', KVM_EXIT_IO.OUT, 2]);
          expect([...fd.run.pio_data.subarray(0, 2)]).toEqual(data);
        }
        const after = fd.getRegs();
        expect([after.rsi - page, after.rcx]).toEqual([4n, 0n]);
        fd.setRegs({ ...after, rcx: 2n });
        for (const byte of [0x5a, 0x5b]) {
          yield* vcpuRun(vcpu);
          expect([exitName(vcpu), fd.run.io.direction, fd.run.io.size]).toEqual(['IO', KVM_EXIT_IO.IN, 1]);
          fd.run.pio_data[0] = byte;
        }
        yield* vcpuRun(vcpu);
        expect(exitName(vcpu)).toBe('HLT');
        expect([...readGuest(vm, page + 8n, 2)]).toEqual([0x5a, 0x5b]);
        expect([fd.getRegs().rdi - page, fd.getRegs().rcx]).toEqual([10n, 0n]);
      },
      NO_IRQCHIP,
    );
  });
});
