"""``corpus.*``: which pins may be recommended as of a day."""

from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl

from pinnersage_assets.engines.resource import EngineResource
from pinnersage_assets.lineage.by_bucket import map_buckets
from pinnersage_assets.lineage.queries import INTEREST_ACTIONS, window
from pinnersage_assets.model.corpus import exclusions
from pinnersage_assets.model.near_duplicates import group_near_duplicates
from pinnersage_assets.model.selected_vectors import SelectedVectors
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
from pinnersage_assets.warehouse.buckets import Bucket
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import scratch_folder
from pinnersage_assets.warehouse.pin_vectors import pin_vectors

# Pins that represented their groups before the run's days, and all pins of these days, in order.
_COMPARED = """
    SELECT dt, pin_id, pin_row FROM staging.pins JOIN known_pins USING (pin_id)
    WHERE dt <= $last AND (
        dt >= $first OR pin_id NOT IN (SELECT pin_id FROM corpus.near_duplicates WHERE dt < $first)
    )
    ORDER BY dt, pin_id
"""


@dg.asset(
    key=["corpus", "near_duplicates"],
    partitions_def=DAILY,
    # Every day since the first is needed, and a run a day takes longer than the work.
    backfill_policy=dg.BackfillPolicy.single_run(),
    deps=[*reads(HISTORY, "staging.pins"), *reads(EARLIER, "corpus.near_duplicates")],
    kinds={"numpy"},
    code_version="4",
)
def near_duplicates(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings, engine: EngineResource
) -> pl.DataFrame:
    """The new pins of the run's days, in order, against all earlier representatives: by days or at once, the same."""
    days = partition_days(context)
    known = pin_vectors(warehouse, days[-1])
    with warehouse.get_reader() as connection:
        known.register(connection)
        pins = connection.sql(_COMPARED, params={"first": days[0], "last": days[-1]}).pl()
    new = pins.filter(pl.col("dt") >= days[0])
    n_representatives = len(pins) - len(new)
    options = {"threshold": settings.corpus.near_duplicate_cosine, "seed": settings.seed}
    at_once = settings.engine.rows_a_bucket
    with scratch_folder(warehouse) as folder:
        of_new, shards = _write_shards(pins["pin_row"], n_representatives, at_once, folder)
        files = map_buckets(
            engine.get_engine(),
            "pinnersage_assets.kernels.near_duplicates:search_shard",
            shards,
            {"new": str(of_new), "new_at_once": at_once, "vectors": known.file.parameters, **options},
            folder / "joins",
            log_progress(context.log, "shards of earlier pins"),
            keeps_rows=False,
        )
        joins = None
        if files:
            joined = pl.read_parquet(files, hive_partitioning=False)
            joins = joined["row"].to_numpy(), joined["representative"].to_numpy(), joined["cosine"].to_numpy()
    canonical, cosines = group_near_duplicates(
        SelectedVectors(known.source, pins["pin_row"].to_numpy()),
        **options,
        n_representatives=n_representatives,
        on_progress=log_progress(context.log, "pins"),
        found=joins,
    )
    found = new.select(
        "dt",
        "pin_id",
        canonical_pin_id=pins["pin_id"].gather(canonical[n_representatives:]),
        cosine=pl.Series(cosines[n_representatives:]),
    )
    return found.filter(pl.col("pin_id") != pl.col("canonical_pin_id"))


def _write_shards(
    pin_rows: pl.Series, n_representatives: int, rows_a_shard: int, folder: Path
) -> tuple[Path, list[Bucket]]:
    """Write, as `search_shard` reads them, the new pins into one file, and the representatives into shards.

    Args:
        pin_rows: Int64, of the vector file: of the representatives, then of the new pins.
        n_representatives: how many there are.
        rows_a_shard: >= 1.
        folder: exists; gets the files.

    Returns:
        The file of the new pins, and the shards; none, where nothing is to be compared.
    """
    pins = pl.DataFrame({"row": np.arange(len(pin_rows)), "pin_row": pin_rows})
    new, shards = pins[n_representatives:], []
    new.write_parquet(folder / "new.parquet", compression="lz4")
    representatives = pins[:n_representatives] if len(new) else pins[:0]
    for number, shard in enumerate(representatives.iter_slices(rows_a_shard)):
        shards.append(Bucket(str(number), folder / f"{number:06}.parquet", len(shard)))
        shard.write_parquet(shards[-1].path, compression="lz4")
    return folder / "new.parquet", shards


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
