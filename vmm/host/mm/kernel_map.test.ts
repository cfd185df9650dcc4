// SPDX-License-Identifier: GPL-2.0-only
/**
 * Kernel mappings: what they cost, when the lazy purge comes, and that stale use is found. Threshold: lazy_max_pages() and
 * free_vmap_area_noflush() of mm/vmalloc.c (purge when more than fls(CPUs) * 32 MiB is pending).
 */
import { describe, expect, it } from 'vitest';
import { pfn, type Pfn } from '../../../lib/x86/addr.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError, SanitizerError } from '../../machine/errors.ts';
import type { Host } from '../host.ts';
import { testHost } from '../testing/test_host.ts';
import { KERNEL_MAPPING } from './kernel_mapping.ts';

const unmanagedFrame = (host: Host): Pfn => pfn(host.unmanaged.alloc(host.unmanaged.owner('guest')));
const managedFrame = (host: Host): Pfn => pfn(host.pages.allocPage(host.pages.owner('guest')));

describe('mapping costs', () => {
  it('are next to nothing for managed frames and a vmap area for unmanaged ones', () => {
    const prices = { [COST.KMAP]: 10, [COST.MEMREMAP]: 5000, [COST.MEMUNMAP]: 4000 };
    const host = testHost({ unmanagedBytes: 1 << 20, price: 0, prices });
    const { kernelMap, cpu, counters } = host;
    const managed = managedFrame(host);
    const unmanaged = unmanagedFrame(host);
    kernelMap.kunmap(kernelMap.kmap(managed, 'test'));
    expect(cpu.clock[0]).toBe(10);
    kernelMap.memunmap(kernelMap.memremap(managed, 'test'));
    expect(cpu.clock[0]).toBe(20);
    expect(counters.maps).toBe(0);
    kernelMap.memunmap(kernelMap.memremap(unmanaged, 'test'));
    expect(cpu.clock[0]).toBe(9020);
    expect(counters).toMatchObject({
      maps: 1,
      unmaps: 1,
      kmaps: 2,
      kunmaps: 2,
      liveMappings: 0,
      peakMappings: 1,
    });
    expect(kernelMap.lazyPages).toBe(2);
  });

  it('show what is mapped now', () => {
    const host = testHost({ unmanagedBytes: 1 << 20 });
    const mapping = host.kernelMap.memremap(unmanagedFrame(host), 'test', 3);
    expect(mapping.kind).toBe(KERNEL_MAPPING.VMAP);
    expect(host.kernelMap.vmapPages).toBe(3);
    host.kernelMap.memunmap(mapping);
    expect(host.kernelMap.vmapPages).toBe(0);
    expect(host.kernelMap.lazyPages).toBe(4);
  });
});

describe('the lazy purge', () => {
  it.each([
    [1, 8192],
    [2, 16384],
    [3, 16384],
    [4, 24576],
    [8, 32768],
  ])('of %i CPUs comes with the first page beyond %i', (nrCpus, limit) => {
    const host = testHost({ nrCpus, unmanagedBytes: 1 << 20 });
    const { kernelMap, counters } = host;
    const frame = unmanagedFrame(host);
    expect(kernelMap.lazyMaxPages).toBe(limit);
    for (let i = 0; i < limit / 2; i++) kernelMap.memunmap(kernelMap.memremap(frame, 'test'));
    expect(kernelMap.lazyPages).toBe(limit);
    expect(counters).toMatchObject({ purges: 0, shootdowns: 0 });
    kernelMap.memunmap(kernelMap.memremap(frame, 'test'));
    expect(kernelMap.lazyPages).toBe(0);
    expect(counters).toMatchObject({ purges: 1, shootdowns: nrCpus > 1 ? 1 : 0, ipis: nrCpus - 1 });
    kernelMap.purge();
    expect(counters.purges).toBe(1);
  });
});

describe('a kernel mapping', () => {
  it('reads and writes memory and reports the stores', () => {
    const host = testHost();
    const frame = managedFrame(host);
    const map = host.kernelMap.kmapLocal(frame, 'test');
    map.write8(0, 0xab);
    map.write32(4, 0xdeadbeef);
    map.write64(8, 0x1122334455667788n);
    map.writeBytes(16, Uint8Array.of(1, 2, 3));
    expect([map.read8(0), map.read32(4), map.read64(8)]).toEqual([0xab, 0xdeadbeef, 0x1122334455667788n]);
    expect([...map.readBytes(15, 4)]).toEqual([0x11, 1, 2, 3]);
    expect(host.stores).toEqual([0, 4, 8, 16].map((offset) => frame * 4096 + offset));
    expect(() => map.read64(4092)).toThrow(BugError);
    expect(() => map.read8(-1)).toThrow(BugError);
    host.kernelMap.kunmapLocal(map);
  });

  it('finds use after the frame was freed and after it was given to somebody else', () => {
    const host = testHost();
    const { pages } = host;
    const frame = managedFrame(host);
    const map = host.kernelMap.kmap(frame, 'vmcs12 of vcpu 0');
    pages.putPage(frame, pages.owner('madvise by test'));
    expect(() => map.read8(0)).toThrow(
      /use after free through the direct map of pfn .* for vmcs12 of vcpu 0, mapped at epoch 0: .*is free.*last freed by madvise by test/,
    );
    pages.allocPage(pages.owner('page table'));
    expect(() => map.write8(0, 1)).toThrow(/is allocated, epoch 1, last taken by page table/);
  });

  it('finds it for unmanaged frames too, on the page that it concerns', () => {
    const host = testHost({ unmanagedBytes: 1 << 20 });
    const first = unmanagedFrame(host);
    const second = unmanagedFrame(host);
    const map = host.kernelMap.memremap(first, 'pi_desc', 2);
    host.unmanaged.free(second, host.unmanaged.owner('hole'));
    expect(map.read32(4092)).toBe(0);
    expect(() => map.read32(4094)).toThrow(SanitizerError);
    expect(() => map.read8(4096)).toThrow('memremap of pfn');
  });

  it('may not be used after it was unmapped, nor unmapped twice or by the wrong function', () => {
    const host = testHost({ unmanagedBytes: 1 << 20 });
    const { kernelMap } = host;
    const map = kernelMap.memremap(unmanagedFrame(host), 'test');
    expect(() => kernelMap.kunmap(map)).toThrow('wrong function');
    kernelMap.memunmap(map);
    expect(map.live).toBe(false);
    expect(() => map.read8(0)).toThrow('after it was unmapped');
    expect(() => kernelMap.memunmap(map)).toThrow('unmapped twice');
  });

  it('of a frame without struct page cannot come from kmap', () => {
    const host = testHost({ unmanagedBytes: 1 << 20 });
    const frame = unmanagedFrame(host);
    expect(() => host.kernelMap.kmap(frame, 'gpc')).toThrow('has no struct page');
    expect(() => host.kernelMap.kmapLocal(frame, 'gpc')).toThrow(BugError);
  });
});
