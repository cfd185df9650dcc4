// SPDX-License-Identifier: GPL-2.0-only
/**
 * The host half of ucall: the pool in guest memory, and what a guest said. After lib/ucall_common.c and lib/x86/ucall.c
 * of tools/testing/selftests/kvm.
 */
import {
  GUEST_ASSERT_ARG,
  GUEST_UCALL_FAILED,
  KVM_MAX_VCPUS,
  UCALL,
  UCALL_BUFFER_LEN,
  UCALL_MAX_ARGS,
  UCALL_PIO_PORT,
  Ucall,
  UcallHeader,
} from '../guest/ucall.ts';
import { KVM_EXIT, KVM_EXIT_IO } from '../uapi/run.ts';
import { ERRNO, errnoName } from '../uapi/errno.ts';
import { codeName, hex } from '../x86/bits.ts';
import { VECTOR } from '../x86/exceptions.ts';
import { hva, type Hva } from '../x86/addr.ts';
import type { Steps } from './backend.ts';
import { KVM_UTIL_MIN_VADDR, type KvmVcpu, type KvmVm } from './kvm_util.ts';
import { u64Bytes, writeGuestGlobal } from './guest_global.ts';
import { TEST_ASSERT, TestFailure } from './test_util.ts';
import { addrGva2hva, readGuest, vmVaddrAlloc, writeGuest } from './x86/page_table.ts';

/** A ucall as the host reads it; `cmd` is UCALL.NONE if the exit was something else. */
export interface UcallView {
  readonly cmd: number;
  readonly args: readonly bigint[];
  /** Formatted text of PRINTF and ABORT. */
  readonly buffer: string;
}

const NO_UCALL: UcallView = { cmd: UCALL.NONE, args: [], buffer: '' };

/** ucall_init(): allocate the pool and tell each entry where the host finds it. */
export function ucallInit(vm: KvmVm): void {
  const pool = vmVaddrAlloc(vm, UcallHeader.size, KVM_UTIL_MIN_VADDR);
  const first = pool + BigInt(UcallHeader.offsetof('ucalls'));
  for (let i = 0; i < KVM_MAX_VCPUS; i++) {
    const uc = first + BigInt(i * Ucall.size);
    writeGuest(vm, uc + BigInt(Ucall.offsetof('hva')), u64Bytes(BigInt(addrGva2hva(vm, uc))));
  }
  writeGuestGlobal(vm, 'ucall_pool', pool);
}

/** Bytes of an entry of the pool: it is contiguous in the host, since the pool's pages are. */
function readUcall(vm: KvmVm, at: Hva): UcallView {
  const { memory } = vm.backend;
  const argsAt = at + Ucall.offsetof('args');
  const args = Array.from({ length: UCALL_MAX_ARGS }, (_, i) => memory.readU64(hva(argsAt + 8 * i)));
  const cmd = Number(memory.readU64(at));
  const hasText = cmd === UCALL.PRINTF || cmd === UCALL.ABORT;
  const buffer = hasText ? cString(memory.read(hva(at + Ucall.offsetof('buffer')), UCALL_BUFFER_LEN)) : '';
  return { cmd, args, buffer };
}

function cString(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder('latin1').decode(bytes.subarray(0, end < 0 ? bytes.length : end));
}

/** The address of the ucall's struct if the exit is one: an IN from the port, RDI holding it. */
function ucallAddress(vcpu: KvmVcpu): bigint | undefined {
  const { run } = vcpu.fd;
  if (
    run.exit_reason !== KVM_EXIT.IO ||
    run.io.port !== UCALL_PIO_PORT ||
    run.io.direction !== KVM_EXIT_IO.IN
  )
    return undefined;
  return vcpu.fd.getRegs().rdi;
}

/** get_ucall(). */
export function getUcall(vcpu: KvmVcpu): UcallView {
  const at = ucallAddress(vcpu);
  if (at === undefined || at === 0n) return NO_UCALL;
  TEST_ASSERT(at !== BigInt.asUintN(64, GUEST_UCALL_FAILED), 'Guest failed to allocate ucall struct');
  return readUcall(vcpu.vm, hva(Number(at)));
}

/** A string constant of the guest image. */
function guestString(vm: KvmVm, address: bigint): string {
  let text = '';
  for (let at = address; ; at++) {
    const byte = readGuest(vm, at, 1)[0]!;
    if (byte === 0) return text;
    text += String.fromCharCode(byte);
  }
}

/** The report of route_exception() with the exception's name and the guest's line; undefined if `text` is something else. */
function unhandledException(vm: KvmVm, text: string): string | undefined {
  const found =
    /^Unhandled exception '(0x[0-9a-f]+)' at guest RIP '(0x[0-9a-f]+)', (error code .*), CR2 (0x[0-9a-f]+)$/.exec(
      text,
    );
  if (found === null) return undefined;
  const [, vector = '0', rip = '0', error = '', cr2 = ''] = found;
  const where = vm.locate(BigInt(rip));
  const address = Number(vector) === VECTOR.PF ? `, CR2 ${cr2}` : '';
  const at = where === undefined ? '' : `\n  at ${where}`;
  return `unhandled exception ${codeName(VECTOR, Number(vector))} (${vector}) at rip ${rip}, ${error}${address}${at}`;
}

/** REPORT_GUEST_ASSERT(): the guest's failed assertion as this test's failure, with level, file and line. */
export function reportGuestAssert(vcpu: KvmVcpu, uc: UcallView): never {
  const { vm } = vcpu;
  const text = (n: number): string => guestString(vm, uc.args[n]!);
  const file = text(GUEST_ASSERT_ARG.FILE);
  const line = uc.args[GUEST_ASSERT_ARG.LINE]!;
  const detail = uc.buffer === '' ? '' : `\n${uc.buffer}`;
  const unhandled = unhandledException(vm, uc.buffer);
  if (unhandled !== undefined) {
    throw new TestFailure(`${text(GUEST_ASSERT_ARG.LEVEL)} vcpu ${vcpu.fd.id}: ${unhandled}`);
  }
  throw new TestFailure(
    `${text(GUEST_ASSERT_ARG.LEVEL)} vcpu ${vcpu.fd.id}: guest assertion failed: ${text(GUEST_ASSERT_ARG.ERROR_STRING)}\n  at ${file}:${line}${detail}`,
  );
}

/** An exit that the test did not expect: fails it, with the reason by name and where the guest was. */
export function unexpectedExit(vcpu: KvmVcpu, what = ''): never {
  const { run } = vcpu.fd;
  const regs = vcpu.fd.getRegs();
  const where = vcpu.vm.locate(regs.rip);
  const reason = `KVM_EXIT_${codeName(KVM_EXIT, run.exit_reason)}`;
  const detail =
    run.exit_reason === KVM_EXIT.INTERNAL_ERROR
      ? ` suberror ${run.internal.suberror}`
      : run.exit_reason === KVM_EXIT.FAIL_ENTRY
        ? ` hardware reason ${hex(run.fail_entry.hardware_entry_failure_reason)}`
        : run.exit_reason === KVM_EXIT.MMIO
          ? ` at ${hex(run.mmio.phys_addr)}`
          : '';
  throw new TestFailure(
    `vCPU ${vcpu.fd.id}: unexpected exit ${reason} (${run.exit_reason})${detail} at L1 rip ${hex(regs.rip)}${where === undefined ? '' : ` (${where})`}${what === '' ? '' : `; ${what}`}`,
  );
}

/** TEST_ASSERT_KVM_EXIT_REASON(). */
export function TEST_ASSERT_KVM_EXIT_REASON(vcpu: KvmVcpu, expected: number): void {
  if (vcpu.fd.run.exit_reason === expected) return;
  unexpectedExit(vcpu, `expected KVM_EXIT_${codeName(KVM_EXIT, expected)}`);
}

/** vcpu_run(): KVM_RUN that must succeed. */
export function* vcpuRun(vcpu: KvmVcpu): Steps<void> {
  yield* vcpu.fd.ioctlRun();
}

/** _vcpu_run(): 0, or the errno of a KVM_RUN that failed. */
export function* tryVcpuRun(vcpu: KvmVcpu): Steps<number> {
  try {
    yield* vcpu.fd.ioctlRun();
    return 0;
  } catch (error) {
    if (error instanceof Error && 'errno' in error && typeof error.errno === 'number') return error.errno;
    throw error;
  }
}

/** vcpu_run_complete_io(): after KVM_EXIT_IO the guest's registers are whole only once KVM_RUN was entered again. */
export function* vcpuRunCompleteIo(vcpu: KvmVcpu): Steps<void> {
  const { run } = vcpu.fd;
  run.immediate_exit = 1;
  const errno = yield* tryVcpuRun(vcpu);
  run.immediate_exit = 0;
  TEST_ASSERT(errno === ERRNO.EINTR, () => `KVM_RUN IOCTL didn't exit immediately: ${errnoText(errno)}`);
}

/** The name of an errno, for messages. */
export const errnoText = (errno: number): string => (errno === 0 ? 'success' : errnoName(errno));

/** Run until a ucall that is not PRINTF; guest assertions end the test, printed text goes to `print`. */
export function* runUntilUcall(
  vcpu: KvmVcpu,
  print: (line: string) => void = () => undefined,
): Steps<UcallView> {
  for (;;) {
    yield* vcpuRun(vcpu);
    const uc = getUcall(vcpu);
    if (uc.cmd === UCALL.ABORT) reportGuestAssert(vcpu, uc);
    if (uc.cmd !== UCALL.PRINTF) return uc;
    for (const line of uc.buffer.replace(/\n$/, '').split('\n')) print(line);
  }
}
