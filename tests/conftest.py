"""What holds for all tests."""

import os

import pytest
from hypothesis import settings

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # what it tells of connections that end is written past pytest

settings.register_profile("any machine", deadline=None)  # no test depends on how quick the machine is
settings.load_profile("any machine")

LONGEST = (
    "test_deploy",
    "test_stitchd",
    "test_main_job",
    "test_lab",
    "test_plugins",
    "test_simulation",
    "test_meaning_domains",
    "test_two_nodes",
    "test_backup",
    "test_neighbors",
    "test_agent",
    "test_cli",
    "test_store_damage",
    "test_losses",
    "test_permits",
    "test_bulk_apply",
    "test_refusals",
    "test_edges_lab",
    "test_api",
    "test_fuzz_pipeline",
)
"""They come first, so that none of them is left when one of the processes of `./run test` has nothing more to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
