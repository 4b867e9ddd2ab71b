"""Mutated manifests, sentences, English and policies: whatever comes in, out come values or faults with a place, soon.

What they are mutations of: all examples of the docs, the lab's inventory, rules and policies.
NETSTITCH_FUZZ_DOCUMENTS says how many (20,000), NETSTITCH_FUZZ_SEED which (else new ones; it is printed).
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from controller.language import bulk
from controller.language.english import NoEnglish, propose
from controller.language.fault import ManifestInvalid
from controller.language.manifest import KINDS, Document, decode_intents, parse, print_yaml, read, to_manifest
from controller.language.policy import parse_policy
from controller.language.sentence import parse_sentence, print_sentence
from controller.model.intent import Intent
from controller.model.policy import Policy
from tests import test_docs_language as language_doc
from tests import test_rules_doc as rules_doc
from tests.mutation import mutated_data, mutated_text
from tests.simulator import World
from tests.test_sentence import MANIFEST, SENTENCE
from topologies import domain_files

DOCUMENTS = int(os.environ.get("NETSTITCH_FUZZ_DOCUMENTS", "20000"))
LIMIT_S = 10.0
"""For one document; most take less than a millisecond, but the machine may be busy."""
WORLD = World()
EXAMPLES = Path(__file__).parent.parent / "topologies"
SENTENCES = [SENTENCE, *language_doc.SENTENCES, *(sentence for _, sentence in language_doc.ENGLISH)]
ENGLISH = [english for english, _ in language_doc.ENGLISH]
POLICIES = [domain_files.policy(domain) for domain in WORLD.topology.domains]
NAMES = language_doc.names()


def _manifests() -> list[str]:
    """One a text: of each kind, with and without each field."""
    texts = [MANIFEST, language_doc.MANIFEST, *rules_doc.EXAMPLES]
    texts += [file.read_text() for file in sorted(EXAMPLES.glob("*/*.yaml"))]
    documents = [document for text in texts for document in parse(text)]
    seen: Counter[str] = Counter()
    for document in parse(WORLD.inventories["shop"]):
        seen[document.kind] += 1
        if seen[document.kind] <= 2:
            documents.append(document)
    intents = [parse_sentence(sentence, name="n", tenant="t") for sentence in SENTENCES]
    return [print_yaml([document.data]) for document in documents + intents]


MANIFESTS = _manifests()
DATA = [document.data for text in MANIFESTS for document in parse(text)]
INTENTS = [data for data in DATA if data["kind"] == "Intent"]


def _yaml(rng: random.Random) -> bool:
    return _is_whole(parse(mutated_text(rng.choice(MANIFESTS), rng), "fuzz"))


def _json(rng: random.Random) -> bool:
    text = msgspec.json.encode(rng.choice(DATA)).decode()
    return _is_whole(parse(mutated_text(text, rng).encode("utf-8", "replace"), "fuzz"))


def _data(rng: random.Random) -> bool:
    data = mutated_data(rng.choice(DATA), rng)
    records, problems = read([data])
    assert bool(records) != bool(problems)
    quick = bulk.convert(data)
    assert quick is None or (records and records[0].content == msgspec.json.encode(quick))
    return bool(records)


def _bulk(rng: random.Random) -> bool:
    """What is read quickly is what is read with places."""
    text = msgspec.json.encode([rng.choice(INTENTS)]).decode()
    body = mutated_text(text, rng).encode("utf-8", "replace")
    intents = decode_intents(body)
    assert intents == tuple(document.value for document in parse(body))
    return True


def _sentence(rng: random.Random) -> bool:
    return _is_whole((parse_sentence(mutated_text(rng.choice(SENTENCES), rng), name="n", tenant="t"),))


def _english(rng: random.Random) -> bool:
    try:
        proposed = propose(mutated_text(rng.choice(ENGLISH), rng), NAMES)
    except NoEnglish:
        return False
    return _is_whole((parse_sentence(proposed, name="n", tenant="t"),))


def _policy(rng: random.Random) -> bool:
    return isinstance(parse_policy(mutated_text(rng.choice(POLICIES), rng), "fuzz"), Policy)


WAYS: tuple[Callable[[random.Random], bool], ...] = (_yaml, _json, _data, _bulk, _sentence, _english, _policy)


def test_there_is_something_of_everything_to_begin_with() -> None:
    assert {data["kind"] for data in DATA} == set(KINDS)
    assert len(MANIFESTS) > 30 and len(SENTENCES) > 12 and len(ENGLISH) > 8 and len(POLICIES) == 3


def test_no_document_crashes_hangs_or_is_half_read() -> None:
    seed = int(os.environ.get("NETSTITCH_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"NETSTITCH_FUZZ_SEED={seed} NETSTITCH_FUZZ_DOCUMENTS={DOCUMENTS}")
    rng = random.Random(seed)
    outcomes: Counter[tuple[str, bool]] = Counter()
    for number in range(DOCUMENTS):
        way = WAYS[number % len(WAYS)]
        began = time.process_time()
        taken = False
        try:
            taken = way(rng)
        except ManifestInvalid as error:
            assert error.faults and all(
                fault.line >= 1 and fault.column >= 1 and fault.message for fault in error.faults
            )
        except BaseException as error:
            error.add_note(f"document {number} of NETSTITCH_FUZZ_SEED={seed}")
            raise
        outcomes[way.__name__, taken] += 1
        assert time.process_time() - began < LIMIT_S, f"document {number} of seed {seed} took too long"
    every = {(way.__name__, taken) for way in WAYS for taken in (False, True)}
    assert set(outcomes) == every, "mutations that all fit, or that none fits, test nothing"


def _is_whole(documents: tuple[Document, ...]) -> bool:
    """What was read prints and is read again equal, in both forms."""
    for document in documents:
        value = document.value
        assert parse(print_yaml([to_manifest(value)]))[0].value == value
        if isinstance(value, Intent):
            sentence = print_sentence(value)
            assert parse_sentence(sentence, name=value.name, tenant=value.tenant).value == value
    return True
