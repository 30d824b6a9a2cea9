"""One type record → one value of `kwire.btf.types`.

Invariant: a decoder reads inside the record it is given (its caller has checked the length) and decodes no
other type.
"""

import struct
from collections.abc import Callable

from kwire.btf import types as t
from kwire.btf.header import Data, kind_of, vlen_of

_Name = Callable[[int], str]
_INT_SIGNED, _INT_CHAR, _INT_BOOL = 1, 2, 4


def decode(data: Data, at: int, order: str, info: int, name: _Name) -> t.BtfType:
    """Decode the type record at byte `at` of `data`; `name` turns a name offset into text."""
    name_off, _, word = struct.unpack_from(order + "III", data, at)
    decoder = _DECODERS.get(kind_of(info))
    if decoder is None:
        return t.Other(name(name_off), kind_of(info))
    return decoder(data, at + 12, order, info, name(name_off), word, name)


def _int(data: Data, at: int, order: str, info: int, own: str, word: int, name: _Name) -> t.BtfType:
    (more,) = struct.unpack_from(order + "I", data, at)
    flags = more >> 24 & 0xF
    return t.Int(
        own,
        word,
        bool(flags & _INT_SIGNED),
        bool(flags & _INT_CHAR),
        bool(flags & _INT_BOOL),
        more >> 16 & 0xFF,
        more & 0xFF,
    )


def _array(data: Data, at: int, order: str, info: int, own: str, word: int, name: _Name) -> t.BtfType:
    return t.Array(own, *struct.unpack_from(order + "III", data, at))


def _struct(data: Data, at: int, order: str, info: int, own: str, word: int, name: _Name) -> t.BtfType:
    entries = struct.iter_unpack(order + "III", memoryview(data)[at : at + 12 * vlen_of(info)])
    if info >> 31:  # kind_flag: offsets share their word with bit-field sizes
        members = tuple(t.Member(name(n), m, off & 0xFFFFFF, off >> 24) for n, m, off in entries)
    else:
        members = tuple(t.Member(name(n), m, off, 0) for n, m, off in entries)
    return t.Struct(own, word, kind_of(info) == t.Kind.UNION, members)


def _enum(data: Data, at: int, order: str, info: int, own: str, word: int, name: _Name) -> t.BtfType:
    signed = bool(info >> 31)
    layout = order + ("Ii" if signed else "II")
    pairs = struct.iter_unpack(layout, memoryview(data)[at : at + 8 * vlen_of(info)])
    return t.Enum(own, word, signed, tuple((name(n), value) for n, value in pairs))


def _enum64(data: Data, at: int, order: str, info: int, own: str, word: int, name: _Name) -> t.BtfType:
    signed = bool(info >> 31)
    layout = order + ("IIi" if signed else "III")
    entries = struct.iter_unpack(layout, memoryview(data)[at : at + 12 * vlen_of(info)])
    return t.Enum64(own, word, signed, tuple((name(n), high << 32 | low) for n, low, high in entries))


def _proto(data: Data, at: int, order: str, info: int, own: str, word: int, name: _Name) -> t.BtfType:
    pairs = struct.iter_unpack(order + "II", memoryview(data)[at : at + 8 * vlen_of(info)])
    params = tuple(t.Param(name(n), of) for n, of in pairs)
    variadic = bool(params) and params[-1].type == 0 and not params[-1].name
    return t.FuncProto(own, word, params[:-1] if variadic else params, variadic)


def _datasec(data: Data, at: int, order: str, info: int, own: str, word: int, name: _Name) -> t.BtfType:
    entries = struct.iter_unpack(order + "III", memoryview(data)[at : at + 12 * vlen_of(info)])
    return t.Datasec(own, word, tuple(t.Section(*entry) for entry in entries))


def _var(data: Data, at: int, order: str, info: int, own: str, word: int, name: _Name) -> t.BtfType:
    return t.Var(own, word, struct.unpack_from(order + "I", data, at)[0])


def _decl_tag(data: Data, at: int, order: str, info: int, own: str, word: int, name: _Name) -> t.BtfType:
    return t.DeclTag(own, word, struct.unpack_from(order + "i", data, at)[0])


_Decoder = Callable[[Data, int, str, int, str, int, _Name], t.BtfType]


def _plain(make: Callable[[str, int], t.BtfType]) -> _Decoder:
    return lambda data, at, order, info, own, word, name: make(own, word)


_DECODERS: dict[int, _Decoder] = {
    t.Kind.INT: _int,
    t.Kind.PTR: _plain(t.Ptr),
    t.Kind.ARRAY: _array,
    t.Kind.STRUCT: _struct,
    t.Kind.UNION: _struct,
    t.Kind.ENUM: _enum,
    t.Kind.FWD: lambda data, at, order, info, own, word, name: t.Fwd(own, bool(info >> 31)),
    t.Kind.TYPEDEF: _plain(t.Typedef),
    t.Kind.VOLATILE: _plain(t.Volatile),
    t.Kind.CONST: _plain(t.Const),
    t.Kind.RESTRICT: _plain(t.Restrict),
    t.Kind.FUNC: lambda data, at, order, info, own, word, name: t.Func(own, word, vlen_of(info)),
    t.Kind.FUNC_PROTO: _proto,
    t.Kind.VAR: _var,
    t.Kind.DATASEC: _datasec,
    t.Kind.FLOAT: _plain(t.Float),
    t.Kind.DECL_TAG: _decl_tag,
    t.Kind.TYPE_TAG: _plain(t.TypeTag),
    t.Kind.ENUM64: _enum64,
}
