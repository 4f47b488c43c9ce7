"""Replacing and reading partitions of a table, and the Dagster I/O manager that does it for assets.

A partition is replaced in one transaction together with its row in the ledger: killed at any moment, the table holds
the old rows or the new ones. Rows are computed before the database is locked; only the write holds the lock.
"""

import contextlib
import datetime
import shutil
import tempfile
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import duckdb
import polars as pl
from pydantic import PrivateAttr

from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.dimensions import UNKNOWN, embedding_dimensions
from pinnersage_assets.warehouse.figures import partition_metadata
from pinnersage_assets.warehouse.inputs import Digests, Input, content_digest, inputs_of, record_inputs
from pinnersage_assets.warehouse.ledger import (
    EXPIRED,
    LEDGER,
    days_by_table,
    has_ledger,
    last_write,
    record_expiry,
    record_partitions,
)
from pinnersage_assets.warehouse.tables import Table, all_tables

# A run that is killed leaves its scratch folder behind; no run leaves one untouched for this long and still needs it.
_ABANDONED_AFTER_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class ParquetFiles:
    """Rows too many for one frame: Parquet files in a folder of their own, deleted once they are written."""

    folder: Path
    made_from: Digests = field(default_factory=dict)
    """Of each day what stands for what was read that is no table."""

    @property
    def paths(self) -> list[Path]:
        """The files in the order of their names, which is the order of the rows."""
        return sorted(self.folder.glob("*.parquet"))

    @classmethod
    def spool(
        cls, warehouse: Warehouse, frames: Iterable[pl.DataFrame], made_from: Digests | None = None
    ) -> "ParquetFiles":
        """Write frames one after another, so that only one is in memory at a time."""
        with cls.new(warehouse) as files:
            for number, frame in enumerate(frames):
                frame.write_parquet(files.folder / f"{number:06}.parquet", compression="lz4")
        return cls(files.folder, made_from or {})

    @classmethod
    @contextlib.contextmanager
    def new(cls, warehouse: Warehouse) -> Generator["ParquetFiles"]:
        """An empty folder beside the warehouse, on the same disk; deleted if filling it fails."""
        files = cls(_new_folder(warehouse))
        try:
            yield files
        except BaseException:
            files.delete()
            raise

    def delete(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder(warehouse: Warehouse) -> Generator[Path]:
    """An empty folder beside the warehouse for what a computation needs on the way; deleted afterwards."""
    folder = _new_folder(warehouse)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new_folder(warehouse: Warehouse) -> Path:
    scratch = Path(warehouse.database).parent / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    for folder in scratch.iterdir():
        if folder.stat().st_mtime < time.time() - _ABANDONED_AFTER_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=scratch))


Rows = pl.DataFrame | ParquetFiles


def replace_partitions(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    days: Sequence[datetime.date],
    rows: Rows,
    *,
    run_id: str,
    code_version: str | None = None,
    reads: Sequence[Input] = (),
    began: int | None = None,
) -> dict[datetime.date, int]:
    """Replace the partitions of some consecutive days, and their rows in the ledger, in one transaction.

    Args:
        connection: may write; no transaction is open.
        table: where to; created where it does not exist, as all declared tables are.
        days: consecutive days. A day without rows becomes an empty partition.
        rows: columns are matched by name; all of the table's must be there, in any order. ``dt`` may be missing where
            there is one day.
        run_id: goes into the ledger.
        code_version: goes into the ledger.
        reads: the tables that the rows were made from.
        began: the number of the last write when the run began; None where nobody else can have written since.

    Returns:
        The number of rows of each day.

    Raises:
        ValueError: columns are missing or unknown, or rows belong to other days. Nothing was written then.
    """
    with _transaction(connection):
        _create_tables(connection, table)
        source = _source_query(connection, table, days, rows)
        bounds = [days[0], days[-1]]
        connection.execute(f"DELETE FROM {table.key} WHERE dt BETWEEN ? AND ?", bounds)
        connection.execute(f"INSERT INTO {table.key} BY NAME {source}")
        found = connection.execute(
            f"SELECT dt, count(*), {content_digest(table)} FROM {table.key} WHERE dt BETWEEN ? AND ? GROUP BY dt",
            bounds,
        ).fetchall()
        written = dict.fromkeys(days, (0, 0)) | {day: (count, digest) for day, count, digest in found}
        record_partitions(connection, table.key, written, run_id, code_version)
        made_from = rows.made_from if isinstance(rows, ParquetFiles) else {}
        record_inputs(connection, table.key, days, reads, run_id, began, made_from)
    return {day: count for day, (count, _) in written.items()}


def expire_partitions(
    connection: duckdb.DuckDBPyConnection, table: str, before: datetime.date
) -> dict[datetime.date, int]:
    """Delete the rows of the good partitions before a day; the ledger says so, in the same transaction.

    Returns:
        How many rows each had.
    """
    with _transaction(connection):
        expired = record_expiry(connection, table, before)
        if expired:
            connection.execute(f"DELETE FROM {table} WHERE dt < ? AND list_contains(?, dt)", [before, list(expired)])
    return expired


@contextlib.contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Generator[None]:
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # After a failed COMMIT there is nothing left to roll back; the first error is the one to tell.
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise


def _create_tables(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Create every declared table, so that a query about what was never written finds no rows rather than no table."""
    listed = "SELECT schema_name || '.' || table_name FROM duckdb_tables() WHERE database_name = current_database()"
    existing = {key for (key,) in connection.execute(listed).fetchall()}
    missing = {other.key: other for other in (*all_tables().values(), table) if other.key not in existing}
    # Finding the length of embeddings takes longer than all else here.
    dimensions = embedding_dimensions(connection) if missing or table.has_embeddings else UNKNOWN
    for other in missing.values():
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {other.schema}")
        connection.execute(other.definition(dimensions))
    definition = table.definition(dimensions)
    if _same_columns(connection, table, definition):
        return
    if connection.execute(f"SELECT 1 FROM {table.key} LIMIT 1").fetchall():
        raise ValueError(
            f"{table.key} has other columns than schema.yml says now. Rename or drop the old table and materialise its "
            f"partitions again, or start a new data directory. Wanted: {definition}"
        )
    connection.execute(f"DROP TABLE {table.key}")
    connection.execute(definition)


def _same_columns(connection: duckdb.DuckDBPyConnection, table: Table, definition: str) -> bool:
    query = "SELECT column_name, column_type FROM (DESCRIBE {})"
    connection.execute(definition.replace(f"CREATE TABLE {table.key}", "CREATE TEMP TABLE wanted_columns"))
    wanted = connection.execute(query.format("temp.wanted_columns")).fetchall()
    connection.execute("DROP TABLE temp.wanted_columns")
    return wanted == connection.execute(query.format(table.key)).fetchall()


def _source_query(
    connection: duckdb.DuckDBPyConnection, table: Table, days: Sequence[datetime.date], rows: Rows
) -> str:
    if isinstance(rows, ParquetFiles):
        # A variable, not a literal: a path may hold a quote.
        connection.execute("SET VARIABLE incoming_files = $files", {"files": [str(path) for path in rows.paths]})
        # Columns come from the files alone: a folder of the data directory may be called `dt=...` too.
        incoming = "read_parquet(getvariable('incoming_files'), hive_partitioning = false)"
    else:
        connection.register("incoming", rows)
        incoming = "incoming"
    found = {name for name, *_ in connection.execute(f"DESCRIBE FROM {incoming}").fetchall()}
    wanted = {column.name for column in table.columns}
    if "dt" not in found and len(days) == 1:
        query, found = f"SELECT DATE '{days[0]}' AS dt, * FROM {incoming}", found | {"dt"}
    else:
        query = f"FROM {incoming}"
    if found != wanted:
        raise ValueError(
            f"rows for {table.key} do not fit the table: missing columns {sorted(wanted - found)}, "
            f"unknown columns {sorted(found - wanted)}"
        )
    [foreign] = connection.execute(
        f"SELECT count(*), min(dt), max(dt) FROM ({query}) WHERE dt IS NULL OR dt NOT BETWEEN ? AND ?",
        [days[0], days[-1]],
    ).fetchall()
    if foreign[0]:
        raise ValueError(
            f"{foreign[0]} rows for {table.key} are of other days ({foreign[1]} to {foreign[2]}) than the partitions "
            f"being written ({days[0]} to {days[-1]})"
        )
    return query


def refuse_expired_inputs(
    connection: duckdb.DuckDBPyConnection, spec: dg.AssetSpec, days: Sequence[datetime.date]
) -> None:
    """Rows that were made from partitions whose own rows are gone must not replace good ones.

    Raises:
        dg.Failure: a partition that the asset reads for these days has expired.
    """
    if spec.key.path[0] == LEDGER.partition(".")[0]:
        # What is written about the warehouse comes after all tables, and reads no rows of theirs.
        return
    expired, lost = days_by_table(connection, EXPIRED), []
    for read in inputs_of(spec):
        first, last = days[0] + datetime.timedelta(days=read.first), days[-1] + datetime.timedelta(days=read.last)
        if gone := sorted(day for day in expired.get(read.table, ()) if first <= day <= last):
            lost.append(f"{read.table} of {gone[0]}" + (f" to {gone[-1]}" if len(gone) > 1 else ""))
    if lost:
        raise dg.Failure(
            f"{'.'.join(spec.key.path)} stays as it is: what it is made from has expired ({', '.join(lost)}). Make "
            f"both again with `make backfill FROM={days[0]} TO={days[-1]} AGAIN=1`.",
            allow_retries=False,
        )


class PartitionIOManager(dg.ConfigurableIOManager):
    """Writes what an asset returns into its table, and reads partitions of a table as a Polars frame."""

    warehouse: dg.ResourceDependency[Warehouse]
    _began: int = PrivateAttr(0)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Remember what had been written when the run began: what others write meanwhile it may not have read."""
        if Path(self.warehouse.database).exists():
            with self.warehouse.get_reader() as connection:
                self._began = last_write(connection) if has_ledger(connection) else 0

    def handle_output(self, context: dg.OutputContext, obj: Rows | None) -> None:
        """Replace the run's partitions with the asset's rows."""
        if obj is None:
            return
        table = all_tables()[".".join(context.asset_key.path)]
        days = [datetime.date.fromisoformat(key) for key in context.asset_partition_keys]
        try:
            with self.warehouse.get_connection() as connection:
                refuse_expired_inputs(connection, context.asset_spec, days)
                replace_partitions(
                    connection,
                    table,
                    days,
                    obj,
                    run_id=context.run_id,
                    code_version=context.asset_spec.code_version,
                    reads=inputs_of(context.asset_spec),
                    began=self._began,
                )
        finally:
            if isinstance(obj, ParquetFiles):
                obj.delete()
        with self.warehouse.get_reader() as connection:
            metadata = partition_metadata(connection, table, days)
        for day, of_the_day in metadata.items():
            context.step_context.add_asset_metadata(of_the_day, context.asset_key, day.isoformat())

    def load_input(self, context: dg.InputContext) -> pl.DataFrame:
        """The rows of the partitions that the downstream partition reads."""
        table = ".".join(context.asset_key.path)
        days = [datetime.date.fromisoformat(key) for key in context.asset_partition_keys]
        return self.warehouse.read(f"FROM {table} WHERE list_contains($days, dt)", {"days": days})
