// SPDX-License-Identifier: GPL-2.0-only
import { describe, expect, it } from 'vitest';
import { measure, summarize } from './measure.ts';

describe('measure', () => {
  it('the median of an odd and of an even number of runs', () => {
    expect(summarize([3, 1, 2], 's')).toEqual({ min: 1, median: 2, max: 3, unit: 's' });
    expect(summarize([4, 1, 2, 3], 's')).toEqual({ min: 1, median: 2.5, max: 4, unit: 's' });
  });

  it('the first run is not counted', () => {
    let n = 0;
    expect(measure({ name: 'x', unit: 'u', run: () => n++ }, 3)).toEqual({
      min: 1,
      median: 2,
      max: 3,
      unit: 'u',
    });
  });
});
