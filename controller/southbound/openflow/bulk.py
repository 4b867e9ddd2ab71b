"""Many flow-mods at once: those of one shape are one message as it lies on the wire, repeated, with columns of values
written over it.

A shape is what they have in common: the fields and masks of the match, and the action. What the message looks like says
`messages.flow_mod` alone: where its values are is found out by writing it with ones.
"""

import contextlib
import struct
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.model.entry import OwnedEntry
from controller.southbound.openflow import messages
from controller.southbound.openflow.flows import compose

Shape = tuple[object, ...]
_SHAPE = attrgetter("field", "mask", "prefix_length")
PIECE = 256
"""Entries to encode at a time: so many of them stay in the processor's caches."""
_OCTETS_MAX = 16
"""Of a value."""


class _Span(NamedTuple):
    """Octets of a message that one value takes."""

    begin: int
    end: int


class _Template(NamedTuple):
    octets: bytes
    xid: _Span
    priority: _Span
    match: tuple[_Span, ...]
    params: tuple[_Span, ...]


def encode(entries: Sequence[OwnedEntry], first_xid: int) -> bytes:
    """Flow-mods that add these, which are marked (`flows.marked`), with the xids that follow `first_xid` in their
    order; they may lie in another. Raises ValueError where one is no flow entry."""
    numbers = [entry.numbers for entry in entries]
    alike: dict[tuple[int, int], list[int]] = {}
    for place, (key, does) in enumerate(numbers):
        alike.setdefault((key[0], does[0]), []).append(place)
    lines: list[bytes] = []
    for places in alike.values():
        columns = list(zip(*[numbers[place][0] for place in places], strict=True))
        shapes: dict[Shape, list[int]] = {}
        if all(len({*column}) == 1 for column in (*columns[3::4], *columns[4::4])):  # mostly it is one shape
            shapes[()] = places
        else:
            for place in places:
                shapes.setdefault((*numbers[place][0][3::4], *numbers[place][0][4::4]), []).append(place)
        lines += [
            _encoded(entries[same[0]], [numbers[place] for place in same], same, first_xid) for same in shapes.values()
        ]
    return b"".join(lines)


def _encoded(
    first: OwnedEntry,
    numbers: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    places: Sequence[int],
    first_xid: int,
) -> bytes:
    """Of one shape, which `first` has. `numbers`: OwnedEntry.numbers of each."""
    template = _template(first)
    lines = np.tile(np.frombuffer(template.octets, np.uint8), (len(numbers), 1))

    def write(span: _Span, values: Sequence[int]) -> None:
        lines[:, span.begin : span.end] = _column(values, span.end - span.begin)

    _, priorities, *fields = zip(*[key for key, _ in numbers], strict=True)
    _, *params = zip(*[does for _, does in numbers], strict=True)
    write(template.xid, [first_xid + place for place in places])
    write(template.priority, priorities)
    for span, column in zip(template.match, fields[::4], strict=True):
        write(span, column)
    for span, column in zip(template.params, params, strict=True):
        write(span, column)
    return lines.tobytes()


def _column(values: Sequence[int], size: int) -> NDArray[np.uint8]:
    """One line of `size` octets for each."""
    try:
        if size in (2, 4, 8):
            return np.array(values, f">u{size}").view(np.uint8).reshape(-1, size)
        return np.frombuffer(b"".join([value.to_bytes(size) for value in values]), np.uint8).reshape(-1, size)
    except OverflowError as exc:
        raise ValueError(f"a value does not fit into {size} octets") from exc


_TEMPLATES: dict[Shape, _Template] = {}


def _template(entry: OwnedEntry) -> _Template:
    shape = (entry.table, entry.action, tuple(map(_SHAPE, entry.match)), tuple(name for name, _ in entry.params))
    if shape not in _TEMPLATES:
        _TEMPLATES[shape] = _made(entry)
    return _TEMPLATES[shape]


def _made(entry: OwnedEntry) -> _Template:
    fields, params = entry.match, entry.params

    def with_field(place: int) -> Callable[[int], bytes]:
        def write(value: int) -> bytes:
            field = msgspec.structs.replace(fields[place], value=value)
            return _written(entry.replaced(match=(*fields[:place], field, *fields[place + 1 :])))

        return write

    def with_param(place: int) -> Callable[[int], bytes]:
        def write(value: int) -> bytes:
            new = (*params[:place], (params[place][0], value), *params[place + 1 :])
            return _written(entry.replaced(params=new))

        return write

    return _Template(
        octets=_written(entry),
        xid=_span(lambda value: messages.flow_mod(value, messages.ADD, compose(entry))),
        priority=_span(lambda value: _written(entry.replaced(priority=value))),
        match=tuple(_span(with_field(place)) for place in range(len(fields))),
        params=tuple(_span(with_param(place)) for place in range(len(params))),
    )


def _written(entry: OwnedEntry) -> bytes:
    return messages.flow_mod(0, messages.ADD, compose(entry))


def _span(write: Callable[[int], bytes]) -> _Span:
    """Where a value is: octets that are others where it is all ones than where it is 0."""
    nothing = other = write(0)
    with contextlib.suppress(ValueError, struct.error):
        for octets in range(1, _OCTETS_MAX + 1):
            other = write((1 << 8 * octets) - 1)
    places = [place for place, (a, b) in enumerate(zip(nothing, other, strict=True)) if a != b]
    return _Span(places[0], places[-1] + 1)
