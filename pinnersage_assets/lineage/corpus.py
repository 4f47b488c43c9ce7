"""``corpus.*``: which pins may be recommended as of a day."""

import dagster as dg
import polars as pl

from pinnersage_assets.lineage.queries import INTEREST_ACTIONS, window
from pinnersage_assets.model.corpus import exclusions
from pinnersage_assets.model.near_duplicates import group_near_duplicates
from pinnersage_assets.partitions import (
    DAILY,
    EARLIER,
    HISTORY,
    SAME_DAY,
    SETTINGS,
    WINDOW,
    partition_day,
    partition_days,
    reads,
)
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse


@dg.asset(
    key=["corpus", "near_duplicates"],
    partitions_def=DAILY,
    # Every day since the first is needed, and a run a day takes longer than the work.
    backfill_policy=dg.BackfillPolicy.single_run(),
    deps=[*reads(HISTORY, "staging.pins"), *reads(EARLIER, "corpus.near_duplicates")],
    kinds={"numpy"},
    code_version="3",
)
def near_duplicates(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """The new pins of the run's days, in order, against all earlier representatives: by days or at once, the same."""
    days = partition_days(context)
    scope = {"first": days[0], "last": days[-1]}
    pin_ids, vectors = warehouse.read_vectors(
        """
        SELECT pin_id, embedding FROM staging.pins
        WHERE dt <= $last AND (
            dt >= $first OR pin_id NOT IN (SELECT pin_id FROM corpus.near_duplicates WHERE dt < $first)
        )
        ORDER BY dt, pin_id
        """,
        scope,
    )
    new = warehouse.read(
        "SELECT dt, pin_id FROM staging.pins WHERE dt BETWEEN $first AND $last ORDER BY dt, pin_id", scope
    )
    n_representatives = len(pin_ids) - len(new)
    canonical, cosines = group_near_duplicates(
        vectors,
        settings.corpus.near_duplicate_cosine,
        n_representatives=n_representatives,
        on_progress=log_progress(context.log, "pins"),
        seed=settings.seed,
    )
    found = new.with_columns(
        canonical_pin_id=pl.Series(pin_ids[canonical[n_representatives:]]),
        cosine=pl.Series(cosines[n_representatives:]),
    )
    return found.filter(pl.col("pin_id") != pl.col("canonical_pin_id"))


# A gap in the actions is of no concern to who does not count them.
_ENGAGEMENT_TABLES = ("staging.actions",) if SETTINGS.corpus.minimal_actions > 0 else ()

# All pins known by the day, with the actions on each where somebody asks for them.
_KNOWN_PINS = f"""
    WITH acted AS (
        SELECT pin_id, count(*) AS actions FROM ({INTEREST_ACTIONS}) WHERE $minimal_actions > 0 GROUP BY pin_id
    )
    SELECT p.dt, p.pin_id, coalesce(d.canonical_pin_id, p.pin_id) AS canonical_pin_id,
        p.width, p.height, p.text_fraction, coalesce(a.actions, 0) AS actions
    FROM staging.pins AS p
    LEFT JOIN corpus.near_duplicates AS d ON p.pin_id = d.pin_id
    LEFT JOIN acted AS a ON p.pin_id = a.pin_id
    WHERE p.dt <= $day
"""


@dg.asset(
    key=["corpus", "excluded"],
    partitions_def=DAILY,
    deps=[*reads(HISTORY, "staging.pins", "corpus.near_duplicates"), *reads(WINDOW, *_ENGAGEMENT_TABLES)],
    kinds={"polars"},
    code_version="2",
)
def excluded(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """All pins known by the day that may not be recommended as of the day."""
    corpus = settings.corpus
    known = warehouse.read(
        _KNOWN_PINS, {**window(partition_day(context), settings), "minimal_actions": corpus.minimal_actions}
    )
    return exclusions(known, corpus.minimal_side_pixels, corpus.maximal_text_fraction, corpus.minimal_actions)


@dg.asset(
    key=["corpus", "pins"],
    partitions_def=DAILY,
    deps=[*reads(HISTORY, "staging.pins"), *reads(SAME_DAY, "corpus.excluded")],
    kinds={"polars"},
    code_version="2",
)
def pins(context: dg.AssetExecutionContext, warehouse: Warehouse) -> pl.DataFrame:
    """All pins known by the day, but for those excluded as of the day."""
    return warehouse.read(
        """
        SELECT pin_id FROM staging.pins WHERE dt <= $day
        EXCEPT SELECT pin_id FROM corpus.excluded WHERE dt = $day ORDER BY pin_id
        """,
        {"day": partition_day(context)},
    )


ASSETS = [near_duplicates, excluded, pins]
