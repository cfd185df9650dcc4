// SPDX-License-Identifier: GPL-2.0-only
/** The end of the test's process on the emulated host: which error comes out of runMain(). The rule is this project's. */
import { describe, expect, it } from 'vitest';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { createEmulatedHost } from './emulated.ts';

const RAM = 64 << 20;

describe('runMain()', () => {
  it('gives the error of the main thread', () => {
    const backend = createEmulatedHost({ ramBytes: RAM });
    const main = function* (): Steps<void> {
      throw new Error('main failed');
    };
    expect(() => backend.runMain(main)).toThrow('main failed');
  });

  it('gives the first error, not that the thread ended in atomic context for it', () => {
    const backend = createEmulatedHost({ ramBytes: RAM });
    const main = function* (): Steps<void> {
      backend.host.sched.preemptDisable();
      throw new Error('failed in the kernel');
    };
    expect(() => backend.runMain(main)).toThrow('failed in the kernel');
  });

  it('does so for other threads too', () => {
    const backend = createEmulatedHost({ ramBytes: RAM });
    const main = function* (): Steps<void> {
      const thread = backend.threads.spawn('worker', function* () {
        backend.host.sched.preemptDisable();
        throw new Error('the worker failed in the kernel');
      });
      yield* backend.threads.join(thread);
    };
    expect(() => backend.runMain(main)).toThrow('the worker failed in the kernel');
  });

  it('reports a thread that ends in atomic context without an error', () => {
    const backend = createEmulatedHost({ ramBytes: RAM });
    const main = function* (): Steps<void> {
      backend.host.sched.preemptDisable();
    };
    expect(() => backend.runMain(main)).toThrow('ended in atomic context');
  });

  it('gives the error of a thread that nobody joined', () => {
    const backend = createEmulatedHost({ ramBytes: RAM });
    const main = function* (): Steps<void> {
      backend.threads.spawn('worker', function* () {
        throw new Error('nobody asked');
      });
      yield* backend.threads.sleepNs(1e6);
    };
    expect(() => backend.runMain(main)).toThrow('nobody asked');
  });
});
