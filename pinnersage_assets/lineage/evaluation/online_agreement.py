"""``evaluation.online_agreement``: how far the online model finds what clustering everything anew would find."""

import dagster as dg
import polars as pl

from pinnersage_assets.lineage.evaluation.knowledge import READS, gather_knowledge
from pinnersage_assets.lineage.evaluation.moments import gather_moments
from pinnersage_assets.model.moments import adjusted_rand_index, medoid_overlap
from pinnersage_assets.model.variants import ONLINE, RECLUSTERED
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
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[pl.DataFrame]:
    """Per user, means over the moments of the day at which there was something new to take in."""
    known = gather_knowledge(warehouse, settings, partition_day(context), context.log)
    if not len(known.users):
        return dg.MaterializeResult(value=pl.DataFrame(schema=_COLUMNS))
    at = gather_moments(warehouse, settings, known)
    found, moments = at.clusters(known, settings), len(at.users)
    rows = pl.DataFrame(
        {
            "user_id": known.users[at.users],
            "actions": at.moments.actions_before,
            "adjusted_rand_index": adjusted_rand_index(found[ONLINE], found[RECLUSTERED], moments),
            "medoid_overlap": medoid_overlap(found[ONLINE], found[RECLUSTERED], moments),
        }
    )
    of_users = (
        rows.filter(pl.col("actions") > 0)
        .group_by("user_id", maintain_order=True)
        .agg(pl.len().alias("moments"), pl.col("actions").max(), pl.col("adjusted_rand_index", "medoid_overlap").mean())
    )
    return dg.MaterializeResult(value=of_users, metadata={"moments": moments, "users judged": len(known.users)})


_COLUMNS = {
    "user_id": pl.Int64,
    "moments": pl.Int64,
    "actions": pl.Int64,
    "adjusted_rand_index": pl.Float64,
    "medoid_overlap": pl.Float64,
}
