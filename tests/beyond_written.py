"""Values at and beyond what a written form (controller.language.shape) takes, made from the form itself.

A form knows what it takes only by trying, so each place of it is shown by a sample: something whole and valid that has
a value there. Every place must have one, so that a field that is new fails here.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from controller.language.scalars import BOOLEAN
from controller.language.shape import LABELS_MAX, Fields, Labels, ListOf, Scalar, Shape

Path = tuple[str | int, ...]
HUGE, VAST = 10**400, 10**4200
"""What has more digits than the second no decoder takes."""
FULL_WIDTH = "\uff11"
"""A digit to Python, and printable."""
TRAPS = ("\x00", "a\nb", "\x1b[2J", "\x9b", "\u202e", "\ud800", FULL_WIDTH, "a" * 30_000)
FREE = ("text", "why, in words", 'a condition such as "pci=true" in source.labels')
"""What forms expect that take words: of several lines perhaps, and a number of 400 digits of a file is text."""
WRONG: tuple[Any, ...] = (
    None, True, 1.5, HUGE, -HUGE, VAST, float("nan"), float("inf"), -1e308, "", *TRAPS, [], [[]], [None], {},
    {"": {}}, {"\x00": 1},
)  # fmt: skip


def places(shape: Shape, path: Path = ()) -> Iterator[tuple[Path, Shape]]:
    """Every place in it; items stand at 0. A form that is written in two ways is there twice."""
    yield path, shape
    if isinstance(shape, Fields):
        for name, field in shape.fields.items():
            yield from places(field.shape, (*path, name))
    elif isinstance(shape, ListOf):
        yield from places(shape.item, (*path, 0))
    elif (mapping := getattr(shape, "mapping", None)) is not None:
        yield from places(mapping, path)


def at(sample: Any, path: Path) -> Any:
    """What stands there. Raises LookupError."""
    for step in path:
        if isinstance(step, int) != isinstance(sample, list) or isinstance(sample, str):
            raise KeyError(path)
        sample = sample[step]
    return sample


def changed(sample: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    copied = copy.deepcopy(sample)
    at(copied, path[:-1])[path[-1]] = value
    return copied


def without(sample: Any, path: Path) -> Any:
    copied = copy.deepcopy(sample)
    del at(copied, path[:-1])[path[-1]]
    return copied


def showing(samples: Sequence[Any], path: Path) -> Any:
    """A sample with a value there. Raises AssertionError where none has: write one."""
    for sample in samples:
        try:
            at(sample, path)
        except LookupError:
            continue
        return sample
    raise AssertionError(f"no sample has {path}")


def beyond(shape: Shape, present: Any) -> Iterator[Any]:
    """What may not stand in the place of `present`, which may."""
    match shape:
        case Fields():
            yield from (
                value for value in WRONG if value != {} or any(field.required for field in shape.fields.values())
            )
            if isinstance(present, Mapping):
                yield from ({**present, name: 1} for name in ("unknown", "\x00", "a" * 30_000, "\u202e"))
        case ListOf(least=least, most=most):
            yield from (value for value in WRONG if not isinstance(value, list))
            yield [*present, None]
            yield (list(present) * (most + 1))[: most + 1]
            if least:
                yield []
        case Labels():
            yield from (value for value in WRONG if value != {})
            yield from ({"app": value} for value in (None, 1, "", [], *TRAPS) if value != FULL_WIDTH)
            yield {f"a{number}": "a" for number in range(LABELS_MAX + 1)}
            yield from ({name: "a"} for name in ("-a", "a b", *TRAPS))
        case Scalar():
            yield from _beyond_scalar(shape, present)
        case _:  # written in two ways
            yield from (value for value in WRONG if value != {})


def _beyond_scalar(shape: Scalar, present: Any) -> Iterator[Any]:
    said = shape.json_schema
    lowest, highest = said.get("minimum", said.get("exclusiveMinimum")), said.get("maximum")
    for value in WRONG:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        inside = is_number and lowest is not None and lowest <= value <= highest and isinstance(value, shape.types)
        free = shape.expected in FREE and (value in (FULL_WIDTH, "a\nb") or (is_number and not -HUGE < value < HUGE))
        if not (inside or free or (value is True and shape is BOOLEAN)):
            yield value
    if lowest is not None:
        yield from (lowest - 1, highest + 1, str(lowest), [lowest], float(highest) * 2 + 1)
        if "exclusiveMinimum" in said:
            yield lowest
    elif isinstance(present, str):
        yield from (f"{present}\x00", [present])
        if shape.expected not in FREE:
            yield from (f" {present}", f"{present} ", f"{present}\n", f"\n{present}")
    else:
        yield from (0, 1, "true")


def within(shape: Scalar, present: Any) -> Iterator[Any]:
    """At its bounds, as far as it says them."""
    said = shape.json_schema
    yield from said.get("enum", ())
    if "maximum" in said:
        yield from (said.get("minimum", present), said["maximum"])
