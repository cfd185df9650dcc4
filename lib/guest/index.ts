// SPDX-License-Identifier: GPL-2.0-only
/** The guest-code DSL and the guest library, for selftests: what C gets by including kvm_util.h and processor.h. */
export * from './apic.ts';
export * from './atomic.ts';
export * from './bitops.ts';
export { fixed } from './dsl/asm_spec.ts';
export { GuestCode } from './dsl/builder.ts';
export { GuestCodeError } from './dsl/error.ts';
export { at, Expr, imm, lit, Place, READ_ONCE, select, str } from './dsl/expr.ts';
export { guestAsm, guestFn, guestUnit } from './dsl/function.ts';
export type { GuestAsm, GuestFn } from './dsl/function.ts';
export { guestGlobal } from './dsl/global.ts';
export type { GuestGlobal } from './dsl/global.ts';
export type { FnLinkable } from './dsl/ir.ts';
export { linkImage } from './dsl/link.ts';
export type { LinkOptions } from './dsl/link.ts';
export type { Operand } from './dsl/rvalue.ts';
export { packedStruct, struct, union } from './dsl/struct.ts';
export type { StructType } from './dsl/struct.ts';
export { array, bool, fnPtr, ptr, s16, s32, s64, s8, u16, u32, u64, u8, voidType } from './dsl/types.ts';
export type { AnyType, ArrayType, IntType, PtrType } from './dsl/types.ts';
export * from './exceptions.ts';
export * from './guest_assert.ts';
export { guest_vsnprintf } from './guest_sprintf.ts';
export * from './image.ts';
export * from './processor.ts';
export * from './random.ts';
export * from './string.ts';
export * from './ucall.ts';
