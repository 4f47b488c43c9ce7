"""``users.*``: each user as many embeddings (paper, section 3.1).

Most users do nothing on most days. Whose window is yesterday's keeps yesterday's clusters and medoids: a cache, not an
input, since the rows are those of a full run. So it is no dependency, and a day without a yesterday lacks nothing.
"""

import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.engines.resource import EngineResource
from pinnersage_assets.lineage import parameters
from pinnersage_assets.lineage.by_bucket import map_buckets
from pinnersage_assets.lineage.queries import INTEREST_ACTIONS, window
from pinnersage_assets.model.feedback import feedback_factors
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.partitions import DAILY, HISTORY, SAME_DAY, SETTINGS, WINDOW, partition_day, reads
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.buckets import Bucket, collect, write_buckets, write_parquet
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import ParquetFiles, Rows, scratch_folder
from pinnersage_assets.warehouse.pin_vectors import PinVectors, pin_vectors

# Of both assets: a new way to compute either makes yesterday's results unfit for use today.
_CODE_VERSION = "3"

_ACTED = f"""
    SELECT user_id, pin_id, count(*)::INTEGER AS actions, max(ts) AS last_ts
    FROM ({INTEREST_ACTIONS}) GROUP BY user_id, pin_id
"""


def _fingerprint(of: str) -> str:
    """Columns by which the rows of a user or cluster are known again: contents, in any order, and what made them."""
    # Text is hashed: DuckDB's hash of several values is so simple that in a sum what is common to rows cancels out.
    return f"""
        bit_xor(hash(concat_ws(' ', pin_id, actions, digest))) OVER (PARTITION BY {of}) AS contents,
        (hash(concat_ws(' ', contents, $made_by)) >> 1)::BIGINT AS fingerprint
    """


# Pins acted on whose vector is known, of each user the latest, with yesterday's clusters of who has the same ones.
_CLUSTERED = f"""
    CREATE TEMP TABLE clustered AS
    WITH acted AS ({_ACTED}),
    fingerprinted AS (
        SELECT user_id, pin_id, actions, last_ts, pin_row,
            {_fingerprint("user_id")}
        FROM (
            FROM acted JOIN known_pins USING (pin_id)
            QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY last_ts DESC, pin_id) <= $most
        )
    ),
    kept AS (SELECT user_id, pin_id, fingerprint, cluster FROM users.clusters WHERE dt = $yesterday)
    SELECT * EXCLUDE contents FROM fingerprinted LEFT JOIN kept USING (user_id, pin_id, fingerprint)
"""

_FRESH = "SELECT * EXCLUDE cluster FROM clustered WHERE cluster IS NULL"

_KEPT = "SELECT * EXCLUDE pin_row FROM clustered WHERE cluster IS NOT NULL"

_LEFT_OUT = f"""
    WITH acted AS (
        SELECT *, pin_id IN (SELECT pin_id FROM known_pins) AS known FROM ({_ACTED})
    )
    SELECT
        (SELECT coalesce(sum(actions), 0)::BIGINT FROM acted WHERE NOT known) AS unknown,
        (SELECT count(*) FROM (SELECT user_id FROM acted WHERE known GROUP BY user_id HAVING count(*) > $most)) AS users
"""

# The day's clusters by member, with a fingerprint of each cluster as the vectors are now, and yesterday's medoid of
# a cluster that had the same one. Several medoids of a cluster must always be found, and decayed ones: fingerprints do
# not know when actions were.
_MEMBERS = f"""
    CREATE TEMP TABLE members AS
    WITH numbered AS (
        SELECT user_id, cluster, pin_id, actions, dense_rank() OVER (ORDER BY user_id, cluster) - 1 AS number
        FROM users.clusters WHERE dt = $day
    ),
    fingerprinted AS (
        SELECT user_id, cluster, pin_id, actions, number, pin_row,
            {_fingerprint("number")}
        FROM numbered JOIN known_pins USING (pin_id)
    ),
    kept AS (
        SELECT user_id, fingerprint, any_value(medoid_pin_id) AS medoid
        FROM users.medoids WHERE dt = $yesterday AND NOT $decayed
        GROUP BY user_id, fingerprint HAVING count(*) = 1
    )
    SELECT user_id, cluster, pin_id, actions, number, pin_row, fingerprint,
        CASE WHEN $apiece = 0 OR sum(actions) OVER (PARTITION BY number) <= $apiece THEN medoid END AS medoid_pin_id
    FROM fingerprinted LEFT JOIN kept USING (user_id, fingerprint)
"""

_AGES = f"""
    CREATE TEMP TABLE ages AS
    SELECT c.user_id, c.pin_id, list(epoch($day + INTERVAL 1 DAY - a.ts) / 86400 ORDER BY a.ts DESC) AS ages
    FROM users.clusters AS c JOIN ({INTEREST_ACTIONS}) AS a ON c.user_id = a.user_id AND c.pin_id = a.pin_id
    WHERE c.dt = $day GROUP BY c.user_id, c.pin_id
"""

_OF_MEMBERS = """
    SELECT * EXCLUDE number FROM members JOIN ages USING (user_id, pin_id)
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


_NOBODY = pl.DataFrame(
    schema={
        "user_id": pl.Int64,
        "cluster": pl.Int32,
        "medoid_pin_id": pl.Int64,
        "fingerprint": pl.Int64,
        "size": pl.Int64,
        "importance": pl.Float64,
    }
)

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
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings, engine: EngineResource
) -> dg.MaterializeResult[ParquetFiles]:
    """The distinct pins of each user in the window, clustered; a pin acted on n times is a point of weight n."""
    settings = parameters.in_force(warehouse, settings, partition_day(context))
    scope, pins = window(partition_day(context), settings), pin_vectors(warehouse, partition_day(context))
    with scratch_folder(warehouse) as folder:
        buckets, kept, counts = _write_clustered(warehouse, pins, scope, settings, folder)
        found = map_buckets(
            engine.get_engine(),
            "pinnersage_assets.kernels.users:cluster_bucket",
            buckets,
            {
                "vectors": pins.file.parameters,
                "alpha": settings.clustering.alpha,
                "memory_bytes": settings.clustering.memory_megabytes * 2**20,
            },
            folder / "clusters",
            log_progress(context.log, "buckets of users"),
        )
        by_pin = ("user_id", "pin_id")
        rows = collect(warehouse, [kept, *found], {"count(*)": counts.pop("rows")}, unique=by_pin, order=by_pin)
    return dg.MaterializeResult(value=rows, metadata=counts)


def _write_clustered(
    warehouse: Warehouse, pins: PinVectors, scope: dict[str, Any], settings: Settings, folder: Path
) -> tuple[list[Bucket], Path, dict[str, int]]:
    """What is to be clustered, in buckets; what is kept of yesterday; and how much there is of all."""
    made_by = f"alpha {settings.clustering.alpha!r}, code version {_CODE_VERSION}"
    most, kept = {"most": settings.clustering.largest_user}, folder / "kept.parquet"
    with warehouse.get_reader() as connection:
        pins.register(connection)
        connection.execute(_CLUSTERED, {**scope, **most, "made_by": made_by, "yesterday": _before(scope["day"])})
        write_parquet(connection, _KEPT, kept)
        (folder / "buckets").mkdir()
        buckets = write_buckets(
            connection, _FRESH, "user_id", ["pin_id"], settings.engine.rows_a_bucket, folder / "buckets"
        )
        [(rows, reused)] = connection.execute(
            "SELECT count(*), count(DISTINCT user_id) FILTER (cluster IS NOT NULL) FROM clustered"
        ).fetchall()
        [(unknown, users)] = connection.execute(_LEFT_OUT, {**scope, **most}).fetchall()
    return (
        buckets,
        kept,
        {
            "rows": rows,
            "actions on unknown pins": unknown,
            "users with pins beyond the limit": users,
            "users reused from the day before": reused,
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
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings, engine: EngineResource
) -> dg.MaterializeResult:
    """The medoid of each cluster, and its importance from the cluster's actions."""
    settings = parameters.in_force(warehouse, settings, partition_day(context))
    scope, pins = window(partition_day(context), settings), pin_vectors(warehouse, partition_day(context))
    with scratch_folder(warehouse) as folder:
        buckets, expected, reused = _write_members(warehouse, pins, scope, settings, folder)
        found = map_buckets(
            engine.get_engine(),
            "pinnersage_assets.kernels.users:embed_bucket",
            buckets,
            {
                "vectors": pins.file.parameters,
                "decay_per_day": settings.clustering.decay_per_day,
                "decayed_medoids": settings.clustering.decayed_medoids,
                "actions_per_medoid": settings.clustering.actions_per_medoid,
            },
            folder / "medoids",
            log_progress(context.log, "buckets of users"),
            keeps_rows=False,
        )
        by_medoid = ("user_id", "cluster", "medoid_pin_id")
        rows = collect(warehouse, found, expected, unique=by_medoid, order=by_medoid) if found else _NOBODY
        if settings.feedback.strength > 0:
            rows = _with_feedback(warehouse, rows, scope, settings)
    return dg.MaterializeResult(value=rows, metadata={"clusters reused from the day before": reused})


def _write_members(
    warehouse: Warehouse, pins: PinVectors, scope: dict[str, Any], settings: Settings, folder: Path
) -> tuple[list[Bucket], dict[str, int], int]:
    """The members of clusters in buckets.

    Returns:
        The buckets; what the embeddings must add up to; and how many clusters keep their medoid.
    """
    day, clustering = scope["day"], settings.clustering
    with warehouse.get_reader() as connection:
        pins.register(connection)
        connection.execute(
            _MEMBERS,
            {
                "day": day,
                "yesterday": _before(day),
                "made_by": f"decayed {clustering.decayed_medoids}, code version {_CODE_VERSION}",
                "decayed": clustering.decayed_medoids,
                "apiece": clustering.actions_per_medoid,
            },
        )
        connection.execute(_AGES, scope)
        [(actions, clusters, reused)] = connection.execute(
            """
            SELECT coalesce(sum(actions), 0)::BIGINT, count(DISTINCT number),
                count(DISTINCT number) FILTER (medoid_pin_id IS NOT NULL)
            FROM members
            """
        ).fetchall()
        [(now,)] = connection.execute("SELECT coalesce(sum(len(ages)), 0)::BIGINT FROM ages").fetchall()
        if actions != now:
            raise dg.Failure(
                f"users.clusters of {day} is not of the window as it is now ({actions} actions, now {now}): "
                "materialise users.clusters again, then this"
            )
        (folder / "buckets").mkdir()
        order, rows_a_bucket = ["cluster", "pin_id"], settings.engine.rows_a_bucket
        buckets = write_buckets(connection, _OF_MEMBERS, "user_id", order, rows_a_bucket, folder / "buckets")
    return buckets, {"sum(size)": actions, "count(DISTINCT (user_id, cluster))": clusters}, reused


def _before(day: datetime.date) -> datetime.date:
    return day - datetime.timedelta(days=1)


def _with_feedback(warehouse: Warehouse, rows: Rows, scope: dict[str, Any], settings: Settings) -> pl.DataFrame:
    """Multiply importance by what feedback makes of it, which is of all users at once: it compares with the average."""
    if isinstance(rows, ParquetFiles):
        [path] = rows.paths
        embeddings = pl.read_parquet(path, hive_partitioning=False)
        rows.delete()
    else:
        embeddings = rows
    return embeddings.with_columns(
        importance=embeddings["importance"] * pl.Series(_factors(warehouse, embeddings, scope, settings))
    )


def _factors(
    warehouse: Warehouse, embeddings: pl.DataFrame, scope: dict[str, Any], settings: Settings
) -> NDArray[np.float64]:
    """What feedback makes of the importance of each embedding."""
    feedback = settings.feedback
    shown = warehouse.read(_FEEDBACK, {**scope, "hide": feedback.hide_actions, "hours": feedback.hours})
    pins = pl.concat([shown["pin_id"], embeddings["medoid_pin_id"]]).to_numpy()
    pin_ids, vectors = pin_vectors(warehouse, scope["day"]).known(pins)
    pin_rows = rows_of(pin_ids, pins)
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
