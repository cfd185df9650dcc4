// SPDX-License-Identifier: GPL-2.0-only
/** The life of a frame, and what is wrong with a life. */
import { describe, expect, it } from 'vitest';
import { pfn } from '../../../lib/x86/addr.ts';
import { BugError, SanitizerError } from '../errors.ts';
import { RAM_BASE } from '../layout.ts';
import { FAST_ANYWHERE, FRAME, FrameTable } from './frames.ts';

const FIRST = RAM_BASE >>> 12;
const A = pfn(FIRST);
const B = pfn(FIRST + 1);
const table = (): FrameTable => new FrameTable(RAM_BASE + 0x10_0000);

describe('frames', () => {
  it('below RAM are reserved, those of RAM free', () => {
    const frames = table();
    expect([frames.nrFrames, frames.state[FIRST - 1], frames.state[FIRST]]).toEqual([
      FIRST + 256,
      FRAME.RESERVED,
      FRAME.FREE,
    ]);
  });

  it('are managed from the first take on', () => {
    const frames = table();
    expect([frames.managed, frames.isCurrentSince(A, 0)]).toEqual([false, true]);
    frames.take(A, 0);
    expect([frames.managed, frames.isCurrentSince(A, 0), frames.isCurrentSince(B, 0)]).toEqual([
      true,
      true,
      false,
    ]);
  });

  it('get a new epoch with each retirement', () => {
    const frames = table();
    const owner = frames.intern('guest');
    frames.take(A, owner);
    const epoch = frames.epoch[A]!;
    const seen = frames.retirements;
    expect(frames.isCurrent(A, epoch)).toBe(true);
    frames.retire(A, owner);
    expect(frames.isCurrent(A, epoch)).toBe(false);
    frames.take(A, owner);
    expect([frames.isCurrent(A, epoch), frames.isCurrent(A, epoch + 1)]).toEqual([false, true]);
    expect([frames.isCurrentSince(A, seen), frames.isCurrentSince(A, frames.retirements)]).toEqual([
      false,
      true,
    ]);
  });

  it('cannot be taken twice or freed twice', () => {
    const frames = table();
    frames.take(A, frames.intern('first'));
    expect(() => frames.take(A, frames.intern('second'))).toThrow(BugError);
    frames.retire(A, frames.intern('first'));
    expect(() => frames.retire(A, frames.intern('third'))).toThrow(SanitizerError);
    expect(() => frames.retire(A, frames.intern('third'))).toThrow(
      /double free.*last taken by first.*now freed by third/,
    );
    expect(() => frames.retire(pfn(1), 0)).toThrow(/is reserved/);
  });

  it('tell their story', () => {
    const frames = table();
    frames.take(A, frames.intern('vm0'), FRAME.UNMANAGED);
    expect(frames.story(A)).toBe('pfn 0x1000 is unmanaged, epoch 0, last taken by vm0, last freed by nobody');
    expect(frames.story(pfn(0xfee00))).toContain('epoch 0, last taken by nobody');
    expect(frames.intern('vm0')).toBe(frames.intern('vm0'));
  });

  it('ask for their fast-TLB entries only if there may be some', () => {
    const frames = table();
    const asked: number[] = [];
    frames.onRetire = (frame) => asked.push(frame);
    for (const frame of [A, B]) frames.take(frame, 0);
    frames.fastHint[B] = FAST_ANYWHERE;
    frames.retire(A, 0);
    frames.retire(B, 0);
    expect([asked, frames.fastHint[B]]).toEqual([[B], 0]);
  });
});
