"""The pins of a day as files that are mapped into memory: what a request looks up beside the user.

A folder holds one day: the pins that are known, their vectors, which pin of the corpus stands for each, the medoid
cache and the most popular pins. It appears whole or not at all, and is never written again: any number of processes
share the pages of one copy, and opening it takes no time however many pins there are.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.files import checksum, sync
from pinnersage_assets.model.population import rows_if_known
from pinnersage_assets.vector_files import write_vectors


class PinFilesError(RuntimeError):
    """The files of a day are missing or are not what their row says; names the folder."""


@dataclass(frozen=True)
class PinFiles:
    """The pins of a day; n of them, the first c of which are the corpus."""

    ids: NDArray[np.int64]
    """(n,) those of the corpus ascending, then the others ascending."""
    corpus_rows: NDArray[np.int32]
    """(n,) the row of the corpus pin that stands for each pin, its near-duplicate or itself; -1 where there is none."""
    vectors: NDArray[np.float32]
    """(n, d) unit vectors."""
    recommendable: NDArray[np.bool_]
    """(c,) which pins of the corpus may be recommended, by the setting ``retrieval.condition``."""
    medoid_ids: NDArray[np.int64]
    """(p,) ascending: the medoids whose neighbours are known."""
    neighbour_starts: NDArray[np.int64]
    """(p + 1,) where the neighbours of each begin, and the end of the last."""
    neighbour_rows: NDArray[np.int32]
    """(N,) recommendable rows of the corpus, of each medoid the nearest first."""
    neighbour_cosines: NDArray[np.float32]
    """(N,) how near they are."""
    popular_rows: NDArray[np.int32]
    """(r,) the recommendable rows of the corpus that were acted on most, first the most popular."""

    @property
    def corpus_size(self) -> int:
        """The number c of pins that the corpus has."""
        return len(self.recommendable)

    def rows_of(self, pin_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each pin, (m,) int64; -1 of those that are not known."""
        corpus, others = (rows_if_known(part, pin_ids) for part in np.split(self.ids, [self.corpus_size]))
        return np.where(others >= 0, others + self.corpus_size, corpus)

    def neighbours_of(self, pin_id: int) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        """Rows and cosines of the pins nearest to a medoid; None where they are not in the cache."""
        place = int(np.searchsorted(self.medoid_ids, pin_id))
        if place == len(self.medoid_ids) or self.medoid_ids[place] != pin_id:
            return None
        own = slice(self.neighbour_starts[place], self.neighbour_starts[place + 1])
        return self.neighbour_rows[own], self.neighbour_cosines[own]


_NAMES = [field.name for field in fields(PinFiles)]


def write_pin_files(
    folder: Path, arrays: dict[str, NDArray], vectors: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]
) -> str:
    """Write the files of a day into a new folder.

    Args:
        folder: does not exist yet.
        arrays: all of `PinFiles` but the vectors.
        vectors: rows (s,) and their vectors (s, d), every row once, in parts: all of them need not fit into memory.

    Returns:
        The checksum, for `open_pin_files`.

    Raises:
        ValueError: there are not as many vectors as pins.
        OSError: the files cannot be written, because the disk is full for example. There is no such folder then.
    """
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    hidden.mkdir(parents=True)
    try:
        for name in _NAMES:
            if name != "vectors":
                np.save(hidden / f"{name}.npy", arrays[name], allow_pickle=False)
        write_vectors(hidden / "vectors.npy", len(arrays["ids"]), vectors)
        for file in hidden.iterdir():
            sync(file)
        sync(hidden)
        sha256 = _checksum(hidden)
        hidden.rename(folder)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    sync(folder.parent)
    return sha256


def open_pin_files(folder: Path, sha256: str) -> PinFiles:
    """Map the files of a day, once their checksum has been verified.

    Raises:
        PinFilesError: a file is missing, or they are not what was written.
    """
    try:
        found = _checksum(folder)
        if found != sha256:
            raise PinFilesError(f"{folder} is damaged: its checksum is {found}, its row says {sha256}")
        # Plain arrays over the mapped pages: a memmap makes every slice a memmap again, which takes its time.
        return PinFiles(
            **{
                name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
                for name in _NAMES
            }
        )
    except FileNotFoundError as error:
        raise PinFilesError(f"{error.filename} is missing") from error


def _checksum(folder: Path) -> str:
    """SHA-256 over all files in the order of their names."""
    digest = hashlib.sha256()
    for name in _NAMES:
        digest.update(bytes.fromhex(checksum(folder / f"{name}.npy")))
    return digest.hexdigest()
