// SPDX-License-Identifier: GPL-2.0-only
/** VPIDs: allocate_vpid() and free_vpid() of arch/x86/kvm/vmx/vmx.c, 6.12. */

/** The bitmap behind allocate_vpid(); VPID 0 is the host's. */
export class VpidAllocator {
  readonly #used = new Set<number>([0]);
  readonly #limit = 0x1_0000;
  /** None below it is free. */
  #lowest = 1;

  /** A free VPID, or 0 if all are taken: that vCPU flushes at each entry. */
  allocate(): number {
    while (this.#lowest < this.#limit && this.#used.has(this.#lowest)) this.#lowest++;
    if (this.#lowest === this.#limit) return 0;
    this.#used.add(this.#lowest);
    return this.#lowest;
  }

  free(vpid: number): void {
    if (vpid === 0) return;
    this.#used.delete(vpid);
    this.#lowest = Math.min(this.#lowest, vpid);
  }
}
