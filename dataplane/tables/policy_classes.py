"""A policy class belongs to one VRF: XDP finds what it remembers of flows and fragments by the class alone."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dataplane.p4runtime.columns import Numbers
from dataplane.p4runtime.status import Code, Fault
from dataplane.tables.stores import Faults, Operation

Way = tuple[int, int]
"""VRF and policy class that an entry leads to. VRF 0: none, it is a link's."""


def is_plain(vrfs: Numbers, classes: Numbers) -> bool:
    """Whether these, where there may be many of each, lead each class into one VRF."""
    pairs = np.unique(np.stack((vrfs, classes), axis=1)[vrfs > 0], axis=0)
    return len(np.unique(pairs[:, 1])) == len(pairs)


def refused(
    operation: Operation, rows: Sequence[tuple[bytes, Way]], there: Mapping[bytes, Way], elsewhere: Iterable[Way]
) -> Faults:
    """By row, in their order: what would lead a class into a second VRF.

    `there`: entries of the same table; `elsewhere`: of the other that leads into VRFs.
    """
    entries = dict(there)
    entering = Counter(entries.values()) + Counter(elsewhere)
    vrfs_of: dict[int, set[int]] = {}
    for vrf, policy_class in entering:
        vrfs_of.setdefault(policy_class, set()).add(vrf)
    faults: Faults = {}
    for row, (key, way) in enumerate(rows):
        if (key in entries) is (operation is Operation.INSERT):
            continue  # Its table refuses it.
        vrf, policy_class = way
        before = entries.get(key)
        if before is not None:
            entering[before] -= 1
        known = vrfs_of.setdefault(policy_class, set())
        others = [other for other in known if other not in (0, vrf) and entering[other, policy_class]]
        if vrf and others:
            reason = f"policy class {policy_class} is of VRF {others[0]}; it cannot be of {vrf} too"
            faults[row] = Fault(Code.FAILED_PRECONDITION, reason)
            if before is not None:
                entering[before] += 1
            continue
        entries[key] = way
        entering[way] += 1
        known.add(vrf)
    return faults
