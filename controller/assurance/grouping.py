"""Which rows of a table are equal. Pure."""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
_GOLDEN, _START = np.uint64(0xFF51AFD7ED558CCD), 0x9E3779B97F4A7C15


def grouped(words: NDArray[np.uint64]) -> tuple[Rows, NDArray[np.bool_]]:
    """An order in which equal rows stand together, those of a group in the order in which they came; and where in it a
    group begins. By a hash, since to sort by one word is several times quicker than by all; where two rows that are
    not equal have the same one, by all words."""
    digest = np.full(len(words), _START, dtype=np.uint64)
    for word in words.T:
        digest = (digest ^ word) * _GOLDEN
        digest ^= digest >> np.uint64(33)
    order = np.argsort(digest, kind="stable")
    ordered = words[order]
    differs = np.ones(len(words), dtype=np.bool_)
    differs[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    hashes = digest[order]
    if (differs[1:] & (hashes[1:] == hashes[:-1])).any():
        order = np.lexsort(words.T[::-1])
        ordered = words[order]
        differs[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return order.astype(np.int64), differs


def numbered(*columns: NDArray[np.uint8]) -> tuple[Rows, Rows]:
    """Of equal rows of bytes the first one's place, and by row which of them it is."""
    rows = np.concatenate(columns, axis=1)
    padded = np.zeros((len(rows), -(-rows.shape[1] // 8) * 8), dtype=np.uint8)
    padded[:, : rows.shape[1]] = rows
    order, begins = grouped(padded.view("<u8"))
    number = np.empty(len(rows), dtype=np.int64)
    number[order] = np.cumsum(begins) - 1
    return order[begins], number
