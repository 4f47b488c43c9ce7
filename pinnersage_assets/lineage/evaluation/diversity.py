"""``evaluation.diversity``: relevance and diversity by the number of embeddings (paper, section 5.3.3, Figure 7)."""

import dagster as dg
import polars as pl

from pinnersage_assets.engines.resource import EngineResource
from pinnersage_assets.lineage.evaluation.knowledge import READS, gather_knowledge, map_users, mean_over_users
from pinnersage_assets.model.variants import Variant
from pinnersage_assets.partitions import DAILY, partition_day
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse

_MOST_EMBEDDINGS = 10


@dg.asset(
    key=["evaluation", "diversity"],
    partitions_def=DAILY,
    deps=READS,
    kinds={"numpy"},
    code_version="2",
)
def diversity(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings, engine: EngineResource
) -> pl.DataFrame:
    """Candidate sets of 1 to 10 medoids, refilled to one size, and how diverse the actions were that followed."""
    known = gather_knowledge(warehouse, settings, partition_day(context))
    variants = {str(e): Variant(embeddings=e) for e in range(1, _MOST_EMBEDDINGS + 1)}
    judged = map_users(
        known, "judge_diversity", variants, warehouse, settings, engine.get_engine(), context.log, seeds=[settings.seed]
    )
    means = mean_over_users(judged, "diversity", "action_diversity")
    return means.rename({"model": "embeddings"}).cast({"embeddings": pl.Int32})
