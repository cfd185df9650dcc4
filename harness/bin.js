#!/usr/bin/env node
// SPDX-License-Identifier: GPL-2.0-only
/** The `nestbed` command: registers the TypeScript loader, then hands over to cli.ts. */
import process from 'node:process';
import { register } from 'tsx/esm/api';

register();
const { main } = await import('./cli.ts');
process.exitCode = await main(process.argv.slice(2));
