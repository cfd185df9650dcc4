// SPDX-License-Identifier: GPL-2.0-only
/**
 * The file of KVM_GET_STATS_FD: header, id, descriptors and data, of several VMs and vCPUs, also after the VM is gone. After
 * kvm_binary_stats_test.c of the KVM selftests. Adds to upstream: the names that KVM documents are all there and unique, values
 * do not overlap, reads at the end are short, and statistics count what a vCPU does. A dup()ed descriptor is a second reader.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { KVM_CAP } from '../lib/uapi/capabilities.ts';
import { KVM_VCPU_STATS, KVM_VM_STATS } from '../lib/uapi/stats.ts';
import { GUEST_SYNC, guestFn, linkGuest } from '../lib/guest/index.ts';
import type { StatsFd, Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree, type KvmVm } from '../lib/kvm_util/kvm_util.ts';
import { fixedString, getStat, readStatsHeader } from '../lib/kvm_util/stats.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ, TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import { vcpuRun } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithVcpus } from '../lib/kvm_util/vm_create.ts';
import { namesTest, statsTest } from './kvm_binary_stats/stats_file.ts';

const DEFAULT_NUM_VM = 4;
const DEFAULT_NUM_VCPU = 4;

const guest_code = guestFn('guest_code', [], (g) => {
  g.loop(() => GUEST_SYNC(g, 0));
});

/** strtol(): a number above zero, else the default. */
function count(text: string | undefined, byDefault: number): number {
  const value = Number.parseInt(text ?? '', 10);
  return value > 0 ? value : byDefault;
}

function parseArgs(args: readonly string[]): { maxVm: number; maxVcpu: number } {
  const usage = 'usage: kvm_binary_stats_test [#vm] [#vcpu]';
  if (args[0] === '-h') throw new UsageError(usage, { help: true });
  if (args.length > 2) throw new UsageError(`unexpected argument '${args[2]!}'; ${usage}`);
  return { maxVm: count(args[0], DEFAULT_NUM_VM), maxVcpu: count(args[1], DEFAULT_NUM_VCPU) };
}

/** dup(): another descriptor of the same file. */
const dup = (fd: StatsFd): StatsFd => ({ read: (offset, length) => fd.read(offset, length) });

const idOf = (fd: StatsFd): string => {
  const header = readStatsHeader(fd);
  return fixedString(fd.read(header.idOffset, header.nameSize));
};

/** Added: each exit is counted once, by the vCPU that made it and by no other. */
function* countsExits(vm: KvmVm): Steps<void> {
  const [first, ...others] = vm.vcpus;
  const fd = first!.fd.statsFd();
  const before = getStat(fd, 'io_exits');
  const idle = others.map((vcpu) => getStat(vcpu.fd.statsFd(), 'io_exits'));
  for (let i = 0; i < 3; i++) yield* vcpuRun(first!);
  TEST_ASSERT_EQ(getStat(fd, 'io_exits') - before, 3n, 'io_exits of three ucalls');
  TEST_ASSERT(getStat(fd, 'exits') >= 3n, 'exits counts fewer than io_exits');
  others.forEach((vcpu, i) =>
    TEST_ASSERT_EQ(getStat(vcpu.fd.statsFd(), 'io_exits'), idle[i]!, 'io_exits of an idle vCPU'),
  );
}

/** One VM: the file by several descriptors, by several files, and after the VM's descriptors are closed. */
function* testVm(vm: KvmVm): Steps<void> {
  const vmFd = vm.fd.statsFd();
  statsTest(dup(vmFd));
  statsTest(vm.fd.statsFd());
  namesTest(vmFd, KVM_VM_STATS);
  const vcpuFds = vm.vcpus.map((vcpu) => vcpu.fd.statsFd());
  vm.vcpus.forEach((vcpu, j) => {
    statsTest(dup(vcpuFds[j]!));
    statsTest(vcpu.fd.statsFd());
    namesTest(vcpuFds[j]!, KVM_VCPU_STATS);
    TEST_ASSERT_EQ(idOf(vcpuFds[j]!), `${idOf(vmFd)}/vcpu-${vcpu.id}`, 'id of a vCPU');
  });
  yield* countsExits(vm);
  const exits = vcpuFds.map((fd) => getStat(fd, 'exits'));
  yield* kvmVmFree(vm);
  // Each file holds a reference: the numbers outlive the last descriptor of the VM.
  statsTest(vmFd);
  for (const fd of vcpuFds) statsTest(fd);
  vcpuFds.forEach((fd, j) =>
    TEST_ASSERT_EQ(getStat(fd, 'exits'), exits[j]!, 'exits after the VM was closed'),
  );
}

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  const { maxVm, maxVcpu } = parseArgs(args);
  TEST_REQUIRE(backend.kvm.checkExtension(KVM_CAP.BINARY_STATS_FD) > 0, 'KVM_CAP_BINARY_STATS_FD');
  const image = linkGuest(guest_code);
  const vms: KvmVm[] = [];
  for (let i = 0; i < maxVm; i++) vms.push(yield* vmCreateWithVcpus(backend, maxVcpu, { image }));
  const ids = new Set(vms.map((vm) => idOf(vm.fd.statsFd())));
  TEST_ASSERT_EQ(ids.size, maxVm, 'different ids of VMs');
  for (const [i, vm] of vms.entries()) {
    yield* testVm(vm);
    print(`ok vm${i}`);
  }
}

export const selftest: Selftest = {
  name: 'kvm_binary_stats_test',
  summary: 'the binary statistics files of VMs and vCPUs',
  upstream: 'kvm_binary_stats_test.c',
  run,
};
