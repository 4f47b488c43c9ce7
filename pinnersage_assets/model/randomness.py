"""Random numbers that are a function of what they are for, never of the order in which they are drawn.

A user's sample of medoids on a day is keyed by (seed, day, user, medoid): it is the same in a batch of one and in a
batch of a million, in this process and on a cluster.
"""

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray


def keyed_uniform(*keys: int | str | ArrayLike) -> NDArray[np.float64]:
    """One uniform number in the open interval (0, 1) for every combination of keys.

    Args:
        *keys: as for `keyed_bits`.

    Returns:
        float64, of the broadcast shape of the keys (0-d for scalars).

    Raises:
        TypeError: a key is neither an integer nor a string.
    """
    # The upper 52 bits, centred in their cell, can be neither 0 nor 1.
    return ((keyed_bits(*keys) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def keyed_bits(*keys: int | str | ArrayLike) -> NDArray[np.uint64]:
    """64 random bits for every combination of keys.

    The keys are folded one after another through the finalizer of SplitMix64 (Steele, Lea and Flood, 2014), whose
    output passes the usual statistical batteries.

    Args:
        *keys: integers, integer arrays (broadcast against each other), or strings that name a purpose.

    Returns:
        uint64, of the broadcast shape of the keys (0-d for scalars).

    Raises:
        TypeError: a key is neither an integer nor a string.
    """
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            state = _mix(state ^ _mix(_as_uint64(key) + _INCREMENT))
    return state


def stream_bits(streams: NDArray[np.uint64], places: ArrayLike) -> NDArray[np.uint64]:
    """Numbers of streams, 64 bits each: those of SplitMix64 itself, a third of the work of `keyed_bits`.

    Args:
        streams: where each begins, as of `keyed_bits`.
        places: which number of it, from 0; broadcast against the streams.
    """
    with np.errstate(over="ignore"):
        return _mix(streams_from(streams, places) + _INCREMENT)


def streams_from(streams: NDArray[np.uint64], places: ArrayLike) -> NDArray[np.uint64]:
    """The streams that begin with a number of others: what was the place there is 0 here.

    Args:
        streams: as for `stream_bits`.
        places: likewise.
    """
    with np.errstate(over="ignore"):
        return streams + np.asarray(places, dtype=np.uint64) * _INCREMENT


def keyed_normal(*keys: int | str | ArrayLike) -> NDArray[np.float64]:
    """One standard normal number for every combination of keys (Box and Muller, 1958).

    Args:
        *keys: as for `keyed_uniform`.

    Returns:
        float64, of the broadcast shape of the keys.
    """
    radius = np.sqrt(-2.0 * np.log(keyed_uniform("normal radius", *keys)))
    return radius * np.cos(2.0 * np.pi * keyed_uniform("normal angle", *keys))


def keyed_sample(ids: NDArray[np.int64], size: int, *keys: int | str) -> NDArray[np.int64]:
    """Some ids at random, ascending; all of them if there are no more. Which of two comes first is up to them alone.

    Args:
        ids: (n,) each once.
        size: how many.
        *keys: as for `keyed_uniform`; the id is the last.
    """
    return np.sort(ids[np.argsort(keyed_uniform(*keys, ids), kind="stable")[:size]])


_INCREMENT = np.uint64(0x9E3779B97F4A7C15)


def _as_uint64(key: int | str | ArrayLike) -> NDArray[np.uint64]:
    if isinstance(key, str):
        return np.array(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little"), np.uint64)
    integers = np.asarray(key)
    if integers.dtype.kind not in "iu":
        raise TypeError(f"keys are integers or strings, not {integers.dtype}: rounding would make different keys equal")
    return integers.astype(np.int64).view(np.uint64)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # The first line makes the array that the others change in place: that halves the time of large ones.
    state = state ^ (state >> np.uint64(30))
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state
