"""A graph of pins and boards as one file that is mapped into memory: any number of processes share one copy.

The file begins with what it is, the version of its form and, as JSON, how long the arrays of the graph are; then come
these. Numbers are as the machine has them: to one that has them the other way round the file is of another version. It
appears whole or not at all, and is never written again.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.files import checksum, written_atomically
from pinnersage_assets.model.pin_board_graph import ARRAY_TYPES, PinBoardGraph

VERSION = 1

_MAGIC = b"PINGRAPH"
# What the file is, its version and the length of the JSON: three numbers of eight bytes.
_PREFIX_BYTES = 24
# Arrays begin where lines of the processor's cache do.
_ALIGNMENT = 64


class GraphFileError(RuntimeError):
    """A graph file is missing, damaged or of another version, or cannot be written; names it. It can be made anew."""


def write_graph(path: Path, graph: PinBoardGraph) -> str:
    """Write a graph to a new file, so that the name appears only with the whole content behind it.

    Returns:
        The checksum, for `open_graph`.

    Raises:
        GraphFileError: the file cannot be written, because the disk is full for example. Whatever was there stays.
    """
    header = json.dumps({name: len(array) for name, array in graph.arrays.items()}).encode()
    try:
        with written_atomically(path) as hidden:
            with hidden.open("wb") as file:
                file.write(_MAGIC + np.array([VERSION, len(header)], dtype=np.uint64).tobytes() + header)
                for array in graph.arrays.values():
                    file.write(bytes(-file.tell() % _ALIGNMENT))
                    file.write(np.ascontiguousarray(array).data)
            sha256 = checksum(hidden)
    except OSError as error:
        raise GraphFileError(f"{path} cannot be written ({error}); is the disk full? Earlier files stay.") from error
    return sha256


def open_graph(path: Path, sha256: str) -> PinBoardGraph:
    """Map a graph after its checksum was verified.

    Raises:
        GraphFileError: the file is missing, or is not what was written.
    """
    try:
        found = checksum(path)
    except FileNotFoundError as error:
        raise GraphFileError(f"{path} is missing") from error
    if found != sha256:
        raise GraphFileError(f"{path} is damaged: its SHA-256 is {found}, its row says {sha256}")
    return map_graph(path)


def map_graph(path: Path) -> PinBoardGraph:
    """Map a file that somebody has verified, as by `open_graph`.

    Raises:
        GraphFileError: the file is missing, or is no graph of this version.
    """
    if not path.is_file():
        raise GraphFileError(f"{path} is missing")
    if path.stat().st_size < _PREFIX_BYTES:
        raise GraphFileError(f"{path} is not a graph")
    # A plain array over the mapped pages: a memmap makes every slice a memmap again, which takes its time.
    mapped = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    version, header_bytes = mapped[len(_MAGIC) : _PREFIX_BYTES].view(np.uint64).tolist()
    if mapped[: len(_MAGIC)].tobytes() != _MAGIC:
        raise GraphFileError(f"{path} is not a graph")
    if version != VERSION:
        raise GraphFileError(f"{path} is of version {version}, this program reads version {VERSION}: make it anew")
    try:
        return PinBoardGraph.of_arrays(_arrays(mapped, _PREFIX_BYTES + header_bytes))
    except (ValueError, KeyError, TypeError) as error:
        raise GraphFileError(f"{path} is damaged: {error}") from error


def _arrays(mapped: NDArray[np.uint8], begin: int) -> dict[str, NDArray]:
    """The arrays of a file whose JSON ends where they begin."""
    lengths = json.loads(mapped[_PREFIX_BYTES:begin].tobytes())
    arrays = {}
    for name, dtype in ARRAY_TYPES.items():
        begin += -begin % _ALIGNMENT
        end = begin + lengths[name] * dtype.itemsize
        if end > len(mapped):
            raise ValueError(f"{name} ends at byte {end:,} of {len(mapped):,}")
        arrays[name] = mapped[begin:end].view(dtype)
        begin = end
    return arrays
