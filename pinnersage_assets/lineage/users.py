"""``users.*``: each user as many embeddings (paper, section 3.1)."""

import dagster as dg
import numpy as np
import polars as pl

from pinnersage_assets.lineage import completeness
from pinnersage_assets.lineage.completeness import inputs_are_complete
from pinnersage_assets.lineage.queries import INTEREST_ACTIONS, pin_vectors, window
from pinnersage_assets.model.medoids import importance
from pinnersage_assets.model.pinnersage import cluster_users, find_medoids
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
        np.searchsorted(pin_ids, known["pin_id"].to_numpy()),
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
    members = warehouse.read(
        """
        SELECT user_id, cluster, pin_id, actions FROM users.clusters
        WHERE dt = $day ORDER BY user_id, cluster, pin_id
        """,
        {"day": scope["day"]},
    ).with_columns(number=pl.struct("user_id", "cluster").rle_id())
    pin_ids, vectors = pin_vectors(
        warehouse, "SELECT pin_id FROM users.clusters WHERE dt = $day", {"day": scope["day"]}
    )
    found = find_medoids(
        members["number"].to_numpy().astype(np.int64),
        members["pin_id"].to_numpy(),
        np.searchsorted(pin_ids, members["pin_id"].to_numpy()),
        members["actions"].to_numpy(),
        vectors,
        log_progress(context.log, "clusters"),
    )
    ages = warehouse.read(
        f"""
        SELECT c.user_id, c.cluster, epoch($day + INTERVAL 1 DAY - a.ts) / 86400 AS age
        FROM users.clusters AS c JOIN ({INTEREST_ACTIONS}) AS a ON c.user_id = a.user_id AND c.pin_id = a.pin_id
        WHERE c.dt = $day ORDER BY c.user_id, c.cluster, age
        """,
        scope,
    )
    return (
        members.group_by("user_id", "cluster", "number", maintain_order=True)
        .agg(size=pl.col("actions").sum())
        .with_columns(
            medoid_pin_id=pl.Series(found),
            importance=pl.Series(
                importance(
                    ages["age"].to_numpy(),
                    ages.select(pl.struct("user_id", "cluster").rle_id())["user_id"].to_numpy().astype(np.int64),
                    settings.clustering.decay_per_day,
                    len(found),
                )
            ),
        )
        .drop("number")
    )


ASSETS = [clusters, medoids]
CHECKS = {
    "users.clusters": [
        inputs_are_complete(staging__actions=completeness.WINDOW, staging__pins=completeness.HISTORY),
    ]
}
