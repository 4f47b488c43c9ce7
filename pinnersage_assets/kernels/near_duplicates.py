"""A shard of the representatives of earlier days: which new pins repeat one of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from pinnersage_assets.model.near_duplicates import nearest_representatives
from pinnersage_assets.model.selected_vectors import SelectedVectors
from pinnersage_assets.vector_files import VectorFile

_JOINS = {"row": pl.Int64, "representative": pl.Int64, "cosine": pl.Float64}


def search_shard(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """The nearest representative within the threshold of each new pin, among those of the shard.

    Args:
        source: the shard: row (int64, ascending) and pin_row (int64, of the vectors).
        destination: gets a row a new pin that repeats one: row, representative (int64, the row of the nearest, of
            equally near ones the smallest) and cosine (float64).
        parameters: ``new``, the path of such a file with the new pins; ``new_at_once``, how many of them are looked at
            together, which bounds the memory; ``vectors``, those of a `VectorFile`; ``threshold``; ``seed``.

    Returns:
        The number of rows.

    Raises:
        ValueError: the vector of a new pin is no unit vector.
    """
    shard, new = (pl.read_parquet(path, hive_partitioning=False) for path in (source, parameters["new"]))
    vectors, found = VectorFile.of(parameters["vectors"]).map(), [pl.DataFrame(schema=_JOINS)]
    for some in new.iter_slices(parameters["new_at_once"]):
        rows, pin_rows = pl.concat([shard, some]).to_numpy().T
        pins, representatives, cosines = nearest_representatives(
            SelectedVectors(vectors, pin_rows), parameters["threshold"], len(shard), parameters["seed"]
        )
        found.append(pl.DataFrame([rows[pins], rows[representatives], cosines], schema=_JOINS))
    joins = pl.concat(found)
    joins.write_parquet(destination, compression="lz4")
    return len(joins)
