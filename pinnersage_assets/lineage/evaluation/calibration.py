"""``evaluation.calibration*``: which setting suits the data, by what each would have foreseen."""

import datetime

import dagster as dg
import polars as pl

from pinnersage_assets.engines.resource import EngineResource
from pinnersage_assets.lineage.evaluation.knowledge import READS, gather_knowledge, map_users, mean_over_users
from pinnersage_assets.model.calibration import COLUMNS, choose, variant_of
from pinnersage_assets.partitions import DAILY, SAME_DAY, partition_day, reads
from pinnersage_assets.settings import Settings, read_day
from pinnersage_assets.warehouse.database import Warehouse


@dg.asset(
    key=["evaluation", "calibration_trials"],
    partitions_def=DAILY,
    deps=READS,
    kinds={"numpy"},
    code_version="1",
)
def calibration_trials(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings, engine: EngineResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """What every candidate of the grid foresaw of the day, for a sample of users."""
    known = gather_knowledge(warehouse, settings, partition_day(context), settings.calibration.users)
    candidates = settings.calibration.grid().with_columns(model=pl.int_range(pl.len()).cast(pl.String))
    variants = {name: variant_of(*choice) for *choice, name in candidates.iter_rows()}
    judged = map_users(
        known, "judge_grid", variants, warehouse, settings, engine.get_engine(), context.log, seeds=[settings.seed]
    )
    tried = candidates.join(mean_over_users(judged), on="model", maintain_order="left")
    return dg.MaterializeResult(
        value=tried.select(*COLUMNS, "relevance", "recall", "users"),
        metadata=known.counts,
    )


@dg.asset(
    key=["evaluation", "calibration"],
    partitions_def=DAILY,
    # Of earlier days those on which candidates were tried take part.
    deps=reads(SAME_DAY, "evaluation.calibration_trials"),
    kinds={"polars"},
    code_version="1",
)
def calibration(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """The trials of the validation period pooled, and of each family the best candidate chosen for later days."""
    last = partition_day(context)
    if until := read_day(settings.calibration.until):
        last = min(last, until)
    trials = warehouse.read(
        "FROM evaluation.calibration_trials WHERE dt BETWEEN $first AND $last ORDER BY ALL",
        {"first": last - datetime.timedelta(days=settings.calibration.days - 1), "last": last},
    )
    # What has left the grid is no choice any more.
    in_grid = trials.join(settings.calibration.grid(), on=COLUMNS, how="semi", nulls_equal=True, maintain_order="left")
    return choose(in_grid)
