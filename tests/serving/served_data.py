"""A data directory with a published day, small enough to be made for one test."""

import datetime
import os
from dataclasses import asdict
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from pinnersage_assets.ann import hnsw
from pinnersage_assets.ann.hnsw import HnswParameters
from pinnersage_assets.ann.shards import split
from pinnersage_assets.graph_files import write_graph
from pinnersage_assets.lineage.graph_snapshot import FULL, PRUNED
from pinnersage_assets.model.online import StoredClusters
from pinnersage_assets.model.pin_board_graph import PinBoardGraph
from pinnersage_assets.serving.pin_files import write_pin_files
from pinnersage_assets.serving.records import StoredUser
from pinnersage_assets.serving.served_day import PINS_FOLDER
from pinnersage_assets.serving.store import open_store
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.tables import all_tables

DAY = datetime.date(2026, 4, 10)
CORPUS, DIMENSIONS = 120, 8
USERS = {1: [0, 40, 80], 2: [5], -3: []}
"""The rows of users' medoids; the pin of row r has the id 10 r + 10."""

OF_BOARD = 10
"""Pins that stand one after another are on a board; the last ones are on none."""


def pin_id(row):
    return 10 * row + 10


def pin_arrays(corpus=CORPUS, others=3):
    vectors = np.random.default_rng(1).standard_normal((corpus + others, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    arrays = {
        "ids": np.array([pin_id(row) for row in range(corpus + others)], dtype=np.int64),
        "corpus_rows": np.append(np.arange(corpus), [-1] * others).astype(np.int32),
        "recommendable": np.ones(corpus, dtype=bool),
        "medoid_ids": np.array([pin_id(0)]),
        "neighbour_starts": np.array([0, corpus]),
        "neighbour_rows": np.argsort(-(vectors[:corpus] @ vectors[0]), kind="stable").astype(np.int32),
        "neighbour_cosines": np.sort(vectors[:corpus] @ vectors[0])[::-1].astype(np.float32),
        "popular_rows": np.arange(corpus)[::-1].astype(np.int32),
    }
    return arrays, vectors


def graph_of(boards):
    """A graph of so many boards; the pin of row 3 stands for that of row 4, which repeats it."""
    rows = np.setdiff1d(np.arange(OF_BOARD * boards), [4])
    # The first pin of a board is on the board before it, too.
    shared = np.arange(OF_BOARD, OF_BOARD * boards, OF_BOARD)
    pins, of_board = np.append(rows, shared), np.append(rows, shared - 1) // OF_BOARD
    return PinBoardGraph.of(pin_id(pins), of_board)


def publish_day(
    data: Path, day=DAY, store="lmdb", method="exact", users=USERS, suffix="a", shards=1, boards=CORPUS // OF_BOARD - 1
) -> str:
    """Write all that a published row names, and then replace the published copy by one that names it.

    With ``boards`` None it is a copy of times when there were no graphs.
    """
    version = f"{day}-{suffix}"
    arrays, vectors = pin_arrays()
    sha256 = write_pin_files(data / PINS_FOLDER / version, arrays, [(np.arange(len(vectors)), vectors)])
    opened = open_store(store, data / "serving")
    opened.write_snapshot(version, [(user, _stored(rows)) for user, rows in sorted(users.items())])
    content = opened.describe(version)
    opened.close()
    settings = Settings(retrieval={"budget": 12, "margin": 3, "refill": True}, serving={"store": store})
    snapshot = {
        "dt": day,
        "version": version,
        "store": store.partition(":")[0],
        "users": content.users,
        "clusters": content.clusters,
        "users_sha256": content.sha256,
        "pins": len(vectors),
        "pins_sha256": sha256,
        "settings": settings.model_dump_json(exclude={"serving"}),
    }
    index = {"dt": day, "shard": 0, "method": method, "dtype": "f32", "path": None, "sha256": None}
    index |= dict.fromkeys(("connectivity", "expansion_add", "expansion_search"))
    rows_of_index = [index]
    if method == "hnsw":
        parameters = HnswParameters(connectivity=8, expansion_add=50, expansion_search=60, dtype="bf16")
        corpus, rows_of_index = (arrays["ids"][:CORPUS], vectors[:CORPUS]), []
        for shard, own in enumerate(split(*corpus, shards)):
            path = f"index/dt={day}/{suffix}-{shard}.usearch"
            hnsw.save(hnsw.build(*own, parameters), data / path)
            file = {"shard": shard, "path": path, "sha256": hnsw.checksum(data / path)}
            rows_of_index.append({**index, **asdict(parameters), **file})
    pins = pl.DataFrame({"dt": day, "pin_id": arrays["ids"], "created_at": datetime.datetime(2026, 4, 1)}).with_columns(
        embedding=pl.Series(vectors, dtype=pl.Array(pl.Float32, DIMENSIONS)),
        title=pl.concat_str(pl.lit("Pin "), pl.col("pin_id").cast(pl.String)),
    )
    graphs = []
    if boards is not None:
        path = f"graph/dt={day}/{PRUNED}-{boards}.graph"
        sha256 = write_graph(data / path, graph_of(boards))
        rows_of_graphs = pl.DataFrame({"dt": day, "graph": [FULL, PRUNED], "path": [None, path], "sha256": sha256})
        graphs = [
            ("graph.snapshot", rows_of_graphs),
            ("corpus.near_duplicates", pl.DataFrame({"dt": day, "pin_id": pin_id(4), "canonical_pin_id": pin_id(3)})),
        ]
    published = data / "published" / "pinnersage.duckdb"
    published.parent.mkdir(exist_ok=True)
    new = published.with_name("new.duckdb")
    with duckdb.connect(new) as connection:
        rows = (
            ("serving.snapshot", pl.DataFrame([snapshot])),
            ("retrieval.hnsw_index", pl.DataFrame(rows_of_index)),
            ("staging.pins", pins),
            *graphs,
        )
        for key, frame in rows:
            connection.execute(f"CREATE SCHEMA {key.partition('.')[0]}")
            connection.execute(all_tables()[key].definition(DIMENSIONS))
            connection.register("frame", frame)
            connection.execute(f"INSERT INTO {key} BY NAME FROM frame")
    os.replace(new, published)
    return version


def _stored(rows):
    clusters = StoredClusters(
        np.array([pin_id(row) for row in rows], dtype=np.int64),
        np.full(len(rows), 4),
        1.0 / np.arange(1, len(rows) + 1),
    )
    return StoredUser(clusters, np.array([pin_id(1)]))
