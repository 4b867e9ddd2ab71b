"""Mutated manifests and sentences: whatever comes in, out come values or faults with a place, soon.

NETSTITCH_FUZZ_DOCUMENTS says how many (20,000), NETSTITCH_FUZZ_SEED which (else new ones; it is printed).
"""

import os
import random
import time

import msgspec

from controller.language import bulk
from controller.language.fault import ManifestInvalid
from controller.language.manifest import Document, parse, print_yaml, read, to_manifest
from controller.language.sentence import parse_sentence, print_sentence
from controller.model.intent import Intent
from tests.mutation import mutated_data, mutated_text
from tests.test_sentence import MANIFEST, SENTENCE

DOCUMENTS = int(os.environ.get("NETSTITCH_FUZZ_DOCUMENTS", "20000"))
LIMIT_S = 10.0
"""For one document; most take less than a millisecond, but the machine may be busy."""


def test_no_document_crashes_hangs_or_is_half_read() -> None:
    seed = int(os.environ.get("NETSTITCH_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"NETSTITCH_FUZZ_SEED={seed} NETSTITCH_FUZZ_DOCUMENTS={DOCUMENTS}")
    rng = random.Random(seed)
    (document,) = parse(MANIFEST)
    taken = 0
    for number in range(DOCUMENTS):
        began = time.process_time()
        try:
            match number % 4:
                case 0:
                    taken += _is_whole(parse(mutated_text(MANIFEST, rng), "fuzz"))
                case 1:
                    taken += _is_whole((parse_sentence(mutated_text(SENTENCE, rng), name="n", tenant="t"),))
                case 2:
                    taken += _is_read(mutated_data(document.data, rng))
                case _:
                    text = msgspec.json.encode(document.data).decode()
                    taken += _is_whole(parse(mutated_text(text, rng).encode("utf-8", "replace"), "fuzz"))
        except ManifestInvalid as error:
            assert error.faults and all(one.line >= 1 and one.column >= 1 and one.message for one in error.faults)
        except BaseException as error:
            error.add_note(f"document {number} of NETSTITCH_FUZZ_SEED={seed}")
            raise
        assert time.process_time() - began < LIMIT_S, f"document {number} of seed {seed} took too long"
    assert 0 < taken < DOCUMENTS, "mutations that all fit, or that none fits, test nothing"


def _is_whole(documents: tuple[Document, ...]) -> int:
    """What was read prints and is read again equal, in both forms."""
    for document in documents:
        value = document.value
        assert parse(print_yaml([to_manifest(value)]))[0].value == value
        if isinstance(value, Intent):
            sentence = print_sentence(value)
            assert parse_sentence(sentence, name=value.name, tenant=value.tenant).value == value
    return 1


def _is_read(data: object) -> int:
    records, problems = read([data])
    assert bool(records) != bool(problems)
    quick = bulk.convert(data)
    assert quick is None or (records and records[0].content == msgspec.json.encode(quick))
    return bool(records)
