"""What a snapshot says of a user, as bytes.

A record is 16 bytes (layout number, K and s) and then K medoid ids, K sizes, K importances and s seen pins, eight bytes
each, all little-endian. It is the same in every store, so that checksums of their contents agree.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.online import StoredClusters

_LAYOUT = 1
_HEADER = struct.Struct("<B3xII4x")
_INTEGERS = "<i8"
_FLOATS = "<f8"


class CorruptRecordError(ValueError):
    """Bytes that are no record, or one of a layout that this version does not know."""


@dataclass(frozen=True)
class StoredUser:
    """What a snapshot holds of a user.

    Attributes:
        clusters: the user's clusters as of the end of the batch day.
        seen_pin_ids: (s,) int64 ascending; pins of the corpus that must not be recommended.
    """

    clusters: StoredClusters
    seen_pin_ids: NDArray[np.int64]


def encode(user: StoredUser) -> bytes:
    """The record.

    Raises:
        ValueError: the arrays of the clusters differ in length.
    """
    clusters = user.clusters
    k = len(clusters.medoid_pin_ids)
    if len(clusters.sizes) != k or len(clusters.importances) != k:
        raise ValueError(
            f"clusters have {k} medoids, {len(clusters.sizes)} sizes and {len(clusters.importances)} importances; "
            "give one of each a cluster"
        )
    return b"".join(
        (
            _HEADER.pack(_LAYOUT, k, len(user.seen_pin_ids)),
            np.asarray(clusters.medoid_pin_ids, _INTEGERS).tobytes(),
            np.asarray(clusters.sizes, _INTEGERS).tobytes(),
            np.asarray(clusters.importances, _FLOATS).tobytes(),
            np.asarray(user.seen_pin_ids, _INTEGERS).tobytes(),
        )
    )


def decode(data: bytes) -> StoredUser:
    """The user whose record it is; the arrays are read-only views of `data`.

    Raises:
        CorruptRecordError: says what is wrong with the bytes.
    """
    k, seen = _counts(data)
    start = _HEADER.size
    medoids, sizes = np.frombuffer(data, _INTEGERS, 2 * k, start).reshape(2, k)
    return StoredUser(
        StoredClusters(medoids, sizes, np.frombuffer(data, _FLOATS, k, start + 16 * k)),
        np.frombuffer(data, _INTEGERS, seen, start + 24 * k),
    )


def clusters_in(data: bytes) -> int:
    """How many clusters a record holds.

    Raises:
        CorruptRecordError: says what is wrong with the bytes.
    """
    return _counts(data)[0]


def _counts(data: bytes) -> tuple[int, int]:
    if len(data) < _HEADER.size:
        raise CorruptRecordError(f"a record of {len(data)} bytes is cut short; write the snapshot again")
    layout, k, seen = _HEADER.unpack_from(data)
    if layout != _LAYOUT:
        raise CorruptRecordError(
            f"a record has layout {layout}, and this version reads {_LAYOUT}; write the snapshot again"
        )
    if len(data) != _HEADER.size + 24 * k + 8 * seen:
        raise CorruptRecordError(
            f"a record of {k} clusters and {seen} seen pins has {len(data)} bytes; write the snapshot again"
        )
    return k, seen
