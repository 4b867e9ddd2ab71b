"""Values at, below and beyond the bounds of a type that is decoded, made from the type itself (msgspec.inspect)."""

from collections.abc import Iterator
from typing import Any

import msgspec.inspect as mi

Path = tuple[str | int, ...]
HUGE = 10**400


class Unbounded(AssertionError):
    """A type that does not say how large it may be."""


def usual(kind: mi.Type) -> Any:
    """The least that is one."""
    match kind:
        case mi.StructType(fields=fields):
            return {field.encode_name: usual(field.type) for field in fields if field.required}
        case mi.IntType(ge=least):
            return least or 0
        case mi.FloatType():
            return 0.0
        case mi.StrType(min_length=least):
            return "a" * (least or 0)
        case mi.BytesType():
            return Octets(0)
        case mi.BoolType():
            return False
        case mi.EnumType(cls=cls):
            return next(iter(cls)).value
        case mi.LiteralType(values=values):
            return values[0]
        case mi.NoneType():
            return None
        case mi.UnionType(types=types):
            return usual(types[0])
        case mi.VarTupleType(item_type=item, min_length=least) | mi.ListType(item_type=item, min_length=least):
            return [usual(item)] * (least or 0)
        case mi.TupleType(item_types=items):
            return [usual(item) for item in items]
        case mi.DictType():
            return {}
    raise AssertionError(f"{kind} is new here")


def fields(kind: mi.Type, path: Path = ()) -> Iterator[tuple[Path, mi.Type]]:
    """Every place in it, with what may stand there; items stand at 0."""
    yield path, kind
    match kind:
        case mi.StructType(fields=members):
            for field in members:
                yield from fields(field.type, (*path, field.encode_name))
        case mi.VarTupleType(item_type=item) | mi.ListType(item_type=item):
            yield from fields(item, (*path, 0))
        case mi.TupleType(item_types=items):
            for index, item in enumerate(items):
                yield from fields(item, (*path, index))
        case mi.UnionType(types=types):
            for choice in types:
                if not isinstance(choice, mi.NoneType):
                    yield from fields(choice, path)
        case mi.DictType(value_type=value):
            yield from fields(value, (*path, "key"))


def filled(root: mi.Type, path: Path, value: Any) -> Any:
    """The least of `root` that has `value` at `path`."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    match root:
        case mi.StructType(fields=members):
            inner = next(field.type for field in members if field.encode_name == head)
            return usual(root) | {head: filled(inner, rest, value)}
        case mi.VarTupleType(item_type=item) | mi.ListType(item_type=item):
            return [filled(item, rest, value)]
        case mi.TupleType(item_types=items):
            return [filled(item, rest, value) if index == head else usual(item) for index, item in enumerate(items)]
        case mi.UnionType(types=types):
            inner = next(choice for choice in types if any(place == path for place, _ in fields(choice)))
            return filled(inner, path, value)
        case mi.DictType(value_type=item):
            return {"key": filled(item, rest, value)}
    raise AssertionError(f"{root} has no {path}")


def within(kind: mi.Type) -> Iterator[Any]:
    """At its bounds."""
    match kind:
        case mi.IntType(ge=least, le=most):
            yield from (least, most)
        case mi.FloatType(ge=least, le=most):
            yield from (float(least), float(most))  # type: ignore[arg-type]
        case mi.EnumType(cls=cls):
            yield from (member.value for member in cls)
        case mi.BoolType():
            yield from (True, False)


def beyond(kind: mi.Type) -> Iterator[Any]:
    """What is none of it: wrong types, and what is less or more than it may be. Raises Unbounded."""
    if isinstance(kind, mi.UnionType):
        return  # each of its kinds has a turn of its own
    wrong: list[Any] = [None, True, 1.5, HUGE, -HUGE, "\x00", [], [[]], {}, {"\x00": {}}, Deep(2000)]
    match kind:
        case mi.IntType(ge=least, le=most):
            if least is None or most is None:
                raise Unbounded(f"{kind}")
            yield from (least - 1, most + 1, 2**63, -(2**63) - 1, 2**64, float(HUGE**0), "1", b"1")
        case mi.FloatType(ge=least, le=most):
            if least is None or most is None:
                raise Unbounded(f"{kind}")
            yield from (least - 1.0, most * 2.0 + 1, float("nan"), float("inf"), float("-inf"), 1e308, "1")
            wrong.remove(1.5)
        case mi.StrType(max_length=most, min_length=least, pattern=pattern):
            if most is None:
                raise Unbounded(f"{kind}")
            yield from ("a" * (most + 1), "\U0010ffff" * (most + 1), 1)
            if least:
                yield ""
            if pattern is None:
                wrong.remove("\x00")
            else:
                yield from ("\x00", "a\nb", "\x1b[2J", "\x9b")
        case mi.BytesType(max_length=most):
            if most is None:
                raise Unbounded(f"{kind}")
            yield from (1, Octets(most + 1))
        case mi.BoolType():
            wrong.remove(True)
            yield from (0, 1, "true")
        case mi.EnumType() | mi.LiteralType():
            yield from ("none of them", -1, "")
        case mi.VarTupleType(max_length=most, item_type=item) | mi.ListType(max_length=most, item_type=item):
            if most is None:
                raise Unbounded(f"{kind}")
            yield [usual(item)] * (most + 1)
            yield from (1, "a")
            wrong = [case for case in wrong if case not in ([], [[]])]
        case mi.DictType(max_length=most, key_type=key, value_type=value):
            if most is None:
                raise Unbounded(f"{kind}")
            next(beyond(key))
            yield {str(number): usual(value) for number in range(most + 1)}
            yield from (1, "a")
            wrong = [case for case in wrong if case != {}]
        case mi.StructType(fields=members):
            yield from (1, "a")
            if not any(field.required for field in members):
                wrong = [case for case in wrong if not isinstance(case, dict)]
        case mi.TupleType():
            yield from (1, "a")
        case mi.NoneType():
            return
        case _:
            raise Unbounded(f"{kind}")
    yield from wrong


class Octets:
    """So many; an encoder writes them in its own way."""

    def __init__(self, count: int) -> None:
        self.count = count


class Deep:
    """So many lists, each the only thing in the one before; an encoder writes them in its own way."""

    def __init__(self, levels: int) -> None:
        self.levels = levels
