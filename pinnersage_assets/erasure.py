"""Erasing users: from every table, file and store of a data directory, with a search before and after as the proof.

What belongs here: where users are. What does not: vectors, indexes and files of pins, which nobody's rows enter; and
tables that count users together, which are stale afterwards, as after any other change of landing files.

Nobody else may write meanwhile: no run, and no consumer where the store is files of this machine.
"""

import functools
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.exceptions import PolarsError

from pinnersage_assets.files import sync, written_atomically
from pinnersage_assets.graph_files import GraphFileError, map_graph
from pinnersage_assets.serving.events import is_about
from pinnersage_assets.serving.store import Refused, Store, open_store
from pinnersage_assets.serving.stream import Stream, open_stream
from pinnersage_assets.settings import ServingSettings
from pinnersage_assets.sources.dictionaries import dictionary_path
from pinnersage_assets.sources.event_files import read_table
from pinnersage_assets.warehouse.database import Warehouse, put_in_place
from pinnersage_assets.warehouse.ledger import LEDGER
from pinnersage_assets.warehouse.publishing import UnreadableCopyError


class ErasureError(ValueError):
    """Something cannot be searched, or is still there; says where, and what to do."""


@dataclass(frozen=True)
class Erased:
    """What was found in a place, in rows, lines, records or files, and what was left of it."""

    place: str
    found: int
    left: int


def erase_users(warehouse: Warehouse, serving: ServingSettings, user_ids: Collection[int]) -> list[Erased]:
    """Erase users, and search for them again.

    Args:
        warehouse: of the data directory.
        serving: where its store is.
        user_ids: the users.

    Returns:
        A row a place. Called again, it goes on where it was interrupted.

    Raises:
        ErasureError: a file cannot be searched, and nothing has been changed; or something is left.
        StoreError: the store cannot be reached.
        WarehouseLockedError: somebody has the database open.
        UnreadableCopyError: somebody has opened the published copy to write, for example.
    """
    data, wanted = warehouse.data_folder, frozenset(user_ids)
    folder = data / "serving"
    with closing(open_store(serving.store, folder)) as store:
        stream = open_stream(serving, store, folder)
        places = [
            _landing_files(data / "landing", wanted),
            _dictionary(data / "landing", wanted),
            _events(stream, store, wanted),
            _refused_files(folder / "refused", wanted),
            # Before the databases, which say whose boards are whose.
            _graph_files(data / "graph", warehouse, wanted),
            # Before the databases, which say what snapshots hold.
            _Place(f"store ({store.name})", lambda: store.search(wanted), lambda: store.erase(wanted)),
            _warehouse(warehouse, store, wanted),
            _published_copy(Path(warehouse.published), store, wanted),
            _report_pages(data / "reports", wanted),
            _scratch(Path(warehouse.database).parent),
        ]
        # All of them before anything goes: what cannot be searched is said first.
        found = [place.search() for place in places]
        for place, there in zip(places, found, strict=True):
            if there:
                place.erase()
        erased = [Erased(place.name, there, place.search()) for place, there in zip(places, found, strict=True)]
    left = [f"{place.place}: {place.left}" for place in erased if place.left]
    if left:
        raise ErasureError(f"still there ({'; '.join(left)}): does something write? End it, and erase again")
    return erased


@dataclass(frozen=True)
class _Place:
    """Somewhere users are."""

    name: str
    search: Callable[[], int]
    erase: Callable[[], object]


def _landing_files(folder: Path, user_ids: Collection[int]) -> _Place:
    def rows() -> Iterator[tuple[Path, pl.DataFrame, pl.Series]]:
        # Hidden files too, which are not read as data.
        for path in sorted(
            file for table in ("actions", "impressions", "board_pins") for file in folder.glob(f"{table}/**/*.parquet")
        ):
            try:
                frame = pl.read_parquet(path, hive_partitioning=False)
            except (PolarsError, OSError) as error:
                raise ErasureError(f"{path} cannot be searched: {error}. Mend or delete it, and erase again") from error
            if "user_id" in frame.columns:
                theirs = frame["user_id"].cast(pl.Int64, strict=False).is_in(list(user_ids)).fill_null(False)
                if theirs.any():
                    yield path, frame, theirs

    def erase() -> None:
        for path, frame, theirs in rows():
            # Where a link leads, not in its place.
            with written_atomically(path.resolve()) as hidden:
                frame.filter(~theirs).write_parquet(hidden)

    return _Place("landing files, rows", lambda: sum(int(theirs.sum()) for _, _, theirs in rows()), erase)


def _dictionary(folder: Path, user_ids: Collection[int]) -> _Place:
    path = dictionary_path(folder, "users")
    theirs = pl.col("id").is_in(list(user_ids)) & pl.col("original").is_not_null()

    def search() -> int:
        return read_table(path).filter(theirs).height if path.exists() else 0

    def erase() -> None:
        # The number stays taken: nobody else may get it.
        original = pl.when(~theirs).then(pl.col("original"))
        with written_atomically(path) as hidden:
            read_table(path).with_columns(original).write_parquet(hidden)

    return _Place("dictionary of users, names", search, erase)


def _events(stream: Stream, store: Store, user_ids: Collection[int]) -> _Place:
    def erase() -> None:
        store.commit([], stream.erase(user_ids, store.position()))

    return _Place("events as they came, lines", lambda: stream.search(user_ids), erase)


def _refused_files(folder: Path, user_ids: Collection[int]) -> _Place:
    def lines() -> Iterator[tuple[Path, list[bytes], list[bytes]]]:
        for path in sorted(folder.glob("**/*.jsonl")):
            all_lines = path.read_bytes().splitlines(keepends=True)
            others = [line for line in all_lines if not _is_refused_of(line, user_ids)]
            if len(others) < len(all_lines):
                yield path, all_lines, others

    def erase() -> None:
        for path, _, others in lines():
            with written_atomically(path) as hidden:
                hidden.write_bytes(b"".join(others))

    return _Place("refused events, lines", lambda: sum(len(all_) - len(others) for _, all_, others in lines()), erase)


def _is_refused_of(line: bytes, user_ids: Collection[int]) -> bool:
    try:
        return is_about(Refused.from_json(line).data, user_ids)
    except (ValueError, TypeError):
        return is_about(line, user_ids)


_BOARDS = """
    SELECT board_id FROM staging.board_pins WHERE list_contains($users, user_id)
    UNION SELECT board_id FROM graph.edges WHERE list_contains($users, user_id)
"""


def _graph_files(folder: Path, warehouse: Warehouse, user_ids: Collection[int]) -> _Place:
    @functools.cache
    def boards() -> NDArray[np.int64]:
        # Asked for once, before the rows go that say so.
        return warehouse.read(_BOARDS, {"users": list(user_ids)})["board_id"].to_numpy()

    def holds_theirs(path: Path) -> bool:
        try:
            return bool(np.isin(boards(), map_graph(path).board_ids).any())
        except GraphFileError:
            # Nobody walks on it, and nobody knows what is in it.
            return True

    def files() -> list[Path]:
        # Hidden ones too, which killed runs left.
        return [path for path in sorted(folder.glob("dt=*/*")) if holds_theirs(path)]

    def erase() -> None:
        for path in files():
            path.unlink()

    return _Place("files of the graph", lambda: len(files()), erase)


# --- The database and its copy


_TABLES = """
    SELECT schema_name || '.' || table_name AS table_name,
        max(column_name) FILTER (column_name = 'user_id') AS user_column,
        max(column_name) FILTER (data_type = 'JSON') AS json_column
    FROM duckdb_columns() WHERE NOT internal AND database_name = $database GROUP BY ALL ORDER BY ALL
"""


def _conditions(connection: duckdb.DuckDBPyConnection, database: str) -> dict[str, str]:
    """Of every table which rows are about users; nothing that can be so is ``false``."""
    found = {}
    for table, user_column, json_column in connection.execute(_TABLES, {"database": database}).fetchall():
        ways = ["list_contains($users, user_id)"] if user_column else []
        if json_column:
            # Rows as they came, which staging refused: an id may be anything there.
            ways.append(f"list_contains($users, try_cast(\"{json_column}\"->>'user_id' AS BIGINT))")
        found[table] = f"coalesce({' OR '.join(ways) or 'false'}, false)"
    return found


def _count(connection: duckdb.DuckDBPyConnection, database: str, user_ids: Collection[int]) -> int:
    return sum(
        connection.execute(
            f"SELECT count(*) FROM {database}.{table} WHERE {theirs}", _bind(theirs, user_ids)
        ).fetchall()[0][0]
        for table, theirs in _conditions(connection, database).items()
    )


def _bind(condition: str, user_ids: Collection[int]) -> dict[str, list[int]]:
    return {"users": list(user_ids)} if "$users" in condition else {}


def _write_without(
    connection: duckdb.DuckDBPyConnection, database: str, target: Path, store: Store, user_ids: Collection[int]
) -> None:
    """Write a database anew, so that what is left out stands in no free block of the file, and replace it.

    What else its rows say of users is set right: how many rows partitions have, and what snapshots hold.
    """
    hidden = target.with_name(f".{target.name}.tmp")
    hidden.unlink(missing_ok=True)
    quoted = str(hidden).replace("'", "''")
    connection.execute(f"ATTACH '{quoted}' AS without_users")
    try:
        connection.execute(f"COPY FROM DATABASE {database} TO without_users (SCHEMA)")
        conditions = _conditions(connection, database)
        for table, theirs in conditions.items():
            connection.execute(
                f"INSERT INTO without_users.{table} SELECT * FROM {database}.{table} WHERE NOT {theirs}",
                _bind(theirs, user_ids),
            )
        for table, theirs in conditions.items():
            _correct_ledger(connection, f"{database}.{table}", table, theirs, _bind(theirs, user_ids))
        _correct_snapshots(connection, store)
        connection.execute("DETACH without_users")
        sync(hidden)
    except BaseException:
        connection.execute("DETACH DATABASE IF EXISTS without_users")
        hidden.unlink(missing_ok=True)
        raise
    hidden.chmod(target.stat().st_mode)
    put_in_place(hidden, target)


def _correct_ledger(
    connection: duckdb.DuckDBPyConnection, source: str, table: str, theirs: str, bound: dict[str, list[int]]
) -> None:
    if bound:
        gone = connection.execute(f"SELECT dt, count(*) FROM {source} WHERE {theirs} GROUP BY dt", bound).fetchall()
        for day, rows in gone:
            connection.execute(
                f"UPDATE without_users.{LEDGER} SET rows = rows - ? WHERE table_name = ? AND dt = ?", [rows, table, day]
            )


def _correct_snapshots(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """A service opens a snapshot only if it holds what its row says."""
    for version in store.versions():
        content = store.describe(version)
        connection.execute(
            "UPDATE without_users.serving.snapshot SET users = ?, clusters = ?, users_sha256 = ? WHERE version = ?",
            [content.users, content.clusters, content.sha256, version],
        )


def _warehouse(warehouse: Warehouse, store: Store, user_ids: Collection[int]) -> _Place:
    path = Path(warehouse.database)

    def search() -> int:
        if not path.exists():
            return 0
        with warehouse.get_reader() as connection:
            return _count(connection, _current(connection), user_ids)

    def erase() -> None:
        # The lock is held until the new file has the name.
        with warehouse.get_connection() as connection:
            # Or letting go of the old file would remove the log of whoever writes the new one by then.
            connection.execute("FORCE CHECKPOINT")
            _write_without(connection, _current(connection), path, store, user_ids)

    return _Place("warehouse, rows", search, erase)


def _current(connection: duckdb.DuckDBPyConnection) -> str:
    return connection.execute("SELECT current_database()").fetchall()[0][0]


def _published_copy(path: Path, store: Store, user_ids: Collection[int]) -> _Place:
    def opened() -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(":memory:", config={"python_enable_replacements": False})
        quoted = str(path).replace("'", "''")
        try:
            connection.execute(f"ATTACH '{quoted}' AS published (READ_ONLY)")
        except duckdb.Error as error:
            connection.close()
            raise UnreadableCopyError(
                f"{path} cannot be read: {error}. Close it where it is open to write, and erase again; if it is "
                "damaged, publish anew first (materialise operations.publications)"
            ) from error
        return connection

    def search() -> int:
        if not path.exists():
            return 0
        with opened() as connection:
            return _count(connection, "published", user_ids)

    def erase() -> None:
        with opened() as connection:
            _write_without(connection, "published", path, store, user_ids)

    return _Place("published copy, rows", search, erase)


# --- Files that are made from tables


def _report_pages(folder: Path, user_ids: Collection[int]) -> _Place:
    names = re.compile(rf">User (?:{'|'.join(map(str, user_ids))})<")

    def pages() -> list[Path]:
        return [page for page in sorted(folder.glob("**/*.html")) if names.search(page.read_text(errors="replace"))]

    def erase() -> None:
        for page in pages():
            page.unlink()

    return _Place("pages of reports", lambda: len(pages()), erase)


def _scratch(folder: Path) -> _Place:
    """What runs leave that were killed: rows of users on their way, which nobody reads any more."""

    def leftovers() -> list[Path]:
        return [*folder.glob("scratch/*"), *folder.glob("*.tmp/*")]

    def erase() -> None:
        for path in leftovers():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return _Place("what killed runs left, files and folders", lambda: len(leftovers()), erase)
