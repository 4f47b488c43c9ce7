"""A bucket of users: what becomes of their rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pinnersage_assets.model.medoids import decayed_weights, importance
from pinnersage_assets.model.pinnersage import cluster_users, find_medoids
from pinnersage_assets.model.population import offsets_of
from pinnersage_assets.vector_files import VectorFile


def cluster_bucket(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """The Ward clusters of each user's pins.

    Args:
        source: user_id, pin_id, pin_row (of the vectors), actions and any other columns, rows of a user together.
        destination: gets the same rows with ``cluster`` for pin_row.
        parameters: ``vectors``, those of a `VectorFile` with the vectors of all users; ``alpha``; ``memory_bytes``,
            what may be taken beside the vectors of the bucket.

    Returns:
        The number of rows.

    Raises:
        ValueError: a vector has NaN or infinity.
    """
    rows = pl.read_parquet(source, hive_partitioning=False)
    pin_rows, vectors = _vectors_of(rows["pin_row"], parameters)
    # The products of a user's few pins are small: more threads take longer, and on a busy machine many times as long.
    with threadpool_limits(limits=1):
        labels = cluster_users(
            rows["user_id"].to_numpy(),
            pin_rows,
            rows["actions"].to_numpy(),
            vectors,
            parameters["alpha"],
            _unseen,
            parameters["memory_bytes"],
        )
    rows.drop("pin_row").with_columns(cluster=pl.Series(labels)).write_parquet(destination, compression="lz4")
    return len(rows)


def embed_bucket(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """The medoids of each user's clusters, and their importance.

    Args:
        source: user_id, cluster, pin_id, actions, ages (of each action, in days, ascending), fingerprint, medoid_pin_id
            (null where it must be found) and pin_row (of the vectors); rows in the order of user, cluster and pin.
        destination: gets a row an embedding: user_id, cluster, medoid_pin_id, fingerprint, size, importance.
        parameters: ``vectors``, those of a `VectorFile`; ``decay_per_day``; ``decayed_medoids``;
            ``actions_per_medoid``.

    Returns:
        The number of embeddings.
    """
    rows = pl.read_parquet(source, hive_partitioning=False).with_row_index("row")
    ages = rows.select("row", age="ages").explode("age")
    clusters = rows.select((pl.struct("user_id", "cluster").rle_id()).cast(pl.Int64)).to_series().to_numpy()
    decay = parameters["decay_per_day"]
    weights = rows["actions"].to_numpy()
    if parameters["decayed_medoids"]:
        owners = ages["row"].to_numpy().astype(np.int64)
        weights = decayed_weights(ages["age"].to_numpy(), owners, clusters, decay)
    fresh = rows["medoid_pin_id"].is_null().to_numpy()
    medoids = rows["medoid_pin_id"].fill_null(0).to_numpy().copy()
    if fresh.any():
        pin_rows, vectors = _vectors_of(rows["pin_row"].filter(fresh), parameters)
        offsets = offsets_of(clusters[fresh])
        numbers = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        pins = rows["pin_id"].to_numpy()[fresh]
        medoids[fresh] = find_medoids(
            numbers, pins, pin_rows, weights[fresh], vectors, _unseen, parameters["actions_per_medoid"]
        )
    rows = rows.with_columns(medoid_pin_id=pl.Series(medoids))
    columns = ["user_id", "cluster", "medoid_pin_id", "fingerprint"]
    embeddings = rows.group_by(columns, maintain_order=True).agg(size=pl.col("actions").sum(), row="row")
    # The actions of an embedding come in the order of pins and ages: sums of floats depend on it.
    acted = (
        embeddings.with_row_index("embedding")
        .select("embedding", "row")
        .explode("row")
        .join(ages, on="row", maintain_order="left_right")
    )
    weights = importance(acted["age"].to_numpy(), acted["embedding"].to_numpy(), decay, len(embeddings))
    embeddings.drop("row").with_columns(importance=pl.Series(weights)).write_parquet(destination, compression="lz4")
    return len(embeddings)


def _vectors_of(pin_rows: pl.Series, parameters: Mapping[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which of a bucket's own vectors belongs to each row, and these vectors."""
    own, within = np.unique(pin_rows.to_numpy(), return_inverse=True)
    return within, VectorFile.of(parameters["vectors"]).map()[own]


def _unseen(done: int, total: int) -> None:
    """Progress inside a bucket is nobody's business."""
