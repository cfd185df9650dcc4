// SPDX-License-Identifier: GPL-2.0-only
import { defineConfig } from 'vitest/config';
import { localImports } from './harness/local_imports.ts';

export default defineConfig({
  plugins: [localImports(/\/(lib|vmm|harness)\/.*\.ts$/)],
  test: {
    include: ['**/*.test.ts'],
    exclude: ['node_modules/**'],
    pool: 'threads',
    isolate: false,
    maxWorkers: 2,
    testTimeout: 60_000,
    coverage: {
      provider: 'v8',
      include: ['lib/**/*.ts', 'vmm/**/*.ts'],
      exclude: ['**/*.test.ts', '**/testing/**'],
      reporter: ['text-summary', 'json-summary', 'html'],
      reportOnFailure: true,
      thresholds: { branches: 85 },
    },
  },
});
