"""Many intents quickly: what the quick way takes is what the shapes take, with equal values."""

import copy
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.language import bulk
from controller.language.fault import ManifestInvalid
from controller.language.manifest import applied, decode_intents, parse, read, read_intent, to_manifest
from controller.language.shape import Flaws
from controller.model.intent import Intent
from tests.intent_strategies import INTENTS
from tests.mutation import mutated_data
from tests.test_sentence import MANIFEST


def slow(data: object) -> Intent | None:
    flaws: Flaws = []
    return read_intent(data, flaws)


@given(INTENTS)
@settings(max_examples=300, deadline=None)
def test_what_is_printed_is_read_quickly(intent: Intent) -> None:
    manifest = to_manifest(intent)
    assert bulk.convert(manifest) == intent
    assert bulk.decode(msgspec.json.encode(manifest)) == intent


@given(INTENTS, st.integers(0, 2**32))
@settings(max_examples=500, deadline=None)
def test_the_quick_way_takes_nothing_that_the_shapes_refuse(intent: Intent, seed: int) -> None:
    data = mutated_data(to_manifest(intent), random.Random(seed))
    quick = bulk.convert(data)
    assert quick is None or quick == slow(data)


def manifests(count: int) -> list[dict[str, Any]]:
    (document,) = parse(MANIFEST)
    found = []
    for number in range(count):
        data = copy.deepcopy(document.data)
        data["metadata"]["name"] = f"intent-{number}"
        found.append(data)
    return found


def test_bulk_falls_back_to_places_where_one_is_wrong() -> None:
    good = manifests(50)
    assert [one.name for one in decode_intents(msgspec.json.encode(good))] == [f"intent-{n}" for n in range(50)]
    good[31]["spec"]["allow"][0]["ports"][0] = "tcp/0"
    text = msgspec.json.format(msgspec.json.encode(good), indent=1)
    line = next(number for number, line in enumerate(text.decode().splitlines(), 1) if "tcp/0" in line)
    with pytest.raises(ManifestInvalid, match=f"<json>:{line}:.*tcp/0"):
        decode_intents(text)


def test_bulk_refuses_twice_the_same_name_and_what_is_no_json() -> None:
    with pytest.raises(ManifestInvalid, match="is in line"):
        decode_intents(msgspec.json.encode([*manifests(2), *manifests(1)]))
    with pytest.raises(ManifestInvalid, match="not well-formed"):
        decode_intents(b'[{"kind": "Intent"')


def test_read_gives_the_same_records_either_way() -> None:
    ones = manifests(3)
    records, problems = read(ones)
    assert problems == ()
    assert records == tuple(applied(parse(msgspec.json.encode(one))[0]) for one in ones)


def test_one_intent_has_at_most_64_kib() -> None:
    (big,) = manifests(1)
    big["spec"]["isolate"]["select"] = {f"label-{number}": "x" * 190 for number in range(340)}
    values, problems = read([big])
    assert values == () and "at most 65,536 are read" in problems[0].message
    with pytest.raises(ManifestInvalid, match="at most 65,536 are read"):
        parse(msgspec.json.encode(big))
    with pytest.raises(ManifestInvalid, match="at most 65,536 are read"):
        decode_intents(msgspec.json.encode([big]))
