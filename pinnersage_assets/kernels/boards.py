"""A bucket of boards by whose last pin models are judged (Pixie, section 4)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.ann.index_files import open_index
from pinnersage_assets.ann.restricted import search_whole
from pinnersage_assets.graph_files import map_graph
from pinnersage_assets.model.board_holdout import JudgedBoards
from pinnersage_assets.model.pixie import PixieParameters, recommend

COLUMNS: dict[str, type[pl.DataType]] = {
    "board_id": pl.Int64,
    "user_id": pl.Int64,
    "model": pl.String,
    "graph": pl.String,
    "rank": pl.Int64,
}
"""What `rank_held_out` writes."""


def rank_held_out(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """Where the held-out pins stand in what each model recommends.

    Args:
        source: a file of arrays, those of `JudgedBoards` and of each board its ``features`` and ``centres``.
        destination: gets a row a board, model and graph: board_id, user_id, model, graph (empty for models that need
            none), rank (from 1; 0 of what is not found).
        parameters: ``keys``, by which what is random is keyed; ``index``: what `open_index` takes, of the corpus;
            ``corpus``: a ``.npy`` file that says what its pins are in the graph;
            ``searches_exactly``: whether that is searched without the index; ``depth``: ranks that count;
            ``popular``: a ``.npy`` file of pins, the most popular first; ``graphs``: verified files by name;
            ``decay_per_day`` of query pins' weights; ``walks``: of Pixie the model's name, the graph's, whether query
            pins weigh the same, and the fields of `PixieParameters`.

    Returns:
        The number of rows.
    """
    with np.load(source, allow_pickle=False) as arrays:
        boards, features, centres = JudgedBoards.of_arrays(arrays), arrays["features"], arrays["centres"]
    index, keys = open_index(parameters["index"]), tuple(parameters["keys"])
    of_graph = np.load(parameters["corpus"])
    corpus = np.sort(of_graph)
    # What is on a board already is left out of lists.
    length = parameters["depth"] + boards.most_on_a_board()

    def ranks(lists: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of lists of one length."""
        return boards.ranks(np.repeat(np.arange(len(boards)), lists.shape[1]), lists.ravel(), corpus)

    nearest = search_whole(index, centres, length, parameters["searches_exactly"])
    popular = np.load(parameters["popular"])[:length]
    found = {
        ("embedding_neighbours", ""): ranks(of_graph[nearest]),
        ("popular", ""): ranks(np.tile(popular, (len(boards), 1))),
        ("random", ""): boards.random_ranks(corpus, keys),
    }
    for model, graph, equal, said in parameters["walks"]:
        requests = boards.requests(features, parameters["decay_per_day"], equal, keys)
        answers = recommend(map_graph(Path(parameters["graphs"][graph])), requests, PixieParameters(**said))
        of_board = np.repeat(np.arange(len(boards)), np.diff(answers.offsets))
        found[model, graph] = boards.ranks(of_board, answers.pin_ids, corpus)
    frames = [
        pl.DataFrame(
            {"board_id": boards.board_ids, "user_id": boards.user_ids, "model": model, "graph": graph, "rank": rank},
            schema=COLUMNS,
        )
        for (model, graph), rank in found.items()
    ]
    frame = pl.concat(frames)
    frame.write_parquet(destination, compression="lz4")
    return len(frame)
