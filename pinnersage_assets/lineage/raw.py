"""``raw.*``: what came in on a day, as it came. Whatever is wrong with a row is found in staging."""

import datetime
from pathlib import Path

import dagster as dg
import polars as pl

from pinnersage_assets.partitions import DAILY, partition_days
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.sources.source import Source
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import ParquetFiles


def refuse_other_source(warehouse: Warehouse, source: Source) -> None:
    """Simulated and landed data must not meet in one warehouse: their ids mean different things.

    Raises:
        dg.Failure: the warehouse holds rows of the other kind of source.
    """
    if not Path(warehouse.database).exists():
        return
    landed = source.kind == "landing"
    # One that was begun before a table was thought of gets it with the next write.
    tables = warehouse.read("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'raw'")["table_name"]
    if tables.is_empty():
        return
    # Landed rows, and only they, name their file.
    files = " UNION ALL ".join(f"SELECT file FROM raw.{table}" for table in tables)
    foreign = f"SELECT 1 FROM ({files}) WHERE (file IS NOT NULL) <> $landed LIMIT 1"
    if len(warehouse.read(foreign, {"landed": landed})):
        raise dg.Failure(
            f"{warehouse.database} holds {'simulated' if landed else 'landed'} data, and PINNERSAGE_SOURCE is "
            f"{source.kind}. Set PINNERSAGE_DATA_DIR to a directory of its own for each source."
        )


def _rows_before_expiry(warehouse: Warehouse, table: str) -> dict[datetime.date, int]:
    if not Path(warehouse.database).exists():
        return {}
    query = "SELECT dt, rows FROM operations.partitions WHERE table_name = $table AND status = 'expired'"
    return dict(warehouse.read(query, {"table": table}).iter_rows())


def _raw_asset(table: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=["raw", table],
        partitions_def=DAILY,
        backfill_policy=dg.BackfillPolicy.single_run(),
        kinds={"polars"},
        code_version="1",
    )
    def raw(
        context: dg.AssetExecutionContext, warehouse: Warehouse, source: Source, settings: Settings
    ) -> ParquetFiles:
        refuse_other_source(warehouse, source)
        days = partition_days(context)
        rows_of_day = getattr(source.open(settings), table)
        # Before they are read: files that change meanwhile are other files then.
        state = source.state(settings, table, days)
        report = log_progress(context.log, "days")
        had = _rows_before_expiry(warehouse, f"raw.{table}")

        def frames():
            for done, day in enumerate(days, start=1):
                rows = rows_of_day(day).with_columns(dt=pl.lit(day))
                if rows.is_empty() and had.get(day):
                    raise dg.Failure(
                        f"raw.{table} of {day} had {had[day]:,} rows when it expired, and its source has none any "
                        "more. Put its files back to make the day again; staging still has it as it was."
                    )
                yield rows
                report(done, len(days))

        return ParquetFiles.spool(warehouse, frames(), made_from=state)

    return raw


TABLES = ("actions", "impressions", "board_pins", "pins")
ASSETS = [_raw_asset(table) for table in TABLES]
