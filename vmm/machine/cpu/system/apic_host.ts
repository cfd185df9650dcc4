// SPDX-License-Identifier: GPL-2.0-only
/** Connects a local APIC to the CPU that it belongs to: time, and events that make the CPU look up. */
import type { ApicHost } from '../../apic/local_apic.ts';
import type { Cpu } from '../cpu.ts';
import { S } from '../state.ts';

const TWO_32 = 0x1_0000_0000;

/** The CPU as its local APIC sees it. */
export function apicHostOf(cpu: Cpu): ApicHost {
  const lookUp = (): void => {
    cpu.s[S.PENDING] = 1;
  };
  return {
    now: () => cpu.clock[0]!,
    tscToCycles: (lo, hi) => {
      const tsc = new Int32Array(2);
      readOwnTsc(cpu, tsc);
      const left = unsigned64(lo, hi) - unsigned64(tsc[0]!, tsc[1]!);
      return cpu.clock[0]! + (left > 0n ? Number(left) : 0);
    },
    interruptPending: lookUp,
    nmi: () => {
      cpu.sys.nmiPending = 1;
      lookUp();
    },
    init: () => {
      cpu.sys.initPending = 1;
      lookUp();
    },
    startup: (vector) => {
      if (cpu.sys.sipiPending < 0) cpu.sys.sipiPending = vector;
      lookUp();
    },
    timerChanged: lookUp,
  };
}

/** IA32_TIME_STAMP_COUNTER itself, which no VMX control changes, into out[0] (low), out[1] (high). */
export function readOwnTsc(cpu: Cpu, out: Int32Array): void {
  const { tscOffset } = cpu.sys;
  add64(out, cpu.clock[0]!, tscOffset[0]!, tscOffset[1]!);
}

/**
 * TSC of the CPU as RDTSC, RDTSCP and RDMSR read it in its current mode: in non-root operation first scaled, then
 * offset. SDM, "Changes to Instruction Behavior in VMX Non-Root Operation".
 */
export function readTsc(cpu: Cpu, out: Int32Array): void {
  const { vmxTscOffset, vmxTscMultiplier } = cpu.sys;
  readOwnTsc(cpu, out);
  const [mLo, mHi] = [vmxTscMultiplier[0]!, vmxTscMultiplier[1]!];
  if ((mLo | mHi) !== 0) {
    const product = unsigned64(out[0]!, out[1]!) * unsigned64(mLo, mHi);
    out[0] = Number(BigInt.asIntN(32, product >> 48n));
    out[1] = Number(BigInt.asIntN(32, product >> 80n));
  }
  const lo = (out[0]! >>> 0) + (vmxTscOffset[0]! >>> 0);
  out[0] = lo | 0;
  out[1] = out[1]! + vmxTscOffset[1]! + (lo >= TWO_32 ? 1 : 0);
}

/** out = n + {lo, hi} mod 2^64, for an integer |n| < 2^53. */
function add64(out: Int32Array, n: number, lo: number, hi: number): void {
  const nHi = Math.floor(n / TWO_32);
  const sum = n - nHi * TWO_32 + (lo >>> 0);
  out[0] = sum | 0;
  out[1] = (nHi + hi + (sum >= TWO_32 ? 1 : 0)) | 0;
}

function unsigned64(lo: number, hi: number): bigint {
  return (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
}
