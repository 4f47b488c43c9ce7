"""The graph of a day as files to walk on: all of it, and what pruning leaves.

The rows of ``graph.snapshot`` say which, and describe them. What belongs here: which file is kept, made or deleted. To
prune is the business of `model.graph_pruning`, the form of a file that of `graph_files`.

Near-duplicates are one pin of the graph, which has the id of the first: somebody who saved a repeat saved that picture.
"""

import datetime
import hashlib
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pinnersage_assets.graph_files import VERSION, GraphFileError, open_graph, write_graph
from pinnersage_assets.lineage.queries import CANONICAL_PINS, CATEGORY_CODE
from pinnersage_assets.model.embedding_topics import embedding_topics
from pinnersage_assets.model.graph_pruning import NO_TOPIC, Pruning, board_entropies, pruned
from pinnersage_assets.model.pin_board_graph import PinBoardGraph
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.model.selected_vectors import SelectedVectors
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.pin_vectors import pin_vectors
from pinnersage_assets.warehouse.publishing import delete_unnamed

CODE_VERSION = "1"
"""Of the asset, and of its files: a new way to make them makes earlier ones unfit."""

FULL, PRUNED = "full", "pruned"

_EDGES = f"""
    SELECT DISTINCT coalesce(c.canonical_pin_id, e.pin_id) AS pin_id, e.board_id
    FROM graph.edges AS e LEFT JOIN ({CANONICAL_PINS}) AS c ON e.pin_id = c.pin_id
    WHERE e.dt = $day ORDER BY ALL
"""

_CATEGORIES = f"""
    SELECT pin_id, {CATEGORY_CODE} AS code FROM staging.pins WHERE dt <= $day AND category IS NOT NULL ORDER BY pin_id
"""


def categories_of(warehouse: Warehouse, day: datetime.date, pin_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes of the categories of pins as of a day, in their order; `NO_TOPIC` of pins without one."""
    codes = warehouse.read(_CATEGORIES, {"day": day})
    asked = pl.DataFrame({"pin_id": pin_ids}).join(codes, on="pin_id", how="left", maintain_order="left")
    return asked["code"].fill_null(NO_TOPIC).to_numpy()


@dataclass(frozen=True)
class GraphContent:
    """What the graphs of a day are made of: P pins, E edges."""

    edge_pins: NDArray[np.int64]
    """(E,) ids."""
    edge_boards: NDArray[np.int64]
    """(E,) ids."""
    pin_ids: NDArray[np.int64]
    """(P,) ascending."""
    categories: NDArray[np.int64]
    """(P,) codes; `NO_TOPIC` of pins without one."""
    vectors: SelectedVectors
    """(P, n)."""
    digests: NDArray[np.uint64]
    """(P,) of the pins with their vectors."""

    @classmethod
    def of(cls, warehouse: Warehouse, day: datetime.date) -> "GraphContent":
        """Of the edges of a day."""
        return cls.of_edges(warehouse, day, warehouse.read(_EDGES, {"day": day}))

    @classmethod
    def of_edges(cls, warehouse: Warehouse, day: datetime.date, edges: pl.DataFrame) -> "GraphContent":
        """Of edges, pin_id and board_id, whose pins are known by a day."""
        pin_ids, known = edges["pin_id"].unique().sort().to_numpy(), pin_vectors(warehouse, day)
        return cls(
            edges["pin_id"].to_numpy(),
            edges["board_id"].to_numpy(),
            pin_ids,
            categories_of(warehouse, day, pin_ids),
            known.select(pin_ids),
            known.digests_of(pin_ids),
        )

    @property
    def has_categories(self) -> bool:
        """Whether some pin has one."""
        return bool((self.categories != NO_TOPIC).any())

    @cached_property
    def topics(self) -> NDArray[np.int64]:
        """(P,) their categories or, where no pin has one, clusters of their embeddings: never some of each."""
        if self.has_categories:
            return self.categories
        with threadpool_limits(limits=1):
            return embedding_topics(self.pin_ids, self.vectors)

    @cached_property
    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each edge the row of its pin, and the number of its board."""
        return rows_of(self.pin_ids, self.edge_pins), np.unique(self.edge_boards, return_inverse=True)[1]

    def fingerprint(self, *parameters: float) -> str:
        """Digits that are others where a graph by these parameters might be."""
        found = hashlib.sha256(json.dumps([CODE_VERSION, VERSION, *parameters]).encode())
        for array in (self.edge_pins, self.edge_boards, self.categories, self.digests):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()[:16]

    def largest_entropy(self, diverse_share: float) -> float:
        """That of the boards which stay; infinity where all do."""
        if not diverse_share or not len(self.edge_pins):
            return math.inf
        return float(np.quantile(board_entropies(*self.rows, self.topics), 1 - diverse_share))

    def graph(self, largest_entropy: float, degree_exponent: float) -> tuple[PinBoardGraph, Pruning]:
        """What pruning leaves; infinity and 1 leave all."""
        topics = self.topics if largest_entropy < math.inf else self.categories
        pruning = pruned(*self.rows, topics, self.vectors, largest_entropy, degree_exponent)
        edges = self.edge_pins[pruning.kept], self.edge_boards[pruning.kept]
        return PinBoardGraph.of(*edges, self.pin_ids, self.categories), pruning


def make_snapshots(
    warehouse: Warehouse, settings: Settings, day: datetime.date, log: logging.Logger
) -> Iterator[dict[str, object]]:
    """The rows of a day's graphs, each with the file of an earlier run, or a new one.

    Args:
        warehouse: where edges, rows and files are.
        settings: how to prune.
        day: the day.
        log: warned of files that cannot be used.

    Raises:
        GraphFileError: a file cannot be written.
    """
    content = GraphContent.of(warehouse, day)
    for name, *parameters in (
        (FULL, 0.0, 1.0),
        (PRUNED, settings.graph.diverse_share, settings.graph.degree_exponent),
    ):
        path = Path(f"graph/dt={day}/{name}-{content.fingerprint(*parameters)}.graph")
        yield _kept(warehouse, day, path, log) or _made(warehouse, content, path, name, *parameters)


def _kept(warehouse: Warehouse, day: datetime.date, path: Path, log: logging.Logger) -> dict[str, object] | None:
    """The row of an earlier run with a file of the same content; None where there is none to keep."""
    rows = warehouse.read(
        "SELECT * EXCLUDE dt FROM graph.snapshot WHERE dt = $day AND path = $path", {"day": day, "path": str(path)}
    ).to_dicts()
    if not rows:
        return None
    try:
        open_graph(warehouse.data_folder / path, rows[0]["sha256"])
    except GraphFileError as error:
        log.warning(f"{error}; it is made again")
        return None
    return rows[0]


def _made(
    warehouse: Warehouse, content: GraphContent, path: Path, name: str, diverse_share: float, degree_exponent: float
) -> dict[str, object]:
    largest_entropy = content.largest_entropy(diverse_share)
    graph, pruning = content.graph(largest_entropy, degree_exponent)
    file = warehouse.data_folder / path
    return {
        "graph": name,
        "path": str(path),
        "sha256": write_graph(file, graph),
        "bytes": file.stat().st_size,
        "pins": graph.n_pins,
        "boards": graph.n_boards,
        "edges": graph.n_edges,
        "topics": "category" if content.has_categories else "clusters",
        "diverse_boards": pruning.diverse_boards,
        "diverse_edges": pruning.diverse_edges,
        "far_edges": pruning.far_edges,
        "largest_entropy": None if largest_entropy == math.inf else largest_entropy,
        "degree_exponent": degree_exponent,
    }


def describe_snapshot(warehouse: Warehouse, day: datetime.date, name: str, folder: Path, log: logging.Logger) -> Path:
    """The file of a graph for `map_graph`, in whichever process: verified here and now.

    A file that is missing or damaged is made again, with a warning: that takes its time, but gives no wrong answer.

    Args:
        warehouse: where rows and files are.
        day: the day.
        name: `FULL` or `PRUNED`.
        folder: exists, on a disk that workers share, for as long as the graph is used; gets what is made again.
        log: warned.

    Raises:
        LookupError: there is no such row, or what the file was made of is not there any more.
        GraphFileError: a file cannot be written.
    """
    rows = warehouse.read(
        "FROM graph.snapshot WHERE dt = $day AND graph = $name", {"day": day, "name": name}
    ).to_dicts()
    if not rows:
        raise LookupError(f"graph.snapshot has no partition of {day}: materialise it first")
    [row] = rows
    try:
        if row["path"] is None:
            raise GraphFileError(f"the {name} graph of {day} was deleted, being older than retention.graph_days")
        path = warehouse.data_folder / row["path"]
        open_graph(path, row["sha256"])
    except GraphFileError as error:
        log.warning(
            f"{error}; it is made again for this run alone. Materialise graph.snapshot of {day} for a new file."
        )
        path, entropy = folder / f"{name}.graph", row["largest_entropy"]
        entropy = math.inf if entropy is None else entropy
        graph, _ = GraphContent.of(warehouse, day).graph(entropy, row["degree_exponent"])
        if write_graph(path, graph) != row["sha256"]:
            raise LookupError(
                f"what the {name} graph of {day} was made of is not there any more: materialise graph.edges and "
                "graph.snapshot of that day again"
            ) from error
    return path


def forget_old_graphs(connection: duckdb.DuckDBPyConnection, before: datetime.date) -> int:
    """Take the files of days before one out of their rows, so that nothing that is published next names them.

    Returns:
        The rows that named one.
    """
    query = "UPDATE graph.snapshot SET path = NULL, bytes = NULL WHERE path IS NOT NULL AND dt < ?"
    return connection.execute(query, [before]).fetchall()[0][0]


def delete_unnamed_graphs(warehouse: Warehouse, settings: Settings) -> dict[Path, int]:
    """Delete the files that no row names, published or not.

    Returns:
        Their sizes in bytes.
    """
    return delete_unnamed(warehouse, "graph.snapshot", "graph")
