"""Yesterday's medoid cache, as far as it is still right.

A list lacks nothing but pins that are new since, if its medoid's vector and the way to search are the same and none of
its pins has left the corpus. New pins are few: they are compared with each such medoid, which costs less than a search.
As in `users`, that is a cache and not an input: a day without a yesterday lacks nothing. A corpus that is searched
exactly is small, and always searched.
"""

import datetime
import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pinnersage_assets.ann.fingerprints import fingerprint
from pinnersage_assets.lineage.neighbour_search import medoids_a_bucket
from pinnersage_assets.lineage.queries import corpus_ids
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.buckets import Bucket
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.pin_vectors import pin_vectors

# New pins, to all of the corpus, up to which comparing them with a medoid takes less time than a search.
_NEW_SHARE = 0.05

_INDEX = """
    SELECT shard, method, connectivity, expansion_add, expansion_search, dtype, fingerprint
    FROM retrieval.hnsw_index WHERE dt = $day ORDER BY shard
"""

_KEPT = """
    WITH before AS (
        SELECT q.*, n.pin_ids, n.cosines
        FROM queries AS q JOIN retrieval.medoid_neighbours AS n USING (medoid_pin_id, fingerprint)
        WHERE n.dt = $before AND n.corpus_fingerprint = $corpus AND len(n.pin_ids) >= q.depth
    ),
    torn AS (
        SELECT DISTINCT medoid_pin_id FROM (SELECT medoid_pin_id, unnest(pin_ids) AS pin_id FROM before)
        SEMI JOIN left_pins USING (pin_id)
    )
    FROM before ANTI JOIN torn USING (medoid_pin_id)
"""


@dataclass(frozen=True)
class KeptNeighbours:
    """What is kept, and what is to be searched."""

    fresh: pl.DataFrame
    """The queries for which there is no list to keep."""
    buckets: list[Bucket]
    """The others, each with its list."""
    new: Path
    """A ``.npy`` file of the pins that these lists do not know: ids and rows of the vector file."""


def with_fingerprints(
    queries: pl.DataFrame, warehouse: Warehouse, settings: Settings, day: datetime.date
) -> pl.DataFrame:
    """Queries by what their lists will be known again, on the next day.

    Args:
        queries: medoid_pin_id, and others.
        warehouse: where index and vectors are.
        settings: how is searched.
        day: the day.

    Returns:
        The queries with ``fingerprint``, of all that a list depends on but the corpus, and ``corpus_fingerprint``, of
        the pins in it and their vectors, null where it is searched exactly.
    """
    shards = warehouse.read(_INDEX, {"day": day})
    of_shards = shards["fingerprint"].to_list()
    made_by = json.dumps([shards.drop("fingerprint").rows(), settings.retrieval.condition])
    code = np.frombuffer(hashlib.blake2b(made_by.encode(), digest_size=8).digest(), dtype=np.uint64)
    digests = pin_vectors(warehouse, day).digests_of(queries["medoid_pin_id"].to_numpy())
    return queries.with_columns(
        fingerprint=pl.Series((digests ^ code) >> np.uint64(1), dtype=pl.Int64),
        corpus_fingerprint=pl.lit(None if None in of_shards else sum(of_shards) % 2**64, pl.UInt64),
    )


def keep_neighbours(
    warehouse: Warehouse,
    settings: Settings,
    day: datetime.date,
    queries: pl.DataFrame,
    folder: Path,
    log: logging.Logger,
) -> KeptNeighbours:
    """Find the queries whose lists of the day before can be kept.

    Args:
        warehouse: where these lists are.
        settings: where a condition restricts what may be found, nothing is kept: pins may have come to meet it.
        day: the day.
        queries: medoid_pin_id, pin_row, depth, and what `with_fingerprints` adds.
        folder: exists; gets the files.
        log: told why nothing is kept.
    """
    before = day - datetime.timedelta(days=1)
    pins, ids, earlier = pin_vectors(warehouse, day), corpus_ids(warehouse, day), corpus_ids(warehouse, before)
    new, left = (np.setdiff1d(*sides, assume_unique=True) for sides in ((ids, earlier), (earlier, ids)))
    kept = KeptNeighbours(queries, [], folder / "new_pins.npy")
    if settings.retrieval.condition or queries["corpus_fingerprint"].has_nulls():
        return kept
    if len(new) > _NEW_SHARE * len(ids):
        log.info(f"{len(new):,} of {len(ids):,} pins are new: all medoids are searched")
        return kept
    np.save(kept.new, np.stack([new, pins.select(new).rows]))
    # With the vectors that they have now: an old day may have been corrected and materialised again.
    corpus = fingerprint(pins.digests_of(earlier[np.isin(earlier, pins.ids, assume_unique=True)]))
    (folder / "kept").mkdir()
    medoids = [queries["medoid_pin_id"].clear()]
    with warehouse.get_reader() as connection:
        connection.register("queries", queries)
        connection.register("left_pins", pl.DataFrame({"pin_id": left}))
        lists = connection.sql(_KEPT, params={"before": before, "corpus": corpus})
        for number, some in enumerate(lists.to_arrow_reader(medoids_a_bucket(settings))):
            path = folder / "kept" / f"{number:06}.parquet"
            pq.write_table(pa.Table.from_batches([some]), path, compression="lz4")
            kept.buckets.append(Bucket(path.stem, path, len(some)))
            medoids.append(pl.Series(some["medoid_pin_id"]))
    fresh = queries.filter(~pl.col("medoid_pin_id").is_in(pl.concat(medoids).implode()))
    return replace(kept, fresh=fresh)
