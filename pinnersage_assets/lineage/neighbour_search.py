"""The nearest pins of medoids, searched by kernels: a task a shard of the index and range of medoids."""

import datetime
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pinnersage_assets.engines.engine import Engine, Progress
from pinnersage_assets.lineage.by_bucket import map_buckets
from pinnersage_assets.lineage.corpus_index import describe_corpus_index, restriction
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.buckets import Bucket
from pinnersage_assets.warehouse.database import Warehouse

# Of a bucket's size: what a medoid takes with its neighbours, to a pin acted on with its vector.
_ROWS_A_MEDOID = 20


def medoids_a_bucket(settings: Settings) -> int:
    """How many medoids, each with its neighbours, are as large as a bucket of rows."""
    return max(1, settings.engine.rows_a_bucket // _ROWS_A_MEDOID)


def search_parameters(
    warehouse: Warehouse, settings: Settings, day: datetime.date, folder: Path, log: logging.Logger
) -> dict[str, Any]:
    """What kernels need to search the recommendable pins of a day, JSON-able.

    Args:
        warehouse: where they are.
        settings: with the condition that restricts them.
        day: the day.
        folder: exists, for as long as kernels search; gets files.
        log: as of `describe_corpus_index`.

    Returns:
        ``index``, as of `ann.index_files`; ``allowed``, a file of the pins to which a condition restricts, or None; and
        ``pins``, how many may be found.

    Raises:
        LookupError: as `describe_corpus_index`.
        ValueError: as `restriction`.
    """
    allowed, file = restriction(warehouse, day, settings.retrieval.condition), None
    if allowed is None:
        pins = warehouse.read("SELECT count(*) FROM corpus.pins WHERE dt = $day", {"day": day}).item()
    else:
        pins, file = len(allowed), str(folder / "allowed.npy")
        np.save(file, allowed.to_numpy())
    return {"index": describe_corpus_index(warehouse, day, folder, log), "allowed": file, "pins": pins}


def search_neighbours(
    engine: Engine,
    queries: pl.DataFrame,
    parameters: Mapping[str, Any],
    medoids_a_task: int,
    folder: Path,
    on_progress: Progress,
) -> list[Path]:
    """The nearest pins of medoids in all shards.

    Args:
        engine: where.
        queries: medoid_pin_id, pin_row (of the vectors), depth, fingerprint, corpus_fingerprint; by ascending
            depth.
        parameters: as of `search_parameters`.
        medoids_a_task: >= 1.
        folder: exists; gets what is needed on the way.
        on_progress: called with the tasks done and the tasks in all.

    Returns:
        Files with medoid_pin_id, pin_ids, cosines, fingerprint, corpus_fingerprint: every medoid in one
        of them.

    Raises:
        TaskFailedError, ReceiptError, BucketError: as `map_buckets`.
    """
    shards = max(1, len(parameters["index"]["shards"]))
    ranges = list(queries.iter_slices(medoids_a_task))
    (folder / "queries").mkdir()
    asked = [
        _bucket(folder / "queries" / _name(number, shard), some.with_columns(shard=pl.lit(shard)))
        # One shard after the other: a worker opens few.
        for shard in range(shards)
        for number, some in enumerate(ranges)
    ]
    kernels = "pinnersage_assets.kernels.retrieval:{}"
    found = map_buckets(engine, kernels.format("find_neighbours"), asked, parameters, folder / "found", on_progress)
    if shards == 1:
        return found
    (folder / "parts").mkdir()
    parts = [
        _bucket(
            folder / "parts" / f"{number:06}.parquet",
            some.drop("pin_row").with_columns(files=pl.lit([_name(number, shard) for shard in range(shards)])),
        )
        for number, some in enumerate(ranges)
    ]
    where = {"folder": str(folder / "found")}
    return map_buckets(engine, kernels.format("merge_neighbours"), parts, where, folder / "merged", on_progress)


def _name(number: int, shard: int) -> str:
    return f"{number:06}-{shard:04}.parquet"


def _bucket(path: Path, rows: pl.DataFrame) -> Bucket:
    rows.write_parquet(path, compression="lz4")
    return Bucket(path.stem, path, len(rows))
