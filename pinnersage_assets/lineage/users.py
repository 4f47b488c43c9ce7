"""``users.*``: each user as many embeddings (paper, section 3.1).

Most users do nothing on most days. Whose window is yesterday's keeps yesterday's clusters and medoids: a cache, not an
input, since the rows are those of a full run. So it is no dependency, and a day without a yesterday lacks nothing.
"""

import datetime

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.lineage import parameters
from pinnersage_assets.lineage.queries import INTEREST_ACTIONS, pin_vectors, window
from pinnersage_assets.model.feedback import feedback_factors
from pinnersage_assets.model.medoids import decayed_weights, importance
from pinnersage_assets.model.pinnersage import cluster_users, find_medoids
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.partitions import DAILY, HISTORY, SAME_DAY, SETTINGS, WINDOW, partition_day, reads
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse

# Of both assets: a new way to compute either makes yesterday's results unfit for use today.
_CODE_VERSION = "2"

_ACTED = f"""
    SELECT user_id, pin_id, count(*)::INTEGER AS actions, max(ts) AS last_ts
    FROM ({INTEREST_ACTIONS}) GROUP BY user_id, pin_id
"""


def _fingerprint(of: str) -> str:
    """Columns by which the rows of a user or cluster are known again: contents, in any order, and what made them."""
    # Text is hashed: DuckDB's hash of several values is so simple that in a sum what is common to rows cancels out.
    return f"""
        bit_xor(hash(concat_ws(' ', pin_id, actions, vector))) OVER (PARTITION BY {of}) AS contents,
        (hash(concat_ws(' ', contents, $made_by)) >> 1)::BIGINT AS fingerprint
    """


# Pins acted on whose vector is known, of each user the latest.
_CLUSTERED = f"""
    WITH acted AS ({_ACTED}),
    vectors AS (
        SELECT pin_id, hash(embedding) AS vector FROM staging.pins
        WHERE dt <= $day AND pin_id IN (SELECT pin_id FROM acted)
    )
    SELECT user_id, pin_id, actions, last_ts,
        {_fingerprint("user_id")}
    FROM (
        FROM acted JOIN vectors USING (pin_id)
        QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY last_ts DESC, pin_id) <= $most
    )
    ORDER BY user_id, pin_id
"""

_LEFT_OUT = f"""
    WITH acted AS (
        SELECT *, pin_id IN (SELECT pin_id FROM staging.pins WHERE dt <= $day) AS known FROM ({_ACTED})
    )
    SELECT
        (SELECT coalesce(sum(actions), 0)::BIGINT FROM acted WHERE NOT known) AS unknown,
        (SELECT count(*) FROM (SELECT user_id FROM acted WHERE known GROUP BY user_id HAVING count(*) > $most)) AS users
"""

# The day's clusters by member, numbered over all users, with a fingerprint of each cluster as the vectors are now.
_MEMBERS = f"""
    WITH members AS (
        SELECT user_id, cluster, pin_id, actions, dense_rank() OVER (ORDER BY user_id, cluster) - 1 AS number
        FROM users.clusters WHERE dt = $day
    ),
    vectors AS (
        SELECT pin_id, hash(embedding) AS vector FROM staging.pins
        WHERE dt <= $day AND pin_id IN (SELECT pin_id FROM members)
    )
    SELECT user_id, cluster, pin_id, actions, number,
        {_fingerprint("number")}
    FROM members JOIN vectors USING (pin_id) ORDER BY number, pin_id
"""

_AGES = f"""
    SELECT c.user_id, c.pin_id, epoch($day + INTERVAL 1 DAY - a.ts) / 86400 AS age
    FROM users.clusters AS c JOIN ({INTEREST_ACTIONS}) AS a ON c.user_id = a.user_id AND c.pin_id = a.pin_id
    WHERE c.dt = $day ORDER BY c.user_id, c.pin_id, age
"""

# What was shown to users who have medoids, and what they did with it in time; not what they still have time for.
_FEEDBACK = """
    SELECT i.user_id, i.pin_id, epoch($day + INTERVAL 1 DAY - i.ts) / 86400 AS age,
        CASE
            WHEN bool_or(list_contains($hide, a.action)) THEN -1
            WHEN bool_or(list_contains($interest, a.action)) THEN 1
            ELSE 0
        END AS outcome
    FROM staging.impressions AS i LEFT JOIN staging.actions AS a
        ON a.dt BETWEEN $first AND $day AND a.user_id = i.user_id AND a.pin_id = i.pin_id
        AND a.ts >= i.ts AND a.ts < i.ts + to_hours($hours)
    WHERE i.dt BETWEEN $first AND $day AND i.ts + to_hours($hours) <= $day + INTERVAL 1 DAY
        AND i.user_id IN (SELECT user_id FROM users.clusters WHERE dt = $day)
        AND i.pin_id IN (SELECT pin_id FROM staging.pins WHERE dt <= $day)
    GROUP BY i.user_id, i.pin_id, i.ts ORDER BY i.user_id, i.ts, i.pin_id
"""


# A gap in the impressions is of no concern to who does not use them.
_FEEDBACK_TABLES = ("staging.impressions",) if SETTINGS.feedback.strength > 0 else ()


@dg.asset(
    key=["users", "clusters"],
    partitions_def=DAILY,
    deps=[*parameters.READS, *reads(WINDOW, "staging.actions"), *reads(HISTORY, "staging.pins")],
    kinds={"numpy"},
    code_version=_CODE_VERSION,
)
def clusters(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[pl.DataFrame]:
    """The distinct pins of each user in the window, clustered; a pin acted on n times is a point of weight n."""
    settings = parameters.in_force(warehouse, settings, partition_day(context))
    scope = window(partition_day(context), settings)
    most = settings.clustering.largest_user
    made_by = f"alpha {settings.clustering.alpha!r}, code version {_CODE_VERSION}"
    acted = warehouse.read(_CLUSTERED, {**scope, "made_by": made_by, "most": most})
    kept = warehouse.read(
        "SELECT user_id, pin_id, fingerprint, cluster FROM users.clusters WHERE dt = $yesterday",
        {"yesterday": _before(scope["day"])},
    )
    labels = acted.join(kept, on=["user_id", "pin_id", "fingerprint"], how="left", maintain_order="left")["cluster"]
    fresh = acted.filter(labels.is_null())
    pin_rows, vectors = _rows_and_vectors(warehouse, scope["day"], fresh["pin_id"])
    found = cluster_users(
        fresh["user_id"].to_numpy(),
        pin_rows,
        fresh["actions"].to_numpy(),
        vectors,
        settings.clustering.alpha,
        log_progress(context.log, "users"),
        settings.clustering.memory_megabytes * 2**20,
    )
    (left_out,) = warehouse.read(_LEFT_OUT, {**scope, "most": most}).to_dicts()
    return dg.MaterializeResult(
        value=acted.drop("contents").with_columns(cluster=_filled(labels, found)),
        metadata={
            "actions on unknown pins": left_out["unknown"],
            "users with pins beyond the limit": left_out["users"],
            "users reused from the day before": acted["user_id"].n_unique() - fresh["user_id"].n_unique(),
        },
    )


@dg.asset(
    key=["users", "medoids"],
    partitions_def=DAILY,
    deps=[
        *parameters.READS,
        *reads(SAME_DAY, "users.clusters"),
        *reads(WINDOW, "staging.actions", *_FEEDBACK_TABLES),
        *reads(HISTORY, "staging.pins"),
    ],
    kinds={"numpy"},
    code_version=_CODE_VERSION,
)
def medoids(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[pl.DataFrame]:
    """The medoid of each cluster, and its importance from the cluster's actions."""
    settings = parameters.in_force(warehouse, settings, partition_day(context))
    scope = window(partition_day(context), settings)
    made_by = f"decayed {settings.clustering.decayed_medoids}, code version {_CODE_VERSION}"
    members = warehouse.read(_MEMBERS, {"day": scope["day"], "made_by": made_by})
    ages = warehouse.read(_AGES, scope)
    if len(ages) != members["actions"].sum():
        raise dg.Failure(
            f"users.clusters of {scope['day']} is not of the window as it is now ({members['actions'].sum()} actions, "
            f"now {len(ages)}): materialise users.clusters again, then this"
        )
    known = _medoids_of_yesterday(warehouse, members, scope["day"], settings)
    weights = _weights(members, ages, settings)
    fresh = members.filter(known.is_null())
    pin_rows, vectors = _rows_and_vectors(warehouse, scope["day"], fresh["pin_id"])
    found = find_medoids(
        fresh["number"].rank("dense").cast(pl.Int64).to_numpy() - 1,
        fresh["pin_id"].to_numpy(),
        pin_rows,
        weights[known.is_null().to_numpy()],
        vectors,
        log_progress(context.log, "clusters"),
        settings.clustering.actions_per_medoid,
    )
    members = members.with_columns(medoid_pin_id=_filled(known, found))
    embeddings = (
        members.group_by("user_id", "cluster", "medoid_pin_id", "fingerprint", maintain_order=True)
        .agg(size=pl.col("actions").sum())
        .with_row_index("embedding")
    )
    acted = ages.join(members, on=["user_id", "pin_id"], maintain_order="left").join(
        embeddings, on=["user_id", "cluster", "medoid_pin_id"], maintain_order="left"
    )
    weights = importance(
        acted["age"].to_numpy(), acted["embedding"].to_numpy(), settings.clustering.decay_per_day, len(embeddings)
    )
    if settings.feedback.strength > 0:
        weights *= _factors(warehouse, embeddings, scope, settings)
    return dg.MaterializeResult(
        value=embeddings.drop("embedding").with_columns(importance=pl.Series(weights)),
        metadata={"clusters reused from the day before": members["number"].n_unique() - fresh["number"].n_unique()},
    )


def _before(day: datetime.date) -> datetime.date:
    return day - datetime.timedelta(days=1)


def _rows_and_vectors(
    warehouse: Warehouse, day: datetime.date, pins: pl.Series
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The vectors of some pins, and which of them belongs to each."""
    pin_ids, vectors = pin_vectors(warehouse, "SELECT unnest($pins)", {"day": day, "pins": pins.unique().to_list()})
    return rows_of(pin_ids, pins.to_numpy()), vectors


def _filled(values: pl.Series, missing: NDArray) -> pl.Series:
    """Put what was computed where nulls are."""
    filled = values.fill_null(0).to_numpy().copy()
    filled[values.is_null().to_numpy()] = missing
    return pl.Series(filled)


def _medoids_of_yesterday(
    warehouse: Warehouse, members: pl.DataFrame, day: datetime.date, settings: Settings
) -> pl.Series:
    """The medoid that each member belongs to, null where it must be found.

    That is always so of several medoids of a cluster, and of decayed ones: fingerprints do not know when actions were.
    """
    if settings.clustering.decayed_medoids:
        return pl.Series(values=[None] * len(members), dtype=pl.Int64)
    actions_per_medoid = settings.clustering.actions_per_medoid
    kept = warehouse.read(
        """
        SELECT user_id, fingerprint, any_value(medoid_pin_id) AS medoid_pin_id
        FROM users.medoids WHERE dt = $yesterday GROUP BY user_id, fingerprint HAVING count(*) = 1
        """,
        {"yesterday": _before(day)},
    )
    known = members.join(kept, on=["user_id", "fingerprint"], how="left", maintain_order="left")
    has_one = pl.col("actions").sum().over("number") <= actions_per_medoid if actions_per_medoid else pl.lit(True)
    return known.select(pl.when(has_one).then("medoid_pin_id").alias("medoid_pin_id"))["medoid_pin_id"]


def _weights(members: pl.DataFrame, ages: pl.DataFrame, settings: Settings) -> NDArray:
    """What each member weighs in the choice of its cluster's medoid."""
    if not settings.clustering.decayed_medoids:
        return members["actions"].to_numpy()
    of_action = ages.join(
        members.select("user_id", "pin_id").with_row_index("row"), on=["user_id", "pin_id"], maintain_order="left"
    )
    return decayed_weights(
        of_action["age"].to_numpy(),
        of_action["row"].to_numpy().astype(np.int64),
        members["number"].to_numpy(),
        settings.clustering.decay_per_day,
    )


def _factors(
    warehouse: Warehouse, embeddings: pl.DataFrame, scope: dict[str, object], settings: Settings
) -> NDArray[np.float64]:
    """What feedback makes of the importance of each embedding."""
    feedback = settings.feedback
    shown = warehouse.read(_FEEDBACK, {**scope, "hide": feedback.hide_actions, "hours": feedback.hours})
    pins = pl.concat([shown["pin_id"], embeddings["medoid_pin_id"]])
    pin_rows, vectors = _rows_and_vectors(warehouse, scope["day"], pins)
    return feedback_factors(
        shown["user_id"].to_numpy(),
        pin_rows[: len(shown)],
        shown["age"].to_numpy(),
        shown["outcome"].to_numpy(),
        embeddings["user_id"].to_numpy(),
        pin_rows[len(shown) :],
        vectors,
        settings.clustering.decay_per_day,
        feedback.strength,
        feedback.minimal_cosine,
    )


ASSETS = [clusters, medoids]
