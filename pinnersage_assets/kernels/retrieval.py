"""The nearest pins of some medoids, in one shard and in all; the candidates of a bucket of users."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pinnersage_assets.ann.exact import exact_search
from pinnersage_assets.ann.index_files import open_index, open_shard
from pinnersage_assets.ann.restricted import CorpusIndex, search_among
from pinnersage_assets.ann.shards import Found, merge
from pinnersage_assets.model.candidates import candidate_sets
from pinnersage_assets.vector_files import VectorFile

# In the files of `recommend_bucket`: how many of the bucket's users waited for a deeper search.
_WAITED = "users who waited"
# By what lists are known again: columns that come with medoids, and stay with them.
_KNOWN_BY = ("fingerprint", "corpus_fingerprint")


def find_neighbours(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """The nearest pins of medoids in one shard of the index.

    Args:
        source: shard (the same in all rows), medoid_pin_id, pin_row (of the vectors), depth, and by what lists
            are known again; by ascending depth.
        destination: gets a row a medoid, in their order: medoid_pin_id, pin_ids and cosines (nearest first), and by
            what they are known.
        parameters: ``index``, as of `ann.index_files`; ``allowed``, None or a ``.npy`` file of the pins that may be
            found, ascending.

    Returns:
        The number of medoids.
    """
    queries = pl.read_parquet(source, hive_partitioning=False)
    index = open_shard(parameters["index"], queries.item(0, "shard"))
    found = _nearest(index, queries, parameters).with_columns(queries.select(_KNOWN_BY))
    found.write_parquet(destination, compression="lz4")
    return len(queries)


def merge_neighbours(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """The nearest pins of medoids in all shards.

    Args:
        source: medoid_pin_id, depth, by what lists are known, and ``files``, the names of those that `find_neighbours`
            made of the same medoids (the same in all rows).
        destination: as of `find_neighbours`, each list as long as its depth, or as all that was found.
        parameters: ``folder``, where the files are.

    Returns:
        The number of medoids.

    Raises:
        ValueError: a file is not of these medoids.
    """
    queries = pl.read_parquet(source, hive_partitioning=False)
    depths = queries["depth"].to_numpy()
    names = queries.item(0, "files")
    shards = [pl.read_parquet(Path(parameters["folder"]) / name, hive_partitioning=False) for name in names]
    for name, shard in zip(names, shards, strict=True):
        if not shard["medoid_pin_id"].equals(queries["medoid_pin_id"]):
            raise ValueError(f"{name} is not of the medoids of {source}")
    pins, cosines = merge([_padded(shard) for shard in shards], depths.max())
    pins[np.arange(pins.shape[1]) >= depths[:, None]] = -1
    merged = _lists(queries["medoid_pin_id"], pins, cosines).with_columns(queries.select(_KNOWN_BY))
    merged.write_parquet(destination, compression="lz4")
    return len(queries)


def update_neighbours(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """Lists that lack nothing but new pins, with these.

    Args:
        source: medoid_pin_id, pin_row (of the vectors), depth, by what lists are known, pin_ids and cosines
            (nearest first), none shorter than its depth.
        destination: as of `find_neighbours`, each list as long as its depth.
        parameters: ``vectors``, as of `VectorFile`; ``new``, a ``.npy`` file of new pins: ids ascending, and rows of
            the vectors.

    Returns:
        The number of medoids.
    """
    kept = pl.read_parquet(source, hive_partitioning=False)
    vectors = VectorFile.of(parameters["vectors"]).map()
    ids, rows = np.load(parameters["new"])
    found = []
    for (depth,), group in kept.group_by("depth", maintain_order=True):
        new, cosines = exact_search(vectors[group["pin_row"].to_numpy()], vectors[rows], depth)
        # A shard of their own.
        together = merge([_padded(group), (ids[new], cosines)], depth)
        found.append(_lists(group["medoid_pin_id"], *together).with_columns(group.select(_KNOWN_BY)))
    pl.concat(found).write_parquet(destination, compression="lz4")
    return len(kept)


def recommend_bucket(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """The candidate set of each user, by `candidate_sets`; where neighbours do not suffice, more are searched.

    Args:
        source: a row a drawn medoid: user_id, medoid_pin_id, pin_row (of the vectors), share, and others; in one row of
            each user ``seen``, the pins that are not to be recommended, null elsewhere.
        destination: gets user_id, rank, pin_id, medoid_pin_id, score.
        parameters: as of `find_neighbours`, and ``neighbours``, an Arrow file with the lists of all medoids as
            `find_neighbours` makes them; ``pins``, how many may be found; ``refill``.

    Returns:
        The number of candidates.
    """
    rows = pl.read_parquet(source, hive_partitioning=False)
    drawn, seen = rows.drop("seen"), rows.select("user_id", pin_id="seen").drop_nulls().explode("pin_id")
    found = pl.col("pin_ids").list.len().cast(pl.Int64)
    near = _lists_of(drawn["medoid_pin_id"], Path(parameters["neighbours"])).with_columns(
        whole=found >= parameters["pins"], searched=found
    )
    sets, wanting = candidate_sets(drawn, near, seen, parameters["refill"])
    made, waited = [sets], wanting["user_id"].n_unique()
    while len(wanting):
        drawn = drawn.join(wanting, on="user_id", how="semi")
        near = _deeper(near, drawn, wanting, parameters)
        sets, wanting = candidate_sets(drawn, near, seen, parameters["refill"])
        made.append(sets)
    candidates = pl.concat(made)
    candidates.write_parquet(destination, compression="lz4", metadata={_WAITED: str(waited)})
    return len(candidates)


def users_who_waited(path: Path) -> int:
    """For how many users `recommend_bucket` had to search deeper to make a file."""
    return int(pq.read_metadata(path).metadata[_WAITED.encode()])


def _deeper(
    near: pl.DataFrame, drawn: pl.DataFrame, wanting: pl.DataFrame, parameters: Mapping[str, Any]
) -> pl.DataFrame:
    """The neighbours of the drawn medoids, those of the wanting ones searched deeper.

    Each four times as deep as it was searched before, which may have found fewer than it was asked for.
    """
    own = near.join(drawn, on="medoid_pin_id", how="semi")
    queries = (
        drawn.select("medoid_pin_id", "pin_row")
        .unique()
        .join(wanting, on="medoid_pin_id", how="semi")
        .join(own.select("medoid_pin_id", "searched"), on="medoid_pin_id", how="left")
        .select("medoid_pin_id", "pin_row", depth=4 * pl.max_horizontal(pl.col("searched").fill_null(1), 1))
        .sort("depth", "medoid_pin_id")
    )
    found = _nearest(open_index(parameters["index"]), queries, parameters).with_columns(
        whole=queries["depth"] >= parameters["pins"], searched=queries["depth"]
    )
    return pl.concat([own.join(found, on="medoid_pin_id", how="anti"), found])


def _nearest(index: CorpusIndex, queries: pl.DataFrame, parameters: Mapping[str, Any]) -> pl.DataFrame:
    """The nearest pins of medoids; of medoids of equal depth, which stand together, at once."""
    vectors = VectorFile.of(parameters["index"]["vectors"]).map()
    allowed = None
    if parameters["allowed"] is not None:
        allowed = np.isin(index.ids, np.load(parameters["allowed"]), assume_unique=True)
    found = []
    for (depth,), group in queries.group_by("depth", maintain_order=True):
        asked = vectors[group["pin_row"].to_numpy()]
        if len(asked) == 1:
            # BLAS has another way for the product with a single vector, and how that is rounded depends on its threads.
            asked = np.repeat(asked, 2, axis=0)
        if allowed is None:
            pins, cosines = index.search(asked, depth)
        else:
            pins, cosines = search_among(index, asked, depth, allowed)
        found.append(_lists(group["medoid_pin_id"], pins[: len(group)], cosines[: len(group)]))
    return pl.concat(found)


def _lists_of(medoids: pl.Series, neighbours: Path) -> pl.DataFrame:
    """The rows of some medoids; others are not read from the disk."""
    with pa.memory_map(str(neighbours)) as mapped:
        everybody = pa.ipc.open_file(mapped).read_all()
        # PyArrow makes this function when it is loaded, so that its types have none.
        wanted = pc.is_in(everybody["medoid_pin_id"], value_set=medoids.unique().to_arrow())  # ty: ignore[missing-attribute]
        return pl.DataFrame(everybody.filter(wanted))


def _lists(medoids: pl.Series, pins: NDArray[np.int64], cosines: NDArray[np.float32]) -> pl.DataFrame:
    """A row a medoid with what was found of it, which are lists; -1 stands for none."""
    found = pins != -1
    bounds = np.concatenate([[0], np.cumsum(np.count_nonzero(found, axis=1))])
    lists = {
        name: pl.Series(pa.LargeListArray.from_arrays(bounds, values[found]))
        for name, values in (("pin_ids", pins), ("cosines", cosines))
    }
    return pl.DataFrame({"medoid_pin_id": medoids, **lists})


def _padded(lists: pl.DataFrame) -> Found:
    """As `_lists`, the other way round."""
    lengths = lists["pin_ids"].list.len().to_numpy()
    found = np.arange(lengths.max()) < lengths[:, None]
    pins, cosines = np.full(found.shape, -1), np.full(found.shape, -np.inf, dtype=np.float32)
    pins[found] = lists["pin_ids"].explode(empty_as_null=False).to_numpy()
    cosines[found] = lists["cosines"].explode(empty_as_null=False).to_numpy()
    return pins, cosines
