"""``users.*``: each user as many embeddings (paper, section 3.1)."""

import dagster as dg
import polars as pl

from pinnersage_assets.lineage.queries import INTEREST_ACTIONS, pin_vectors, window
from pinnersage_assets.model.medoids import importance
from pinnersage_assets.model.pinnersage import cluster_users, find_medoids
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.partitions import DAILY, HISTORY, SAME_DAY, WINDOW, partition_day, reads
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse


@dg.asset(
    key=["users", "clusters"],
    partitions_def=DAILY,
    deps=[*reads(WINDOW, "staging.actions"), *reads(HISTORY, "staging.pins")],
    kinds={"numpy"},
    code_version="1",
)
def clusters(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[pl.DataFrame]:
    """The distinct pins of each user in the window, clustered; a pin acted on n times is a point of weight n."""
    scope = window(partition_day(context), settings)
    acted = warehouse.read(
        f"""
        SELECT user_id, pin_id, count(*)::INTEGER AS actions, max(ts) AS last_ts
        FROM ({INTEREST_ACTIONS}) GROUP BY user_id, pin_id ORDER BY user_id, pin_id
        """,
        scope,
    )
    pin_ids, vectors = pin_vectors(warehouse, f"SELECT pin_id FROM ({INTEREST_ACTIONS})", scope)
    known = acted.filter(pl.col("pin_id").is_in(pin_ids.tolist()))
    labels = cluster_users(
        known["user_id"].to_numpy(),
        rows_of(pin_ids, known["pin_id"].to_numpy()),
        known["actions"].to_numpy(),
        vectors,
        settings.clustering.alpha,
        log_progress(context.log, "users"),
    )
    return dg.MaterializeResult(
        value=known.with_columns(cluster=pl.Series(labels)),
        metadata={"actions on unknown pins": int(acted["actions"].sum() - known["actions"].sum())},
    )


@dg.asset(
    key=["users", "medoids"],
    partitions_def=DAILY,
    deps=[*reads(SAME_DAY, "users.clusters"), *reads(WINDOW, "staging.actions"), *reads(HISTORY, "staging.pins")],
    kinds={"numpy"},
    code_version="1",
)
def medoids(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """The medoid of each cluster, and its importance from the cluster's actions."""
    scope = window(partition_day(context), settings)
    members = warehouse.read(f"FROM ({_MEMBERS}) ORDER BY number, pin_id", {"day": scope["day"]})
    ages = warehouse.read(
        f"""
        SELECT m.number, epoch($day + INTERVAL 1 DAY - a.ts) / 86400 AS age
        FROM ({_MEMBERS}) AS m JOIN ({INTEREST_ACTIONS}) AS a ON m.user_id = a.user_id AND m.pin_id = a.pin_id
        ORDER BY m.number, age
        """,
        scope,
    )
    if len(ages) != members["actions"].sum():
        raise dg.Failure(
            f"users.clusters of {scope['day']} is not of the window as it is now ({members['actions'].sum()} actions, "
            f"now {len(ages)}): materialise users.clusters again, then this"
        )
    pin_ids, vectors = pin_vectors(
        warehouse, "SELECT pin_id FROM users.clusters WHERE dt = $day", {"day": scope["day"]}
    )
    numbers = members["number"].to_numpy()
    found = find_medoids(
        numbers,
        members["pin_id"].to_numpy(),
        rows_of(pin_ids, members["pin_id"].to_numpy()),
        members["actions"].to_numpy(),
        vectors,
        log_progress(context.log, "clusters"),
    )
    weights = importance(
        ages["age"].to_numpy(), ages["number"].to_numpy(), settings.clustering.decay_per_day, len(found)
    )
    return (
        members.group_by("number", "user_id", "cluster", maintain_order=True)
        .agg(size=pl.col("actions").sum())
        .with_columns(medoid_pin_id=pl.Series(found), importance=pl.Series(weights))
        .drop("number")
    )


# The day's clusters by member, numbered over all users.
_MEMBERS = """
    SELECT user_id, cluster, pin_id, actions, dense_rank() OVER (ORDER BY user_id, cluster) - 1 AS number
    FROM users.clusters WHERE dt = $day
"""

ASSETS = [clusters, medoids]
