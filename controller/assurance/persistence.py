"""Learned models as bytes and back, by skops: no pickle, nothing that runs.

    netstitch-model VERSION SHA-256\\n     then what skops writes

The digest finds what was damaged. What was altered on purpose is held up by the list: a model is made of these types
and of no others, and none of them runs code of the file.
"""

import hashlib
import warnings
from dataclasses import fields
from typing import Any

from controller.assurance.calibration import Calibration, Tail
from controller.assurance.learned import Density, Members, Model

VERSION = 1
_MAGIC = b"netstitch-model"
_HEADER_MAX = 128
ALLOWED = frozenset(
    {
        "sklearn.decomposition._pca.PCA",
        "sklearn.ensemble._iforest.IsolationForest",
        "sklearn.mixture._gaussian_mixture.GaussianMixture",
        "sklearn.tree._classes.ExtraTreeRegressor",
        "sklearn.tree._tree.Tree",
    }
)
"""Beyond what skops takes by itself: numbers, texts, lists, dicts and numpy arrays."""


class ModelRefused(Exception):
    """A file is no model of this version, damaged, or made of what no model is made of."""


def dumped(model: Model) -> bytes:
    import skops.io

    body: bytes = skops.io.dumps(_plain(model))
    return b"%s %d %s\n" % (_MAGIC, VERSION, hashlib.sha256(body).hexdigest().encode()) + body


def loaded(data: bytes) -> Model:
    """Raises ModelRefused."""
    header, _, body = data[:_HEADER_MAX].partition(b"\n")
    parts = header.split(b" ")
    if len(parts) != 3 or parts[0] != _MAGIC:
        raise ModelRefused("it is no model of netstitch")
    if parts[1] != b"%d" % VERSION:
        raise ModelRefused(f"it is of version {parts[1].decode(errors='replace')}, not {VERSION}: train it anew")
    body = data[len(header) + 1 :]
    if hashlib.sha256(body).hexdigest().encode() != parts[2]:
        raise ModelRefused("it was altered: its digest is another one")

    import skops.io
    from sklearn.exceptions import InconsistentVersionWarning

    try:
        strange = sorted(set(skops.io.get_untrusted_types(data=body)) - ALLOWED)
        if strange:
            raise ModelRefused(f"it has in it what no model has: {', '.join(strange)}")
        with warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)
            return _model(skops.io.loads(body, trusted=sorted(ALLOWED)))
    except ModelRefused:
        raise
    except Exception as error:  # whatever a hostile file makes of the reader, the old model stays
        raise ModelRefused(f"it cannot be read: {error}") from error


def _plain(model: Model) -> dict[str, object]:
    return {
        "densities": {str(number): _fields(density) for number, density in model.densities.items()},
        "protocols": {str(number): _fields(density) for number, density in model.protocols.items()},
        "all": _fields(model.all),
        "members": _fields(model.members),
        "usual": {str(number): usual for number, usual in model.usual.items()},
        "tails": [_fields(tail) for tail in model.calibration.tails],
    }


def _model(plain: Any) -> Model:
    return Model(
        densities={int(number): Density(**each) for number, each in plain["densities"].items()},
        protocols={int(number): Density(**each) for number, each in plain["protocols"].items()},
        all=Density(**plain["all"]),
        members=Members(**plain["members"]),
        usual={int(number): usual for number, usual in plain["usual"].items()},
        calibration=Calibration(tuple(Tail(**each) for each in plain["tails"])),
    )


def _fields(value: Density | Members | Tail) -> dict[str, object]:
    return {field.name: getattr(value, field.name) for field in fields(value)}
