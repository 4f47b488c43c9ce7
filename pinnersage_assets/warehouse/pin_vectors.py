"""The vectors of all pins in one file that is mapped into memory, beside the database.

Most of a day's work looks vectors up by pin. From the database that takes a scan of all of them, and a copy in each
step; here whoever asks, in whichever process, shares the pages of one file. The file is a cache of `staging.pins`: what
a partition holds is appended once, and once more when the ledger says that the partition was written anew. Nothing that
was written is ever overwritten, so a reader keeps what it has opened.
"""

import datetime
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import numpy as np
import polars as pl
from filelock import FileLock
from numpy.typing import NDArray

from pinnersage_assets.ann.fingerprints import pin_digests
from pinnersage_assets.files import written_atomically
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.model.selected_vectors import SelectedVectors
from pinnersage_assets.vector_files import VectorFile
from pinnersage_assets.warehouse.database import Warehouse, vectors_in_parts
from pinnersage_assets.warehouse.dimensions import embedding_dimensions
from pinnersage_assets.warehouse.ledger import LEDGER, has_ledger

_VECTORS_AT_ONCE = 20_000
# A file is made anew when so much of it belongs to no partition any more.
_GARBAGE_SHARE = 0.5
# A file that is not used any more may have been opened a moment ago, and its name handed to a worker.
_DELETED_AFTER_SECONDS = 24 * 3600

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PinVectors:
    """The pins that are known by a day, and their vectors."""

    ids: NDArray[np.int64]
    """(m,) ascending."""
    rows: NDArray[np.int64]
    """(m,) of the file."""
    digests: NDArray[np.uint64]
    """(m,) as of `pin_digests`: they tell whether a vector is still the same."""
    file: VectorFile

    @cached_property
    def source(self) -> NDArray[np.float32]:
        """(N, n) all vectors of the file."""
        return self.file.map()

    def select(self, pin_ids: NDArray[np.int64]) -> SelectedVectors:
        """The vectors of pins, in their order.

        Raises:
            ValueError: one is not known.
        """
        return SelectedVectors(self.source, self.rows[rows_of(self.ids, pin_ids)])

    def known(self, pin_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Those of some pins that are known: ids (k,) ascending, each once, and vectors (k, n) in memory."""
        found = np.intersect1d(pin_ids, self.ids)
        return found, self.select(found)[:]

    def digests_of(self, pin_ids: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The digests of pins, in their order.

        Raises:
            ValueError: one is not known.
        """
        return self.digests[rows_of(self.ids, pin_ids)]

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make a temporary table ``known_pins`` of them: pin_id, pin_row of the file, and digest."""
        frame = pl.DataFrame({"pin_id": self.ids, "pin_row": self.rows, "digest": self.digests})
        connection.register("known_pins_frame", frame)
        connection.execute("CREATE OR REPLACE TEMP TABLE known_pins AS FROM known_pins_frame")
        connection.unregister("known_pins_frame")


def pin_vectors(warehouse: Warehouse, day: datetime.date) -> PinVectors:
    """Open the vectors of all pins that are known by a day; what the file lacks is appended first.

    Raises:
        FileNotFoundError: nothing has been written yet.
        OSError: the file cannot be written, because the disk is full for example. What is there stays.
    """
    folder = warehouse.data_folder / "vectors"
    with warehouse.get_reader() as connection:
        wanted = _partitions(connection, day)
        contents = _Contents.read(folder)
        if contents.lacks(wanted):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                contents = _brought_up_to_date(connection, folder, wanted)
    own = [contents.segments[name] for name in wanted]
    rows = np.concatenate([np.empty(0, np.int64), *(np.arange(s.start, s.start + s.rows) for s in own)])
    keys = contents.keys(folder)[rows]
    order = np.argsort(keys["id"], kind="stable")
    return PinVectors(keys["id"][order], rows[order], keys["digest"][order], contents.file(folder))


def _partitions(connection: duckdb.DuckDBPyConnection, day: datetime.date) -> dict[str, str]:
    """Of each day's partition of staging.pins what it was written by."""
    if not has_ledger(connection):
        return {}
    query = f"""
        SELECT dt::VARCHAR, concat_ws(' ', run_id, written_at) FROM {LEDGER}
        WHERE table_name = 'staging.pins' AND dt <= ? ORDER BY dt
    """
    return dict(connection.execute(query, [day]).fetchall())


@dataclass(frozen=True)
class _Segment:
    """Where the pins of a partition stand, and what the partition was written by."""

    written_by: str
    start: int
    rows: int


# Any: the type checker takes every np.dtype for one of floats.
_KEYS: Any = np.dtype([("id", "<i8"), ("digest", "<u8")])


@dataclass(frozen=True)
class _Contents:
    """What the folder holds: one file of vectors and one of their keys, and which rows are whose.

    What stands behind the last row was begun by somebody who was killed.
    """

    name: str
    dimensions: int
    rows: int
    segments: Mapping[str, _Segment]

    @classmethod
    def read(cls, folder: Path) -> "_Contents":
        """What there is; nothing, where files are missing or shorter than they should be."""
        try:
            said = json.loads((folder / "contents.json").read_text())
        except FileNotFoundError:
            return cls.new(0)
        segments = {day: _Segment(*segment) for day, segment in said.pop("segments").items()}
        contents = cls(segments=segments, **said)
        sizes = ((contents._keys_path(folder), _KEYS.itemsize), (contents.file(folder).path, 4 * contents.dimensions))
        for path, bytes_a_row in sizes:
            if not path.exists() or path.stat().st_size < contents.rows * bytes_a_row:
                _log.warning("%s is missing or damaged: it is made again from staging.pins", path)
                return cls.new(0)
        return contents

    @classmethod
    def new(cls, dimensions: int) -> "_Contents":
        """Of files that nobody has begun."""
        return cls(uuid4().hex[:16], dimensions, 0, {})

    def lacks(self, wanted: Mapping[str, str]) -> bool:
        """Whether a partition is not there as it is now."""
        return any(not self.has(day, written_by) for day, written_by in wanted.items())

    def has(self, day: str, written_by: str) -> bool:
        """Whether a partition is there as it is now."""
        return day in self.segments and self.segments[day].written_by == written_by

    def file(self, folder: Path) -> VectorFile:
        return VectorFile(folder / f"{self.name}.vectors", self.rows, self.dimensions)

    def keys(self, folder: Path) -> NDArray[np.void]:
        return np.fromfile(self._keys_path(folder), dtype=_KEYS, count=self.rows) if self.rows else np.empty(0, _KEYS)

    def append(
        self, folder: Path, parts: Mapping[tuple[str, str], Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]]
    ) -> "_Contents":
        """Append partitions, given by day and what they were written by; the name appears with all behind it."""
        segments, rows = dict(self.segments), self.rows
        with _opened(self._keys_path(folder)) as keys_file, _opened(self.file(folder).path) as vectors_file:
            keys_file.seek(rows * _KEYS.itemsize)
            vectors_file.seek(rows * 4 * self.dimensions)
            for (day, written_by), of_day in parts.items():
                start = rows
                for ids, vectors in of_day:
                    keys = np.empty(len(ids), dtype=_KEYS)
                    keys["id"], keys["digest"] = ids, pin_digests(ids, vectors)
                    keys_file.write(keys.tobytes())
                    vectors_file.write(np.ascontiguousarray(vectors, dtype="<f4"))
                    rows += len(ids)
                segments[day] = _Segment(written_by, start, rows - start)
            for file in (keys_file, vectors_file):
                file.flush()
                os.fsync(file.fileno())
        appended = _Contents(self.name, self.dimensions, rows, segments)
        with written_atomically(folder / "contents.json") as hidden:
            said = {day: [s.written_by, s.start, s.rows] for day, s in segments.items()}
            hidden.write_text(json.dumps({**vars(appended), "segments": said}))
        return appended

    def _keys_path(self, folder: Path) -> Path:
        return folder / f"{self.name}.keys"


def _opened(path: Path):
    """To write behind what is there."""
    path.touch()
    return path.open("r+b")


def _brought_up_to_date(connection: duckdb.DuckDBPyConnection, folder: Path, wanted: Mapping[str, str]) -> _Contents:
    """Append what is lacking; to a new file, if most of the old one belongs to nobody. Call with the lock held."""
    contents, dimensions = _Contents.read(folder), embedding_dimensions(connection)
    kept = sum(s.rows for day, s in contents.segments.items() if wanted.get(day, s.written_by) == s.written_by)
    if contents.dimensions != dimensions or kept < (1 - _GARBAGE_SHARE) * contents.rows:
        contents = _Contents.new(dimensions)
        _delete_unused(folder)
    lacking = {day: written_by for day, written_by in wanted.items() if not contents.has(day, written_by)}
    query = "SELECT pin_id, embedding FROM staging.pins WHERE dt = $day"
    return contents.append(
        folder,
        {
            (day, written_by): vectors_in_parts(connection, query, {"day": day}, _VECTORS_AT_ONCE)
            for day, written_by in lacking.items()
        },
    )


def _delete_unused(folder: Path) -> None:
    """Delete the files that nothing was appended to for long; whoever has mapped one keeps it."""
    for path in [*folder.glob("*.keys"), *folder.glob("*.vectors")]:
        if path.stat().st_mtime < time.time() - _DELETED_AFTER_SECONDS:
            path.unlink(missing_ok=True)
