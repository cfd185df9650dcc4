// SPDX-License-Identifier: GPL-2.0-only
/** The one error of the guest DSL: guest code that is misused at build time, with the TypeScript line that did it. */
import { captureSite, type Site } from './srcloc.ts';

/** Guest code that cannot be compiled: wrong type, unknown field, break outside of a loop, ... */
export class GuestCodeError extends Error {
  override readonly name = 'GuestCodeError';
  /** The line of guest code, or of the call that failed. */
  readonly site: Site;

  constructor(message: string, site: Site = captureSite()) {
    super(`${site.text()}: ${message}`);
    this.site = site;
  }
}
