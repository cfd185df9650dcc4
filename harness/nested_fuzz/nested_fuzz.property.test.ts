// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1 can never harm L0: whatever a guest writes into a vmcs12, an EPT12 entry, an MSR area, a bitmap address or L2's code
 * ends as the manual and KVM's API say. 2,000 cases here; `npm run nightly` makes it 50,000.
 */
import { describe, expect, it } from 'vitest';
import { FUZZ_CONFIGS } from './configs.ts';
import { fuzzNested } from './fuzz.ts';

const CASES = 2000;

describe('a hostile L1', () => {
  it.each(FUZZ_CONFIGS)(
    'cannot harm L0: $name',
    ({ params, share }) => {
      const count = (CASES * share) / 100;
      const { outcomes, framesLost } = fuzzNested(0, count, params);
      expect(framesLost).toBe(0);
      expect([...outcomes.values()].reduce((a, b) => a + b, 0)).toBe(count);
      // Cases are worth something only if many get past the checks, and in different ways.
      expect([...outcomes.keys()].filter((outcome) => outcome.startsWith('exit:')).length).toBeGreaterThan(
        10,
      );
    },
    120_000,
  );
});
