"""A warehouse in a temporary directory, and other processes that read it, write it and are killed."""

import datetime
import multiprocessing

import polars as pl
import pytest

from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.ledger import record_status, writing_times
from pinnersage_assets.warehouse.partitions import replace_partitions
from pinnersage_assets.warehouse.tables import all_tables

# A server that has imported what tests need and is forked for each process: an import takes seconds, a fork none.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["pytest", "pinnersage_assets.warehouse.partitions", "pinnersage_assets.warehouse.publishing"]
)


@pytest.fixture
def warehouse(tmp_path) -> Warehouse:
    return Warehouse(
        database=str(tmp_path / "warehouse" / "pinnersage.duckdb"),
        published=str(tmp_path / "published" / "pinnersage.duckdb"),
    )


@pytest.fixture(scope="session")
def processes() -> multiprocessing.context.ForkServerContext:
    return _PROCESSES


@pytest.fixture
def write(warehouse):
    """Replace partitions of a declared table, and enter in the ledger what its checks are made to say."""

    def write(table: str, days, rows, status: str | None = "passed", run_id: str = "run") -> None:
        days = [days] if isinstance(days, datetime.date) else days
        with warehouse.get_connection() as connection:
            replace_partitions(connection, all_tables()[table], days, rows, run_id=run_id)
            if status is not None:
                failed = days if status == "failed" else []
                record_status(connection, table, writing_times(connection, table, days), failed)

    return write


@pytest.fixture
def ledger(warehouse):
    """The ledger's rows of a table: (day, rows, run_id, status)."""

    def ledger(table: str) -> list[tuple]:
        frame = warehouse.read(
            "SELECT dt, rows, run_id, status FROM operations.partitions WHERE table_name = $table ORDER BY dt",
            {"table": table},
        )
        return frame.rows()

    return ledger


@pytest.fixture
def impressions():
    """Rows of raw.impressions with the pin ids that are given: of one day without dt, or of a day each."""

    def impressions(*pins: int, dt: datetime.date | None = None) -> pl.DataFrame:
        rows = pl.DataFrame(
            {"user_id": pl.Series(range(len(pins)), dtype=pl.Int64), "pin_id": pl.Series(pins, dtype=pl.Int64)}
        ).with_columns(ts=pl.lit(None, pl.Datetime("us")), file=pl.lit(None, pl.String))
        return rows if dt is None else rows.with_columns(dt=pl.lit(dt))

    return impressions
