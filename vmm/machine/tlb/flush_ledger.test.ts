// SPDX-License-Identifier: GPL-2.0-only
/** The ledger's sums by kind and cause, and its bounded history. */
import { describe, expect, it } from 'vitest';
import { BugError } from '../errors.ts';
import { FLUSH, FlushLedger } from './flush_ledger.ts';

describe('the flush ledger', () => {
  it('sums by kind and by cause', () => {
    const ledger = new FlushLedger();
    ledger.record(FLUSH.INVLPG, 0, 2, 10);
    ledger.cause = ledger.causeId('shrinker');
    ledger.record(FLUSH.INVLPG, 0, 0, 20);
    ledger.record(FLUSH.INVEPT_ALL, -1, 5, 30);
    expect(ledger.causeId('shrinker')).toBe(ledger.cause);
    expect(ledger.totals(FLUSH.INVLPG)).toEqual({ calls: 2, dropped: 2, empty: 1 });
    expect(ledger.totals(FLUSH.INVLPG, 'shrinker')).toEqual({ calls: 1, dropped: 0, empty: 1 });
    expect(ledger.totals(FLUSH.INVEPT_ALL, '')).toEqual({ calls: 0, dropped: 0, empty: 0 });
  });

  it('remembers the last 256 invalidations in order', () => {
    const ledger = new FlushLedger();
    for (let n = 0; n < 300; n++) ledger.record(FLUSH.INVVPID_ADDR, n, 1, n * 10);
    const history = ledger.history();
    expect(history).toHaveLength(256);
    expect(history[0]).toEqual({ kind: FLUSH.INVVPID_ADDR, cause: '', cycle: 440, tag: 44, dropped: 1 });
    expect(history.at(-1)!.tag).toBe(299);
  });

  it('refuses more causes than it has room for', () => {
    const ledger = new FlushLedger();
    for (let n = 0; n < 63; n++) ledger.causeId(`cause ${n}`);
    expect(() => ledger.causeId('one more')).toThrow(BugError);
  });
});
