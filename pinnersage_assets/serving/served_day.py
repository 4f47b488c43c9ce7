"""Which day's files answers are made from: those that the newest published row names.

A published copy appears by a rename, and so does everything that it names: when the copy changes, the new day is
opened beside the old one and takes over between two requests. What users did since the end of the new day is read from
the store at every request, so there is nothing to replay.
"""

import datetime
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from pinnersage_assets.ann import hnsw
from pinnersage_assets.ann.exact import ExactIndex
from pinnersage_assets.ann.hnsw import HnswIndex, HnswParameters, IndexFileError
from pinnersage_assets.ann.restricted import CorpusIndex
from pinnersage_assets.ann.shards import put_together, split
from pinnersage_assets.graph_files import GraphFileError, open_graph
from pinnersage_assets.serving.graph_walks import GraphWalks, NoGraphError
from pinnersage_assets.serving.pin_files import PinFiles, PinFilesError, open_pin_files
from pinnersage_assets.serving.recommender import Recommender
from pinnersage_assets.serving.records import CorruptRecordError
from pinnersage_assets.serving.store import Store, StoreError
from pinnersage_assets.settings import Settings

# Where the folders of pins are, under the data directory.
PINS_FOLDER = Path("serving/pins")

_LATEST = """
    SELECT dt, version, users, clusters, users_sha256, pins_sha256, settings FROM published.serving.snapshot
    WHERE version IS NOT NULL AND dt IN (SELECT dt FROM published.retrieval.hnsw_index) ORDER BY dt DESC LIMIT 1
"""
_SHARDS = "FROM published.retrieval.hnsw_index WHERE dt = $day ORDER BY shard"
_GRAPH = "SELECT path, sha256 FROM published.graph.snapshot WHERE dt = $day AND graph = 'pruned'"
_REPEATS = """
    SELECT pin_id, canonical_pin_id FROM published.corpus.near_duplicates WHERE dt <= $day ORDER BY pin_id
"""
_DETAILS = """
    SELECT pin_id, title, category FROM published.staging.pins
    WHERE dt <= $day AND pin_id IN (SELECT unnest($pins))
"""
_SECONDS_BETWEEN_LOOKS, _SECONDS_AFTER_PROBLEM = 1.0, 10.0

_log = logging.getLogger(__name__)


class NothingToServeError(RuntimeError):
    """There is no day that answers could be made from; says what to do."""


@dataclass(frozen=True)
class ServedDay:
    """A day, opened."""

    day: datetime.date
    version: str
    users: int
    clusters: int
    pins: int
    graph_sha256: str | None
    """Of the graph that walks are over; None where there is none."""
    recommender: Recommender
    details: Callable[[list[int]], dict[int, tuple[str | None, str | None]]]
    """Title and category of pins."""


def open_served_day(published: Path, data_folder: Path, settings: Settings, store: Store) -> ServedDay:
    """Open what the newest published row names, once all of it has been verified.

    Args:
        published: the copy of the database that people query.
        data_folder: the data directory.
        settings: the service's own; all but their section ``serving`` come from the row.
        store: has the users.

    Raises:
        NothingToServeError: nothing has been published, or no snapshot; or the store has not what the row says.
        PinFilesError: files of the day are missing or damaged.
        StoreError: the store cannot be reached, or does not have the users.
        CorruptRecordError: what it has cannot be read.
    """
    if not published.exists():
        raise NothingToServeError(f"{published} does not exist yet: run `make demo` or `make backfill` first")
    # Attached, not connected to: a second connection to the same path would show the file that the first one opened.
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": False})
    path = str(published).replace("'", "''")
    connection.execute(f"ATTACH '{path}' AS published (READ_ONLY)")
    try:
        found = connection.sql(_LATEST).pl().to_dicts()
    except duckdb.CatalogException as error:
        raise NothingToServeError(f"{published} has no snapshots: materialise the day again ({error})") from error
    if not found:
        raise NothingToServeError(f"{published} has no snapshot: materialise serving.snapshot, and publish")
    [row] = found
    content = store.describe(row["version"])
    said = row["users"], row["clusters"], row["users_sha256"]
    if (content.users, content.clusters, content.sha256) != said:
        raise NothingToServeError(
            f"the store holds {content} under {row['version']}, the row of serving.snapshot says {said}: materialise "
            f"serving.snapshot of {row['dt']} again, and publish"
        )
    pins = open_pin_files(data_folder / PINS_FOLDER / row["version"], row["pins_sha256"])
    in_force = Settings.model_validate_json(row["settings"]).model_copy(update={"serving": settings.serving})
    index = _open_index(connection.sql(_SHARDS, params={"day": row["dt"]}).pl().to_dicts(), pins, data_folder)
    # The last that is opened: nothing fails after it, and so what is missing is said once.
    try:
        walks, graph_sha256 = _open_walks(connection, row["dt"], in_force, pins, data_folder)
    except NoGraphError as error:
        _log.warning("%s. Until then there are no walks, and all other answers", error)
        walks, graph_sha256 = str(error), None
    recommender = Recommender(row["dt"], row["version"], in_force, store, pins, index, walks)

    def details(pin_ids: list[int]) -> dict[int, tuple[str | None, str | None]]:
        # A cursor a request: one connection answers one query at a time.
        with connection.cursor() as cursor:
            rows = cursor.execute(_DETAILS, {"day": row["dt"], "pins": pin_ids}).fetchall()
        return {pin_id: (title, category) for pin_id, title, category in rows}

    counts = row["users"], row["clusters"], len(pins.ids)
    return ServedDay(row["dt"], row["version"], *counts, graph_sha256, recommender, details)


def _open_walks(
    connection: duckdb.DuckDBPyConnection, day: datetime.date, settings: Settings, pins: PinFiles, data_folder: Path
) -> tuple[GraphWalks, str]:
    """Walks over a day's pruned graph, and its checksum.

    Raises:
        NoGraphError: there is no graph, or nothing in it.
    """
    try:
        rows = connection.execute(_GRAPH, {"day": day}).fetchall()
        if not rows:
            raise GraphFileError(f"graph.snapshot has no partition of {day}")
        [(path, sha256)] = rows
        if path is None:
            raise GraphFileError(f"the graph of {day} was deleted, being older than retention.graph_days")
        graph = open_graph(data_folder / path, sha256)
        repeats = connection.sql(_REPEATS, params={"day": day}).pl()
    except (GraphFileError, OSError, duckdb.CatalogException) as error:
        raise NoGraphError(f"{error}; materialise graph.snapshot of {day} again, and publish") from error
    if not graph.n_edges:
        raise NoGraphError(
            f"the graph of {day} has no edges: give board_pins, or set graph.boards to sessions, and materialise "
            "graph.edges and graph.snapshot again"
        )
    ids, firsts = (repeats[name].to_numpy() for name in ("pin_id", "canonical_pin_id"))
    return GraphWalks(graph, pins, ids, firsts, settings.pixie.parameters()), sha256


def _open_index(rows: list[dict], pins: PinFiles, data_folder: Path) -> CorpusIndex:
    """Open the shards of a day, given by their rows in order."""
    ids, vectors = pins.ids[: pins.corpus_size], pins.vectors[: pins.corpus_size]
    if rows[0]["method"] == "exact":
        return ExactIndex(ids, vectors)
    shards = []
    for row, (own_ids, own) in zip(rows, split(ids, vectors, len(rows)), strict=True):
        parameters = HnswParameters.of(row)
        try:
            if row["path"] is None:
                raise IndexFileError(f"the index file of {row['dt']} was deleted")
            file = hnsw.open_file(data_folder / row["path"], row["sha256"], own_ids, own.shape[1], parameters)
        except IndexFileError as error:
            _log.warning("%s; the corpus of %s is searched exactly, which takes longer", error, row["dt"])
            return ExactIndex(ids, vectors)
        shards.append(HnswIndex(file, own_ids, own, parameters.expansion_search))
    return put_together(shards, ids, vectors)


def _content(day: ServedDay) -> tuple[str, str | None]:
    """What answers differ by; a graph can be made again under the same version."""
    return day.version, day.graph_sha256


class Follower:
    """Keeps the newest published day open."""

    def __init__(self, published: Path, data_folder: Path, settings: Settings, store: Store) -> None:
        """Open what there is; afterwards `start` looks for more."""
        self._published, self._open = published, lambda: open_served_day(published, data_folder, settings, store)
        self.store = store
        self.is_embedded = store.name == "lmdb"
        """Whether the store is files of this machine, which answer at once."""
        self._seen: object = self  # nothing that a file could be
        self._current: ServedDay | None = None
        self._problem: str | None = None
        self._looking = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)
        self.look()

    @property
    def current(self) -> ServedDay:
        """The day to answer from.

        Raises:
            NothingToServeError: there is none yet; says why.
        """
        if self._current is None:
            raise NothingToServeError(self._problem or "nothing has been opened yet")
        return self._current

    @property
    def problem(self) -> str | None:
        """Why the newest published day is not the one that is served; None if it is."""
        return self._problem

    def look(self) -> None:
        """Open the published day if it is another than before; if that fails, the old one stays."""
        with self._looking:
            try:
                file = self._published.stat()
                seen = file.st_ino, file.st_mtime_ns, file.st_size
            except FileNotFoundError:
                seen = None
            if seen == self._seen and self._problem is None:
                return
            try:
                opened = self._open()
            except (NothingToServeError, PinFilesError, StoreError, CorruptRecordError, OSError, duckdb.Error) as error:
                if str(error) != self._problem:
                    _log.error("%s", error)
                self._problem = str(error)
                return
            if self._current is None or _content(opened) != _content(self._current):
                _log.info("answers are made from %s (%s) from now on", opened.day, opened.version)
                self._current = opened
            self._seen, self._problem = seen, None

    def start(self) -> None:
        """Look once a second from now on, and less often where something is wrong."""
        self._thread.start()

    def stop(self) -> None:
        """End looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        # To verify files takes its time: those that were damaged a moment ago may wait.
        while not self._stop.wait(_SECONDS_AFTER_PROBLEM if self._problem else _SECONDS_BETWEEN_LOOKS):
            self.look()
