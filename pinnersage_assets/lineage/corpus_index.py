"""The corpus of a day as something to search: exactly where it is small, else through an HNSW file.

The row of ``retrieval.hnsw_index`` says which, and describes the file. What belongs here: which file is kept, grown,
built or deleted. How an index works is the business of `ann`.
"""

import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.ann import hnsw
from pinnersage_assets.ann.exact import ExactIndex, exact_search, recall
from pinnersage_assets.ann.fingerprints import fingerprint, pin_digests
from pinnersage_assets.ann.hnsw import HnswIndex, HnswParameters, IndexFileError
from pinnersage_assets.ann.restricted import CorpusIndex
from pinnersage_assets.lineage.queries import CORPUS_VECTORS, pin_vectors
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.publishing import UNNAMED_FOR_SECONDS, named

# An index grows while the pins that came and went since it was built are at most this share of it: each costs it a
# little recall and speed, and a build puts like pins next to each other again.
_CHANGES_SHARE = 0.25

_PARAMETERS = ("connectivity", "expansion_add", "expansion_search", "dtype")


@dataclass(frozen=True)
class MadeIndex:
    """An index and how it came about."""

    index: CorpusIndex
    columns: dict[str, object]
    """The columns of the row that say what the index is."""
    recall: float | None


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
) -> MadeIndex:
    """The index of a day's corpus: that of an earlier run, or yesterday's with what changed, or a new one.

    Args:
        warehouse: where corpus, rows and files are.
        settings: how.
        day: the day.
        measure: gives an index's recall, of each index once. One that is below the floor is built anew, and one that
            was new is built once more: threads insert in another order each time, and rarely a graph comes out torn.
        log: told what is done, and warned of files that cannot be used.
        on_progress: as `hnsw.build`.
    """
    ids, vectors = warehouse.read_vectors(CORPUS_VECTORS, {"day": day})
    described = {"pins": len(ids), "dimensions": vectors.shape[1], "metric": hnsw.METRIC}
    if len(ids) <= settings.index.exact_up_to:
        log.info(f"{len(ids):,} pins are searched exactly: index.exact_up_to is {settings.index.exact_up_to:,}")
        index = ExactIndex(ids, vectors)
        return MadeIndex(index, {**described, **_NO_FILE}, measure(index))
    parameters = parameters_of(settings)
    digests = pin_digests(ids, vectors)
    described |= {"method": "hnsw", "fingerprint": fingerprint(digests), **asdict(parameters)}

    def is_below_floor(recall: float | None, which: str) -> bool:
        if is_below := recall is not None and recall < settings.index.recall_floor:
            log.warning(f"the recall of the {which} index is {recall:.3f}, below index.recall_floor; it is built anew")
        return is_below

    if kept := _kept(warehouse, day, ids, vectors, described["fingerprint"], parameters, log):
        index, of_file = kept
        if not is_below_floor(recall := measure(index), "kept"):
            return MadeIndex(index, {**described, **of_file}, recall)
    started = time.perf_counter()
    grown = None if kept else _grown(warehouse, day, ids, vectors, digests, parameters, log)
    if grown and not is_below_floor(recall := measure(grown[0]), "grown"):
        index, changes = grown
    else:
        index, changes = hnsw.build(ids, vectors, parameters, on_progress), 0
        if is_below_floor(recall := measure(index), "new"):
            again = hnsw.build(ids, vectors, parameters, on_progress)
            index, recall = max((index, recall), (again, measure(again)), key=lambda made: made[1])
    path = Path(f"index/dt={day}/hnsw-{uuid4().hex[:16]}.usearch")
    file = warehouse.data_folder / path
    hnsw.save(index, file)
    made = {
        "path": str(path),
        "sha256": hnsw.checksum(file),
        "bytes": file.stat().st_size,
        "changes_since_build": changes,
        "build_seconds": time.perf_counter() - started,
    }
    return MadeIndex(index, {**described, **made}, recall)


_NO_FILE = {
    "method": "exact",
    "dtype": "f32",
    "build_seconds": 0.0,
    **dict.fromkeys(("fingerprint", "connectivity", "expansion_add", "expansion_search")),
    **dict.fromkeys(("path", "sha256", "bytes", "changes_since_build")),
}


def _kept(
    warehouse: Warehouse,
    day: datetime.date,
    ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    of_pins: int,
    parameters: HnswParameters,
    log: logging.Logger,
) -> tuple[HnswIndex, dict[str, object]] | None:
    """The index of an earlier run of the day and what its row says of the file; None where there is none to keep."""
    own = _row(warehouse, "dt = $day", day)
    if own is None or own["fingerprint"] != of_pins or not _built_alike(own, parameters):
        return None
    try:
        file = hnsw.open_file(warehouse.data_folder / own["path"], own["sha256"], ids, vectors.shape[1], parameters)
    except IndexFileError as error:
        log.warning(f"{error}; the index is built again")
        return None
    of_file = {name: own[name] for name in ("path", "sha256", "bytes", "changes_since_build")}
    return HnswIndex(file, ids, vectors, parameters.expansion_search), of_file | {"build_seconds": 0.0}


def _grown(
    warehouse: Warehouse,
    day: datetime.date,
    ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    digests: NDArray[np.uint64],
    parameters: HnswParameters,
    log: logging.Logger,
) -> tuple[HnswIndex, int] | None:
    """The index of the latest earlier day with what changed since, and all changes since it was built.

    None where there is no such index, or where a new one is the better choice.
    """
    earlier = _row(warehouse, "dt < $day", day)
    if earlier is None or not _built_alike(earlier, parameters):
        return None
    held = warehouse.read("SELECT pin_id FROM corpus.pins WHERE dt = $dt ORDER BY pin_id", {"dt": earlier["dt"]})
    held_ids = held["pin_id"].to_numpy()
    leaving = np.setdiff1d(held_ids, ids, assume_unique=True)
    stays = np.isin(ids, held_ids, assume_unique=True)
    changes = earlier["changes_since_build"] + len(leaving) + int(np.count_nonzero(~stays))
    if changes > _CHANGES_SHARE * len(ids):
        log.info(f"{changes:,} of {len(ids):,} pins came or went since the last build: the index is built anew")
        return None
    gone = pin_vectors(warehouse, "SELECT unnest($pins)", {"day": day, "pins": leaving.tolist()})
    # A pin keeps its vector, but an old day may have been corrected and materialised again.
    if (fingerprint(digests[stays]) + fingerprint(pin_digests(*gone))) % 2**64 != earlier["fingerprint"]:
        log.info(f"pins of the index of {earlier['dt']} have other vectors now: the index is built anew")
        return None
    try:
        file = hnsw.open_file(
            warehouse.data_folder / earlier["path"],
            earlier["sha256"],
            held_ids,
            vectors.shape[1],
            parameters,
            to_grow=True,
        )
    except IndexFileError as error:
        log.warning(f"{error}; the index is built anew")
        return None
    log.info(f"the index of {earlier['dt']} is grown: {len(leaving):,} pins leave, {(~stays).sum():,} are added")
    return hnsw.grow(file, ids, vectors, parameters), changes


def _row(warehouse: Warehouse, which: str, day: datetime.date) -> dict | None:
    """The latest row of a day, or of those before it, that has a file."""
    query = f"FROM retrieval.hnsw_index WHERE {which} AND path IS NOT NULL ORDER BY dt DESC LIMIT 1"
    rows = warehouse.read(query, {"day": day}).to_dicts()
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
    ids, vectors = warehouse.read_vectors(CORPUS_VECTORS, {"day": day})
    rows = warehouse.read("FROM retrieval.hnsw_index WHERE dt = $day", {"day": day}).to_dicts()
    if not rows:
        raise LookupError(f"retrieval.hnsw_index has no partition of {day}: materialise it first")
    [row] = rows
    if row["method"] == "exact":
        return ExactIndex(ids, vectors)
    parameters = HnswParameters.of(row)
    try:
        if row["path"] is None:
            raise IndexFileError(f"the index file of {day} was deleted, being older than retention.index_days")
        if row["fingerprint"] != fingerprint(pin_digests(ids, vectors)):
            raise IndexFileError(f"corpus.pins of {day} is not what the index file was made of any more")
        path = warehouse.data_folder / row["path"]
        file = hnsw.open_file(path, row["sha256"], ids, vectors.shape[1], parameters)
    except IndexFileError as error:
        log.warning(
            f"{error}; it is built again for this run alone. Materialise retrieval.hnsw_index of {day} for a new file."
        )
        return hnsw.build(ids, vectors, parameters)
    return HnswIndex(file, ids, vectors, parameters.expansion_search)


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
    kept = named(warehouse, "retrieval.hnsw_index", "path")
    deleted = {}
    for file in (warehouse.data_folder / "index").glob("dt=*/*"):
        status = file.stat()
        unnamed = str(file.relative_to(warehouse.data_folder)) not in kept
        if unnamed and status.st_mtime < time.time() - UNNAMED_FOR_SECONDS:
            file.unlink(missing_ok=True)
            deleted[file] = status.st_size
    return deleted


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
