// SPDX-License-Identifier: GPL-2.0-only
/**
 * The tags of cached mappings, as small numbers. A space is one {VPID, PCID, EP4TA}: linear mappings have no EP4TA,
 * guest-physical mappings have nothing else, global translations have a PCID of their own. SDM, "Creating and Using
 * Cached Translation Information". A group is a {VPID, EP4TA}: what a space shares with its global twin.
 */

/** Stands for "any PCID": the space of translations that were global when they were cached. */
export const PCID_GLOBAL = 0x1000;
/** VPID and PCID of guest-physical mappings; EP4TA of linear mappings. */
export const NO_TAG = -1;

/** EPTP bits 51:12, the tag that INVEPT goes by. */
export const ep4taOf = (eptp: number): number => Math.floor(eptp / 0x1000);

export class TagSpaces {
  readonly vpid: number[] = [];
  readonly pcid: number[] = [];
  readonly ep4ta: number[] = [];
  readonly group: number[] = [];
  readonly #ids = new Map<string, number>();
  readonly #groups = new Map<string, number>();
  readonly #free: number[] = [];

  /** Spaces that exist or existed; ids are below this. */
  get length(): number {
    return this.vpid.length;
  }

  /** Spaces in use. */
  get live(): number {
    return this.#ids.size;
  }

  /** The id of a tag, new if it has none. */
  intern(vpid: number, pcid: number, ep4ta: number): number {
    const key = `${vpid}/${pcid}/${ep4ta}`;
    const known = this.#ids.get(key);
    if (known !== undefined) return known;
    const id = this.#free.pop() ?? this.vpid.length;
    this.vpid[id] = vpid;
    this.pcid[id] = pcid;
    this.ep4ta[id] = ep4ta;
    this.group[id] = this.#groupOf(vpid, ep4ta);
    this.#ids.set(key, id);
    return id;
  }

  /** Forget every space that `isUsed` denies; its id will be given to another tag. */
  sweep(isUsed: (space: number) => boolean): void {
    for (const [key, id] of [...this.#ids]) {
      if (isUsed(id)) continue;
      this.#ids.delete(key);
      this.vpid[id] = this.pcid[id] = this.ep4ta[id] = -2;
      this.#free.push(id);
    }
  }

  #groupOf(vpid: number, ep4ta: number): number {
    const key = `${vpid}/${ep4ta}`;
    const known = this.#groups.get(key);
    if (known !== undefined) return known;
    this.#groups.set(key, this.#groups.size);
    return this.#groups.size - 1;
  }
}
