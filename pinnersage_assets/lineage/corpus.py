"""``corpus.*``: which pins may be recommended as of a day."""

import dagster as dg
import numpy as np
import polars as pl

from pinnersage_assets.model.corpus import exclusions
from pinnersage_assets.model.near_duplicates import group_near_duplicates
from pinnersage_assets.partitions import DAILY, EARLIER, HISTORY, partition_day, reads
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse


@dg.asset(
    key=["corpus", "near_duplicates"],
    partitions_def=DAILY,
    deps=[*reads(HISTORY, "staging.pins"), *reads(EARLIER, "corpus.near_duplicates")],
    kinds={"numpy"},
    code_version="2",
)
def near_duplicates(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """The day's new pins against all representatives of earlier days, then against each other."""
    day = {"day": partition_day(context)}
    representatives, known = warehouse.read_vectors(
        """
        SELECT pin_id, embedding FROM staging.pins
        WHERE dt < $day AND pin_id NOT IN (SELECT pin_id FROM corpus.near_duplicates WHERE dt < $day)
        ORDER BY dt, pin_id
        """,
        day,
    )
    new_pins, new = warehouse.read_vectors(
        "SELECT pin_id, embedding FROM staging.pins WHERE dt = $day ORDER BY pin_id", day
    )
    pin_ids = np.concatenate([representatives, new_pins])
    canonical, cosines = group_near_duplicates(
        np.concatenate([known, new]),
        settings.corpus.near_duplicate_cosine,
        n_representatives=len(representatives),
        on_progress=log_progress(context.log, "pins"),
        seed=settings.seed,
    )
    repeats = np.flatnonzero(canonical != np.arange(len(pin_ids)))
    return pl.DataFrame(
        {
            "pin_id": pin_ids[repeats],
            "canonical_pin_id": pin_ids[canonical[repeats]],
            "cosine": cosines[repeats],
        }
    )


@dg.asset(
    key=["corpus", "excluded"],
    partitions_def=DAILY,
    deps=reads(HISTORY, "staging.pins", "corpus.near_duplicates"),
    kinds={"polars"},
    code_version="1",
)
def excluded(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """The day's pins of low quality, and those that repeat an earlier eligible one."""
    day = partition_day(context)
    groups_of_the_day = warehouse.read(
        """
        WITH grouped AS (
            SELECT p.dt, p.pin_id, coalesce(d.canonical_pin_id, p.pin_id) AS canonical_pin_id,
                p.width, p.height, p.text_fraction
            FROM staging.pins AS p LEFT JOIN corpus.near_duplicates AS d ON p.pin_id = d.pin_id
            WHERE p.dt <= $day
        )
        FROM grouped WHERE canonical_pin_id IN (SELECT canonical_pin_id FROM grouped WHERE dt = $day)
        """,
        {"day": day},
    )
    corpus = settings.corpus
    found = exclusions(groups_of_the_day, corpus.minimal_side_pixels, corpus.maximal_text_fraction)
    return found.filter(pl.col("dt") == day)


@dg.asset(
    key=["corpus", "pins"],
    partitions_def=DAILY,
    deps=[*reads(HISTORY, "staging.pins"), *reads(HISTORY, "corpus.excluded")],
    kinds={"polars"},
    code_version="1",
)
def pins(context: dg.AssetExecutionContext, warehouse: Warehouse) -> pl.DataFrame:
    """All pins known by the day, but for those excluded by then."""
    return warehouse.read(
        """
        SELECT pin_id FROM staging.pins WHERE dt <= $day
        EXCEPT SELECT pin_id FROM corpus.excluded WHERE dt <= $day ORDER BY pin_id
        """,
        {"day": partition_day(context)},
    )


ASSETS = [near_duplicates, excluded, pins]
