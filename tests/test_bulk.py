"""Many intents quickly: what the quick way takes is what the shapes take, with equal values."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller import json_fields
from controller.language import bulk
from controller.language.fault import ManifestInvalid
from controller.language.manifest import (
    API_VERSION,
    MAX_INTENT_BYTES,
    applied,
    decode_intents,
    parse,
    read,
    read_intent,
    to_manifest,
)
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
    assert bulk.decode(msgspec.json.encode([manifest]), MAX_INTENT_BYTES) == (intent,)


@given(INTENTS, st.integers(0, 2**32))
@settings(max_examples=500, deadline=None)
def test_the_quick_way_takes_nothing_that_the_shapes_refuse(intent: Intent, seed: int) -> None:
    data = mutated_data(to_manifest(intent), random.Random(seed))
    quick = bulk.convert(data)
    assert quick is None or quick == slow(data)


def manifests(count: int) -> list[dict[str, Any]]:
    (document,) = parse(MANIFEST)
    made = []
    for number in range(count):
        data = copy.deepcopy(document.data)
        data["metadata"]["name"] = f"intent-{number}"
        made.append(data)
    return made


def test_bulk_falls_back_to_places_where_one_is_wrong() -> None:
    good = manifests(50)
    assert [decode_intent.name for decode_intent in decode_intents(msgspec.json.encode(good))] == [
        f"intent-{n}" for n in range(50)
    ]
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


def test_bulk_takes_intents_only() -> None:
    network = {"apiVersion": API_VERSION, "kind": "Network", "metadata": {"name": "a/b"}}
    with pytest.raises(ManifestInvalid, match=r"<json>:1:\d+: kind: expected Intent"):
        decode_intents(msgspec.json.encode([*manifests(1), network | {"spec": {"prefixes": ["10.0.0.0/8"]}}]))


@given(st.data(), INTENTS)
@settings(max_examples=300, deadline=None)
def test_a_field_given_twice_is_refused_with_its_place(data: st.DataObject, intent: Intent) -> None:
    """Wherever it is, whatever it is worth, however it is written."""
    text = msgspec.json.format(msgspec.json.encode([to_manifest(intent)])).decode()
    lines = text.splitlines()
    number = data.draw(st.sampled_from([at for at, line in enumerate(lines) if '": ' in line]))
    name = lines[number].split('"')[1]
    again = data.draw(st.sampled_from([name, f"\\u{ord(name[0]):04x}{name[1:]}"]))
    value = data.draw(st.sampled_from(["1", '"a:b"', '"\\u003a:"', '{"x": 1, "x": 2}', "[]"]))
    lines.insert(number, f'"{again}": {value},')
    twice = "\n".join(lines).encode()
    assert bulk.decode(twice, MAX_INTENT_BYTES) is None
    assert not json_fields.all_kept(twice, msgspec.json.decode(twice))
    assert name in {path[-1] for path in json_fields.repeated(twice)}
    with pytest.raises(ManifestInvalid) as caught:
        decode_intents(twice)
    (fault,) = caught.value.faults
    assert "is given twice" in fault.message and fault.line in (number + 1, number + 2), fault


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
)


@given(JSON)
@settings(max_examples=300, deadline=None)
def test_nothing_is_given_twice_where_nothing_is(value: object) -> None:
    for ascii_only in (False, True):
        text = json.dumps(value, ensure_ascii=ascii_only, indent=1).encode("utf-8", "surrogatepass")
        assert json_fields.repeated(text) == []
        if all(abs(integer) < 2**63 for integer in integers(value)):
            assert json_fields.all_kept(text, json.loads(text))


def integers(value: object) -> Iterator[int]:
    match value:
        case bool():
            return
        case int():
            yield value
        case list():
            yield from (integer for inner in value for integer in integers(inner))
        case dict():
            yield from (integer for inner in value.values() for integer in integers(inner))


def test_read_gives_the_same_records_either_way() -> None:
    three = manifests(3)
    records, problems = read(three)
    assert problems == ()
    assert records == tuple(applied(parse(msgspec.json.encode(each))[0]) for each in three)


def test_one_intent_has_at_most_64_kib() -> None:
    (big,) = manifests(1)
    big["spec"]["isolate"]["select"] = {f"label-{number}": "x" * 190 for number in range(340)}
    values, problems = read([big])
    assert values == () and "at most 65,536 are read" in problems[0].message
    with pytest.raises(ManifestInvalid, match="at most 65,536 are read"):
        parse(msgspec.json.encode(big))
    with pytest.raises(ManifestInvalid, match="at most 65,536 are read"):
        decode_intents(msgspec.json.encode([big]))
