// SPDX-License-Identifier: GPL-2.0-only
/**
 * The VM of a differential program on the emulated host, its memory as a disk image, and its text when it runs there.
 * Guest physical memory begins above the PC's first MiB, so that the same addresses are RAM on Bochs.
 */
import { gpa, PAGE_SIZE, type Gpa } from '../../lib/x86/addr.ts';
import type { Steps } from '../../lib/kvm_util/backend.ts';
import {
  addrGpa2hva,
  markVpages,
  MEM_REGION_SLOT_DEFAULT,
  vmPhyPagesAlloc,
  type KvmVcpu,
  type KvmVm,
} from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TestFailure } from '../../lib/kvm_util/test_util.ts';
import { getUcall, reportGuestAssert, unexpectedExit, vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../../lib/kvm_util/vm_create.ts';
import { virtPgMap } from '../../lib/kvm_util/x86/page_table.ts';
import { UCALL, UCALL_PIO_PORT } from '../../lib/guest/index.ts';
import { KVM_EXIT, KVM_EXIT_IO } from '../../lib/uapi/run.ts';
import { createEmulatedHost, type EmulatedHost } from '../../vmm/emulated.ts';
import { bootSector, LOAD_BASE, SECTOR } from './boot/boot_sector.ts';
import { entryCode } from './boot/entry_code.ts';
import { E9_PORT, SHUTDOWN_PORT, SHUTDOWN_WORD } from './e9.ts';
import type { DifferentialProgram } from './program.ts';

const HOST_RAM = 0x0800_0000;

export interface BuiltGuest {
  readonly vm: KvmVm;
  readonly vcpu: KvmVcpu;
  /** The whole disk: boot sector and guest memory from LOAD_BASE on. */
  readonly disk: Uint8Array;
  /** Physical and linear address of the entry code. */
  readonly entry: number;
}

/** The page of the entry code: the first of the guest's memory, mapped at its physical address. */
function mapEntryPage(vm: KvmVm): Gpa {
  const page = vmPhyPagesAlloc(vm, 1, gpa(0), MEM_REGION_SLOT_DEFAULT);
  TEST_ASSERT(!vm.vpages.has(page / PAGE_SIZE), 'the page of the entry code is in use');
  virtPgMap(vm, BigInt(page), page);
  markVpages(vm, BigInt(page), 1);
  return page;
}

/** Guest memory from LOAD_BASE to the last page in use. */
function guestMemory(vm: KvmVm): Uint8Array {
  const region = vm.regions.get(MEM_REGION_SLOT_DEFAULT);
  const last = region.used?.lastIndexOf(1) ?? 0;
  return vm.backend.memory.read(addrGpa2hva(vm, gpa(LOAD_BASE)), (last + 1) * PAGE_SIZE - LOAD_BASE);
}

function diskOf(vm: KvmVm, entry: Gpa): Uint8Array {
  const memory = guestMemory(vm);
  const disk = new Uint8Array(SECTOR + memory.length);
  disk.set(bootSector(memory.length / SECTOR, entry));
  disk.set(memory, SECTOR);
  return disk;
}

/** Create the VM of a program and lay its disk out. */
export function* buildGuest(host: EmulatedHost, program: DifferentialProgram): Steps<BuiltGuest> {
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(host, {
    image: program.image(),
    lowPages: LOAD_BASE / PAGE_SIZE,
    extraPages: 8 + (program.extraPages ?? 0),
  });
  const entry = mapEntryPage(vm);
  if (program.prepare !== undefined) yield* program.prepare(vm, vcpu);
  const { fd } = vcpu;
  const state = { regs: fd.getRegs(), sregs: fd.getSregs(), lapic: fd.getLapic().regs };
  host.memory.write(addrGpa2hva(vm, entry), entryCode(entry, state));
  return { vm, vcpu, disk: diskOf(vm, entry), entry };
}

/** What the guest says until it shuts down. */
function* textOf(vcpu: KvmVcpu): Steps<string> {
  const { run } = vcpu.fd;
  const bytes: number[] = [];
  let word = '';
  while (word !== SHUTDOWN_WORD) {
    try {
      yield* vcpuRun(vcpu);
    } catch (error) {
      if (error instanceof Error) error.message += lastText(bytes);
      throw error;
    }
    const out = run.exit_reason === KVM_EXIT.IO && run.io.direction === KVM_EXIT_IO.OUT && run.io.size === 1;
    if (out && run.io.port === E9_PORT) bytes.push(run.pio_data[0]!);
    else if (out && run.io.port === SHUTDOWN_PORT) word += String.fromCharCode(run.pio_data[0]!);
    else throw strayExit(vcpu, bytes);
  }
  return new TextDecoder().decode(new Uint8Array(bytes));
}

/** What the guest said last, for a message. */
function lastText(bytes: readonly number[]): string {
  const text = new TextDecoder().decode(new Uint8Array(bytes.slice(-400)));
  return `\nlast text:\n${text.split('\n').slice(-4).join('\n')}`;
}

/** An exit that no program makes, with the last lines before it. */
function strayExit(vcpu: KvmVcpu, bytes: readonly number[]): TestFailure {
  const { run } = vcpu.fd;
  try {
    if (run.exit_reason === KVM_EXIT.IO && run.io.port === UCALL_PIO_PORT) {
      const uc = getUcall(vcpu);
      if (uc.cmd === UCALL.ABORT) reportGuestAssert(vcpu, uc);
    }
    return unexpectedExit(vcpu);
  } catch (error) {
    if (!(error instanceof TestFailure)) throw error;
    return new TestFailure(`${error.message}${lastText(bytes)}`);
  }
}

/** The host that programs run on. */
export const differentialHost = (heartbeat?: () => void): EmulatedHost =>
  createEmulatedHost({ ramBytes: HOST_RAM, nrCpus: 1, ...(heartbeat === undefined ? {} : { heartbeat }) });

/** A program's disk, without running it. */
export function buildDisk(program: DifferentialProgram): Pick<BuiltGuest, 'disk' | 'entry'> {
  const host = differentialHost();
  const built: BuiltGuest[] = [];
  host.runMain(function* () {
    built.push(yield* buildGuest(host, program));
  });
  return built[0]!;
}

/** A program's text as L1 on L0. */
export function runOnL0(program: DifferentialProgram): string {
  const host = differentialHost();
  const out = { text: '' };
  host.runMain(function* () {
    const { vcpu } = yield* buildGuest(host, program);
    out.text = yield* textOf(vcpu);
  });
  return out.text;
}
