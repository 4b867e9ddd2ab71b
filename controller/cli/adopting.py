"""`stitch host adopt`: a host that a node hears becomes one of a network."""

from controller.cli.client import Client, Json
from controller.cli.errors import AnswerIsNo, InputInvalid

CANDIDATE = "Candidate"


def adopt(client: Client, name: str, network: str, called: str, addresses: list[str], labels: dict[str, str]) -> None:
    """With the addresses that it was heard to have, or only these. The network is changed as by `stitch apply`, if
    nobody has changed it meanwhile. Raises AnswerIsNo with what to do."""
    host, into = client.get("hosts", name), client.get("networks", network)
    if host["status"]["phase"] != CANDIDATE:
        raise AnswerIsNo(f"hosts/{name} is one of {host['spec']['network']} already")
    heard = host["spec"]["addresses"]
    if unheard := [address for address in addresses if address not in heard]:
        raise InputInvalid(f"hosts/{name} was not heard to have {', '.join(unheard)}, but {', '.join(heard) or 'none'}")
    if not (addresses or heard):
        raise AnswerIsNo(f"hosts/{name} has said no address yet: adopt it when it has, or attach it by a manifest")
    attachment: Json = {
        "name": called,
        "node": host["spec"]["node"],
        "port": host["spec"]["port"],
        "addresses": addresses or heard,
    }
    spec = into["spec"]
    changed = {
        "apiVersion": into["apiVersion"],
        "kind": into["kind"],
        "metadata": {key: value for key, value in into["metadata"].items() if key in ("name", "tenant", "labels")},
        "spec": spec
        | {"attachments": [*spec.get("attachments", ()), attachment | ({"labels": labels} if labels else {})]},
    }
    client.apply([changed], if_match=str(into["metadata"]["revision"]))
    print(f"hosts/{network}/{called} adopted")
