// SPDX-License-Identifier: GPL-2.0-only
/**
 * Trees of memslots: by gfn, and by hva as an interval tree. After the kernel's rbtree and interval_tree, as a treap
 * on typed arrays: a slot is a small number (its handle), 0 is nobody, and each node knows the greatest end below it.
 * Priorities come from the handle, so a tree's shape depends on nothing but its members.
 */

/** A node's priority: a bijective scramble, so no two are equal. */
function priority(handle: number): number {
  let h = Math.imul(handle, 0x9e37_79b1);
  h ^= h >>> 15;
  h = Math.imul(h, 0x85eb_ca77);
  return (h ^ (h >>> 13)) | 0;
}

/** First and last address (inclusive) of every handle; shared by the two trees of the two sets. */
export interface SlotKeys {
  first: Float64Array;
  last: Float64Array;
}

export class SlotTree {
  #keys: SlotKeys;
  #left: Int32Array = new Int32Array(0);
  #right: Int32Array = new Int32Array(0);
  #prio: Int32Array = new Int32Array(0);
  #maxLast: Float64Array = new Float64Array(0);
  #root = 0;
  #splitLow = 0;
  #splitHigh = 0;

  constructor(keys: SlotKeys) {
    this.#keys = keys;
  }

  get isEmpty(): boolean {
    return this.#root === 0;
  }

  /** The node with the greatest `first` not above `key`, or 0: in the gfn tree the only slot that can hold it. */
  floor(key: number): number {
    const first = this.#keys.first;
    const left = this.#left;
    const right = this.#right;
    let found = 0;
    for (let node = this.#root; node !== 0;) {
      if (key >= first[node]!) {
        found = node;
        node = right[node]!;
      } else {
        node = left[node]!;
      }
    }
    return found;
  }

  /** Append the handles that overlap [start, last] to `out`, in order of their first address. */
  overlaps(start: number, last: number, out: number[]): void {
    if (this.#root !== 0) this.#collect(this.#root, start, last, out);
  }

  insert(handle: number): void {
    this.#reserve(handle);
    this.#prio[handle] = priority(handle);
    this.#root = this.#insert(this.#root, handle);
  }

  erase(handle: number): void {
    this.#root = this.#erase(this.#root, handle);
  }

  /** Put `to` in the place of `from`, which has the same addresses: nothing moves. */
  replace(from: number, to: number): void {
    this.erase(from);
    this.insert(to);
  }

  #collect(node: number, start: number, last: number, out: number[]): void {
    if (this.#maxLast[node]! < start) return;
    const left = this.#left[node]!;
    if (left !== 0) this.#collect(left, start, last, out);
    if (this.#keys.first[node]! > last) return;
    if (this.#keys.last[node]! >= start) out.push(node);
    const right = this.#right[node]!;
    if (right !== 0) this.#collect(right, start, last, out);
  }

  /** Total order: by first address, then by handle (two slots may have one hva). */
  #before(a: number, b: number): boolean {
    const first = this.#keys.first;
    return first[a]! < first[b]! || (first[a]! === first[b]! && a < b);
  }

  #pull(node: number): void {
    const left = this.#left[node]!;
    const right = this.#right[node]!;
    let max = this.#keys.last[node]!;
    if (left !== 0 && this.#maxLast[left]! > max) max = this.#maxLast[left]!;
    if (right !== 0 && this.#maxLast[right]! > max) max = this.#maxLast[right]!;
    this.#maxLast[node] = max;
  }

  #insert(node: number, handle: number): number {
    if (node === 0 || this.#prio[handle]! > this.#prio[node]!) {
      this.#split(node, handle);
      this.#left[handle] = this.#splitLow;
      this.#right[handle] = this.#splitHigh;
      this.#pull(handle);
      return handle;
    }
    if (this.#before(handle, node)) this.#left[node] = this.#insert(this.#left[node]!, handle);
    else this.#right[node] = this.#insert(this.#right[node]!, handle);
    this.#pull(node);
    return node;
  }

  /** Cut the tree at `node` into what is before and what is behind `handle`. */
  #split(node: number, handle: number): void {
    if (node === 0) {
      this.#splitLow = 0;
      this.#splitHigh = 0;
    } else if (this.#before(node, handle)) {
      this.#split(this.#right[node]!, handle);
      this.#right[node] = this.#splitLow;
      this.#splitLow = node;
      this.#pull(node);
    } else {
      this.#split(this.#left[node]!, handle);
      this.#left[node] = this.#splitHigh;
      this.#splitHigh = node;
      this.#pull(node);
    }
  }

  #erase(node: number, handle: number): number {
    if (node === handle) return this.#merge(this.#left[node]!, this.#right[node]!);
    if (this.#before(handle, node)) this.#left[node] = this.#erase(this.#left[node]!, handle);
    else this.#right[node] = this.#erase(this.#right[node]!, handle);
    this.#pull(node);
    return node;
  }

  #merge(low: number, high: number): number {
    if (low === 0) return high;
    if (high === 0) return low;
    if (this.#prio[low]! > this.#prio[high]!) {
      this.#right[low] = this.#merge(this.#right[low]!, high);
      this.#pull(low);
      return low;
    }
    this.#left[high] = this.#merge(low, this.#left[high]!);
    this.#pull(high);
    return high;
  }

  #reserve(handle: number): void {
    if (handle < this.#left.length) return;
    const length = Math.max(64, 2 * handle);
    this.#left = grown(this.#left, length);
    this.#right = grown(this.#right, length);
    this.#prio = grown(this.#prio, length);
    const maxLast = new Float64Array(length);
    maxLast.set(this.#maxLast);
    this.#maxLast = maxLast;
  }
}

function grown(from: Int32Array, length: number): Int32Array {
  const to = new Int32Array(length);
  to.set(from);
  return to;
}
