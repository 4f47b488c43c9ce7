"""``evaluation.ranking*``: the candidate ranking task (paper, section 5.3.2, Table 5)."""

import dagster as dg
import polars as pl

from pinnersage_assets.engines.resource import EngineResource
from pinnersage_assets.lineage.evaluation import models
from pinnersage_assets.lineage.evaluation.knowledge import READS, SHOWN, gather_knowledge, map_users, popularity
from pinnersage_assets.partitions import DAILY, JUDGING_DAYS, SAME_DAY, partition_day, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse


@dg.asset(
    key=["evaluation", "ranking_users"],
    partitions_def=DAILY,
    deps=[*READS, *models.READS, *reads(JUDGING_DAYS, SHOWN)],
    kinds={"numpy"},
    code_version="3",
)
def ranking_users(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings, engine: EngineResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """How high each model ranks what users did next, among what they were shown and among pins drawn at random."""
    known = gather_knowledge(warehouse, settings, partition_day(context), also=[SHOWN])
    rows = map_users(
        known,
        "rank_candidates",
        models.models_to_judge(warehouse, settings, known),
        warehouse,
        settings,
        engine.get_engine(),
        context.log,
        arrays={"popularity": popularity(warehouse, settings, known)},
        negatives_per_action=settings.evaluation.negatives_per_action,
    )
    metadata = dict(known.counts)
    if len(rows):
        of_impressions = rows.filter(negatives="impressions").unique("user_id")
        padded, drawn = of_impressions.select("padded", "drawn").sum().row(0)
        metadata["share of impressions padded at random"] = padded / max(1, drawn)
    return dg.MaterializeResult(value=rows, metadata=metadata)


@dg.asset(
    key=["evaluation", "ranking"],
    partitions_def=DAILY,
    deps=reads(SAME_DAY, "evaluation.ranking_users"),
    kinds={"polars"},
    code_version="2",
)
def ranking(context: dg.AssetExecutionContext, warehouse: Warehouse) -> pl.DataFrame:
    """Means over users, after those over seeds."""
    return warehouse.read(
        """
        SELECT model, negatives, avg(r_precision) AS r_precision, avg(reciprocal_rank) AS reciprocal_rank,
            count(DISTINCT user_id) AS users,
            sum(r_precision * actions) / sum(actions) AS r_precision_over_actions,
            sum(reciprocal_rank * actions) / sum(actions) AS reciprocal_rank_over_actions,
            count(DISTINCT seed) AS seeds, sum(padded) / nullif(sum(drawn), 0) AS padded_share
        FROM evaluation.ranking_users WHERE dt = $day GROUP BY model, negatives ORDER BY negatives, model
        """,
        {"day": partition_day(context)},
    )
