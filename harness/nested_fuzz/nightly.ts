// SPDX-License-Identifier: GPL-2.0-only
/**
 * `npm run nightly [-- --cases n --first n --param kvm_intel.x=y]`: the nested fuzzer at length, 50,000 cases unless told
 * otherwise. Prints how the cases ended; the first that did not end as it should ends the run with status 1.
 */
import { parseArgs } from 'node:util';
import { FUZZ_CONFIGS, type FuzzConfig } from './configs.ts';
import { fuzzNested } from './fuzz.ts';

const DEFAULT_CASES = 50_000;
/** Cases of one host: a new one now and then keeps a long run from living on one VM. */
const PER_HOST = 2_500;

const { values } = parseArgs({
  options: {
    cases: { type: 'string', default: String(DEFAULT_CASES) },
    first: { type: 'string', default: '0' },
    param: { type: 'string', multiple: true },
  },
});
const cases = Number(values.cases);
const configs: readonly FuzzConfig[] =
  values.param === undefined
    ? FUZZ_CONFIGS
    : [{ name: values.param.join(' '), params: values.param, share: 100 }];
const outcomes = new Map<string, number>();
const first = Number(values.first);
let total = 0;

for (const { name, params, share } of configs) {
  const count = Math.max(1, Math.round((cases * share) / 100));
  for (let at = 0; at < count; at += PER_HOST) {
    const result = fuzzNested(first + at, Math.min(PER_HOST, count - at), params);
    if (result.framesLost !== 0) throw new Error(`${name}: ${result.framesLost} frames lost`);
    for (const [outcome, n] of result.outcomes) outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + n);
    total += Math.min(PER_HOST, count - at);
  }
  console.log(`${name}: ${count} cases`);
}
for (const [outcome, n] of [...outcomes].sort((a, b) => b[1] - a[1]))
  console.log(`${String(n).padStart(8)}  ${outcome}`);
console.log(`${total} cases, no exception, no frame lost`);
