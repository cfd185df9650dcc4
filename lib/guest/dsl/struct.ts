// SPDX-License-Identifier: GPL-2.0-only
/**
 * Structs and unions of guest code with the layout of the System V ABI for x86-64, usable on the host too
 * (`SyncArea.offsetof('start_flag')`, `SyncArea.size`). Left out: bit-fields and anonymous members.
 */
import { GuestCodeError } from './error.ts';
import type { AnyType } from './types.ts';

/** Members by name, in the order of declaration. */
export type Fields = Readonly<Record<string, AnyType>>;

/** One member's place. */
export interface FieldLayout<T extends AnyType = AnyType> {
  readonly name: string;
  readonly offset: number;
  readonly type: T;
}

/** A struct or union type. */
export interface StructType<F extends Fields = Fields> extends AnyType {
  readonly kind: 'struct';
  readonly fields: F;
  /** Members with their offsets, in order. */
  readonly layout: readonly FieldLayout[];
  /** Offset of a member; a path `a.b` reaches into nested structs. */
  offsetof(path: string): number;
  /** Place and type of a member. */
  field(name: string): FieldLayout;
}

/** What a struct may ask for. */
export interface StructOptions {
  /** `__attribute__((aligned(n)))`. */
  readonly align?: number;
}

/** Whether `type` is a struct or union. */
export const isStruct = (type: AnyType): type is StructType => type.kind === 'struct';

const alignUp = (value: number, align: number): number => Math.ceil(value / align) * align;

class StructImpl<F extends Fields> implements StructType<F> {
  readonly kind = 'struct';
  readonly name: string;
  readonly fields: F;
  readonly layout: readonly FieldLayout[];
  readonly size: number;
  readonly align: number;

  constructor(name: string, fields: F, layout: readonly FieldLayout[], align: number) {
    this.name = name;
    this.fields = fields;
    this.layout = layout;
    this.align = align;
    const end = layout.reduce((max, field) => Math.max(max, field.offset + field.type.size), 0);
    this.size = alignUp(end, align);
  }

  field(name: string): FieldLayout {
    const found = this.layout.find((field) => field.name === name);
    if (found) return found;
    const known = this.layout.map((field) => field.name).join(', ');
    throw new GuestCodeError(`${this.name} has no field '${name}' (fields: ${known})`);
  }

  offsetof(path: string): number {
    const [name = '', ...rest] = path.split('.');
    const { offset, type } = this.field(name);
    if (rest.length === 0) return offset;
    if (!isStruct(type))
      throw new GuestCodeError(`offsetof(${this.name}, ${path}): ${type.name} is no struct`);
    return offset + type.offsetof(rest.join('.'));
  }
}

function checkFields(name: string, fields: Fields): void {
  for (const [field, type] of Object.entries(fields)) {
    if (type.kind === 'void' || type.kind === 'fn') {
      throw new GuestCodeError(`${name}.${field} has type ${type.name}`);
    }
    // JavaScript moves such keys to the front of an object: the layout would not be the declared one.
    if (/^\d+$/.test(field))
      throw new GuestCodeError(`${name}.${field}: a field cannot be named by a number`);
  }
}

function build<F extends Fields>(
  name: string,
  fields: F,
  pack: number,
  options: StructOptions,
): StructType<F> {
  checkFields(name, fields);
  let offset = 0;
  let align = options.align ?? 1;
  const layout = Object.entries(fields).map(([field, type]) => {
    const fieldAlign = Math.min(type.align, pack);
    align = Math.max(align, fieldAlign);
    const at = alignUp(offset, fieldAlign);
    offset = at + type.size;
    return { name: field, offset: at, type };
  });
  return new StructImpl(name, fields, layout, align);
}

/** A C struct. */
export function struct<F extends Fields>(
  name: string,
  fields: F,
  options: StructOptions = {},
): StructType<F> {
  return build(name, fields, Infinity, options);
}

/** A C struct with `__attribute__((packed))`. */
export function packedStruct<F extends Fields>(
  name: string,
  fields: F,
  options: StructOptions = {},
): StructType<F> {
  return build(name, fields, 1, options);
}

/** A C union. */
export function union<F extends Fields>(name: string, fields: F, options: StructOptions = {}): StructType<F> {
  checkFields(name, fields);
  const layout = Object.entries(fields).map(([field, type]) => ({ name: field, offset: 0, type }));
  const align = layout.reduce((max, field) => Math.max(max, field.type.align), options.align ?? 1);
  return new StructImpl(name, fields, layout, align);
}
