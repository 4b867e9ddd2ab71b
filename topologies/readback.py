"""What a node's tables hold, read from its agent over P4Runtime: not what a controller believes."""

import grpc
from finsy.proto import p4r

from topologies.record import LabRecord, directory_of

_READ = "/p4.v1.P4Runtime/Read"
_DEADLINE_S = 10


def entries_on(record: LabRecord, node: str) -> frozenset[bytes]:
    """Every table entry but the constant default ones, each as its message in deterministic encoding."""
    request = p4r.ReadRequest(device_id=1)
    request.entities.add().table_entry.SetInParent()
    with grpc.insecure_channel(f"unix:{directory_of(record.lab)}/{node}/agent.sock") as channel:
        read = channel.unary_stream(_READ, p4r.ReadRequest.SerializeToString, p4r.ReadResponse.FromString)
        return frozenset(
            entity.table_entry.SerializeToString(deterministic=True)
            for response in read(request, timeout=_DEADLINE_S)
            for entity in response.entities
            if not entity.table_entry.is_default_action
        )
