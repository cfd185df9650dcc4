// SPDX-License-Identifier: GPL-2.0-only
/** The host half of the selftest library where it refuses or reports. Expected: the messages of lib/kvm_util.c and lib/x86/processor.c. */
import { describe, expect, it } from 'vitest';
import { R } from '../../lib/asm/operands.ts';
import { GUEST_DONE, GUEST_PRINTF, guestAsm, UCALL, UCALL_PIO_PORT } from '../../lib/guest/index.ts';
import { ioctlErrno, plainIoctlErrno, TEST_ASSERT_ERRNO } from '../../lib/kvm_util/ioctl_errno.ts';
import {
  addrGpa2hva,
  addrHva2gpa,
  vmUserspaceMemRegionAdd,
  type KvmVm,
} from '../../lib/kvm_util/kvm_util.ts';
import { writeGuestGlobal } from '../../lib/kvm_util/guest_global.ts';
import { getStat } from '../../lib/kvm_util/stats.ts';
import {
  TEST_ASSERT,
  TEST_ASSERT_EQ,
  TEST_FAIL,
  TEST_REQUIRE,
  TestFailure,
  TestSkip,
} from '../../lib/kvm_util/test_util.ts';
import {
  errnoText,
  getUcall,
  runUntilUcall,
  tryVcpuRun,
  unexpectedExit,
  vcpuRun,
} from '../../lib/kvm_util/ucall_common.ts';
import { vmInstallExceptionHandler } from '../../lib/kvm_util/x86/exceptions.ts';
import { addrGva2gpa, virtMap, virtPgMap } from '../../lib/kvm_util/x86/page_table.ts';
import { vcpuArgsSet } from '../../lib/kvm_util/x86/processor.ts';
import { vmCreateWithOneVcpu } from '../../lib/kvm_util/vm_create.ts';
import { linkGuest } from '../../lib/guest/index.ts';
import { ERRNO, KvmError } from '../../lib/uapi/errno.ts';
import { gpa, hva } from '../../lib/x86/addr.ts';
import { PG_LEVEL } from '../../lib/x86/paging.ts';
import { guest, smallHost, withVm, type SmallVm } from './small_vm.ts';

const idle = (body: (small: SmallVm) => void): void => {
  withVm(
    guest((g) => GUEST_DONE(g)),
    function* (small) {
      body(small);
    },
  );
};

describe('test_util', () => {
  it('fails, skips, and shows both values', () => {
    expect(() => TEST_FAIL('x')).toThrow(TestFailure);
    expect(() => TEST_ASSERT(false, 'plain')).toThrow('plain');
    expect(() => TEST_ASSERT(false, () => 'lazy')).toThrow('lazy');
    expect(() => TEST_REQUIRE(false, 'cap')).toThrow(TestSkip);
    expect(() => TEST_ASSERT_EQ(10, 11)).toThrow('value: got 10 (0xa), expected 11 (0xb)');
    expect(() => TEST_ASSERT_EQ('a', 'b', 'text')).toThrow('text: got a, expected b');
    TEST_ASSERT_EQ(1n, 1n);
    TEST_REQUIRE(true, 'nothing');
  });

  it('tells errnos from other errors', () => {
    const refuse = (): never => {
      throw new KvmError('KVM_RUN', ERRNO.EINVAL);
    };
    const broken = (): never => {
      throw new RangeError('not an ioctl');
    };
    expect([plainIoctlErrno(refuse), plainIoctlErrno(() => 0)]).toEqual([ERRNO.EINVAL, 0]);
    expect(() => plainIoctlErrno(broken)).toThrow(RangeError);
    expect(() => TEST_ASSERT_ERRNO(0, 'EINVAL', 'it')).toThrow('it should fail with EINVAL, got success');
    expect(() => TEST_ASSERT_ERRNO(ERRNO.EFAULT, 'EINVAL', 'it')).toThrow('got EFAULT');
    expect([errnoText(0), errnoText(ERRNO.EINTR)]).toEqual(['success', 'EINTR']);

    const steps = function* () {
      broken();
    };
    expect(() => [...ioctlErrno(steps())]).toThrow(RangeError);
  });
});

describe('memory of a VM', () => {
  it.each<[string, (vm: KvmVm) => unknown]>([
    ['No vm physical memory', (vm) => addrGpa2hva(vm, gpa(0x7000_0000))],
    ['No mapping to a guest physical address', (vm) => addrHva2gpa(vm, hva(0x1000))],
    ['No mapping for guest virtual address', (vm) => addrGva2gpa(vm, 0x7000_0000n)],
    ['Virtual address not aligned', (vm) => virtPgMap(vm, 0x1001n, gpa(0))],
    ['Physical address not aligned', (vm) => virtPgMap(vm, 0x8000_0000n, gpa(0x1000), PG_LEVEL.L2M)],
    ['PTE already present', (vm) => virtPgMap(vm, 0x40_0000n, gpa(0x1000))],
    ['PTE already present', (vm) => virtMap(vm, 0x40_0000n, gpa(0x1000), 1)],
    ['No mem region', (vm) => vm.regions.get(9)],
    ["no symbol 'nothing'", (vm) => writeGuestGlobal(vm, 'nothing', 1n)],
    ['no interrupt vector 256', (vm) => vmInstallExceptionHandler(vm, 256, 'x')],
    ['Unsupported number of args', (vm) => vcpuArgsSet(vm.vcpus[0]!)],
    ["Unable to find stat 'nothing'", (vm) => getStat(vm.fd.statsFd(), 'nothing')],
  ])('fails the test with: %s', (message, act) => {
    idle(({ vm }) => expect(() => act(vm)).toThrow(message));
  });

  it('refuses a 4 KiB page below a large one, and regions that clash', () => {
    withVm(
      guest((g) => GUEST_DONE(g)),
      function* ({ vm }) {
        virtPgMap(vm, 0x8000_0000n, gpa(0x20_0000), PG_LEVEL.L2M);
        expect(addrGva2gpa(vm, 0x8000_1234n)).toBe(0x20_1234);
        expect(() => virtPgMap(vm, 0x8000_1000n, gpa(0x1000))).toThrow('holds a large page');
        const add = (slot: number, at: number) =>
          vmUserspaceMemRegionAdd(vm, { slot, guestPhysAddr: gpa(at), npages: 1 });
        const failure = function* (slot: number, at: number) {
          try {
            yield* add(slot, at);
            return 'success';
          } catch (error) {
            return String(error);
          }
        };
        expect(yield* failure(1, 0x1000_0010)).toContain('not on a page boundary');
        expect(yield* failure(1, 0x1000)).toContain('overlapping');
        expect(yield* failure(0, 0x1000_0000)).toContain('already exists');
        const region = yield* add(1, 0x1000_0000);
        expect(addrHva2gpa(vm, region.hostMem)).toBe(0x1000_0000);
      },
    );
  });
});

describe('runs of a vCPU', () => {
  it('name the exit that was not expected', () => {
    const plain = guestAsm('guest_code', (a) => {
      a.emit('mov', R.edx, UCALL_PIO_PORT);
      a.emit('mov', R.rdi, -1);
      a.emit('in', R.al, R.dx);
      a.emit('xor', R.edi, R.edi);
      a.emit('in', R.al, R.dx);
      a.emit('hlt');
      a.emit('jmp', R.rbx);
    });
    withVm(
      plain,
      function* ({ vm, vcpu }) {
        yield* vcpuRun(vcpu);
        expect(() => getUcall(vcpu)).toThrow('Guest failed to allocate ucall struct');
        yield* vcpuRun(vcpu);
        expect(getUcall(vcpu).cmd).toBe(UCALL.NONE);
        yield* vcpuRun(vcpu);
        expect(getUcall(vcpu).cmd).toBe(UCALL.NONE);
        expect(() => unexpectedExit(vcpu, 'so')).toThrow(/KVM_EXIT_HLT \(5\) at L1 rip 0x4000\w+.*; so/);
        virtMap(vm, 0xd000_0000n, gpa(0xd000_0000), 1);
        vcpu.fd.setRegs({ ...vcpu.fd.getRegs(), rbx: 0xd000_0000n });
        yield* vcpuRun(vcpu);
        expect(() => unexpectedExit(vcpu)).toThrow('KVM_EXIT_INTERNAL_ERROR (17) suberror 1 at');
        vcpu.fd.run.exit_reason = 9;
        vcpu.fd.run.fail_entry.hardware_entry_failure_reason = 7n;
        expect(() => unexpectedExit(vcpu)).toThrow('FAIL_ENTRY (9) hardware reason 0x7');
        vcpu.fd.run.exit_reason = 6;
        vcpu.fd.run.mmio.phys_addr = 0x123;
        expect(() => unexpectedExit(vcpu)).toThrow('MMIO (6) at 0x123');
        vcpu.fd.run.immediate_exit = 1;
        expect(yield* tryVcpuRun(vcpu)).toBe(ERRNO.EINTR);
      },
      { irqchip: 'none' },
    );
  });

  it('print what the guest prints, line by line', () => {
    const host = smallHost();
    const code = guest((g) => {
      GUEST_PRINTF(g, 'one\ntwo %d\n', 2);
      GUEST_DONE(g);
    });
    host.runMain(function* () {
      const [, vcpu] = yield* vmCreateWithOneVcpu(host, { image: linkGuest(code) });
      const lines: string[] = [];
      const uc = yield* runUntilUcall(vcpu, (line) => lines.push(line));
      expect([uc.cmd, lines]).toEqual([UCALL.DONE, ['one', 'two 2']]);
    });
  });
});

describe('threads of a test', () => {
  it('give their error to whoever joins them, or to the end of the process', () => {
    const host = smallHost();

    const bad = function* (): Generator<void, void, void> {
      throw new TestFailure('in a thread');
    };
    host.runMain(function* () {
      const thread = host.threads.spawn('bad', bad);
      let message = '';
      try {
        yield* host.threads.join(thread);
      } catch (error) {
        message = String(error);
      }
      expect(message).toContain('in a thread');
      expect(yield* host.threads.spinUntil(() => false, 1000)).toBe(false);
      expect(() => host.threads.kill({ name: 'foreign' })).toThrow('another backend');
    });
    expect(() =>
      smallHost().runMain(function* () {
        yield;
        throw new TestFailure('main');
      }),
    ).toThrow('main');
    const other = smallHost();
    expect(() =>
      other.runMain(function* () {
        other.threads.spawn('bad', bad);
        yield* other.threads.sleepNs(1e6);
      }),
    ).toThrow('in a thread');
  });
});
