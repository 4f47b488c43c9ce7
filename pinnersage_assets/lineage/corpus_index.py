"""The corpus of a day as something to search: exactly where it is small, else through HNSW files, one a shard.

The rows of ``retrieval.hnsw_index`` say which, and describe the files. What belongs here: which file is kept, grown,
built or deleted. How an index works is the business of `ann`.
"""

import datetime
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from uuid import uuid4

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.ann import hnsw
from pinnersage_assets.ann.exact import ExactIndex, exact_search, recall
from pinnersage_assets.ann.fingerprints import fingerprint
from pinnersage_assets.ann.hnsw import HnswIndex, HnswParameters, IndexFileError
from pinnersage_assets.ann.index_files import IndexFiles, write_pins
from pinnersage_assets.ann.restricted import CorpusIndex
from pinnersage_assets.ann.shards import put_together, shard_of, split
from pinnersage_assets.lineage.queries import corpus_ids
from pinnersage_assets.model.selected_vectors import Vectors
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.pin_vectors import PinVectors, pin_vectors
from pinnersage_assets.warehouse.publishing import delete_unnamed

# An index grows while the pins that came and went since it was built are at most this share of it: each costs it a
# little recall and speed, and a build puts like pins next to each other again.
_CHANGES_SHARE = 0.25

_PARAMETERS = ("connectivity", "expansion_add", "expansion_search", "dtype")


@dataclass(frozen=True)
class MadeIndex:
    """A shard of the index, or all of it, and how it came about."""

    index: CorpusIndex
    columns: dict[str, object]
    """The columns of the row that say what the index is."""
    recall: float | None


@dataclass(frozen=True)
class _Shard:
    """The pins of a shard of a day, and how they are indexed."""

    day: datetime.date
    number: int
    of: int
    """How many shards there are."""
    ids: NDArray[np.int64]
    """(m,) ascending."""
    vectors: Vectors
    """(m, n)."""
    known: PinVectors
    parameters: HnswParameters

    @property
    def name(self) -> str:
        return "the index" if self.of == 1 else f"shard {self.number} of the index"

    @cached_property
    def fingerprint(self) -> int:
        return fingerprint(self.known.digests_of(self.ids))

    def open_file(self, path: Path, sha256: str) -> HnswIndex:
        """Map its file once that has been verified.

        Raises:
            IndexFileError: as `hnsw.open_file`.
        """
        file = hnsw.open_file(path, sha256, self.ids, self.vectors.shape[1], self.parameters)
        return HnswIndex(file, self.ids, self.vectors, self.parameters.expansion_search)

    def build(self, on_progress: hnsw.Progress | None = None) -> HnswIndex:
        return hnsw.build(self.ids, self.vectors, self.parameters, on_progress)


def parameters_of(settings: Settings) -> HnswParameters:
    """The settings of HNSW."""
    return HnswParameters(**{name: getattr(settings.index, name) for name in _PARAMETERS})


def make_index(
    warehouse: Warehouse,
    settings: Settings,
    day: datetime.date,
    measure: Callable[[CorpusIndex], float | None],
    log: logging.Logger,
    on_progress: hnsw.Progress,
) -> Iterator[MadeIndex]:
    """The shards of a day's index: each that of an earlier run, or yesterday's with what changed, or a new one.

    Args:
        warehouse: where corpus, rows and files are.
        settings: how.
        day: the day.
        measure: gives a shard's recall, of each once. One that is below the floor is built anew, and one that was new
            is built once more: threads insert in another order each time, and rarely a graph comes out torn.
        log: told what is done, and warned of files that cannot be used.
        on_progress: as `hnsw.build`.
    """
    ids, pins = corpus_ids(warehouse, day), pin_vectors(warehouse, day)
    vectors = pins.select(ids)
    if len(ids) <= settings.index.exact_up_to:
        log.info(f"{len(ids):,} pins are searched exactly: index.exact_up_to is {settings.index.exact_up_to:,}")
        index = ExactIndex(ids, vectors[:])
        yield MadeIndex(index, {**_described(0, index), **_NO_FILE}, measure(index))
        return
    parameters, of = parameters_of(settings), settings.index.shards
    for number, own in enumerate(split(ids, vectors, of)):
        shard = _Shard(day, number, of, *own, pins, parameters)
        yield _made_shard(warehouse, settings, shard, measure, log, on_progress)


def _described(number: int, index: CorpusIndex) -> dict[str, object]:
    return {
        "shard": number,
        "pins": len(index.ids),
        "dimensions": index.vectors.shape[1],
        "metric": hnsw.METRIC,
    }


def _made_shard(
    warehouse: Warehouse,
    settings: Settings,
    shard: _Shard,
    measure: Callable[[CorpusIndex], float | None],
    log: logging.Logger,
    on_progress: hnsw.Progress,
) -> MadeIndex:
    def is_below_floor(recall: float | None, which: str) -> bool:
        if is_below := recall is not None and recall < settings.index.recall_floor:
            log.warning(
                f"the recall of {shard.name.replace('the index', f'the {which} index')} is {recall:.3f}, below "
                "index.recall_floor; it is built anew"
            )
        return is_below

    def made(index: HnswIndex, of_file: dict[str, object], recall: float | None) -> MadeIndex:
        of_shard = {"method": "hnsw", "fingerprint": shard.fingerprint, **asdict(shard.parameters)}
        return MadeIndex(index, {**_described(shard.number, index), **of_shard, **of_file}, recall)

    kept = _kept(warehouse, shard, log)
    if kept and not is_below_floor(recall := measure(kept[0]), "kept"):
        return made(*kept, recall)
    started = time.perf_counter()
    grown = None if kept else _grown(warehouse, shard, log)
    if grown and not is_below_floor(recall := measure(grown[0]), "grown"):
        index, changes = grown
    else:
        index, changes = shard.build(on_progress), 0
        if is_below_floor(recall := measure(index), "new"):
            again = shard.build(on_progress)
            index, recall = max((index, recall), (again, measure(again)), key=lambda made: made[1])
    path = Path(f"index/dt={shard.day}/hnsw-{uuid4().hex[:16]}.usearch")
    file = warehouse.data_folder / path
    hnsw.save(index, file)
    of_file = {
        "path": str(path),
        "sha256": hnsw.checksum(file),
        "bytes": file.stat().st_size,
        "changes_since_build": changes,
        "build_seconds": time.perf_counter() - started,
    }
    return made(index, of_file, recall)


_NO_FILE = {
    "method": "exact",
    "dtype": "f32",
    "build_seconds": 0.0,
    **dict.fromkeys(("fingerprint", "connectivity", "expansion_add", "expansion_search")),
    **dict.fromkeys(("path", "sha256", "bytes", "changes_since_build")),
}


def _kept(warehouse: Warehouse, shard: _Shard, log: logging.Logger) -> tuple[HnswIndex, dict[str, object]] | None:
    """The index of an earlier run of the day and what its row says of the file; None where there is none to keep."""
    own = _row(warehouse, "dt = $day", shard)
    if own is None or own["fingerprint"] != shard.fingerprint or not _built_alike(own, shard.parameters):
        return None
    try:
        index = shard.open_file(warehouse.data_folder / own["path"], own["sha256"])
    except IndexFileError as error:
        log.warning(f"{error}; {shard.name} is built again")
        return None
    of_file = {name: own[name] for name in ("path", "sha256", "bytes", "changes_since_build")}
    return index, of_file | {"build_seconds": 0.0}


def _grown(warehouse: Warehouse, shard: _Shard, log: logging.Logger) -> tuple[HnswIndex, int] | None:
    """The shard of the latest earlier day with what changed since, and all changes since it was built.

    None where there is no such index, or where a new one is the better choice.
    """
    earlier = _row(warehouse, "dt < $day", shard)
    if earlier is None or not _built_alike(earlier, shard.parameters):
        return None
    ids, pins = shard.ids, shard.known
    held_ids = corpus_ids(warehouse, earlier["dt"])
    held_ids = held_ids[shard_of(held_ids, shard.of) == shard.number]
    leaving = np.setdiff1d(held_ids, ids, assume_unique=True)
    stays = np.isin(ids, held_ids, assume_unique=True)
    changes = earlier["changes_since_build"] + len(leaving) + int(np.count_nonzero(~stays))
    if changes > _CHANGES_SHARE * len(ids):
        log.info(f"{changes:,} of {len(ids):,} pins came or went since the last build: {shard.name} is built anew")
        return None
    # A pin keeps its vector, but an old day may have been corrected and materialised again.
    held_known = held_ids[np.isin(held_ids, pins.ids, assume_unique=True)]
    if fingerprint(pins.digests_of(held_known)) != earlier["fingerprint"]:
        log.info(f"pins of the index of {earlier['dt']} have other vectors now: {shard.name} is built anew")
        return None
    try:
        file = hnsw.open_file(
            warehouse.data_folder / earlier["path"],
            earlier["sha256"],
            held_ids,
            pins.file.dimensions,
            shard.parameters,
            to_grow=True,
        )
    except IndexFileError as error:
        log.warning(f"{error}; {shard.name} is built anew")
        return None
    log.info(f"{shard.name} of {earlier['dt']} is grown: {len(leaving):,} pins leave, {(~stays).sum():,} are added")
    return hnsw.grow(file, ids, shard.vectors, shard.parameters), changes


def _row(warehouse: Warehouse, which: str, shard: _Shard) -> dict | None:
    """The row of a shard that has a file, of a day or of the latest of those before it; of as many shards as now."""
    query = f"""
        FROM retrieval.hnsw_index WHERE {which}
        QUALIFY shard = $shard AND path IS NOT NULL AND count(*) OVER (PARTITION BY dt) = $of
        ORDER BY dt DESC LIMIT 1
    """
    rows = warehouse.read(query, {"day": shard.day, "shard": shard.number, "of": shard.of}).to_dicts()
    return rows[0] if rows else None


def _built_alike(row: dict, parameters: HnswParameters) -> bool:
    """Whether an index was built as the settings say now; how widely it is searched does not matter."""
    return all(row[name] == getattr(parameters, name) for name in _PARAMETERS if name != "expansion_search")


def open_corpus_index(warehouse: Warehouse, day: datetime.date, log: logging.Logger) -> CorpusIndex:
    """What ``retrieval.hnsw_index`` of a day describes, opened for searching.

    A file that is missing or damaged is built again in memory, with a warning: that takes its time, but gives no wrong
    answer.

    Raises:
        LookupError: there is no such row.
    """
    ids, pins = corpus_ids(warehouse, day), pin_vectors(warehouse, day)
    vectors = pins.select(ids)
    shards = [index for index, _ in _opened_shards(warehouse, day, ids, pins, log)]
    return put_together(shards, ids, vectors) if shards else ExactIndex(ids, vectors[:])


def describe_corpus_index(
    warehouse: Warehouse, day: datetime.date, folder: Path, log: logging.Logger
) -> dict[str, object]:
    """The same for `open_index` and `open_shard` of `ann.index_files`, in whichever process: verified here and now.

    Args:
        warehouse: where rows and files are.
        day: the day.
        folder: exists, on a disk that workers share, for as long as the index is used; gets a file of its pins, and
            the shards that had to be built again.
        log: as `open_corpus_index`.

    Returns:
        As of `IndexFiles.parameters`, JSON-able.

    Raises:
        LookupError: as `open_corpus_index`.
    """
    ids, pins = corpus_ids(warehouse, day), pin_vectors(warehouse, day)
    selected = pins.select(ids)
    write_pins(folder / "index_pins.npy", ids, selected.rows)
    paths, expansion_search = [], 0
    for number, (index, path) in enumerate(_opened_shards(warehouse, day, ids, pins, log)):
        if path is None:
            path = folder / f"shard-{number}.usearch"
            hnsw.save(index, path)
        paths.append(path)
        expansion_search = index.expansion_search
    return IndexFiles(pins.file, folder / "index_pins.npy", tuple(paths), expansion_search).parameters


def _opened_shards(
    warehouse: Warehouse, day: datetime.date, ids: NDArray[np.int64], pins: PinVectors, log: logging.Logger
) -> Iterator[tuple[HnswIndex, Path | None]]:
    """The shards of a day, verified, and their files; None where a file cannot be used and the shard was built again.

    None at all where the day is searched exactly.
    """
    rows = warehouse.read("FROM retrieval.hnsw_index WHERE dt = $day ORDER BY shard", {"day": day}).to_dicts()
    if not rows:
        raise LookupError(f"retrieval.hnsw_index has no partition of {day}: materialise it first")
    if rows[0]["method"] == "exact":
        return
    for row, own in zip(rows, split(ids, pins.select(ids), len(rows)), strict=True):
        shard = _Shard(day, row["shard"], len(rows), *own, pins, HnswParameters.of(row))
        try:
            if row["path"] is None:
                raise IndexFileError(f"the index file of {day} was deleted, being older than retention.index_days")
            if row["fingerprint"] != shard.fingerprint:
                raise IndexFileError(f"corpus.pins of {day} is not what the index file was made of any more")
            path = warehouse.data_folder / row["path"]
            opened = shard.open_file(path, row["sha256"])
        except IndexFileError as error:
            log.warning(
                f"{error}; it is built again for this run alone. Materialise retrieval.hnsw_index of {day} for a new "
                "file."
            )
            opened, path = shard.build(), None
        yield opened, path


def measure_recall(index: CorpusIndex, queries: NDArray[np.float32], depths: NDArray[np.int64]) -> float | None:
    """Mean over queries of the share of the true neighbours that are found; None where there is nothing to find.

    Args:
        index: of m pins.
        queries: (q, n) unit vectors.
        depths: (q,) how many neighbours are asked for.
    """
    if len(queries) == 0 or len(index.ids) == 0:
        return None
    total = 0.0
    for depth in np.unique(depths):
        asked = queries[depths == depth]
        exact, _ = exact_search(asked, index.vectors, int(depth))
        found, _ = index.search(asked, int(depth))
        total += len(asked) * recall(found, index.ids[exact])
    return total / len(queries)


def forget_old_files(connection: duckdb.DuckDBPyConnection, before: datetime.date) -> int:
    """Take the files of days before one out of their rows, so that nothing that is published next names them.

    Returns:
        The rows that named one.
    """
    query = """
        UPDATE retrieval.hnsw_index SET path = NULL, sha256 = NULL, bytes = NULL WHERE path IS NOT NULL AND dt < ?
    """
    return connection.execute(query, [before]).fetchall()[0][0]


def delete_unnamed_files(warehouse: Warehouse, settings: Settings) -> dict[Path, int]:
    """Delete the index files that no row names, published or not: of old days, and of runs that were killed.

    Returns:
        Their sizes in bytes.
    """
    return delete_unnamed(warehouse, "retrieval.hnsw_index", "index")


def restriction(warehouse: Warehouse, day: datetime.date, condition: str) -> pl.Series | None:
    """The corpus pins of a day, ascending, for which the setting retrieval.condition holds; None where it is empty.

    Raises:
        ValueError: the condition is not SQL over the columns of staging.pins.
    """
    if not condition:
        return None
    query = f"""
        SELECT pin_id FROM staging.pins WHERE dt <= $day AND ({condition})
        INTERSECT SELECT pin_id FROM corpus.pins WHERE dt = $day ORDER BY pin_id
    """
    try:
        return warehouse.read(query, {"day": day})["pin_id"]
    except duckdb.Error as error:
        raise ValueError(f"the setting retrieval.condition ({condition!r}) cannot be used: {error}") from error
