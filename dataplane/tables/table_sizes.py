"""The sizes that a node's tables shall have, by the names of the P4Info, and what they may be."""

from collections.abc import Iterator, Mapping

import msgspec

from dataplane.host_api import TableSizes
from dataplane.reasons import CANDIDATE_PATHS

_LEAST = 16
_MOST_IDS = 1 << 16
"""What is a number of 16 bits in packets and entries."""
_MOST_ENTRIES = 1 << 22
_IDS = ("forwarding_classes", "sr_policies", "policy_classes")


def by_name(sizes: TableSizes) -> Mapping[str, int]:
    """Of tables and counters."""
    by_class = ("lease", "steer", "forwarding_class_counter", "forwarding_class_drop_counter")
    sizes_by_name = dict.fromkeys(by_class, sizes.forwarding_classes)
    by_prefix = (
        "source_guard",
        "source_group",
        "destination_group",
        "translate_source",
        "translate_destination",
        "route",
    )
    sizes_by_name |= dict.fromkeys(by_prefix, sizes.prefixes)
    sizes_by_name |= {"flow_policy": sizes.flow_policies, "policy_class_counter": sizes.policy_classes}
    sizes_by_name |= {"path_liveness": sizes.sr_policies, "sr_policy": sizes.sr_policies * CANDIDATE_PATHS}
    return sizes_by_name | {"local_sid": sizes.local_sids}


def faults(sizes: TableSizes) -> Iterator[str]:
    for name, size in msgspec.structs.asdict(sizes).items():
        most = _MOST_IDS if name in _IDS else _MOST_ENTRIES
        if not _LEAST <= size <= most:
            yield f"table_sizes.{name} {size} is not in {_LEAST}..{most}"
