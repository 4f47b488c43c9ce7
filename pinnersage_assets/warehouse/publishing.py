"""The published copy of the warehouse: what people query.

It is a whole file, replaced by a rename, so that a reader sees one state of all tables and never blocks a run. A reader
who has the old file open keeps it until closing.
"""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb

from pinnersage_assets.warehouse.database import Warehouse, put_in_place
from pinnersage_assets.warehouse.ledger import UNCHECKED, has_ledger, unpublishable

_TABLES = "SELECT count(*) FROM duckdb_tables() WHERE NOT temporary AND database_name = current_database()"
# How many partitions an error message lists.
_LISTED = 10
# Copied at a time.
_COPY_BYTES = 16_000_000


# What no row names may be about to get its row; no run takes this long to write it.
UNNAMED_FOR_SECONDS = 24 * 3600


class NotPublishableError(RuntimeError):
    """A partition has failed its checks, or they have not run."""


class UnreadableCopyError(RuntimeError):
    """The published copy cannot be read: by mistake somebody has opened it to write, for example."""


@dataclass(frozen=True)
class Publication:
    """What was published."""

    tables: int
    bytes: int
    seconds: float


def publish(warehouse: Warehouse, ledger_of: str) -> Publication:
    """Replace the published copy by the warehouse as it is now.

    Args:
        warehouse: the file that runs write, and the place of the copy.
        ledger_of: the table that the caller writes itself, whose checks therefore cannot have run yet.

    Raises:
        FileNotFoundError: nothing has been written yet.
        NotPublishableError: names the partitions that are not good. The old copy stays.
    """
    started = time.perf_counter()
    target = Path(warehouse.published)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Only one process at a time gets here with the lock, so one name does, and a killed run's file is replaced.
    temporary = target.with_name(f".{target.name}.tmp")
    # The connection is held until the copy has its name: nobody else can write or publish meanwhile. The file itself is
    # opened before it and closed after it, because closing any descriptor of a file drops the process's locks on it.
    with warehouse.existing_file().open("rb") as source, warehouse.get_connection() as connection:
        if not has_ledger(connection):
            raise NotPublishableError(f"not published: nothing has been written to {warehouse.database} yet")
        bad = unpublishable(connection, except_table=ledger_of)
        if bad:
            listed = ", ".join(f"{p.table} {p.day} ({p.status})" for p in bad[:_LISTED])
            more = f" and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
            others = (
                " If another run is making these days, let it end: what it has written is checked a moment later."
                if any(p.status == UNCHECKED for p in bad)
                else ""
            )
            raise NotPublishableError(
                f"not published: {listed}{more}.{others} Their checks in the UI say what is wrong. Mend it, then "
                f"materialise them again, with `make backfill FROM={bad[0].day} TO={bad[0].day}` if a gap was the "
                f"cause. {target} is as it was."
            )
        tables = connection.execute(_TABLES).fetchall()[0][0]
        connection.execute("FORCE CHECKPOINT")
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as copy:
                shutil.copyfileobj(source, copy, _COPY_BYTES)
                copy.flush()
                os.fsync(copy.fileno())
            temporary.chmod(0o444)
            size = temporary.stat().st_size
            put_in_place(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return Publication(tables, size, time.perf_counter() - started)


def named(warehouse: Warehouse, table: str, column: str) -> set[str]:
    """What rows name, in the warehouse or in the published copy: files that somebody may still open.

    Raises:
        UnreadableCopyError: what the copy names is not known; the next publication replaces it.
    """
    query = f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL"
    names = set(warehouse.read(query)[column])
    if Path(warehouse.published).exists():
        try:
            with duckdb.connect(warehouse.published, read_only=True) as published:
                names |= {name for (name,) in published.execute(query).fetchall()}
        except duckdb.Error as error:
            raise UnreadableCopyError(f"{warehouse.published} cannot be read: {error}") from error
    return names


def delete_unnamed(warehouse: Warehouse, table: str, folder: str) -> dict[Path, int]:
    """Delete the files of a folder that no row names: of old days, and of runs that were killed.

    Args:
        warehouse: of the data directory.
        table: whose column ``path`` names files, relative to the data directory.
        folder: in the data directory, with a folder a day.

    Returns:
        Their sizes in bytes.

    Raises:
        UnreadableCopyError: as `named`.
    """
    kept, deleted = named(warehouse, table, "path"), {}
    for file in (warehouse.data_folder / folder).glob("dt=*/*"):
        status = file.stat()
        unnamed = str(file.relative_to(warehouse.data_folder)) not in kept
        if unnamed and status.st_mtime < time.time() - UNNAMED_FOR_SECONDS:
            file.unlink(missing_ok=True)
            deleted[file] = status.st_size
    return deleted
