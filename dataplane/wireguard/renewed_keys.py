"""Keys of a border that are renewed: WireGuard's, and the pre-shared key that an ML-KEM-768 exchange (FIPS 203) gives.

```
 who begins                                        the neighbour
 X25519 key, ML-KEM key   ──── both public ───▶    X25519 key; encapsulates
 decapsulates             ◀── key, ciphertext ──
```

Each renewal is an epoch, counted by the two domains together. Epoch 0 is the key that a border always has, without a
pre-shared one. Two epochs can be there at a time, as two files (0600) in the directory of keys: one for each of the two
WireGuard devices of a border. What is written is durable before anybody else hears of it.
"""

import base64
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dataplane.decoding import from_json
from dataplane.errors import NodeRefused, RequestInvalid
from dataplane.wireguard.device import public_key, write_durably

SLOTS = 2
"""Devices of a border: epochs take turns."""
_LABEL = b"netstitch wireguard-pq v1"


def slot(epoch: int) -> int:
    return epoch % SLOTS


class RenewedKeys(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one epoch of a border."""

    epoch: int
    private_key: str
    """WireGuard, base64."""
    kem_seed: bytes = b""
    """Of the ML-KEM key, where we have begun and the ciphertext has not come yet."""
    kem_key: bytes
    """To encapsulate with: ours where we have begun, else the neighbour's."""
    kem_ciphertext: bytes = b""
    preshared_key: str = ""
    """WireGuard, base64; empty: the exchange is not complete."""
    is_ours: bool
    """We have begun."""

    def __repr__(self) -> str:
        return f"RenewedKeys(epoch={self.epoch}, public_key={self.public_key})"

    @property
    def public_key(self) -> str:
        return public_key(self.private_key)


class RenewedKeyStore:
    def __init__(self, directory: Path, borders: Iterable[str]) -> None:
        """Raises NodeRefused where a file is none of ours."""
        self._directory = directory
        self._known = {(border, number): self._read(border, number) for border in borders for number in range(SLOTS)}

    def of_slot(self, border: str, slot: int) -> RenewedKeys | None:
        return self._known.get((border, slot))

    def _get(self, border: str, epoch: int) -> RenewedKeys | None:
        keys = self.of_slot(border, slot(epoch))
        return keys if keys is not None and keys.epoch == epoch else None

    def _path(self, border: str, slot: int) -> Path:
        return self._directory / f"{border}.{slot}.json"

    def _read(self, border: str, slot: int) -> RenewedKeys | None:
        path = self._path(border, slot)
        try:
            keys = from_json(path.read_bytes(), RenewedKeys)
            _ = keys.public_key
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, ValueError) as error:
            raise NodeRefused(f"{path} is no file of renewed keys: remove it, and they are renewed") from error
        return keys

    def begun(self, border: str, epoch: int) -> RenewedKeys:
        """Those of an epoch that we begin; made now if there are none."""
        keys = self._get(border, epoch)
        if keys is not None:
            return keys
        kem = MLKEM768PrivateKey.generate()
        made = RenewedKeys(
            epoch=epoch,
            private_key=_x25519(),
            kem_seed=kem.private_bytes_raw(),
            kem_key=kem.public_key().public_bytes_raw(),
            is_ours=True,
        )
        return self._stored(border, made)

    def answered(self, border: str, epoch: int, kem_key: bytes) -> RenewedKeys:
        """Those of an epoch that the neighbour has begun with `kem_key`. Raises RequestInvalid."""
        keys = self._get(border, epoch)
        if keys is not None and keys.kem_key == kem_key and not keys.is_ours:
            return keys
        try:
            secret, ciphertext = MLKEM768PublicKey.from_public_bytes(kem_key).encapsulate()
        except ValueError as error:  # FIPS 203 §7.2: the modulus check
            raise RequestInvalid("the neighbour's ML-KEM key is none") from error
        made = RenewedKeys(
            epoch=epoch,
            private_key=_x25519(),
            kem_key=kem_key,
            kem_ciphertext=ciphertext,
            preshared_key=_preshared(secret, epoch, kem_key, ciphertext),
            is_ours=False,
        )
        return self._stored(border, made)

    def completed(self, border: str, epoch: int, kem_ciphertext: bytes) -> RenewedKeys:
        """Those of an epoch that we have begun, with the neighbour's answer. Raises RequestInvalid."""
        keys = self._get(border, epoch)
        if keys is None or not keys.is_ours:
            raise RequestInvalid(f"this node has no keys of epoch {epoch}: renew them")
        if keys.kem_ciphertext == kem_ciphertext:
            return keys
        if not keys.kem_seed:
            raise RequestInvalid(f"epoch {epoch} is complete with another answer of the neighbour: renew the keys")
        try:
            secret = MLKEM768PrivateKey.from_seed_bytes(keys.kem_seed).decapsulate(kem_ciphertext)
        except ValueError as error:
            raise RequestInvalid("the neighbour's ML-KEM ciphertext is none") from error
        preshared_key = _preshared(secret, epoch, keys.kem_key, kem_ciphertext)
        done = msgspec.structs.replace(keys, kem_seed=b"", kem_ciphertext=kem_ciphertext, preshared_key=preshared_key)
        return self._stored(border, done)

    def keep(self, border: str, epochs: Collection[int]) -> None:
        """Those of other epochs are forgotten."""
        for number in range(SLOTS):
            keys = self.of_slot(border, number)
            if keys is not None and keys.epoch not in epochs:
                self._path(border, number).unlink(missing_ok=True)
                self._known[border, number] = None

    def _stored(self, border: str, keys: RenewedKeys) -> RenewedKeys:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(self._path(border, slot(keys.epoch)), msgspec.json.encode(keys))
        self._known[border, slot(keys.epoch)] = keys
        return keys


def _x25519() -> str:
    return base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode()


def _preshared(secret: bytes, epoch: int, kem_key: bytes, kem_ciphertext: bytes) -> str:
    """Of this exchange and no other: all that was said in it goes in (SP 800-227 §4.6)."""
    info = _LABEL + epoch.to_bytes(8, "big") + kem_key + kem_ciphertext
    return base64.b64encode(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)).decode()
