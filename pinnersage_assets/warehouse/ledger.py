"""The ledger ``operations.partitions``: which partition of which table was written, by which run, and is it good?

A row is written in the transaction that writes the partition, so the ledger is never ahead of a table nor behind it.
Dagster's own event log cannot promise that: a run may be killed after the commit and before the event.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb

from pinnersage_assets.warehouse.tables import all_tables

LEDGER = "operations.partitions"

UNCHECKED, PASSED, FAILED = "unchecked", "passed", "failed"
# It had passed; its rows are gone, and ``rows`` says how many there were.
EXPIRED = "expired"


@dataclass(frozen=True)
class Partition:
    """A partition of a table and the result of its blocking checks."""

    table: str
    day: datetime.date
    status: str


def record_partitions(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    written: Mapping[datetime.date, tuple[int, int]],
    run_id: str,
    code_version: str | None,
) -> None:
    """Enter partitions that this transaction wrote; their checks are still to come.

    Args:
        connection: in the transaction.
        table: the table.
        written: of each day the number of its rows, and their digest.
        run_id: of the run that wrote them.
        code_version: of the code that made them.
    """
    number = last_write(connection) + 1
    connection.executemany(f"DELETE FROM {LEDGER} WHERE table_name = ? AND dt = ?", [(table, day) for day in written])
    connection.executemany(
        f"INSERT INTO {LEDGER} (table_name, dt, run_id, rows, code_version, status, written_at, content, write_number) "
        "VALUES (?, ?, ?, ?, ?, ?, now()::TIMESTAMP, ?, ?)",
        [
            (table, day, run_id, rows, code_version, UNCHECKED, content, number)
            for day, (rows, content) in written.items()
        ],
    )


def last_write(connection: duckdb.DuckDBPyConnection) -> int:
    """The number of the last write that the ledger knows of; 0 before there is any."""
    [(number,)] = connection.execute(f"SELECT coalesce(max(write_number), 0) FROM {LEDGER}").fetchall()
    return number


def writing_times(
    connection: duckdb.DuckDBPyConnection, table: str, days: Sequence[datetime.date]
) -> dict[datetime.date, datetime.datetime]:
    """When some partitions were written last: tells a partition from what a later run made of it."""
    query = f"SELECT dt, written_at FROM {LEDGER} WHERE table_name = ? AND dt BETWEEN ? AND ?"
    return dict(connection.execute(query, [table, days[0], days[-1]]).fetchall())


def record_status(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    checked: Mapping[datetime.date, datetime.datetime],
    failed: Iterable[datetime.date],
) -> None:
    """Enter what the blocking checks of some partitions found.

    Args:
        connection: may write.
        table: the table.
        checked: the days that were checked, and when the rows that were looked at had been written. A partition that
            was written again since then, or whose rows are gone, keeps its status: no rows were looked at.
        failed: the days of which a blocking check failed.
    """
    bad = set(failed)
    if not checked:
        return
    connection.executemany(
        f"UPDATE {LEDGER} SET status = ? WHERE table_name = ? AND dt = ? AND written_at = ? AND status <> ?",
        [(FAILED if day in bad else PASSED, table, day, written, EXPIRED) for day, written in checked.items()],
    )


def record_expiry(connection: duckdb.DuckDBPyConnection, table: str, before: datetime.date) -> dict[datetime.date, int]:
    """Enter that the good partitions before a day lose their rows, which this transaction deletes.

    Partitions that failed their checks, or were not checked, stay: somebody must look at them.

    Returns:
        The rows of each.
    """
    query = f"UPDATE {LEDGER} SET status = ? WHERE table_name = ? AND status = ? AND dt < ? RETURNING dt, rows"
    return dict(connection.execute(query, [EXPIRED, table, PASSED, before]).fetchall())


def days_by_table(connection: duckdb.DuckDBPyConnection, status: str) -> dict[str, set[datetime.date]]:
    """Days of the partitions that have a status, by table."""
    if not has_ledger(connection):
        return {}
    query = f"SELECT table_name, list(dt) FROM {LEDGER} WHERE status = ? GROUP BY table_name"
    return {table: set(days) for table, days in connection.execute(query, [status]).fetchall()}


def unpublishable(connection: duckdb.DuckDBPyConnection, except_table: str) -> list[Partition]:
    """Partitions whose blocking checks have failed or have not run, all tables but one."""
    query = f"SELECT table_name, dt, status FROM {LEDGER} WHERE status IN (?, ?) AND table_name <> ? ORDER BY ALL"
    return [Partition(*row) for row in connection.execute(query, [FAILED, UNCHECKED, except_table]).fetchall()]


def has_ledger(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether anything was ever written.

    Raises:
        ValueError: by another version of this project, which kept another ledger.
    """
    here = (
        "SELECT column_name FROM duckdb_columns() WHERE database_name = current_database() "
        "AND schema_name || '.' || table_name = ?"
    )
    found = connection.execute(here, [LEDGER]).fetchall()
    wanted = {column.name for column in all_tables()[LEDGER].columns}
    if found and {column for (column,) in found} != wanted:
        raise ValueError(
            f"the warehouse was written by another version of this project: its {LEDGER} has other columns "
            f"({', '.join(sorted({column for (column,) in found} ^ wanted))}). Begin a new data directory "
            "(PINNERSAGE_DATA_DIR) and import or link the landing folders there, or go back to that version"
        )
    return bool(found)
