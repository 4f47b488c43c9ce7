"""``evaluation.online_agreement``: how far the online model finds what clustering everything anew would find."""

import dagster as dg
import polars as pl

from pinnersage_assets.engines.resource import EngineResource
from pinnersage_assets.lineage.evaluation.knowledge import READS, gather_knowledge, map_users
from pinnersage_assets.partitions import DAILY, partition_day
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.checks import PartitionCheck
from pinnersage_assets.warehouse.database import Warehouse

# Below this a pin in ten or so is with others than it would be: the two models are no longer the same for most users.
_LEAST_AGREEMENT = 0.9
# Of fewer users the mean says little.
_FEWEST_USERS = 30

ONLINE_AGREES = PartitionCheck(
    "online_agrees",
    f"The mean adjusted Rand index of the online model with clustering anew, of {_FEWEST_USERS} users or more, is at "
    f"least {_LEAST_AGREEMENT:g}.",
    f"""
    SELECT dt, avg(adjusted_rand_index) AS adjusted_rand_index, count(*) AS users FROM evaluation.online_agreement
    WHERE dt BETWEEN $first AND $last GROUP BY dt
    HAVING avg(adjusted_rand_index) < {_LEAST_AGREEMENT} AND count(*) >= {_FEWEST_USERS}
    """,
    blocking=False,
    advice="Compare the rows `online` and `reclustered` of evaluation.retrieval of {day}: if recall suffers too, store "
    "clusters more often than daily, or look whether α is so large that clusters have no centre.",
)


@dg.asset(
    key=["evaluation", "online_agreement"],
    partitions_def=DAILY,
    deps=READS,
    kinds={"numpy"},
    code_version="1",
)
def online_agreement(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings, engine: EngineResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """Per user, means over the moments of the day at which there was something new to take in."""
    known = gather_knowledge(warehouse, settings, partition_day(context))
    of_users = map_users(
        known,
        "compare_online",
        {},
        warehouse,
        settings,
        engine.get_engine(),
        context.log,
        recent_actions=settings.serving.recent_actions,
    )
    return dg.MaterializeResult(value=of_users, metadata={"users judged": len(known.users.user_ids)})
