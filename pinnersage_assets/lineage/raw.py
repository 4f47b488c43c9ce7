"""``raw.*``: what came in on a day, as it came. Whatever is wrong with a row is found in staging."""

import dagster as dg
import polars as pl

from pinnersage_assets.partitions import DAILY, partition_days
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.sources.source import Source
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import ParquetFiles


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
        days = partition_days(context)
        rows_of = getattr(source.open(settings), table)
        report = log_progress(context.log, "days")

        def frames():
            for done, day in enumerate(days, start=1):
                yield rows_of(day).with_columns(dt=pl.lit(day))
                report(done, len(days))

        return ParquetFiles.spool(warehouse, frames())

    return raw


ASSETS = [_raw_asset(table) for table in ("actions", "impressions", "pins")]
