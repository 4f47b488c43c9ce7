"""``corpus.*``: which pins may be recommended as of a day."""

import dagster as dg
import numpy as np
import polars as pl

from pinnersage_assets.model.corpus import exclusions
from pinnersage_assets.model.near_duplicates import group_near_duplicates
from pinnersage_assets.partitions import DAILY, EARLIER, HISTORY, SAME_DAY, partition_day, reads
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
    code_version="2",
)
def excluded(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """All pins known by the day that may not be recommended as of the day."""
    known = warehouse.read(
        """
        SELECT p.dt, p.pin_id, coalesce(d.canonical_pin_id, p.pin_id) AS canonical_pin_id,
            p.width, p.height, p.text_fraction
        FROM staging.pins AS p LEFT JOIN corpus.near_duplicates AS d ON p.pin_id = d.pin_id
        WHERE p.dt <= $day
        """,
        {"day": partition_day(context)},
    )
    return exclusions(known, settings.corpus.minimal_side_pixels, settings.corpus.maximal_text_fraction)


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
