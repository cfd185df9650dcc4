#!/usr/bin/env node
// SPDX-License-Identifier: GPL-2.0-only
/** The `nestbed` command: registers the TypeScript loader, then hands over to cli.ts. */
import process from 'node:process';
import { register } from 'tsx/esm/api';

/** A reader that has gone away (`| head`) ends the run as SIGPIPE would; anything else is one line. */
function outputFailed(error) {
  if (error.code === 'EPIPE') process.exit(141);
  process.stderr.write(`nestbed: cannot write the report: ${error.message}\n`);
  process.exit(2);
}
process.stdout.on('error', outputFailed);
process.stderr.on('error', () => process.exit(141));

register();
const { main } = await import('./cli.ts');
process.exitCode = await main(process.argv.slice(2));
