"""What names one layout of all BPF maps: a digest of their definitions in the object file's type information (BTF).

Format: https://docs.kernel.org/bpf/btf.html. Whatever lies differently in a map, down to the offset of a field, makes
another digest, so that pinned maps are never misread.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from dataplane.errors import NodeRefused

_ELF_HEADER = struct.Struct("<4s36xQ10xHHH")
"""Magic; offset of the section headers; their size, their number, the one with names."""
_SECTION = struct.Struct("<IIQQQQIIQQ")
_BTF_HEADER = struct.Struct("<HBBIIIII")
_MAGIC = 0xEB9F
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FUNC_PROTO, _VAR, _DATASEC, _DECL_TAG, _ENUM64 = (
    1, 2, 3, 4, 5, 6, 13, 14, 15, 17, 19,
)  # fmt: skip
_FIXED_WORDS = {_INT: 1, _ARRAY: 3, _VAR: 1, _DECL_TAG: 1}
_WORDS_EACH = {_STRUCT: 3, _UNION: 3, _ENUM: 2, _FUNC_PROTO: 2, _DATASEC: 3, _ENUM64: 3}


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    kind: int
    size_or_type: int
    rows: tuple[tuple[int, ...], ...]
    """What follows the common part: members, array parameters and so on."""


def digest(object_file: bytes, sizes: Mapping[str, int], tables: str) -> str:
    """Of the maps of `object_file`, made with `sizes` (name → max_entries), holding tables laid out as `tables` says.

    Raises NodeRefused if the file has no type information.
    """
    types, text_at = _types(_section(object_file, ".BTF"))
    maps = next((kind for kind in types if kind.kind == _DATASEC and kind.name == ".maps"), None)
    if maps is None:
        raise NodeRefused("the BPF object defines no maps: make it again with ebpf/build.sh")
    described = sorted(f"{types[row[0]].name} {_describe(types, text_at, row[0])}" for row in maps.rows)
    text = "\n".join([*described, repr(sorted(sizes.items())), tables])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _section(elf: bytes, name: str) -> bytes:
    magic, headers, size, count, names = _ELF_HEADER.unpack_from(elf) if len(elf) > 64 else (b"", 0, 0, 0, 0)
    if magic != b"\x7fELF":
        raise NodeRefused("the BPF object is no ELF file: make it again with ebpf/build.sh")
    sections = [_SECTION.unpack_from(elf, headers + index * size) for index in range(count)]
    for section in sections:
        if _string(elf, sections[names][4] + section[0]) == name:
            return elf[section[4] : section[4] + section[5]]
    raise NodeRefused(f"the BPF object has no section {name}: make it again with ebpf/build.sh")


def _types(btf: bytes) -> tuple[list[_Type], dict[int, str]]:
    """Types by id, and the strings that members are named by, by offset."""
    magic, _, _, header, types_at, types_size, text_at, text_size = _BTF_HEADER.unpack_from(btf)
    if magic != _MAGIC:
        raise NodeRefused(f"the BPF object's type information begins with {magic:#x}, not {_MAGIC:#x}")
    text = btf[header + text_at : header + text_at + text_size]
    strings: dict[int, str] = {}
    types = [_Type("void", 0, 0, ())]
    at, end = header + types_at, header + types_at + types_size
    while at < end:
        name, info, size_or_type = struct.unpack_from("<III", btf, at)
        at += 12
        kind, each = info >> 24 & 0x1F, info & 0xFFFF
        if kind in _FIXED_WORDS:
            words, count = _FIXED_WORDS[kind], 1
        else:
            words, count = _WORDS_EACH.get(kind, 0), each
        rows = tuple(
            struct.unpack_from(f"<{words}I", btf, at + 4 * words * row) for row in range(count if words else 0)
        )
        at += 4 * words * len(rows)
        types.append(_Type(_string(text, name), kind, size_or_type, rows))
        if kind in (_STRUCT, _UNION, _ENUM):
            strings.update((row[0], _string(text, row[0])) for row in rows)
    return types, strings


def _describe(types: list[_Type], strings: Mapping[int, str], number: int) -> str:
    """All that says where bytes lie. Types of maps are not recursive."""
    described = types[number]
    match described.kind:
        case 0:
            return "void"
        case 1:
            return f"int{described.size_or_type}:{described.rows[0][0]:#x}"
        case 3:
            element, _, count = described.rows[0]
            return f"{_describe(types, strings, element)}[{count}]"
        case 4 | 5:
            members = (f"{strings[n]}@{at}:{_describe(types, strings, of)}" for n, of, at in described.rows)
            return (
                f"{'struct' if described.kind == _STRUCT else 'union'}{described.size_or_type}{{{','.join(members)}}}"
            )
        case 6:
            return f"enum{described.size_or_type}{{{','.join(f'{strings[n]}={value}' for n, value in described.rows)}}}"
        case _:  # pointers, typedefs, qualifiers and variables lead on to another type
            return f"{'*' if described.kind == _PTR else ''}{_describe(types, strings, described.size_or_type)}"


def _string(text: bytes, at: int) -> str:
    return text[at : text.index(b"\0", at)].decode()
