"""The candidates of a bucket of users by Pixie's walks."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pinnersage_assets.graph_files import map_graph
from pinnersage_assets.model.pixie import Answers, PixieParameters, Requests, recommend
from pinnersage_assets.model.population import offsets_of, rows_if_known
from pinnersage_assets.model.randomness import keyed_bits

# Visited pins that are in memory at once: no request visits more than it takes steps.
_VISITED_AT_ONCE = 2**21

# In the files: how many of the bucket's users got nothing, by reason.
_UNANSWERED = "users without an answer"
NO_EDGES = "query pins without edges"
NO_WEIGHT = "query pins without weight"
NO_VISITS = "nothing but query pins visited"
NOTHING_LEFT = "all that was visited was seen or may not be recommended"
REASONS = (NO_EDGES, NO_WEIGHT, NO_VISITS, NOTHING_LEFT)
"""Why a user gets nothing."""

NO_WALKS = pl.DataFrame(schema={"user_id": pl.Int64, "rank": pl.Int32, "pin_id": pl.Int64, "score": pl.Float32})
"""The candidates of nobody."""


def recommend_by_walks(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """The pins that each user's walks visit most, of those that may be recommended and were not seen.

    Args:
        source: a row a query pin, those of a user together: user_id, pin_id (of the graph), weight, feature (of the
            user); in one row of each user ``seen``, the pins that are not to be recommended, null elsewhere.
        destination: gets user_id, rank, pin_id, score (visits, boosted or not).
        parameters: ``graph``, a file as of `map_graph`; ``recommendable``, a ``.npy`` file of the pins of the graph
            that may be recommended, ascending, and the pins that they are in the corpus; ``pixie``, the fields of
            `PixieParameters`, with which all visited pins are wanted; ``budget``; ``keys``, which random numbers
            belong to beside the user.

    Returns:
        The number of candidates.
    """
    rows = pl.read_parquet(source, hive_partitioning=False)
    graph, recommendable = map_graph(Path(parameters["graph"])), np.load(parameters["recommendable"])
    walk = PixieParameters(**parameters["pixie"])
    offsets, unanswered, found = offsets_of(rows["user_id"].to_numpy()), Counter(), [NO_WALKS]
    at_once = max(1, _VISITED_AT_ONCE // walk.steps)
    for first in range(0, len(offsets) - 1, at_once):
        bounds = offsets[first : first + at_once + 1]
        some = rows[bounds[0] : bounds[-1]]
        requests = _requests(some, bounds - bounds[0], parameters["keys"])
        user_ids = some["user_id"].to_numpy()[requests.offsets[:-1]]
        answers = recommend(graph, requests, walk)
        seen = some.select("user_id", pin_id="seen").drop_nulls().explode("pin_id")
        candidates = _candidates(user_ids, answers, recommendable, seen, parameters["budget"])
        answered = np.isin(user_ids, candidates["user_id"].unique().to_numpy())
        unanswered.update(_reasons(requests, answers)[~answered].tolist())
        found.append(candidates)
    together = pl.concat(found)
    together.write_parquet(destination, compression="lz4", metadata={_UNANSWERED: json.dumps(unanswered)})
    return len(together)


def users_without_answers(paths: Iterable[Path]) -> dict[str, int]:
    """How many users got nothing in the files that `recommend_by_walks` made, by reason."""
    found = Counter(dict.fromkeys(REASONS, 0))
    for path in paths:
        found.update(json.loads(pq.read_metadata(path).metadata[_UNANSWERED.encode()]))
    return dict(found)


def _requests(rows: pl.DataFrame, offsets: NDArray[np.int64], keys: list[int]) -> Requests:
    firsts = rows[offsets[:-1]]
    return Requests(
        pin_ids=rows["pin_id"].to_numpy(),
        weights=rows["weight"].to_numpy(),
        offsets=offsets,
        keys=keyed_bits(*keys, firsts["user_id"].to_numpy()),
        features=firsts["feature"].to_numpy(),
    )


def _candidates(
    user_ids: NDArray[np.int64], answers: Answers, recommendable: NDArray[np.int64], seen: pl.DataFrame, budget: int
) -> pl.DataFrame:
    of_graph, of_corpus = recommendable
    rows = rows_if_known(of_graph, answers.pin_ids)
    known = np.flatnonzero(rows >= 0)
    found = pl.DataFrame(
        {
            "user_id": np.repeat(user_ids, np.diff(answers.offsets))[known],
            "pin_id": of_corpus[rows[known]],
            "score": answers.scores[known],
        }
    ).join(seen, on=["user_id", "pin_id"], how="anti", maintain_order="left")
    rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id")
    return found.with_columns(rank=rank).filter(pl.col("rank") <= budget).select(NO_WALKS.columns)


def _reasons(requests: Requests, answers: Answers) -> NDArray[np.str_]:
    """Of each request, why it would have no candidates."""
    cases = [answers.unknown == np.diff(requests.offsets), answers.steps == 0, np.diff(answers.offsets) == 0]
    return np.select(cases, [NO_EDGES, NO_WEIGHT, NO_VISITS], NOTHING_LEFT)
